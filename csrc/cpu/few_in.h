// Products with few source channels, a pair of neighbouring pixels y₀ y₁ of a row at a time. d = the source's row from
// y₀'s first pixel on, g = a row of taps. Three taps go by minimal filtering along the row, F(2, 3), in four
// multiplications instead of six (Lavin & Gray 2016, equation 5):
//
//   y₀ = (m₁ + m₂) + m₀      m₁ = (d₁ + d₂)(g₀ + g₁ + g₂)/2      m₀ = (d₀ − d₂) g₀
//   y₁ = (m₁ − m₂) + m₃      m₂ = (d₂ − d₁)(g₀ − g₁ + g₂)/2      m₃ = (d₃ − d₁) g₂
//
// A row of the kernel is cut into parts of three taps, and what is left into parts of one: y₀ = d₀ g and y₁ = d₁ g.
// With a stride, every stride-th tap sees every stride-th pixel: each of these phases is cut by itself.
// A register tile holds two sums for each pair, of products over source channels and taps. It takes two passes, m₁ and
// m₂ of all threes first, whose sum and difference the second adds to. The source's factors are made once for a window
// and all out channels, so they cost next to nothing; the weights' once for a call.
//   result as pixels   rows = pairs of pixels (broadcast), columns = out channels
//   result as planes   rows = out channels (broadcast weights), columns = pairs, running on from row to row
// Bound: the FMA units.
#pragma once

#include "few_in_tiles.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t most_rows = 7, most_terms = 4 * most_rows * 5;  // few channels · rows · terms, from algorithm.cpp

// How a row of taps is cut.
struct RowParts {
  struct Part {
    int64_t first;  // tap; the next ones are a stride further on
    bool three;
    int64_t array;  // of the first of its factors: m₁ m₂ m₀ m₃'s, or d₀ and d₁
  };
  int64_t count = 0, arrays = 0, threes = 0, passes;
  Part part[8];

  explicit RowParts(const Correlation& p) {
    for (int64_t phase = 0; phase < least(p.stride_w, p.kernel_w); ++phase)
      for (int64_t tap = phase; tap < p.kernel_w;) {
        const bool three = p.kernel_h >= 3 && tap + 2 * p.stride_w < p.kernel_w;  // flat kernels keep their accuracy
        part[count++] = {tap, three, arrays};
        arrays += three ? 4 : 2;
        threes += three;
        tap += (three ? 3 : 1) * p.stride_w;
      }
    passes = threes > 0 ? 2 : 1;
  }
  bool has_term(int64_t i, int64_t pass) const { return part[i].three || pass + 1 == passes; }
  int64_t terms(int64_t pass) const { return pass + 1 == passes ? count : threes; }  // of a row
};

// A vector of floats that are 1 << halvings apart.
template <int halvings, size_t... l>
inline Lanes load_every(const float* from, std::index_sequence<l...> all) {
  if constexpr (halvings == 0) {
    return load_vector<float>(from);
  } else {
    const Lanes a = load_every<halvings - 1>(from, all);
    const Lanes b = load_every<halvings - 1>(from + (lanes << (halvings - 1)), all);
    return picked<(2 * l)...>(a, b);
  }
}

// to[array][pair] of one row of a plane. The last vector may reach behind it.
template <int stride>  // 1 or 2
MYCONV2D_INLINE void factors_of_row(const float* row, const RowParts& parts, int64_t pairs, float* to, int64_t step) {
  for (int64_t pair = 0; pair < pairs; pair += lanes)
    for (int64_t i = 0; i < parts.count; ++i) {
      const RowParts::Part& part = parts.part[i];
      const auto d = [&](int64_t pixel) {
        const float* first = row + (2 * pair + pixel) * stride + part.first;
        return load_every<stride>(first, std::make_index_sequence<lanes>());
      };
      const Lanes d0 = d(0), d1 = d(1);
      float* at = to + part.array * step + pair;
      if (part.three) {
        const Lanes d2 = d(2), d3 = d(3);
        store_vector<float, float>(at, d1 + d2);
        store_vector<float, float>(at + step, d2 - d1);
        store_vector<float, float>(at + 2 * step, d0 - d2);
        store_vector<float, float>(at + 3 * step, d3 - d1);
      } else {
        store_vector<float, float>(at, d0);
        store_vector<float, float>(at + step, d1);
      }
    }
}

// to[pass][c][part][r][y₀ | y₁][width] of the out channels from `first` on.
template <typename W>
void pack_factors(const Correlation& p, const RowParts& parts, int64_t in_channels, const W* weight,
                  const WeightView& view, int64_t first, int64_t channels, int64_t width, float* to) {
  for (int64_t pass = 0; pass < parts.passes; ++pass)
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t i = 0; i < parts.count; ++i) {
        if (!parts.has_term(i, pass)) continue;
        const bool three = parts.part[i].three;
        for (int64_t r = 0; r < p.kernel_h; ++r, to += 2 * width)
          for (int64_t k = 0; k < width; ++k) {
            const W* row = weight + (first + least(k, channels - 1)) * view.k + c * view.c + r * view.r +
                           parts.part[i].first * view.s;
            const auto g = [&](int64_t tap) {
              return k < channels ? load<float>(row[tap * p.stride_w * view.s]) : 0.0f;
            };
            to[k] = !three || pass ? g(0) : ((g(0) + g(2)) + g(1)) / 2;
            to[width + k] = !three ? g(0) : pass ? g(2) : ((g(0) + g(2)) - g(1)) / 2;
          }
      }
}

