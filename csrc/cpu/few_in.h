// Products with few source channels, by minimal filtering along the rows: F(2, 3) gives two neighbouring pixels of a
// row for four multiplications instead of six (Winograd 1980; Lavin & Gray 2016, equation 5).
//
//   d = pixels x … x + 3 of a source row, g = three taps       y₀ = (m₁ + m₂) + m₀      y₁ = (m₁ − m₂) + m₃
//   m₀ = (d₀ − d₂) g₀    m₁ = (d₁ + d₂)(g₀ + g₁ + g₂)/2    m₂ = (d₂ − d₁)(g₀ − g₁ + g₂)/2    m₃ = (d₃ − d₁) g₂
//
// The source's side is done once for a window and all out channels, so it costs next to nothing; the weights' once for
// a call. A kernel row is cut into triples of taps, the last filled up with zeros. The products are summed over source
// channels, kernel rows and triples in registers: first m₁ and m₂, whose sum and difference the second pass adds to.
//   lies as pixels   rows = pairs of pixels (broadcast), columns = out channels
//   lies as planes   rows = out channels (broadcast weights), columns = pairs of pixels, running on from row to row
// Bound: the FMA units.
#pragma once

#include "few_windows.h"

namespace myconv2d::MYCONV2D_ISA {

// The source's side of a window: arrays [(c, triple)][m₁ m₂ m₀ m₃][row][pair], one value for every pair of a row.
struct FilteredRows {
  const float* values;
  int64_t pairs, step;    // of a row; floats from one array to the next
  int64_t depth;          // terms of a sum: (c, triple, r)
  const int32_t* terms;   // where each begins, its m₁
};

constexpr int64_t taps_of_filter = 3;
constexpr int64_t deepest_filter = 4 * 2 * 6;  // channels · triples · kernel rows that algorithm.cpp sends here

template <typename V, size_t... l>
inline void filter_pairs(const float* row, float* to, int64_t step, std::index_sequence<l...>) {
  constexpr int lanes = sizeof...(l);
  const auto even = [](V a, V b) { return __builtin_shufflevector(a, b, (2 * l)...); };
  const auto odd = [](V a, V b) { return __builtin_shufflevector(a, b, (2 * l + 1)...); };
  const V a = load_vector<float>(row), b = load_vector<float>(row + lanes);
  const V c = load_vector<float>(row + 2), d = load_vector<float>(row + 2 + lanes);
  const V d0 = even(a, b), d1 = odd(a, b), d2 = even(c, d), d3 = odd(c, d);
  store_vector<float, float>(to, d1 + d2);
  store_vector<float, float>(to + step, d2 - d1);
  store_vector<float, float>(to + 2 * step, d0 - d2);
  store_vector<float, float>(to + 3 * step, d3 - d1);
}

// to[m₁ m₂ m₀ m₃][pair] of one row of a plane; a vector behind the last pair may be overwritten.
inline void filter_row(const float* row, int64_t pairs, float* to, int64_t step) {
  for (int64_t p = 0; p < pairs; p += lanes)
    filter_pairs<Lanes>(row + 2 * p, to + p, step, std::make_index_sequence<lanes>());
}

// to[pass][term][m₁ m₂ | m₀ m₃][width] of the out channels from `first` on.
template <typename W>
void pack_filters(const Correlation& p, int64_t in_channels, const W* weight, const WeightView& view, int64_t first,
                  int64_t channels, int64_t width, float* to) {
  const auto value = [&](int64_t k, int64_t c, int64_t r, int64_t s) {
    return s < p.kernel_w && k < channels
               ? load<float>(weight[(first + k) * view.k + c * view.c + r * view.r + s * view.s])
               : 0.0f;
  };
  for (int pass = 0; pass < 2; ++pass)
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t s = 0; s < p.kernel_w; s += taps_of_filter)
        for (int64_t r = 0; r < p.kernel_h; ++r, to += 2 * width)
          for (int64_t k = 0; k < width; ++k) {
            const float g0 = value(k, c, r, s), g1 = value(k, c, r, s + 1), g2 = value(k, c, r, s + 2);
            to[k] = pass ? g0 : ((g0 + g2) + g1) / 2;
            to[width + k] = pass ? g2 : ((g0 + g2) - g1) / 2;
          }
}

