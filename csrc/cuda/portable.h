// What the kernels' code needs to compile both for the device and, in tests, as plain C++ for the host.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline
#endif

namespace myconv2d::cuda {

constexpr int block_threads = 128;  // of every block of the implicit GEMMs
constexpr int reduce_elements = 32, reduce_slices = 16;  // of a block of grad_weight's second stage (reduce.cuh)

HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
HOST_DEVICE constexpr T smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
HOST_DEVICE constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

// a / b for a ≥ 0, b > 0. The device divides 64-bit numbers in software; nearly all of ours fit 32 bits.
HOST_DEVICE int64_t divide(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? static_cast<int64_t>(static_cast<uint32_t>(a) / static_cast<uint32_t>(b))
                              : a / b;
}

// Division by a number that the host knows, as a multiplication: the device has no instruction that divides.
// Exact for 0 ≤ n with n · value < 2³².
struct Divisor {
  int value = 1;
  uint32_t magic = 0;  // ⌈2³² / value⌉, zero for 1

  Divisor() = default;
  explicit Divisor(int64_t value)
      : value(static_cast<int>(value)), magic(UINT32_MAX / static_cast<uint32_t>(value) + 1) {}

  HOST_DEVICE int quotient(int n) const {
#if defined(__CUDA_ARCH__)
    return magic ? static_cast<int>(__umulhi(static_cast<uint32_t>(n), magic)) : n;
#else
    return magic ? static_cast<int>(static_cast<uint64_t>(n) * magic >> 32) : n;
#endif
  }
};

// Takes the lowest digit off a mixed-radix number: how a block finds its tile.
HOST_DEVICE int split_off(uint32_t& number, int radix) {
  if (radix == 1) return 0;
  const uint32_t digit = number % static_cast<uint32_t>(radix);
  number /= static_cast<uint32_t>(radix);
  return static_cast<int>(digit);
}

// *source where `inside`, else zero. On the device a predicated load: a branch around each load of a gather
// would keep the compiler from having them all under way together.
template <class T>
HOST_DEVICE T load_if(bool inside, const T* source) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    asm("{.reg .pred p; setp.ne.s32 p, %2, 0; mov.b16 %0, 0; @p ld.global.nc.b16 %0, [%1];}"
        : "=h"(bits)
        : "l"(source), "r"(static_cast<int>(inside)));
    return reinterpret_cast<const T&>(bits);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    asm("{.reg .pred p; setp.ne.s32 p, %2, 0; mov.b32 %0, 0; @p ld.global.nc.b32 %0, [%1];}"
        : "=r"(bits)
        : "l"(source), "r"(static_cast<int>(inside)));
    return reinterpret_cast<const T&>(bits);
  } else {
    uint64_t bits;
    asm("{.reg .pred p; setp.ne.s32 p, %2, 0; mov.b64 %0, 0; @p ld.global.nc.b64 %0, [%1];}"
        : "=l"(bits)
        : "l"(source), "r"(static_cast<int>(inside)));
    return reinterpret_cast<const T&>(bits);
  }
#else
  return inside ? *source : T{};
#endif
}

// A pixel of a batch of images, from its index in N·P·Q.
struct Pixel {
  int64_t n;
  int p, q;
};

HOST_DEVICE Pixel locate_pixel(int64_t index, int rows, int columns) {
  const int64_t line = divide(index, columns), n = divide(line, rows);
  return {n, static_cast<int>(line - n * rows), static_cast<int>(index - line * columns)};
}

}  // namespace myconv2d::cuda