// A window's rows of pixels by up to two vectors of out channels.
template <typename T, typename Finish = AsItIs>
void window_to_pixels(const Factors& factors, const Window& window, const float* weights, const float* start,
                      int64_t start_step, int64_t channels, T* to, int64_t stride, int64_t row_stride,
                      const Finish& finish = {}) {
  const int64_t vectors = ceil_div(channels, lanes);
  const FirstLanes last(channels - (vectors - 1) * lanes);
  const int64_t at_once = ceil_div(factors.pairs, ceil_div(factors.pairs, pairs_at_once(vectors)));
  for (int64_t y = 0; y < window.rows; ++y)
    for (int64_t pair = 0; pair < factors.pairs; pair += at_once)
      multiply_to_pixels_for<T, Finish>(least(at_once, factors.pairs - pair), vectors)(
          factors, factors.values + y * factors.pairs + pair, weights, start, start_step,
          to + y * row_stride + 2 * pair * stride, stride, window.columns - 2 * pair, last, finish);
}

// A window by a few out channels, whose planes lie as its pairs do: rows of 2 · pairs pixels, one behind the other.
// The last vectors of pairs begin early enough to end with the window, unless it is shorter than one.
template <typename T>
void window_to_planes(const Factors& factors, const Window& window, const float* weights, const float* start,
                           int64_t start_step, int64_t channels, T* to, int64_t plane) {
  const int64_t last = most(0, window.rows * factors.pairs - lanes);
  for (int64_t q = 0; q < last + lanes; q += 2 * lanes) {
    const int64_t first = least(q, last), second = least(q + lanes, last) - first;
    multiply_to_planes_for<T>(channels)(factors, factors.values + first, second, weights, start, start_step,
                                        to + 2 * first, plane);
  }
}

// The same for any planes of the result; a band takes the rows that lie otherwise.
template <typename T>
void window_to_result(const Planes<T>& result, const Factors& factors, const Window& window, const float* weights,
                    const float* start, int64_t start_step, int64_t first, int64_t channels) {
  const Strides& s = result.strides;
  T* to = result.data + window.image * s.n + first * s.c + window.y * s.h;
  const int64_t positions = window.rows * factors.pairs, row = 2 * factors.pairs;
  if (window.columns == row && (s.h == row || window.rows == 1) && positions >= lanes)
    return window_to_planes(factors, window, weights, start, start_step, channels, to, s.c);
  const int64_t plane = plane_stride(2 * most(positions, lanes));
  T* band = static_cast<T*>(scratch(Scratch::accumulators, channels * plane * sizeof(T)));
  window_to_planes(factors, window, weights, start, start_step, channels, band, plane);
  for (int64_t k = 0; k < channels; ++k)
    for (int64_t y = 0; y < window.rows; ++y)
      std::memcpy(to + k * s.c + y * s.h, band + k * plane + y * row, window.columns * sizeof(T));
}

