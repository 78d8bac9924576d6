// What the launchers share: errors, and the arithmetic that serves an element type.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "correlation.h"
#include "kernels.h"
#include "mma.cuh"
#include "tile_mma.h"
#include "tile_simt.h"

namespace myconv2d::cuda {

inline cudaStream_t stream_of(const Context& context) { return static_cast<cudaStream_t>(context.stream); }

inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("myconv2d: launch of CUDA kernel ") + kernel +
                             " failed: " + cudaGetErrorString(error));
}

// Blocks lie along the first axis of the grid, which alone goes beyond 65535.
inline unsigned grid_size(int64_t blocks) {
  if (blocks > INT32_MAX)
    throw std::runtime_error("myconv2d: this convolution needs " + std::to_string(blocks) +
                             " blocks, a CUDA grid has at most 2147483647");
  return static_cast<unsigned>(blocks);
}

inline void require_fits(const Conv2d& conv) {
  if (!fits(conv))
    throw std::runtime_error("myconv2d: a side or a channel count of 2^31 or more is not supported on CUDA");
}

template <int M, int N>
using Fp64Tile = MmaTile<Fp64, M, N>;
template <int M, int N>
using Tf32Tile = MmaTile<Tf32, M, N>;
template <int M, int N>
using Fp16Tile = MmaTile<Fp16, M, N>;
template <int M, int N>
using Bf16Tile = MmaTile<Bf16, M, N>;

template <class Tile>
struct Use {
  using type = Tile;
};

// The tile of M rows and as many columns as tile.h says.
template <template <int, int> class Tile, int M, int widest, class Launch>
void with_columns(int columns, Launch&& launch) {
  switch (tile_columns(columns, widest)) {
    case 8: return launch(Use<Tile<M, 8>>{});
    case widest: return launch(Use<Tile<M, widest>>{});
    default: return launch(Use<Tile<M, 32>>{});
  }
}

// Calls launch(Use<Tile>) with the tile of M rows that serves a call with so many columns: its arithmetic,
// its width.
template <int M, class Launch>
void with_tile(const Context& context, int columns, Launch&& launch) {
  switch (context.type) {
    case Type::f64: return with_columns<Fp64Tile, M, widest_tile(Type::f64)>(columns, launch);
    case Type::f32:
      return context.allow_tf32 ? with_columns<Tf32Tile, M, widest_tile(Type::f32)>(columns, launch)
                                : with_columns<SimtTile, M, widest_tile(Type::f32)>(columns, launch);
    case Type::f16: return with_columns<Fp16Tile, M, widest_tile(Type::f16)>(columns, launch);
    case Type::bf16: return with_columns<Bf16Tile, M, widest_tile(Type::bf16)>(columns, launch);
    default:
      throw std::runtime_error(
          "myconv2d: the CUDA library serves float64, float32, float16 and bfloat16 only");
  }
}

}  // namespace myconv2d::cuda