// `pairs` pairs of pixels from v on by `vectors` vectors of channels, of which the last has its `last` lanes in the result.
template <typename T, int pairs, int vectors>
void filter_pixels(const FilteredRows& rows, const float* v, const float* weights, const float* bias, T* to,
                   int64_t stride, int64_t pixels, const FirstLanes& last) {
#pragma GCC unroll 12
  for (int i = 0; i < 2 * pairs; ++i)  // where the next tile's results go: a store that misses L2 would stall this one's
#pragma GCC unroll 2
    for (int u = 0; u < vectors; ++u) __builtin_prefetch(to + (2 * pairs + i) * stride + u * lanes, 1);
  Lanes y[2][pairs][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < pairs; ++i)
#pragma GCC unroll 2
    for (int u = 0; u < vectors; ++u) y[0][i][u] = load_vector<float>(bias + u * lanes), y[1][i][u] = Lanes{};
#pragma GCC unroll 2
  for (int pass = 0; pass < 2; ++pass, v += 2 * rows.step) {
    for (int64_t d = 0; d < rows.depth; ++d, weights += 2 * vectors * lanes) {
      const float* value = v + rows.terms[d];
#pragma GCC unroll 2
      for (int m = 0; m < 2; ++m, value += rows.step) {
        Lanes w[vectors];
#pragma GCC unroll 2
        for (int u = 0; u < vectors; ++u) w[u] = load_vector<float>(weights + (m * vectors + u) * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < pairs; ++i)
#pragma GCC unroll 2
          for (int u = 0; u < vectors; ++u) y[m][i][u] += value[i] * w[u];
      }
    }
    if (pass == 0)
#pragma GCC unroll 8
      for (int i = 0; i < pairs; ++i)
#pragma GCC unroll 2
        for (int u = 0; u < vectors; ++u) {
          const Lanes sum = y[0][i][u] + y[1][i][u];
          y[1][i][u] = y[0][i][u] - y[1][i][u];
          y[0][i][u] = sum;
        }
  }
#pragma GCC unroll 8
  for (int i = 0; i < pairs; ++i)
#pragma GCC unroll 2
    for (int m = 0; m < 2; ++m, to += stride) {
      if (2 * i + m >= pixels) return;
      if constexpr (vectors == 2) store_vector<T, float>(to, y[m][i][0]);
      last.store(to + (vectors - 1) * lanes, y[m][i][vectors - 1]);
    }
}

template <typename T>
using FilterPixels = void (*)(const FilteredRows&, const float*, const float*, const float*, T*, int64_t, int64_t,
                              const FirstLanes&);

constexpr int64_t filter_pairs_at_once(int64_t vectors) { return vectors == 2 ? max_rows / 2 : 6; }

template <typename T>
FilterPixels<T> filter_pixels_for(int64_t pairs, int64_t vectors) {
  static constexpr FilterPixels<T> one[] = {filter_pixels<T, 1, 1>, filter_pixels<T, 2, 1>, filter_pixels<T, 3, 1>,
                                            filter_pixels<T, 4, 1>, filter_pixels<T, 5, 1>, filter_pixels<T, 6, 1>};
  static constexpr FilterPixels<T> two[] = {filter_pixels<T, 1, 2>, filter_pixels<T, 2, 2>, filter_pixels<T, 3, 2>,
#if MYCONV2D_VECTOR_BYTES == 64
                                            filter_pixels<T, 4, 2>, filter_pixels<T, 5, 2>, filter_pixels<T, 6, 2>
#endif
  };
  return (vectors == 2 ? two : one)[pairs - 1];
}

// Two vectors of pairs, from v on and `second` further on, by `channels` out channels, whose planes are to + k · plane.
template <typename T, int channels>
void filter_planes(const FilteredRows& rows, const float* v, int64_t second, const float* weights, const float* bias,
                   T* to, int64_t plane) {
  constexpr auto all = std::make_index_sequence<lanes>();
#pragma GCC unroll 8
  for (int k = 0; k < channels; ++k)
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) __builtin_prefetch(to + k * plane + (4 + u) * lanes, 1);
  Lanes y[2][channels][2];
