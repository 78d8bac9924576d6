// The register tiles of few_in.h: two sums, y₀ and y₁, for each of some pairs of pixels and some out channels, of
// products of the source's factors and the weights'.
#pragma once

#include "few_windows.h"

namespace myconv2d::MYCONV2D_ISA {

// The source's factors for a window: arrays [row][pair], several for each channel (see `factors_of_row`).
struct Factors {
  const float* values;
  int64_t pairs;                // of a row
  int64_t passes, depth[2];     // sums are over so many terms in each pass
  const int32_t (*terms)[2];    // where the factors of a term's y₀ (m₁, m₀) and y₁ (m₂, m₃) begin
};

struct AsItIs {  // what becomes of a result, of which vector of channels, before it is stored
  MYCONV2D_INLINE Lanes operator()(Lanes value, int64_t) const { return value; }
};

// `pairs` pairs of pixels from v on by `vectors` vectors of channels, the last of which ends with `last`.
template <typename T, typename Finish, int pairs, int vectors>
void multiply_to_pixels(const Factors& factors, const float* v, const float* weights, const float* start,
                        int64_t start_step, T* to, int64_t stride, int64_t pixels, const FirstLanes& last,
                        const Finish& finish) {
#pragma GCC unroll 12
  for (int i = 0; i < 2 * pairs; ++i)  // where the next tile's results go: stores that miss L2 would stall this one
#pragma GCC unroll 2
    for (int u = 0; u < vectors; ++u) __builtin_prefetch(to + (2 * pairs + i) * stride + u * lanes, 1);
  Lanes y[2][pairs][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < pairs; ++i)
#pragma GCC unroll 2
    for (int u = 0; u < vectors; ++u) {
      y[0][i][u] = load_vector<float>(start + u * lanes);
      y[1][i][u] = load_vector<float>(start + start_step + u * lanes);
    }
  const int32_t(*term)[2] = factors.terms;
  for (int64_t pass = 1; pass <= factors.passes; ++pass) {
    for (int64_t d = 0; d < factors.depth[pass - 1]; ++d, ++term, weights += 2 * vectors * lanes)
#pragma GCC unroll 2
      for (int m = 0; m < 2; ++m) {
        const float* value = v + (*term)[m];
        Lanes w[vectors];
#pragma GCC unroll 2
        for (int u = 0; u < vectors; ++u) w[u] = load_once(weights + (m * vectors + u) * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < pairs; ++i)
#pragma GCC unroll 2
          for (int u = 0; u < vectors; ++u) y[m][i][u] += value[i] * w[u];
      }
    if (pass < factors.passes)
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
      if constexpr (vectors == 2) store_vector<T, float>(to, finish(y[m][i][0], 0));
      last.store(to + (vectors - 1) * lanes, finish(y[m][i][vectors - 1], vectors - 1));
    }
}

template <typename T, typename Finish>
using MultiplyToPixels = void (*)(const Factors&, const float*, const float*, const float*, int64_t, T*, int64_t,
                                  int64_t, const FirstLanes&, const Finish&);

constexpr int64_t pairs_at_once(int64_t vectors) { return vectors == 2 ? max_rows / 2 : 6; }

template <typename T, typename Finish>
MultiplyToPixels<T, Finish> multiply_to_pixels_for(int64_t pairs, int64_t vectors) {
  constexpr auto of = []<int vectors>(int64_t pairs) {
    return [&]<int... pair>(std::integer_sequence<int, pair...>) {
      static constexpr MultiplyToPixels<T, Finish> table[] = {multiply_to_pixels<T, Finish, pair + 1, vectors>...};
      return table[pairs - 1];
    }(std::make_integer_sequence<int, pairs_at_once(vectors)>());
  };
  return vectors == 2 ? of.template operator()<2>(pairs) : of.template operator()<1>(pairs);
}

// Two vectors of pairs, from v on and `second` further on, by `channels` out channels, whose planes are to + k · plane.
template <typename T, int channels>
void multiply_to_planes(const Factors& factors, const float* v, int64_t second, const float* weights,
                        const float* start, int64_t start_step, T* to, int64_t plane) {
  constexpr auto all = std::make_index_sequence<lanes>();
#pragma GCC unroll 8
  for (int k = 0; k < channels; ++k)
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) __builtin_prefetch(to + k * plane + (4 + u) * lanes, 1);
  Lanes y[2][channels][2];
#pragma GCC unroll 8
  for (int k = 0; k < channels; ++k) {
    y[0][k][0] = y[0][k][1] = Lanes{} + start[k];
    y[1][k][0] = y[1][k][1] = Lanes{} + start[start_step + k];
  }
  const int32_t(*term)[2] = factors.terms;
  for (int64_t pass = 1; pass <= factors.passes; ++pass) {
    for (int64_t d = 0; d < factors.depth[pass - 1]; ++d, ++term, weights += 2 * channels)
#pragma GCC unroll 2
      for (int m = 0; m < 2; ++m) {
        const Lanes a = load_once(v + (*term)[m]), b = load_once(v + (*term)[m] + second);
#pragma GCC unroll 8
        for (int k = 0; k < channels; ++k) {
          y[m][k][0] += weights[m * channels + k] * a;
          y[m][k][1] += weights[m * channels + k] * b;
        }
      }
    if (pass < factors.passes)
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
using MultiplyToPlanes = void (*)(const Factors&, const float*, int64_t, const float*, const float*, int64_t, T*,
                              int64_t);

template <typename T>
MultiplyToPlanes<T> multiply_to_planes_for(int64_t channels) {
  static constexpr MultiplyToPlanes<T> table[] = {
      multiply_to_planes<T, 1>, multiply_to_planes<T, 2>, multiply_to_planes<T, 3>,
#if MYCONV2D_REGISTERS == 32
      multiply_to_planes<T, 4>, multiply_to_planes<T, 5>, multiply_to_planes<T, 6>
#endif
  };
  return table[channels - 1];
}

constexpr int64_t out_channels_at_once = max_rows / 2;

}  // namespace myconv2d::MYCONV2D_ISA
