// Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray 2016): a 4×4 tile of a 3×3 convolution from 36 products
// instead of 144. A tile's 6×6 input d and the kernel g are taken to the values of their polynomials at six points,
// multiplied there, and taken back:
//
//   output = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A           grad_weight = Gᵀ [ (A g Aᵀ) ⊙ (Bᵀ d B) ] G
//
// The points are 0, ±1/√2, ±√2, ∞. They cost the same as the usual 0, ±1, ±2, ∞ and have a quarter of their error,
// because the powers that the transforms multiply by stay close to 1 (Barabasz et al. 2020 search for such points).
//
// Everything works on vectors, one lane a channel.
#pragma once

#include "transpose.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int tile_size = 4, tile_reach = 6, points = tile_reach * tile_reach;

using Lanes = Vector<float>::type;
constexpr int lanes = Vector<float>::lanes;

constexpr float near = 0.70710678118654752f, near2 = 0.5f;  // the point 1/√2 and its square
constexpr float far = 1.41421356237309505f, far2 = 2.0f;    // the point √2 and its square

// Bᵀ: the Lagrange numerators, a tile's six inputs at the six points.
inline void input_to_points(const Lanes (&d)[6], Lanes (&v)[6]) {
  const Lanes even_near = d[4] - far2 * d[2], odd_near = near * (d[3] - far2 * d[1]);
  const Lanes even_far = d[4] - near2 * d[2], odd_far = far * (d[3] - near2 * d[1]);
  v[0] = d[0] - (near2 + far2) * d[2] + d[4];
  v[1] = even_near + odd_near;
  v[2] = even_near - odd_near;
  v[3] = even_far + odd_far;
  v[4] = even_far - odd_far;
  v[5] = d[1] - (near2 + far2) * d[3] + d[5];
}

// G: three kernel elements at the six points, over the Lagrange denominators 1, −3/2, 6.
inline void kernel_to_points(const Lanes (&g)[3], Lanes (&u)[6]) {
  const Lanes even_near = (g[0] + near2 * g[2]) * (-2.0f / 3), odd_near = g[1] * (near * -2.0f / 3);
  const Lanes even_far = (g[0] + far2 * g[2]) * (1.0f / 6), odd_far = g[1] * (far / 6);
  u[0] = g[0];
  u[1] = even_near + odd_near;
  u[2] = even_near - odd_near;
  u[3] = even_far + odd_far;
  u[4] = even_far - odd_far;
  u[5] = g[2];
}

// Aᵀ: back from the points to four outputs.
inline void points_to_output(const Lanes (&m)[6], Lanes (&y)[4]) {
  const Lanes sum_near = m[1] + m[2], difference_near = m[1] - m[2];
  const Lanes sum_far = m[3] + m[4], difference_far = m[3] - m[4];
  y[0] = m[0] + sum_near + sum_far;
  y[1] = near * difference_near + far * difference_far;
  y[2] = near2 * sum_near + far2 * sum_far;
  y[3] = near * near2 * difference_near + far * far2 * difference_far + m[5];
}

// A: four gradients of outputs at the six points.
inline void output_to_points(const Lanes (&g)[4], Lanes (&q)[6]) {
  const Lanes even_near = g[0] + near2 * g[2], odd_near = near * (g[1] + near2 * g[3]);
  const Lanes even_far = g[0] + far2 * g[2], odd_far = far * (g[1] + far2 * g[3]);
  q[0] = g[0];
  q[1] = even_near + odd_near;
  q[2] = even_near - odd_near;
  q[3] = even_far + odd_far;
  q[4] = even_far - odd_far;
  q[5] = g[3];
}

// Gᵀ: back from the points to three kernel elements.
inline void points_to_kernel(const Lanes (&u)[6], Lanes (&g)[3]) {
  const Lanes sum_near = (u[1] + u[2]) * (-2.0f / 3), difference_near = (u[1] - u[2]) * (near * -2.0f / 3);
  const Lanes sum_far = (u[3] + u[4]) * (1.0f / 6), difference_far = (u[3] - u[4]) * (far / 6);
  g[0] = u[0] + sum_near + sum_far;
  g[1] = difference_near + difference_far;
  g[2] = near2 * sum_near + far2 * sum_far + u[5];
}

// One of the maps above, along both axes: load(i, j) of a from×from tile, store(i, j, value) of a to×to tile.
template <int from, int to, typename Load, typename Store>
inline void transform(void (*map)(const Lanes (&)[from], Lanes (&)[to]), const Load& load, const Store& store) {
  Lanes half[to][from], column[from], values[to];
#pragma GCC unroll 6
  for (int j = 0; j < from; ++j) {
#pragma GCC unroll 6
    for (int i = 0; i < from; ++i) column[i] = load(i, j);
    map(column, values);
#pragma GCC unroll 6
    for (int i = 0; i < to; ++i) half[i][j] = values[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < to; ++i) {
    map(half[i], values);
#pragma GCC unroll 6
    for (int j = 0; j < to; ++j) store(i, j, values[j]);
  }
}

// Values at the 36 points, `step` floats from one point to the next.
struct AtPoints {
  float* data;
  int64_t step;
  void operator()(int i, int j, Lanes value) const { *reinterpret_cast<Lanes*>(data + (i * 6 + j) * step) = value; }
  Lanes operator()(int i, int j) const { return *reinterpret_cast<const Lanes*>(data + (i * 6 + j) * step); }
};

}  // namespace myconv2d::MYCONV2D_ISA
