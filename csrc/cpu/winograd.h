// Winograd's minimal filtering (Lavin & Gray 2016): F(4×4, 3×3) gives a 4×4 tile of a 3×3 convolution from 36 products
// instead of 144, F(4×4, 2×2) one of a 2×2 convolution from 25 instead of 64. A tile's input d, as far as the kernel g
// reaches, and g are taken to the values of their polynomials at so many points, multiplied there, and taken back:
//
//   output = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A           grad_weight = Gᵀ [ (A g Aᵀ) ⊙ (Bᵀ d B) ] G
//
// The points are 0, ±1/√2, ±√2, ∞ for 3×3. They cost the same as the usual 0, ±1, ±2, ∞ and have a quarter of their
// error, because the powers that the transforms multiply by stay close to 1 (Barabasz et al. 2020 search for such
// points); for the same reason ±1/2, ±5/4, ∞ for 2×2.
//
// Everything works on vectors, one lane a channel. A map gives its results two at a time, because those at ±p share
// their work, and because a transform then holds two rows of a tile in registers, not six.
#pragma once

#include <utility>

#include "transpose.h"

#define MYCONV2D_INLINE inline __attribute__((always_inline))

namespace myconv2d::MYCONV2D_ISA {

constexpr int tile_size = 4;

using Lanes = Vector<float>::type;
using HalfLanes = Vector<float>::half;
using OneLane = Vector<float>::one;
constexpr int lanes = Vector<float>::lanes;

// `reach` values of a tile along an axis meet `kernel_reach` of the kernel, the last of them over and over where there
// are fewer (strided.h); `size` pixels from tile to tile.
struct F3x3 {
  static constexpr int taps = 3, reach = 6, points = 36, kernel_reach = 6, size = tile_size;
  static constexpr int zero = 1;  // whether it is one of the points
  static constexpr float near = 0.70710678118654752f, near2 = 0.5f;  // the point 1/√2 and its square
  static constexpr float far = 1.41421356237309505f, far2 = 2.0f;    // the point √2 and its square
  static constexpr float of_near = -2.0f / 3, of_far = 1.0f / 6;     // over the Lagrange denominators −3/2 and 6
  static constexpr float near_of_near = near * -2.0f / 3, far_of_far = far / 6;
};

struct F2x2 {
  static constexpr int taps = 2, reach = 5, points = 25, kernel_reach = 5, size = tile_size, zero = 0;
  static constexpr float near = 0.5f, near2 = 0.25f, far = 1.25f, far2 = 1.5625f;
  static constexpr float of_near = -16.0f / 21, of_far = 32.0f / 105;  // denominators −21/16 and 105/32, negative at −p
  static constexpr float near_of_near = -8.0f / 21, far_of_far = 8.0f / 21;
};

// How many of a kernel there are in two dimensions, and which of them a point meets.
template <typename F>
constexpr int of_kernel = F::kernel_reach * F::kernel_reach;
template <typename F>
constexpr int kernel_of(int64_t point) {
  constexpr int last = F::kernel_reach - 1;
  constexpr auto along = [](int64_t i) { return i < last ? static_cast<int>(i) : last; };
  return along(point / F::reach) * F::kernel_reach + along(point % F::reach);
}

// A polynomial at ±p from its even and odd part at p. The odd part comes with its factor p:
// one multiplication more, but the sum and the difference go to the adders, not to the busier multipliers.
template <typename V>
MYCONV2D_INLINE void plus_minus(V even, V odd, V (&v)[2]) {
  v[0] = even + odd;
  v[1] = even - odd;
}

// The points in pairs: zero, if it is one, and ∞; ±near; ±far.
template <typename F>
struct ToPoints {
  static constexpr int to = F::reach, pairs = 3, at[3][2] = {{F::zero ? 0 : 4, F::reach - 1},
                                                             {F::zero, F::zero + 1}, {F::zero + 2, F::zero + 3}};
};

// Bᵀ: the Lagrange numerators, a tile's inputs at the points.
template <typename F>
struct InputToPoints : ToPoints<F> {
  static constexpr int from = F::reach;

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& d, V (&v)[2]) {
    constexpr int z = F::zero;
    if constexpr (pair == 0) {
      v[1] = F::near2 * F::far2 * d(z) - (F::near2 + F::far2) * d(z + 2) + d(z + 4);
      v[0] = z ? F::near2 * F::far2 * d(0) - (F::near2 + F::far2) * d(2) + d(4) : v[1];
    } else {
      constexpr float point = pair == 1 ? F::near : F::far, other2 = pair == 1 ? F::far2 : F::near2;
      plus_minus<V>(d(z + 3) - other2 * d(z + 1), point * d(z + 2) - point * other2 * d(z), v);
    }
  }
};

// G: the kernel's elements at the points, over the Lagrange denominators.
template <typename F>
struct KernelToPoints : ToPoints<F> {
  static constexpr int from = F::taps;

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& g, V (&u)[2]) {
    constexpr float scale = pair == 1 ? F::of_near : F::of_far, point = pair == 1 ? F::near : F::far;
    if constexpr (pair == 0) {
      u[0] = g(F::zero ? 0 : 1);
      u[1] = g(F::taps - 1);
    } else if constexpr (F::zero) {
      constexpr float square = pair == 1 ? F::near2 : F::far2;
      plus_minus<V>((g(0) + square * g(2)) * scale, g(1) * (point * scale), u);
    } else {
      plus_minus<V>(g(1) * (point * scale), g(0) * scale, u);
    }
  }
};

