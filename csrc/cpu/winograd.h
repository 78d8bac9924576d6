// Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray 2016): a 4×4 tile of a 3×3 convolution from 36 products
// instead of 144. A tile's 6×6 input d and the kernel g are taken to the values of their polynomials at six points,
// multiplied there, and taken back:
//
//   output = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A           grad_weight = Gᵀ [ (A g Aᵀ) ⊙ (Bᵀ d B) ] G
//
// The points are 0, ±1/√2, ±√2, ∞. They cost the same as the usual 0, ±1, ±2, ∞ and have a quarter of their error,
// because the powers that the transforms multiply by stay close to 1 (Barabasz et al. 2020 search for such points).
//
// Everything works on vectors, one lane a channel. A map gives its results two at a time, because those at ±p share
// their work, and because a transform then holds two rows of a tile in registers, not six.
#pragma once

#include "transpose.h"

#define MYCONV2D_INLINE inline __attribute__((always_inline))

namespace myconv2d::MYCONV2D_ISA {

constexpr int tile_size = 4, tile_reach = 6, points = tile_reach * tile_reach;

using Lanes = Vector<float>::type;
using HalfLanes = Vector<float>::half;
using OneLane = Vector<float>::one;
constexpr int lanes = Vector<float>::lanes;

constexpr float near = 0.70710678118654752f, near2 = 0.5f;  // the point 1/√2 and its square
constexpr float far = 1.41421356237309505f, far2 = 2.0f;    // the point √2 and its square

// A polynomial at ±p from its even and odd part at p. The odd part comes with its factor p:
// one multiplication more, but the sum and the difference go to the adders, not to the busier multipliers.
template <typename V>
MYCONV2D_INLINE void plus_minus(V even, V odd, V (&v)[2]) {
  v[0] = even + odd;
  v[1] = even - odd;
}

// Bᵀ: the Lagrange numerators, a tile's six inputs at the six points.
struct InputToPoints {
  static constexpr int from = 6, to = 6, pairs = 3, at[3][2] = {{0, 5}, {1, 2}, {3, 4}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& d, V (&v)[2]) {
    if constexpr (pair == 0) {
      v[0] = d(0) - (near2 + far2) * d(2) + d(4);
      v[1] = d(1) - (near2 + far2) * d(3) + d(5);
    } else {
      constexpr float point = pair == 1 ? near : far, other2 = pair == 1 ? far2 : near2;
      plus_minus<V>(d(4) - other2 * d(2), point * d(3) - point * other2 * d(1), v);
    }
  }
};

// G: three kernel elements at the six points, over the Lagrange denominators 1, −3/2, 6.
struct KernelToPoints {
  static constexpr int from = 3, to = 6, pairs = 3, at[3][2] = {{0, 5}, {1, 2}, {3, 4}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& g, V (&u)[2]) {
    if constexpr (pair == 0) {
      u[0] = g(0);
      u[1] = g(2);
    } else {
      constexpr float scale = pair == 1 ? -2.0f / 3 : 1.0f / 6;
      constexpr float point = pair == 1 ? near : far, square = pair == 1 ? near2 : far2;
      plus_minus<V>((g(0) + square * g(2)) * scale, g(1) * (point * scale), u);
    }
  }
};

// Aᵀ: back from the points to four outputs.
struct PointsToOutput {
  static constexpr int from = 6, to = 4, pairs = 2, at[2][2] = {{0, 2}, {1, 3}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& m, V (&y)[2]) {
    if constexpr (pair == 0) {
      const V at_near = m(1) + m(2), at_far = m(3) + m(4);
      y[0] = m(0) + at_near + at_far;
      y[1] = near2 * at_near + far2 * at_far;
    } else {
      const V at_near = m(1) - m(2), at_far = m(3) - m(4);
      y[0] = near * at_near + far * at_far;
      y[1] = near * near2 * at_near + (far * far2 * at_far + m(5));
    }
  }
};

// A: four gradients of outputs at the six points.
struct OutputToPoints {
  static constexpr int from = 4, to = 6, pairs = 3, at[3][2] = {{0, 5}, {1, 2}, {3, 4}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& g, V (&q)[2]) {
    if constexpr (pair == 0) {
      q[0] = g(0);
      q[1] = g(3);
    } else {
      constexpr float point = pair == 1 ? near : far, square = pair == 1 ? near2 : far2;
      plus_minus<V>(g(0) + square * g(2), point * g(1) + point * square * g(3), q);
    }
  }
};

// Gᵀ: back from the points to three kernel elements (and the second once more, for the pair's sake).
struct PointsToKernel {
  static constexpr int from = 6, to = 3, pairs = 2, at[2][2] = {{0, 2}, {1, 1}};

  template <int pair, typename V, typename Load>
  static MYCONV2D_INLINE void map(const Load& u, V (&g)[2]) {
    if constexpr (pair == 0) {
      const V at_near = (u(1) + u(2)) * (-2.0f / 3), at_far = (u(3) + u(4)) * (1.0f / 6);
      g[0] = u(0) + at_near + at_far;
      g[1] = near2 * at_near + far2 * at_far + u(5);
    } else {
      g[0] = g[1] = (u(1) - u(2)) * (near * -2.0f / 3) + (u(3) - u(4)) * (far / 6);
    }
  }
};

// One pair of rows of a map along both axes.
template <typename Map, typename V, int pair, typename Load, typename Store>
MYCONV2D_INLINE void transform_rows(const Load& load, const Store& store) {
  V rows[2][Map::from];
#pragma GCC unroll 6
  for (int j = 0; j < Map::from; ++j) {
    V values[2];
    Map::template map<pair, V>([&](int i) __attribute__((always_inline)) { return load(i, j); }, values);
    rows[0][j] = values[0];
    rows[1][j] = values[1];
  }
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r) {
    const auto row = [&](int j) __attribute__((always_inline)) { return rows[r][j]; };
    const auto columns_at = [&]<int columns>() __attribute__((always_inline)) {
      V values[2];
      Map::template map<columns, V>(row, values);
      store(Map::at[pair][r], Map::at[columns][0], values[0]);
      store(Map::at[pair][r], Map::at[columns][1], values[1]);
    };
    columns_at.template operator()<0>();
    columns_at.template operator()<1>();
    if constexpr (Map::pairs > 2) columns_at.template operator()<2>();
  }
}

// A map along both axes: load(i, j) of a from×from tile, store(i, j, value) of a to×to tile.
template <typename Map, typename V, typename Load, typename Store>
MYCONV2D_INLINE void transform(const Load& load, const Store& store) {
  transform_rows<Map, V, 0>(load, store);
  transform_rows<Map, V, 1>(load, store);
  if constexpr (Map::pairs > 2) transform_rows<Map, V, 2>(load, store);
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

// Values at the 36 points, `step` floats from one point to the next.
template <typename V>
struct AtPoints {
  float* data;
  int64_t step;
  MYCONV2D_INLINE void operator()(int i, int j, V value) const { put(data + (i * 6 + j) * step, value); }
  MYCONV2D_INLINE V operator()(int i, int j) const { return get<V>(data + (i * 6 + j) * step); }
};

}  // namespace myconv2d::MYCONV2D_ISA