#pragma GCC unroll 8
  for (int k = 0; k < channels; ++k)
    y[0][k][0] = y[0][k][1] = Lanes{} + bias[k], y[1][k][0] = y[1][k][1] = Lanes{};
#pragma GCC unroll 2
  for (int pass = 0; pass < 2; ++pass, v += 2 * rows.step) {
    for (int64_t d = 0; d < rows.depth; ++d, weights += 2 * channels) {
      const float* value = v + rows.terms[d];
#pragma GCC unroll 2
      for (int m = 0; m < 2; ++m, value += rows.step) {
        const Lanes a = load_once(value), b = load_once(value + second);
#pragma GCC unroll 8
        for (int k = 0; k < channels; ++k) {
          y[m][k][0] += weights[m * channels + k] * a;
          y[m][k][1] += weights[m * channels + k] * b;
        }
      }
    }
    if (pass == 0)
#pragma GCC unroll 8
      for (int k = 0; k < channels; ++k)
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {
          const Lanes sum = y[0][k][u] + y[1][k][u];
          y[1][k][u] = y[0][k][u] - y[1][k][u];
          y[0][k][u] = sum;
        }
  }
#pragma GCC unroll 8
  for (int k = 0; k < channels; ++k, to += plane)
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) {
      put_pair_together(y[0][k][u], y[1][k][u], all);
      store_vector<T, float>(to + u * 2 * second, y[0][k][u]);
      store_vector<T, float>(to + u * 2 * second + lanes, y[1][k][u]);
    }
}

template <typename T>
using FilterPlanes = void (*)(const FilteredRows&, const float*, int64_t, const float*, const float*, T*, int64_t);

template <typename T>
FilterPlanes<T> filter_planes_for(int64_t channels) {
  static constexpr FilterPlanes<T> table[] = {filter_planes<T, 1>, filter_planes<T, 2>, filter_planes<T, 3>,
#if MYCONV2D_VECTOR_BYTES == 64
                                              filter_planes<T, 4>, filter_planes<T, 5>, filter_planes<T, 6>
#endif
  };
  return table[channels - 1];
}

constexpr int64_t filter_channels_at_once = max_rows / 2;

// A window's rows of pixels by up to two vectors of out channels.
template <typename T>
void filter_rows_to_pixels(const FilteredRows& rows, const Window& window, const float* weights, const float* bias,
                           int64_t channels, T* to, int64_t stride, int64_t row_stride) {
  const int64_t vectors = ceil_div(channels, lanes);
  const FirstLanes last(channels - (vectors - 1) * lanes);
  const int64_t at_once = ceil_div(rows.pairs, ceil_div(rows.pairs, filter_pairs_at_once(vectors)));
  for (int64_t y = 0; y < window.rows; ++y)
    for (int64_t pair = 0; pair < rows.pairs; pair += at_once)
      filter_pixels_for<T>(least(at_once, rows.pairs - pair), vectors)(
          rows, rows.values + y * rows.pairs + pair, weights, bias, to + y * row_stride + 2 * pair * stride, stride,
          window.columns - 2 * pair, last);
}

// A window by a few out channels, whose planes lie as its pairs do: rows of 2 · pairs pixels, one behind the other.
// The last vectors of pairs begin early enough to end with the window, unless it is shorter than one.
template <typename T>
void filter_rows_to_planes(const FilteredRows& rows, const Window& window, const float* weights, const float* bias,
                           int64_t channels, T* to, int64_t plane) {
  const int64_t last = most(0, window.rows * rows.pairs - lanes);
  for (int64_t q = 0; q < last + lanes; q += 2 * lanes) {
    const int64_t first = least(q, last), second = least(q + lanes, last) - first;
    filter_planes_for<T>(channels)(rows, rows.values + first, second, weights, bias, to + 2 * first, plane);
  }
}

