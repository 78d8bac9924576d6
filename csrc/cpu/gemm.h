// The register tile that every matrix product here ends in.
//
//   C[rows × columns] (+)= Σ_depth A[depth, rows] · B[depth][columns]
//
// columns is two vectors wide (or one), rows at most max_rows: each step loads two vectors of B, broadcasts `rows` values
// of A and issues 2·rows multiply-adds, all in registers. B is packed, depth outermost; A is wherever `Rows` says.
// Bound: the FMA units, as long as both operands stay in L1/L2.
#pragma once

#include "vector.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename A>
constexpr int64_t columns = 2 * Vector<A>::lanes;

// Where A lies: element (d, i) at a[d / run · run_step + d % run · step + i · row_step].
template <typename A>
struct Rows {
  const A* a;
  int64_t step, run, run_step;
};

template <typename A, int rows, int row_step, int vectors = 2>
void multiply_tile(int64_t depth, const Rows<A>& left, const A* b, A* c, int64_t c_stride, bool accumulate) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes;
  V sum[rows][vectors] = {};
  const A* run_start = left.a;
  for (int64_t begin = 0; begin < depth; begin += left.run, run_start += left.run_step) {
    const A* a = run_start;
    for (int64_t d = least(left.run, depth - begin); d > 0; --d, a += left.step, b += vectors * lanes) {
      V right[vectors];
      for (int v = 0; v < vectors; ++v) right[v] = reinterpret_cast<const V*>(b)[v];
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i)
        for (int v = 0; v < vectors; ++v) sum[i][v] += a[i * row_step] * right[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i, c += c_stride)
    for (int v = 0; v < vectors; ++v) {
      V* out = reinterpret_cast<V*>(c) + v;
      *out = accumulate ? *out + sum[i][v] : sum[i][v];
    }
}

template <typename A>
using MultiplyTile = void (*)(int64_t, const Rows<A>&, const A*, A*, int64_t, bool);

template <typename A, int row_step = 1, int vectors = 2>
MultiplyTile<A> multiply_tile_for(int64_t rows) {
  static constexpr MultiplyTile<A> table[] = {
      multiply_tile<A, 1, row_step, vectors>,  multiply_tile<A, 2, row_step, vectors>,
      multiply_tile<A, 3, row_step, vectors>,  multiply_tile<A, 4, row_step, vectors>,
      multiply_tile<A, 5, row_step, vectors>,  multiply_tile<A, 6, row_step, vectors>,
#if MYCONV2D_REGISTERS == 32
      multiply_tile<A, 7, row_step, vectors>,  multiply_tile<A, 8, row_step, vectors>,
      multiply_tile<A, 9, row_step, vectors>,  multiply_tile<A, 10, row_step, vectors>,
      multiply_tile<A, 11, row_step, vectors>, multiply_tile<A, 12, row_step, vectors>,
#endif
  };
  return table[rows - 1];
}

// `size` rows cut into the fewest panels that the registers allow, as even as they can be.
inline int64_t rows_per_panel(int64_t size) { return ceil_div(size, ceil_div(size, max_rows)); }

}  // namespace myconv2d::MYCONV2D_ISA
