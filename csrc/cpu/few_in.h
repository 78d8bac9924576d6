// Products with few source channels, a pair of neighbouring pixels y₀ y₁ of a row at a time. d = the source's row from
// y₀'s first pixel on, g = a row of taps. Directly, y₀ = Σ d[s] g[s] and y₁ = Σ d[s + 1] g[s]. 3×3 kernels go by
// minimal filtering along the rows, F(2, 3), in four multiplications instead of six (Lavin & Gray 2016, equation 5):
//
//   y₀ = (m₁ + m₂) + m₀      m₁ = (d₁ + d₂)(g₀ + g₁ + g₂)/2      m₀ = (d₀ − d₂) g₀
//   y₁ = (m₁ − m₂) + m₃      m₂ = (d₂ − d₁)(g₀ − g₁ + g₂)/2      m₃ = (d₃ − d₁) g₂
//
// Either way a register tile holds two sums for each pair, of products over source channels and taps; F(2, 3) takes two
// passes, m₁ and m₂ first, whose sum and difference the second adds to. The source's factors are made once for a window
// and all out channels, so they cost next to nothing; the weights' once for a call.
//   result as pixels   rows = pairs of pixels (broadcast), columns = out channels
//   result as planes   rows = out channels (broadcast weights), columns = pairs, running on from row to row
// Bound: the FMA units.
#pragma once

#include "few_in_tiles.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t most_terms = 4 * 6 * 6;  // few channels · taps that algorithm.cpp sends here

inline bool by_filtering(const Correlation& p) { return p.kernel_h == 3 && p.kernel_w == 3; }

template <bool filtered, size_t... l>
inline void factors_of_pairs(const float* row, int64_t kernel_w, float* to, int64_t step, std::index_sequence<l...>) {
  const auto even = [&](int64_t s) {
    const Lanes a = load_vector<float>(row + s), b = load_vector<float>(row + s + lanes);
    return __builtin_shufflevector(a, b, (2 * l)...);
  };
  if constexpr (filtered) {
    const Lanes d0 = even(0), d1 = even(1), d2 = even(2), d3 = even(3);
    store_vector<float, float>(to, d1 + d2);
    store_vector<float, float>(to + step, d2 - d1);
    store_vector<float, float>(to + 2 * step, d0 - d2);
    store_vector<float, float>(to + 3 * step, d3 - d1);
  } else {
    for (int64_t s = 0; s <= kernel_w; ++s) store_vector<float, float>(to + s * step, even(s));
  }
}

// to[array][pair] of one row of a plane: m₁ m₂ m₀ m₃'s, or d[0] … d[kernel_w]. The last vector may reach behind it.
inline void factors_of_row(const float* row, const Correlation& p, int64_t pairs, float* to, int64_t step) {
  constexpr auto all = std::make_index_sequence<lanes>();
  for (int64_t pair = 0; pair < pairs; pair += lanes)
    by_filtering(p) ? factors_of_pairs<true>(row + 2 * pair, p.kernel_w, to + pair, step, all)
                    : factors_of_pairs<false>(row + 2 * pair, p.kernel_w, to + pair, step, all);
}

// to[pass][term][y₀ | y₁][width] of the out channels from `first` on: as many floats for each as `weights_of` says.
inline int64_t weights_of(const Correlation& p, int64_t in_channels) {
  return in_channels * p.kernel_h * (by_filtering(p) ? 4 : 2 * p.kernel_w);
}

template <typename W>
void pack_factors(const Correlation& p, int64_t in_channels, const W* weight, const WeightView& view, int64_t first,
                  int64_t channels, int64_t width, float* to) {
  const bool filtered = by_filtering(p);
  for (int pass = 0; pass < (filtered ? 2 : 1); ++pass)
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t s = 0; s < (filtered ? 1 : p.kernel_w); ++s)
        for (int64_t r = 0; r < p.kernel_h; ++r, to += 2 * width)
          for (int64_t k = 0; k < width; ++k) {
            const W* row = weight + (first + least(k, channels - 1)) * view.k + c * view.c + r * view.r;
            const auto g = [&](int64_t tap) { return k < channels ? load<float>(row[tap * view.s]) : 0.0f; };
            to[k] = !filtered ? g(s) : pass ? g(0) : ((g(0) + g(2)) + g(1)) / 2;
            to[width + k] = !filtered ? g(s) : pass ? g(2) : ((g(0) + g(2)) - g(1)) / 2;
          }
}

