// grad_weight with few channels on one side: sums over pixels of (few channel, shifted by a tap) · (many channel),
// all of a register tile's sums at once.
//   many as pixels   rows = taps (broadcast from planes of the few), columns = two vectors of many channels
//   many as planes   vectors of pixels on both sides: every sum is a vector, whose lanes are added up at the end
// Images are split into as many ranges as the shape says, whose sums are added in order; in a range, each window's
// sums are formed by themselves and then added, which keeps the rounding error low.
// Bound: the FMA units.
#pragma once

#include "few_grad_weight_tiles.h"

namespace myconv2d::MYCONV2D_ISA {

// The sum of a plane's rows of whole vectors, in lanes.
inline Lanes sum_of_rows(const float* from, int64_t rows, int64_t row_step, int64_t columns) {
  Lanes sum{};
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; x += lanes) sum += load_vector<float>(from + y * row_step + x);
  return sum;
}

// Many as it lies in memory, if the tiles can read it there: floats, as planes in whole vectors.
template <typename Many>
bool readable_there(const Many& many, bool as_planes) {
  if constexpr (in_memory<Many>)
    if constexpr (sizeof(*many.data) == sizeof(float))
      return as_planes ? many.strides.w == 1 && many.width % lanes == 0 : many.strides.c == 1;
  return false;
}

template <typename Many>
const float* first_float(const Many& many, const Window& window) {
  if constexpr (in_memory<Many>)
    return reinterpret_cast<const float*>(many.data + window.image * many.strides.n + window.y * many.strides.h);
  return nullptr;
}

template <typename Many>
void rows_there(const Many& many, const Window& window, bool as_planes, ManyRows& rows) {
  if constexpr (in_memory<Many>) {
    rows.values = first_float(many, window);
    rows.step = as_planes ? many.strides.c : many.strides.w, rows.row_step = many.strides.h;
  }
}

// sums[tap][many channel] of one window, added to what is there; then the sums of many, where wanted.
template <typename Many>
void add_window_of_pixels(const FewRows& few, int64_t tap_rows, int64_t kernel_w, const Many& many,
                          const Window& window, float* sums, int64_t padded, bool sums_wanted) {
  const FewTiles& tiles = few_tiles(kernel_w);
  const int64_t at_once = ceil_div(tap_rows, ceil_div(tap_rows, tiles.tap_rows));
  for (int64_t first = 0; first < many.channels; first += columns<float>) {
    const Many panel = of_channels(many, first, least(columns<float>, many.channels - first));
    const int64_t vectors = ceil_div(panel.channels, lanes), wide = vectors * lanes;
    const FirstLanes last(panel.channels - (vectors - 1) * lanes);
    ManyRows rows{nullptr, wide, wide * window.columns, window.rows, window.columns};
    if (readable_there(many, false)) {
      rows_there(panel, window, false, rows);
    } else {
      float* band =
          static_cast<float*>(scratch(Scratch::band, window.rows * window.columns * wide * sizeof(float)));
      read_pixels(panel, window, band, wide);
      rows.values = band;
    }
    for (int64_t i = 0; i < tap_rows; i += at_once)
      tiles.pixels(least(at_once, tap_rows - i), vectors)(few.values + few.tap_row(i), few.plane_step, few.row_step,
                                                          rows, last, sums + i * kernel_w * padded + first, padded);
    if (sums_wanted) {
      Lanes sum[2] = {};
      for (int64_t y = 0; y < rows.rows; ++y)
        for (int64_t x = 0; x < rows.columns; ++x) {
          const float* pixel = rows.values + y * rows.row_step + x * rows.step;
          if (vectors == 2) sum[0] += load_vector<float>(pixel);
          sum[1] += last.load(pixel + (vectors - 1) * lanes);
        }
      float* to = sums + tap_rows * kernel_w * padded + first;
      if (vectors == 2) store_vector<float, float>(to, load_vector<float>(to) + sum[0]);
      to += (vectors - 1) * lanes;
      store_vector<float, float>(to, load_vector<float>(to) + sum[1]);
    }
  }
}

// sums[tap row][many channel][s][lanes], then many's sums [many channel][lanes]. Rows that are a bad fit for vectors
// run on from one to the next, halo included, where many has zeros.
template <typename Many>
void add_window_of_planes(const FewRows& few, int64_t tap_rows, int64_t kernel_w, const Many& many,
                          const Window& window, float* sums, bool sums_wanted) {
  const FewTiles& tiles = few_tiles(kernel_w);
  const int64_t whole = round_up(window.columns, lanes), run = round_up(window.rows * few.row_step, lanes);
  ManyRows rows{nullptr, plane_stride(window.rows * whole), whole, window.rows, whole};
  if (readable_there(many, true)) {
    rows_there(many, window, true, rows);
  } else {
    const bool run_on = run < window.rows * whole;
    const int64_t row_step = run_on ? few.row_step : whole, floats = run_on ? run : window.rows * whole;
    rows.step = plane_stride(floats);
    float* band = static_cast<float*>(scratch(Scratch::band, many.channels * rows.step * sizeof(float)));
    read_planes(many, window, band, row_step, rows.step);
    for (int64_t m = 0; m < many.channels; ++m) {
      float* plane = band + m * rows.step;
      for (int64_t y = 0; y < window.rows; ++y)
        for (int64_t x = window.columns; x < row_step; ++x) plane[y * row_step + x] = 0;
      for (int64_t q = window.rows * row_step; q < floats; ++q) plane[q] = 0;
    }
    rows.values = band;
    if (run_on) rows.rows = 1, rows.columns = run;
  }
  const int64_t at_once = ceil_div(many.channels, ceil_div(many.channels, tiles.channels));
  for (int64_t first = 0; first < many.channels; first += at_once) {
    ManyRows some = rows;
    some.values += first * rows.step;
    const int64_t count = least(at_once, many.channels - first);
    for (int64_t i = 0; i < tap_rows; ++i)
      tiles.planes(count)(few.values + few.tap_row(i), few.row_step, some,
                          sums + (i * many.channels + first) * kernel_w * lanes);
    if (sums_wanted)
      for (int64_t m = 0; m < count; ++m) {
        float* to = sums + (tap_rows * kernel_w * many.channels + first + m) * lanes;
        const Lanes sum = sum_of_rows(some.values + m * rows.step, rows.rows, rows.row_step, rows.columns);
        store_vector<float, float>(to, load_vector<float>(to) + sum);
      }
  }
}

