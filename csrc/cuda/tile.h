// The shared-memory tiles of the implicit GEMMs, and the frame that every one of them runs in.
//
// Each GEMM computes D[m, n] = Σ_k A[m, k] · B[n, k]. One step of the reduction brings 64 bytes of k for each
// row of A and B, as four 16-byte chunks: a chunk is what a thread gathers into registers and stores at once.
// Rows are padded so that the multiplication's reads meet no bank conflicts, and these stores hardly any.
#pragma once

#include <type_traits>

#include "../conv2d.h"
#include "portable.h"

namespace myconv2d::cuda {

constexpr int row_chunks = 4;

// Columns of the widest tile that there is for a type, and of the narrowest that holds `columns`, or the widest.
constexpr int widest_tile(Type type) { return type == Type::f64 ? 32 : 64; }
constexpr int tile_columns(int columns, int widest) { return columns <= 8 ? 8 : columns <= 32 ? 32 : widest; }

template <class T>
struct alignas(16) Chunk {
  static constexpr int size = 16 / sizeof(T);
  T value[size];
};

inline bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Whether the channels of every pixel of an image can be moved sixteen bytes at a time.
template <class T>
bool moves_vectors(const Strides& strides, int64_t channels, const T* data) {
  const auto whole = [](int64_t elements) { return elements % Chunk<T>::size == 0; };
  return strides.c == 1 && whole(channels) && whole(strides.n) && whole(strides.h) && whole(strides.w) &&
         aligned(data);
}

// Two 16-bit elements that move together are one word to the compiler; apart, it would take them to pieces.
template <class T>
using Packed = std::conditional_t<sizeof(T) == 2, uint32_t, T>;

template <class T>
constexpr int step_size = row_chunks * Chunk<T>::size;  // elements of k per step

template <class T>
constexpr int pitch = row_chunks * 16 + (sizeof(T) == 8 ? 32 : 16);  // bytes from row to row

// Two stages of A and B; once the sum is complete the same memory holds D for the epilogue.
template <class Tile>
struct alignas(16) SharedTiles {
  using T = typename Tile::Element;
  union {
    struct {
      unsigned char a[2][Tile::M * pitch<T>];
      unsigned char b[2][Tile::N * pitch<T>];
    };
    typename Tile::Accumulator result[Tile::M][Tile::N + 1];
  };
};

// A gathered chunk goes to its place in a tile; `V` is Tile::Element, or words of two of them.
template <class Tile, class V>
HOST_DEVICE void store_chunk(unsigned char* rows, int row, int chunk, Chunk<V> values) {
#pragma unroll
  for (int e = 0; e < Chunk<V>::size; ++e) values.value[e] = Tile::prepare(values.value[e]);
  *reinterpret_cast<Chunk<V>*>(rows + row * pitch<typename Tile::Element> + chunk * 16) = values;
}

// The life of a block. `phase` runs a function for every thread of the block and then meets at a barrier:
// on the device each thread runs it and calls __syncthreads, in the tests a loop over threads does.
// While stage s is multiplied the chunks of step s + 1 are on their way into registers; one barrier a step.
template <class Phase>
HOST_DEVICE void run_block(Phase&& phase, int steps) {
  if (steps > 0) {
    phase([](auto& thread) { thread.locate(0); });
    phase([](auto& thread) {
      thread.load(0);
      thread.locate(1);
      thread.store(0);
    });
    for (int step = 0; step < steps; ++step)
      phase([step](auto& thread) {
        thread.load(step + 1);  // harmless beyond the last step, and no branch splits the body
        thread.multiply(step & 1);
        thread.locate(step + 2);
        thread.store((step + 1) & 1);
      });
  }
  phase([](auto& thread) { thread.stage_result(); });
  phase([](auto& thread) { thread.write_result(); });
}

}  // namespace myconv2d::cuda