// A window's rows of pixels by up to two vectors of out channels.
template <typename T>
void window_to_pixels(const Factors& factors, const Window& window, const float* weights, const float* start,
                           int64_t start_step, int64_t channels, T* to, int64_t stride, int64_t row_stride) {
  const int64_t vectors = ceil_div(channels, lanes);
  const FirstLanes last(channels - (vectors - 1) * lanes);
  const int64_t at_once = ceil_div(factors.pairs, ceil_div(factors.pairs, pairs_at_once(vectors)));
  for (int64_t y = 0; y < window.rows; ++y)
    for (int64_t pair = 0; pair < factors.pairs; pair += at_once)
      multiply_to_pixels_for<T>(least(at_once, factors.pairs - pair), vectors)(
          factors, factors.values + y * factors.pairs + pair, weights, start, start_step,
          to + y * row_stride + 2 * pair * stride, stride, window.columns - 2 * pair, last);
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
  const int64_t each = weights_of(p, in_channels), padded = round_up(out_channels, lanes);
  const int64_t passes = by_filtering(p) ? 2 : 1, depth = each / 2 / passes;
  const int64_t group_size = (each + 2) * padded;  // the panels of weights, then what y₀ and y₁ start with
  const Packing packing(view.ahead, p.groups * group_size);
  float* packed = packing.data;
  for (int64_t g = 0; packing.missing && g < p.groups; ++g) {
    float* to = packed + g * group_size;
    for (int64_t first = 0; first < out_channels; first += panel)
      pack_factors(p, in_channels, weight + g * view.group, view, first, out_channels - first, width_of(first),
                   to + first * each);
    for (int64_t k = 0; k < padded; ++k) {
      const float add = bias && k < out_channels ? load<float>(bias[(g * out_channels + k) * bias_stride]) : 0.0f;
      to[each * padded + k] = add;
      to[(each + 1) * padded + k] = passes == 1 ? add : 0.0f;  // m₁ goes into both
    }
  }
  if (packing.only) return;

  const int64_t pairs = ceil_div(width, 2), columns_read = 2 * pairs + p.kernel_w - 1;
  const int64_t arrays = p.kernel_w + 1;  // of factors for each channel
  const bool banded = !planar && !lies_as_pixels(result);
  const int64_t row_floats = most(in_channels * arrays * pairs, banded ? width * panel : 0);
  const RowBlocks blocks(result.height, row_floats * sizeof(float), 16384);
  begin_tasks(result, p.groups * p.batch * blocks.per_image);
  parallel_for(threads, p.groups * p.batch * blocks.per_image, [&](int64_t task) {
    const int64_t g = task % p.groups;
    const Window window = blocks.at(task / p.groups, width);
    Window halo = with_halo(window, p);
    halo.columns = columns_read;
    const int64_t plane = plane_stride(halo.rows * columns_read + 2 * lanes);
    const int64_t step = plane_stride(halo.rows * pairs + lanes);
    float* planes = static_cast<float*>(scratch(Scratch::panel, in_channels * plane * sizeof(float)));
    float* values = static_cast<float*>(scratch(Scratch::band, in_channels * arrays * step * sizeof(float)));
    int32_t terms[most_terms][2];
    read_planes(of_group(source, g), halo, planes, columns_read, plane);
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t y = 0; y < halo.rows; ++y)
        factors_of_row(planes + c * plane + y * columns_read, p, pairs, values + c * arrays * step + y * pairs, step);
    int64_t term = 0;
    for (int64_t pass = 0; pass < passes; ++pass)
      for (int64_t c = 0; c < in_channels; ++c)
        for (int64_t s = 0; s < depth / in_channels / p.kernel_h; ++s)
          for (int64_t r = 0; r < p.kernel_h; ++r, ++term)
            for (int64_t m = 0; m < 2; ++m)
              terms[term][m] = static_cast<int32_t>((c * arrays + 2 * pass + s + m) * step + r * pairs);

    const Factors factors{values, pairs, passes, depth, terms};
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
      float* band = static_cast<float*>(scratch(Scratch::accumulators, window.rows * width * panel * sizeof(float)));
      window_to_pixels(factors, window, filters, start + first, padded, channels, band, panel, width * panel);
      write_pixels(band, panel, window, first, channels, sink);
    }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
