// The shared-memory operands of wgmma, as their descriptors tell them to the tensor core; PTX ISA, "matrix
// descriptor". Without swizzle and K-major an operand consists of core matrices, 8 rows (of A, or columns of
// B) of 16 bytes of k, one row after another; it needs alignment to 16 bytes alone.
#pragma once

#include "portable.h"

namespace myconv2d::cuda {

// Bytes from a core matrix to the next along k (LBO), and to the next eight rows (SBO); address and both
// distances are below 2¹⁸ and multiples of 16. Adding n to a descriptor moves it on by 16·n bytes.
HOST_DEVICE constexpr uint64_t operand(uint32_t address, uint32_t next_chunk, uint32_t next_rows) {
  return address >> 4 | static_cast<uint64_t>(next_chunk >> 4) << 16 |
         static_cast<uint64_t>(next_rows >> 4) << 32;
}

// D of one wgmma, 64 × N in fp32: where a thread of the warpgroup has its element `index`, 4·j + 2·h + e.
HOST_DEVICE constexpr int d_row(int thread, int h) { return thread / 32 * 16 + thread % 32 / 4 + 8 * h; }
HOST_DEVICE constexpr int d_column(int thread, int j, int e) { return 8 * j + thread % 4 * 2 + e; }

}  // namespace myconv2d::cuda