template <typename Source, typename W, typename B, typename Sink>
void few_in_product(const Correlation& p, const Threads& threads, const Source& source, const W* weight,
                    const WeightView& view, const B* bias, int64_t bias_stride, const Sink& result) {
  using T = typename ElementOf<Sink>::type;
  const int64_t in_channels = source.channels, out_channels = result.channels, width = result.width;
  if (p.batch * result.height * width == 0) return;
  const bool planar = lies_as_planes(result) && !lies_as_pixels(result);
  const int64_t panel = planar ? out_channels_at_once : columns<float>;
  const auto width_of = [&](int64_t first) {  // of the panel of weights that begins with this out channel
    const int64_t channels = least(panel, out_channels - first);
    return planar ? channels : round_up(channels, lanes);
  };
  const RowParts parts(p);
  const int64_t rows_of_taps = in_channels * p.kernel_h, padded = round_up(out_channels, lanes);
  const int64_t each = 2 * rows_of_taps * (parts.count + (parts.passes - 1) * parts.threes);
  const int64_t group_size = (each + 2) * padded;  // the panels of weights, then what y₀ and y₁ start with
  const Packing packing(view.ahead, p.groups * group_size);
  float* packed = packing.data;
  for (int64_t g = 0; packing.missing && g < p.groups; ++g) {
    float* to = packed + g * group_size;
    for (int64_t first = 0; first < out_channels; first += panel)
      pack_factors(p, parts, in_channels, weight + g * view.group, view, first, out_channels - first, width_of(first),
                   to + first * each);
    for (int64_t k = 0; k < padded; ++k) {
      const float add = bias && k < out_channels ? load<float>(bias[(g * out_channels + k) * bias_stride]) : 0.0f;
      to[each * padded + k] = add;
      to[(each + 1) * padded + k] = parts.passes == 1 ? add : 0.0f;  // m₁ goes into both
    }
  }
  if (packing.only) return;

  const int64_t pairs = ceil_div(width, 2), columns_read = (2 * pairs - 1) * p.stride_w + p.kernel_w;
  const bool banded = !planar && !lies_as_pixels(result);
  const int64_t row_floats = most(in_channels * parts.arrays * p.stride_h * pairs, banded ? width * panel : 0);
  const RowBlocks blocks(result.height, row_floats * sizeof(float), 16384);
  begin_tasks(result, p.groups * p.batch * blocks.per_image);
  parallel_for(threads, p.groups * p.batch * blocks.per_image, [&](int64_t task) {
    const int64_t g = task % p.groups;
    const Window window = blocks.at(task / p.groups, width);
    Window halo = with_halo(window, p);
    halo.columns = columns_read;
    // Rows of the source that a stride apart are neighbours here, as the result's rows are that see them.
    const int64_t phase_rows = ceil_div(halo.rows, p.stride_h);
    const int64_t plane = plane_stride(halo.rows * columns_read + 4 * p.stride_w * lanes);
    const int64_t step = plane_stride(phase_rows * p.stride_h * pairs + lanes);
    float* planes = static_cast<float*>(scratch(Scratch::panel, in_channels * plane * sizeof(float)));
    float* values = static_cast<float*>(scratch(Scratch::band, in_channels * parts.arrays * step * sizeof(float)));
    int32_t terms[most_terms][2];
    read_planes(of_group(source, g), halo, planes, columns_read, plane);
    if (planar && window.rows * pairs < lanes) {  // its one vector reaches behind it, where denormals would be slow
      for (int64_t c = 0; c < in_channels; ++c)
        std::memset(planes + c * plane + halo.rows * columns_read, 0, 4 * p.stride_w * lanes * sizeof(float));
      if (p.stride_h > 1) std::memset(values, 0, in_channels * parts.arrays * step * sizeof(float));
    }
    const auto fill = [&]<int stride>() {
      for (int64_t c = 0; c < in_channels; ++c)
        for (int64_t phase = 0; phase < p.stride_h; ++phase) {
          float* to = values + c * parts.arrays * step + phase * phase_rows * pairs;
          for (int64_t y = phase; y < halo.rows; y += p.stride_h, to += pairs)
            factors_of_row<stride>(planes + c * plane + y * columns_read, parts, pairs, to, step);
        }
    };
    p.stride_w == 1 ? fill.template operator()<1>() : fill.template operator()<2>();
    int64_t row[most_rows], term = 0;
    for (int64_t r = 0; r < p.kernel_h; ++r) row[r] = (r % p.stride_h * phase_rows + r / p.stride_h) * pairs;
    for (int64_t pass = 0; pass < parts.passes; ++pass)
      for (int64_t c = 0; c < in_channels; ++c)
        for (int64_t i = 0; i < parts.count; ++i) {
          if (!parts.has_term(i, pass)) continue;
          const int64_t array = c * parts.arrays + parts.part[i].array + (parts.part[i].three ? 2 * pass : 0);
          for (int64_t r = 0; r < p.kernel_h; ++r, ++term)
            for (int64_t m = 0; m < 2; ++m) terms[term][m] = static_cast<int32_t>((array + m) * step + row[r]);
        }

    const Factors factors{values, pairs, parts.passes,
                          {rows_of_taps * parts.terms(0), rows_of_taps * parts.terms(1)}, terms};
    const Sink sink = for_task(of_group(result, g), task);
    const float* weights = packed + g * group_size;
    const float* start = weights + each * padded;
    for (int64_t first = 0; first < out_channels; first += panel) {
      const float* filters = weights + first * each;
      const int64_t channels = least(panel, out_channels - first);
      if constexpr (in_memory<Sink>) {
        const Strides& s = sink.strides;
        T* to = sink.data + window.image * s.n + first * s.c + window.y * s.h;
        if (planar) {
          window_to_result(sink, factors, window, filters, start + first, padded, first, channels);
          continue;
        }
        if (!banded) {
          window_to_pixels(factors, window, filters, start + first, padded, channels, to, s.w, s.h);
          continue;
        }
      }
      if constexpr (requires { finish_of(sink, first, channels); })
        if (!sink.pool) {
          const Strides& s = sink.strides;
          window_to_pixels(factors, window, filters, start + first, padded, channels,
                           sink.output + window.image * s.n + window.y * s.h + first, s.w, s.h,
                           finish_of(sink, first, channels));
          continue;
        }
      PixelRows rows{};
      if constexpr (requires { rows_in_place(sink, window, first); }) rows = rows_in_place(sink, window, first);
      if (!rows.data)
        rows = {static_cast<float*>(scratch(Scratch::accumulators, window.rows * width * panel * sizeof(float))), panel};
      window_to_pixels(factors, window, filters, start + first, padded, channels, rows.data, rows.step,
                       width * rows.step);
      write_pixels(rows.data, rows.step, window, first, channels, sink);
    }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