// store(group, few channel, r, s, many channel, Σ_pixels few[pixel + (r, s) − padding] · many[pixel]); the sums of
// `many` over all pixels, one per channel, go to `sums_of_many` where that is wanted.
template <typename Few, typename Many, typename Store, typename B>
void few_grad_weight(const Correlation& p, const Threads& threads, const Few& few, const Many& many,
                     const Store& store, B* sums_of_many) {
  const int64_t tap_rows = p.kernel_h * few.channels, taps = tap_rows * p.kernel_w;
  const bool as_planes = many.channels < 8 || (lies_as_planes(many) && !lies_as_pixels(many));
  const int64_t padded = as_planes ? many.channels : round_up(many.channels, columns<float>);
  const int64_t range_size = (taps + 1) * padded;  // [(r, few channel), s][many channel], then the sums of many
  const RowBlocks blocks(many.height, most(many.width, 1) * many.channels * sizeof(float), as_planes ? 65536 : 16384);
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
      const int64_t row_step = as_planes ? halo.columns : few.channels * halo.columns;
      const int64_t plane_step = as_planes ? plane_stride(halo.rows * halo.columns + lanes) : halo.columns;
      float* planes = static_cast<float*>(scratch(
          Scratch::panel, (as_planes ? few.channels * plane_step : halo.rows * row_step) * sizeof(float)));
      read_planes(few_of, halo, planes, row_step, plane_step);
      for (int64_t c = 0; as_planes && c < few.channels; ++c)  // what the last vectors read, times many's zeros
        for (int64_t q = halo.rows * row_step; q < plane_step; ++q) planes[c * plane_step + q] = 0;
      const FewRows rows{planes, few.channels, row_step, plane_step};
      if (as_planes)
        add_window_of_planes(rows, tap_rows, p.kernel_w, many_of, window, in_lanes, sums_of_many != nullptr);
      else
        add_window_of_pixels(rows, tap_rows, p.kernel_w, many_of, window, sums, padded, sums_of_many != nullptr);
    }
    if (as_planes) {  // [tap row][many channel][s] there
      for (int64_t i = 0; i < tap_rows; ++i)
        for (int64_t m = 0; m < padded; ++m)
          for (int64_t s = 0; s < p.kernel_w; ++s, in_lanes += lanes)
            sums[(i * p.kernel_w + s) * padded + m] = sum_of_lanes(load_vector<float>(in_lanes));
      for (int64_t m = 0; m < padded; ++m, in_lanes += lanes) sums[taps * padded + m] = sum_of_lanes(load_vector<float>(in_lanes));
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
      for (int64_t c = 0; c < channels; ++c)
        total[c] += sum_of_lanes(sum_of_rows(planes + c * plane, window.rows, width, width));
    }
    for (int64_t c = 0; c < channels; ++c) sums[g * channels + c] = narrow<B, float>(static_cast<float>(total[c]));
  });
}

// Few in channels: the input is the image with few, grad_output the one with many.
template <typename Grads, typename Images, typename W>
void few_in_grad_weight(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const Images& input,
                        W* grad_weight, const Strides& s, W* grad_bias) {
  const Correlation p{conv.batch,        conv.groups,    conv.kernel_height,
                      conv.kernel_width, conv.padding_h, conv.padding_w};
  few_grad_weight(
      p, threads, input, grad_output,
      [&](int64_t g, int64_t c, int64_t r, int64_t t, int64_t k, float value) {
        grad_weight[(g * conv.group_out_channels() + k) * s.n + c * s.c + r * s.h + t * s.w] =
            narrow<W, float>(value);
      },
      grad_bias);
}

// Few out channels: the other way round, which turns the kernel by half a turn.
template <typename Grads, typename Images, typename W>
void few_out_grad_weight(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const Images& input,
                         W* grad_weight, const Strides& s, W* grad_bias) {
  const int64_t last_r = conv.kernel_height - 1, last_s = conv.kernel_width - 1;
  const Correlation p{conv.batch,         conv.groups,
                      conv.kernel_height, conv.kernel_width,
                      last_r - conv.padding_h, last_s - conv.padding_w};
  few_grad_weight(
      p, threads, grad_output, input,
      [&](int64_t g, int64_t k, int64_t r, int64_t t, int64_t c, float value) {
        grad_weight[(g * conv.group_out_channels() + k) * s.n + c * s.c + (last_r - r) * s.h + (last_s - t) * s.w] =
            narrow<W, float>(value);
      },
      static_cast<W*>(nullptr));
  if (grad_bias) channel_sums(threads, conv.batch, conv.groups, grad_output, grad_bias);
}

}  // namespace myconv2d::MYCONV2D_ISA
