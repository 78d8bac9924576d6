// grad_weight with few channels on one side: sums over pixels of (few channel, shifted by a tap) · (many channel),
// all of a register tile's sums at once.
//   many as pixels   rows = taps (broadcast from planes of the few), columns = two vectors of many channels
//   many as planes   vectors of pixels on both sides: every sum is a vector, whose lanes are added up at the end
// Images are split into as many ranges as the shape says, whose sums are added in order; in a range, each window's
// sums are formed by themselves and then added, which keeps the rounding error low.
// Bound: the FMA units.
#pragma once

#include "few_windows.h"

namespace myconv2d::MYCONV2D_ISA {

// The few channels of a window: element (row, channel, column) at row · row_step + channel · width + column, so that
// "tap rows" (r, channel) are `width` apart.
struct FewRows {
  const float* values;
  int64_t width, row_step;
};

struct ManyRows {  // as pixels: a step is a pixel's stride; as planes: a plane's
  const float* values;
  int64_t step, row_step, rows, columns;
};

// sums[tap row][s][two vectors] += Σ_(y, x) few[y][tap row][x + s] · many[y][x][two vectors], `tap_rows` of them.
template <int tap_rows, int kernel_w>
void correlate_pixels(const FewRows& few, const ManyRows& many, float* sums, int64_t padded) {
  Lanes sum[tap_rows][kernel_w][2] = {};
  for (int64_t y = 0; y < many.rows; ++y) {
    const float* taps = few.values + y * few.row_step;
    const float* pixel = many.values + y * many.row_step;
    for (int64_t x = 0; x < many.columns; ++x, ++taps, pixel += many.step) {
      const Lanes a = load_vector<float>(pixel), b = load_vector<float>(pixel + lanes);
#pragma GCC unroll 4
      for (int i = 0; i < tap_rows; ++i)
#pragma GCC unroll 6
        for (int s = 0; s < kernel_w; ++s) {
          sum[i][s][0] += taps[i * few.width + s] * a;
          sum[i][s][1] += taps[i * few.width + s] * b;
        }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < tap_rows; ++i)
#pragma GCC unroll 6
    for (int s = 0; s < kernel_w; ++s, sums += padded)
      for (int v = 0; v < 2; ++v)
        store_vector<float, float>(sums + v * lanes, load_vector<float>(sums + v * lanes) + sum[i][s][v]);
}

// sums[m][s][vector] += Σ_(y, x) few[y][x + s] · many[m][y][x], vectors of pixels; columns are whole vectors.
template <int channels, int kernel_w>
void correlate_planes(const FewRows& few, const ManyRows& many, float* sums) {
  Lanes sum[channels][kernel_w] = {};
  for (int64_t y = 0; y < many.rows; ++y) {
    const float* taps = few.values + y * few.row_step;
    const float* row = many.values + y * many.row_step;
    for (int64_t x = 0; x < many.columns; x += lanes) {
      Lanes tap[kernel_w];
#pragma GCC unroll 6
      for (int s = 0; s < kernel_w; ++s) tap[s] = load_vector<float>(taps + x + s);
#pragma GCC unroll 4
      for (int m = 0; m < channels; ++m) {
        const Lanes value = load_vector<float>(row + m * many.step + x);
#pragma GCC unroll 6
        for (int s = 0; s < kernel_w; ++s) sum[m][s] += tap[s] * value;
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < channels; ++m)
#pragma GCC unroll 6
    for (int s = 0; s < kernel_w; ++s, sums += lanes)
      store_vector<float, float>(sums, load_vector<float>(sums) + sum[m][s]);
}

// The tiles that the registers hold, by kernel width.
constexpr int tap_rows_at_once(int kernel_w) { return max_rows / kernel_w < 4 ? max_rows / kernel_w : 4; }
constexpr int channels_at_once(int kernel_w) {
  return MYCONV2D_VECTOR_BYTES == 64 || kernel_w <= 2 ? 4 : kernel_w <= 4 ? 3 : 2;
}

using CorrelatePixels = void (*)(const FewRows&, const ManyRows&, float*, int64_t);
using CorrelatePlanes = void (*)(const FewRows&, const ManyRows&, float*);

template <int kernel_w, int tap_rows = tap_rows_at_once(kernel_w)>
CorrelatePixels correlate_pixels_of(int64_t rows) {
  if constexpr (tap_rows > 1)
    if (rows < tap_rows) return correlate_pixels_of<kernel_w, tap_rows - 1>(rows);
  return correlate_pixels<tap_rows, kernel_w>;
}

template <int kernel_w, int channels = channels_at_once(kernel_w)>
CorrelatePlanes correlate_planes_of(int64_t count) {
  if constexpr (channels > 1)
    if (count < channels) return correlate_planes_of<kernel_w, channels - 1>(count);
  return correlate_planes<channels, kernel_w>;
}

struct FewTiles {  // of one kernel width
  int64_t tap_rows, channels;
  CorrelatePixels (*pixels)(int64_t);
  CorrelatePlanes (*planes)(int64_t);
};

template <int kernel_w>
constexpr FewTiles few_tiles_of = {tap_rows_at_once(kernel_w), channels_at_once(kernel_w),
                                   correlate_pixels_of<kernel_w>, correlate_planes_of<kernel_w>};
inline const FewTiles& few_tiles(int64_t kernel_w) {
  static constexpr FewTiles table[] = {few_tiles_of<1>, few_tiles_of<2>, few_tiles_of<3>,
                                       few_tiles_of<4>, few_tiles_of<5>, few_tiles_of<6>};
  return table[kernel_w - 1];
}

inline float sum_of_lanes(const float* from) {
  float part[lanes];
  std::memcpy(part, from, sizeof part);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// The sum of a plane's rows of whole vectors, in lanes.
inline Lanes sum_of_rows(const float* from, int64_t rows, int64_t row_step, int64_t columns) {
  Lanes sum{};
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; x += lanes) sum += load_vector<float>(from + y * row_step + x);
  return sum;
}

// Many as it lies in memory, if the tiles can read it there: floats, in whole vectors.
template <typename Many>
bool readable_there(const Many& many, bool as_planes) {
  if constexpr (in_memory<Many>)
    if constexpr (sizeof(*many.data) == sizeof(float))
      return as_planes ? many.strides.w == 1 && many.width % lanes == 0
                       : many.strides.c == 1 && many.channels % columns<float> == 0;
  return false;
}

// sums[tap][many channel] of one window, added to what is there; then the sums of many, where wanted.
template <typename Many>
void add_window_of_pixels(const FewRows& few, int64_t tap_rows, int64_t kernel_w, const Many& many,
                          const Window& window, float* sums, int64_t padded, bool sums_wanted) {
  const FewTiles& tiles = few_tiles(kernel_w);
  const bool there = readable_there(many, false);
  const int64_t at_once = ceil_div(tap_rows, ceil_div(tap_rows, tiles.tap_rows));
  for (int64_t first = 0; first < many.channels; first += columns<float>) {
    ManyRows rows{nullptr, columns<float>, columns<float> * window.columns, window.rows, window.columns};
    if constexpr (in_memory<Many>)
      if (there) {
        const Strides& s = many.strides;
        rows.values = reinterpret_cast<const float*>(many.data + window.image * s.n + window.y * s.h + first);
        rows.step = s.w, rows.row_step = s.h;
      }
    if (!there) {
      float* band = static_cast<float*>(
          scratch(Scratch::band, window.rows * window.columns * columns<float> * sizeof(float)));
      Many panel = many;
      if constexpr (in_memory<Many>) panel.data += first * many.strides.c;
      panel.channels = least(columns<float>, many.channels - first);
      read_pixels(panel, window, band, columns<float>);
      rows.values = band;
    }
    for (int64_t i = 0; i < tap_rows; i += at_once)
      tiles.pixels(least(at_once, tap_rows - i))({few.values + i * few.width, few.width, few.row_step}, rows,
                                                 sums + i * kernel_w * padded + first, padded);
    if (sums_wanted) {
      Lanes a{}, b{};
      for (int64_t y = 0; y < rows.rows; ++y)
        for (int64_t x = 0; x < rows.columns; ++x) {
          const float* pixel = rows.values + y * rows.row_step + x * rows.step;
          a += load_vector<float>(pixel), b += load_vector<float>(pixel + lanes);
        }
      float* to = sums + tap_rows * kernel_w * padded + first;
      store_vector<float, float>(to, load_vector<float>(to) + a);
      store_vector<float, float>(to + lanes, load_vector<float>(to + lanes) + b);
    }
  }
}

// sums[(tap row, s) or (tap rows, 0) of many's sums][many channel][lanes]
template <typename Many>
void add_window_of_planes(const FewRows& few, int64_t tap_rows, int64_t kernel_w, const Many& many,
                          const Window& window, float* sums, bool sums_wanted) {
  const FewTiles& tiles = few_tiles(kernel_w);
  const bool there = readable_there(many, true);
  const int64_t whole = round_up(window.columns, lanes);
  ManyRows rows{nullptr, plane_stride(window.rows * whole), whole, window.rows, whole};
  if constexpr (in_memory<Many>)
    if (there) {
      const Strides& s = many.strides;
      rows.values = reinterpret_cast<const float*>(many.data + window.image * s.n + window.y * s.h);
      rows.step = s.c, rows.row_step = s.h;
    }
  if (!there) {
    float* band = static_cast<float*>(scratch(Scratch::band, many.channels * rows.step * sizeof(float)));
    read_planes(many, {window.image, window.y, window.x, window.rows, window.columns}, band, whole, rows.step);
    for (int64_t m = 0; m < many.channels && whole > window.columns; ++m)
      for (int64_t y = 0; y < window.rows; ++y)
        std::memset(band + m * rows.step + y * whole + window.columns, 0, (whole - window.columns) * sizeof(float));
    rows.values = band;
  }
  const int64_t at_once = ceil_div(many.channels, ceil_div(many.channels, tiles.channels));
  for (int64_t first = 0; first < many.channels; first += at_once) {
    ManyRows some = rows;
    some.values += first * rows.step;
    const int64_t count = least(at_once, many.channels - first);
    for (int64_t i = 0; i < tap_rows; ++i)
      tiles.planes(count)({few.values + i * few.width, few.width, few.row_step}, some,
                          sums + (i * many.channels + first) * kernel_w * lanes);
    if (sums_wanted)
      for (int64_t m = 0; m < count; ++m) {
        float* to = sums + (tap_rows * kernel_w * many.channels + first + m) * lanes;
        store_vector<float, float>(
            to, load_vector<float>(to) + sum_of_rows(some.values + m * rows.step, rows.rows, rows.row_step, whole));
      }
  }
}

// store(group, few channel, r, s, many channel, Σ_pixels few[pixel + (r, s) − padding] · many[pixel]); the sums of
// `many` over all pixels, one per channel, go to `sums_of_many` where that is wanted.
template <typename Few, typename Many, typename Store, typename B>
void few_grad_weight(const Correlation& p, const Threads& threads, const Few& few, const Many& many,
                     const Store& store, B* sums_of_many) {
  const int64_t tap_rows = p.kernel_h * few.channels, taps = tap_rows * p.kernel_w;
  const bool as_planes = many.channels < 8 || (lies_as_planes(many) && 2 * many.width > lanes);
  const int64_t padded = as_planes ? many.channels : round_up(many.channels, columns<float>);
  const int64_t range_size = (taps + 1) * padded;  // [(r, few channel), s][many channel], then the sums of many
  const RowBlocks blocks(many.height, most(many.width, 1) * many.channels * sizeof(float), 16384);
  const int64_t tasks = p.batch * blocks.per_image, ranges = least(16, most(tasks, 1));
  float* partial =
      static_cast<float*>(scratch(Scratch::partial_sums, p.groups * ranges * range_size * sizeof(float)));

  parallel_for(threads, p.groups * ranges, [&](int64_t task) {
    const int64_t g = task / ranges, range = task % ranges;
    float* sums = partial + task * range_size;
    float* in_lanes = sums;
    if (as_planes)
      in_lanes = static_cast<float*>(scratch(Scratch::accumulators, range_size * lanes * sizeof(float)));
    std::memset(in_lanes, 0, range_size * (as_planes ? lanes : 1) * sizeof(float));
    const Few few_of = of_group(few, g);
    const Many many_of = of_group(many, g);
    for (int64_t block = range * tasks / ranges; block < (range + 1) * tasks / ranges; ++block) {
      const Window window = blocks.at(block, many.width), halo = with_halo(window, p);
      const int64_t row_step = few.channels * halo.columns;
      float* planes = static_cast<float*>(scratch(Scratch::panel, (halo.rows * row_step + lanes) * sizeof(float)));
      read_planes(few_of, halo, planes, row_step, halo.columns);
      const FewRows rows{planes, halo.columns, row_step};
      if (as_planes)
        add_window_of_planes(rows, tap_rows, p.kernel_w, many_of, window, in_lanes, sums_of_many != nullptr);
      else
        add_window_of_pixels(rows, tap_rows, p.kernel_w, many_of, window, sums, padded, sums_of_many != nullptr);
    }
    if (as_planes) {  // [tap row][many channel][s] there
      for (int64_t i = 0; i < tap_rows; ++i)
        for (int64_t m = 0; m < padded; ++m)
          for (int64_t s = 0; s < p.kernel_w; ++s, in_lanes += lanes)
            sums[(i * p.kernel_w + s) * padded + m] = sum_of_lanes(in_lanes);
      for (int64_t m = 0; m < padded; ++m, in_lanes += lanes) sums[taps * padded + m] = sum_of_lanes(in_lanes);
    }
  });

  for (int64_t g = 0; g < p.groups; ++g) {
    float* total = partial + g * ranges * range_size;
    for (int64_t range = 1; range < ranges; ++range)
      for (int64_t i = 0; i < range_size; ++i) total[i] += total[range * range_size + i];
    for (int64_t r = 0; r < p.kernel_h; ++r)
      for (int64_t c = 0; c < few.channels; ++c)
        for (int64_t s = 0; s < p.kernel_w; ++s)
          for (int64_t m = 0; m < many.channels; ++m)
            store(g, c, r, s, m, total[((r * few.channels + c) * p.kernel_w + s) * padded + m]);
    if (sums_of_many)
      for (int64_t m = 0; m < many.channels; ++m)
        sums_of_many[g * many.channels + m] = narrow<B, float>(total[taps * padded + m]);
  }
}

// sums[channel] ← Σ_pixels image[channel]: in float for a window, in double over all.
template <typename Source, typename B>
void channel_sums(const Threads& threads, int64_t batch, int64_t groups, const Source& image, B* sums) {
  const int64_t channels = image.channels, width = round_up(image.width, lanes);
  const RowBlocks blocks(image.height, channels * width * sizeof(float), 16384);
  parallel_for(threads, image.width == 0 ? 0 : groups, [&](int64_t g) {
    const Source source = of_group(image, g);
    double total[4] = {};
    for (int64_t block = 0; block < batch * blocks.per_image; ++block) {
      const Window window = blocks.at(block, image.width);
      const int64_t plane = plane_stride(blocks.rows * width);
      float* planes = static_cast<float*>(scratch(Scratch::panel, channels * plane * sizeof(float)));
      read_planes(source, {window.image, window.y, 0, window.rows, width}, planes, width, plane);
      for (int64_t c = 0; c < channels; ++c) {
        const Lanes sum = sum_of_rows(planes + c * plane, window.rows, width, width);
        total[c] += sum_of_lanes(reinterpret_cast<const float*>(&sum));
      }
    }
    for (int64_t c = 0; c < channels; ++c) sums[g * channels + c] = narrow<B, float>(static_cast<float>(total[c]));
  });
}

// Few in channels: the input is the image with few, grad_output the one with many.
template <typename T>
void few_in_grad_weight(const Conv2d& conv, const Threads& threads, const Planes<const T>& grad_output,
                        const Planes<const T>& input, T* grad_weight, const Strides& s, T* grad_bias) {
  const Correlation p{conv.batch,        conv.groups,    conv.kernel_height,
                      conv.kernel_width, conv.padding_h, conv.padding_w};
  few_grad_weight(
      p, threads, input, grad_output,
      [&](int64_t g, int64_t c, int64_t r, int64_t t, int64_t k, float value) {
        grad_weight[(g * conv.group_out_channels() + k) * s.n + c * s.c + r * s.h + t * s.w] =
            narrow<T, float>(value);
      },
      grad_bias);
}

// Few out channels: the other way round, which turns the kernel by half a turn.
template <typename T>
void few_out_grad_weight(const Conv2d& conv, const Threads& threads, const Planes<const T>& grad_output,
                         const Planes<const T>& input, T* grad_weight, const Strides& s, T* grad_bias) {
  const int64_t last_r = conv.kernel_height - 1, last_s = conv.kernel_width - 1;
  const Correlation p{conv.batch,         conv.groups,
                      conv.kernel_height, conv.kernel_width,
                      last_r - conv.padding_h, last_s - conv.padding_w};
  few_grad_weight(
      p, threads, grad_output, input,
      [&](int64_t g, int64_t k, int64_t r, int64_t t, int64_t c, float value) {
        grad_weight[(g * conv.group_out_channels() + k) * s.n + c * s.c + (last_r - r) * s.h + (last_s - t) * s.w] =
            narrow<T, float>(value);
      },
      static_cast<T*>(nullptr));
  if (grad_bias) channel_sums(threads, conv.batch, conv.groups, grad_output, grad_bias);
}

}  // namespace myconv2d::MYCONV2D_ISA
