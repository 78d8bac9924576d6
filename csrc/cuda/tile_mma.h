// Tile multiplication on tensor cores: D[m, n] += Σ_k A[m, k] · B[n, k] by mma.sync, for every element type.
//
// The fragments of m16n8k16 (16-bit), m16n8k8 (TF32) and two m8n8k4 (fp64) are the same picture drawn with
// words of 32, 32 and 64 bits: lane = 4·g + t holds rows g and g + 8 of A, row g of B, at words t (and t +
// 4) of a 32-byte slice of k, and of D rows g and g + 8 at columns 2t, 2t + 1. So one layout serves all,
// words are read straight from the padded rows without bank conflicts, and the Instruction only multiplies
// (mma.cuh). Four warps as 2 × 2, or as 4 × 1 where the tile is narrow.
#pragma once

#include "tile.h"

namespace myconv2d::cuda {

template <class Instruction, int rows, int columns>
struct MmaTile {
  using Element = typename Instruction::Element;
  using Accumulator = typename Instruction::Accumulator;
  using Word = typename Instruction::Word;
  static constexpr int M = rows, N = columns;

  template <class V>
  HOST_DEVICE static V prepare(V value) {
    return Instruction::prepare(value);
  }

  HOST_DEVICE void multiply(const unsigned char* a, const unsigned char* b, int thread) {
    const int lane_offset = thread % 32 / 4 * row_pitch + thread % 4 * static_cast<int>(sizeof(Word));
    const unsigned char* a_lane = a + first_row(thread) * row_pitch + lane_offset;
    const unsigned char* b_lane = b + first_column(thread) * row_pitch + lane_offset;
#pragma unroll
    for (int slice = 0; slice < row_chunks * 16; slice += 32) {
      Word b_words[fragments_n][halves];
#pragma unroll
      for (int j = 0; j < fragments_n; ++j)
#pragma unroll
        for (int h = 0; h < halves; ++h) b_words[j][h] = word(b_lane, 8 * j, slice, h);
#pragma unroll
      for (int i = 0; i < fragments_m; ++i) {
        Word a_words[2 * halves];
#pragma unroll
        for (int h = 0; h < halves; ++h) {
          a_words[2 * h] = word(a_lane, 16 * i, slice, h);
          a_words[2 * h + 1] = word(a_lane, 16 * i + 8, slice, h);
        }
#pragma unroll
        for (int j = 0; j < fragments_n; ++j) Instruction::multiply(sum_[i][j], a_words, b_words[j]);
      }
    }
  }

  template <class Visit>
  HOST_DEVICE void for_each(int thread, Visit&& visit) const {
    const int row = first_row(thread) + thread % 32 / 4, column = first_column(thread) + thread % 4 * 2;
#pragma unroll
    for (int i = 0; i < fragments_m; ++i)
#pragma unroll
      for (int j = 0; j < fragments_n; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) visit(row + 16 * i + 8 * (e / 2), column + 8 * j + e % 2, sum_[i][j][e]);
  }

 private:
  static constexpr int warps_n = N >= 64 ? 2 : 1, warps_m = block_threads / 32 / warps_n;
  static constexpr int fragments_m = M / warps_m / 16, fragments_n = N / warps_n / 8;
  static constexpr int halves = 8 / static_cast<int>(sizeof(Word));
  static constexpr int row_pitch = pitch<Element>;
  static_assert(fragments_m * 16 * warps_m == M && fragments_n * 8 * warps_n == N,
                "the warps must tile the block");

  HOST_DEVICE static int first_row(int thread) { return thread / 32 / warps_n * (M / warps_m); }
  HOST_DEVICE static int first_column(int thread) { return thread / 32 % warps_n * (N / warps_n); }

  HOST_DEVICE static Word word(const unsigned char* lane, int row, int slice, int half) {
    return *reinterpret_cast<const Word*>(lane + row * row_pitch + slice +
                                          half * 4 * static_cast<int>(sizeof(Word)));
  }

  Accumulator sum_[fragments_m][fragments_n][4] = {};
};

}  // namespace myconv2d::cuda