// The same for any planes of the result; a band takes the rows that lie otherwise.
template <typename T>
void filter_rows_to(const Planes<T>& result, const FilteredRows& rows, const Window& window, const float* weights,
                    const float* bias, int64_t first, int64_t channels) {
  const Strides& s = result.strides;
  T* to = result.data + window.image * s.n + first * s.c + window.y * s.h;
  const int64_t positions = window.rows * rows.pairs, row = 2 * rows.pairs;
  if (window.columns == row && (s.h == row || window.rows == 1) && positions >= lanes)
    return filter_rows_to_planes(rows, window, weights, bias, channels, to, s.c);
  const int64_t plane = plane_stride(2 * most(positions, lanes));
  T* band = static_cast<T*>(scratch(Scratch::accumulators, channels * plane * sizeof(T)));
  filter_rows_to_planes(rows, window, weights, bias, channels, band, plane);
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
  const int64_t panel = planar ? filter_channels_at_once : columns<float>;
  const auto width_of = [&](int64_t first) {  // of the panel of weights that begins with this out channel
    const int64_t channels = least(panel, out_channels - first);
    return planar ? channels : round_up(channels, lanes);
  };
  const int64_t triples = ceil_div(p.kernel_w, taps_of_filter), arrays = in_channels * triples;
  const int64_t depth = arrays * p.kernel_h, padded = round_up(out_channels, lanes);
  float* packed = static_cast<float*>(scratch(Scratch::weights, p.groups * (4 * depth + 1) * padded * sizeof(float)));
  for (int64_t g = 0; g < p.groups; ++g) {  // the panels of weights, then the bias
    float* to = packed + g * (4 * depth + 1) * padded;
    for (int64_t first = 0; first < out_channels; first += panel)
      pack_filters(p, in_channels, weight + g * view.group, view, first, out_channels - first, width_of(first),
                   to + first * 4 * depth);
    for (int64_t k = 0; k < padded; ++k)
      to[4 * depth * padded + k] =
          bias && k < out_channels ? load<float>(bias[(g * out_channels + k) * bias_stride]) : 0.0f;
  }

  const int64_t pairs = ceil_div(width, 2), columns_read = 2 * pairs + taps_of_filter * triples - 1;
  const bool banded = !planar && !lies_as_pixels(result);
  const int64_t row_floats = most(4 * arrays * pairs, banded ? width * panel : 0);
  const RowBlocks blocks(result.height, row_floats * sizeof(float), 16384);
  parallel_for(threads, p.groups * p.batch * blocks.per_image, [&](int64_t task) {
    const int64_t g = task % p.groups;
    const Window window = blocks.at(task / p.groups, width);
    Window halo = with_halo(window, p);
    halo.columns = columns_read;
    const int64_t plane = plane_stride(halo.rows * columns_read + 2 * lanes);
    const int64_t step = plane_stride(halo.rows * pairs + lanes);
    float* planes = static_cast<float*>(scratch(Scratch::panel, in_channels * plane * sizeof(float)));
    float* values = static_cast<float*>(scratch(Scratch::band, 4 * arrays * step * sizeof(float)));
    int32_t terms[deepest_filter];
    read_planes(of_group(source, g), halo, planes, columns_read, plane);
    for (int64_t array = 0, term = 0; array < arrays; ++array) {
      const float* from = planes + array / triples * plane + array % triples * taps_of_filter;
      for (int64_t y = 0; y < halo.rows; ++y)
        filter_row(from + y * columns_read, pairs, values + 4 * array * step + y * pairs, step);
      for (int64_t r = 0; r < p.kernel_h; ++r)
        terms[term++] = static_cast<int32_t>(4 * array * step + r * pairs);
    }

    const FilteredRows rows{values, pairs, step, depth, terms};
    const Sink sink = of_group(result, g);
    const float* weights = packed + g * (4 * depth + 1) * padded;
    const float* start = weights + 4 * depth * padded;
    for (int64_t first = 0; first < out_channels; first += panel) {
      const float* filters = weights + first * 4 * depth;
      const int64_t channels = least(panel, out_channels - first);
      if constexpr (in_memory<Sink>) {
        const Strides& s = sink.strides;
        T* to = sink.data + window.image * s.n + first * s.c + window.y * s.h;
        if (planar) {
          filter_rows_to(sink, rows, window, filters, start + first, first, channels);
          continue;
        }
        if (!banded) {
          filter_rows_to_pixels(rows, window, filters, start + first, channels, to, s.w, s.h);
          continue;
        }
      }
      float* band = static_cast<float*>(scratch(Scratch::accumulators, window.rows * width * panel * sizeof(float)));
      filter_rows_to_pixels(rows, window, filters, start + first, channels, band, panel, width * panel);
      write_pixels(band, panel, window, first, channels, sink);
    }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
