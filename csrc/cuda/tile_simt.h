// Tile multiplication on the ordinary fp32 units: D[m, n] += Σ_k A[m, k] · B[n, k], every product an FFMA.
//
// 128 threads as 16 × 8; a thread owns rows ty, ty + 16, … and columns tx, tx + 8, …, so that the eight
// threads which read neighbouring rows of B fall on different banks, and reads 16 bytes of k at a time: for
// 128 × 64, 16 reads per 256 FFMA, a quarter of what shared memory delivers. Bound by the FFMA rate.
#pragma once

#include "tile.h"

namespace myconv2d::cuda {

template <int rows, int columns>
struct SimtTile {
  using Element = float;
  using Accumulator = float;
  static constexpr int M = rows, N = columns;

  HOST_DEVICE static float prepare(float value) { return value; }

  HOST_DEVICE void multiply(const unsigned char* a, const unsigned char* b, int thread) {
    const unsigned char* a_row = a + thread / 8 * pitch<float>;
    const unsigned char* b_row = b + thread % 8 * pitch<float>;
    // Unrolled, the compiler would read ahead until the registers are full.
#pragma unroll 1
    for (int k = 0; k < row_chunks; ++k) {
      Chunk<float> column[N / 8];
#pragma unroll
      for (int j = 0; j < N / 8; ++j)
        column[j] = *reinterpret_cast<const Chunk<float>*>(b_row + 8 * j * pitch<float> + k * 16);
#pragma unroll
      for (int i = 0; i < M / 16; ++i) {
        const Chunk<float> row =
            *reinterpret_cast<const Chunk<float>*>(a_row + 16 * i * pitch<float> + k * 16);
#pragma unroll
        for (int e = 0; e < Chunk<float>::size; ++e)
#pragma unroll
          for (int j = 0; j < N / 8; ++j) sum_[i][j] += row.value[e] * column[j].value[e];
      }
    }
  }

  template <class Visit>
  HOST_DEVICE void for_each(int thread, Visit&& visit) const {
#pragma unroll
    for (int i = 0; i < M / 16; ++i)
#pragma unroll
      for (int j = 0; j < N / 8; ++j) visit(thread / 8 + 16 * i, thread % 8 + 8 * j, sum_[i][j]);
  }

 private:
  float sum_[M / 16][N / 8] = {};
};

}  // namespace myconv2d::cuda