// Aᵀ: back from the points to four outputs.
template <typename F>
struct PointsToOutput {
  static constexpr int from = F::reach, to = 4, pairs = 2, at[2][2] = {{0, 2}, {1, 3}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& m, V (&y)[2]) {
    constexpr int z = F::zero;
    if constexpr (pair == 0) {
      const V at_near = m(z) + m(z + 1), at_far = m(z + 2) + m(z + 3);
      y[0] = z ? m(0) + at_near + at_far : at_near + at_far;
      y[1] = F::near2 * at_near + F::far2 * at_far;
    } else {
      const V at_near = m(z) - m(z + 1), at_far = m(z + 2) - m(z + 3);
      y[0] = F::near * at_near + F::far * at_far;
      y[1] = F::near * F::near2 * at_near + (F::far * F::far2 * at_far + m(z + 4));
    }
  }
};

// A: four gradients of outputs at the points.
template <typename F>
struct OutputToPoints : ToPoints<F> {
  static constexpr int from = 4;

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& g, V (&q)[2]) {
    if constexpr (pair == 0) {
      q[0] = g(F::zero ? 0 : 3);
      q[1] = g(3);
    } else {
      constexpr float point = pair == 1 ? F::near : F::far, square = pair == 1 ? F::near2 : F::far2;
      plus_minus<V>(g(0) + square * g(2), point * g(1) + point * square * g(3), q);
    }
  }
};

// Gᵀ: back from the points to the kernel's elements (of three, the second once more, for the pair's sake).
template <typename F>
struct PointsToKernel {
  static constexpr int from = F::reach, to = F::taps, pairs = F::taps - 1,
                       at[2][2] = {{0, F::taps - 1}, {1, 1}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& u, V (&g)[2]) {
    if constexpr (!F::zero) {
      g[0] = (u(0) - u(1)) * F::of_near + (u(2) - u(3)) * F::of_far;
      g[1] = (u(0) + u(1)) * F::near_of_near + (u(2) + u(3)) * F::far_of_far + u(4);
    } else if constexpr (pair == 0) {
      const V at_near = (u(1) + u(2)) * F::of_near, at_far = (u(3) + u(4)) * F::of_far;
      g[0] = u(0) + at_near + at_far;
      g[1] = F::near2 * at_near + F::far2 * at_far + u(5);
    } else {
      g[0] = g[1] = (u(1) - u(2)) * F::near_of_near + (u(3) - u(4)) * F::far_of_far;
    }
  }
};

// Calls visit.operator()<pair>() for every pair of a map's results.
template <typename Map, typename F>
MYCONV2D_INLINE void for_pairs(const F& visit) {
  [&]<int... pair>(std::integer_sequence<int, pair...>) __attribute__((always_inline)) {
    (visit.template operator()<pair>(), ...);
  }(std::make_integer_sequence<int, Map::pairs>());
}

// One pair of rows of a map along both axes.
template <typename Map, typename V, int windows, int pair, typename Load, typename Store>
MYCONV2D_INLINE void transform_rows(const Load& load, const Store& store) {
  V rows[2][Map::from + windows - 1];
#pragma GCC unroll 9
  for (int j = 0; j < Map::from + windows - 1; ++j) {
    V values[2];
    Map::template map<pair, V>([&](int i) __attribute__((always_inline)) { return load(i, j); }, values);
    rows[0][j] = values[0];
    rows[1][j] = values[1];
  }
#pragma GCC unroll 2
  for (int r = Map::at[pair][0] == Map::at[pair][1]; r < 2; ++r)
#pragma GCC unroll 2
    for (int w = 0; w < windows; ++w) {
      const auto row = [&](int j) __attribute__((always_inline)) { return rows[r][j + w]; };
      const auto columns_at = [&]<int columns>() __attribute__((always_inline)) {
        V values[2];
        Map::template map<columns, V>(row, values);
        if (Map::at[columns][0] != Map::at[columns][1])
          store(Map::at[pair][r], w * Map::to + Map::at[columns][0], values[0]);
        store(Map::at[pair][r], w * Map::to + Map::at[columns][1], values[1]);
      };
      for_pairs<Map>(columns_at);
    }
}

// A map along both axes: load(i, j) of a from×from tile, store(i, j, value) of a to×to tile. Or of two `windows` that
// begin one column apart, their results side by side.
template <typename Map, typename V, int windows = 1, typename Load, typename Store>
MYCONV2D_INLINE void transform(const Load& load, const Store& store) {
  for_pairs<Map>([&]<int pair>() __attribute__((always_inline)) {
    transform_rows<Map, V, windows, pair>(load, store);
  });
}

// A vector at any address: panels need not be whole vectors wide.
template <typename V>
MYCONV2D_INLINE V get(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename V>
MYCONV2D_INLINE void put(float* to, V value) {
  std::memcpy(to, &value, sizeof value);
}

// visit<V>(first) for vectors that cover `channels`, of which the last may be half a vector wide.
template <typename F>
MYCONV2D_INLINE void for_each_vector(int64_t channels, const F& visit) {
  int64_t first = 0;
  for (; first + lanes / 2 < channels; first += lanes) visit.template operator()<Lanes>(first);
  if (first < channels) visit.template operator()<HalfLanes>(first);
}

// Values at the points, `step` floats from one point to the next.
template <typename V, int reach>
struct AtPoints {
  float* data;
  int64_t step;
  MYCONV2D_INLINE void operator()(int i, int j, V value) const { put(data + (i * reach + j) * step, value); }
  MYCONV2D_INLINE V operator()(int i, int j) const { return get<V>(data + (i * reach + j) * step); }
};

}  // namespace myconv2d::MYCONV2D_ISA
