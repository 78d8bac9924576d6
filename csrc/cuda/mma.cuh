// The tensor-core instructions under MmaTile (tile_mma.h), one policy per arithmetic. PTX ISA, "mma.sync".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace myconv2d::cuda {

#define MYCONV2D_MMA_32(instruction)                                                                    \
  asm volatile("mma.sync.aligned." instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

struct Bf16 {
  using Element = __nv_bfloat16;
  using Accumulator = float;
  using Word = uint32_t;
  template <class V>
  __device__ __forceinline__ static V prepare(V value) {
    return value;
  }
  __device__ __forceinline__ static void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    MYCONV2D_MMA_32("m16n8k16.row.col.f32.bf16.bf16.f32");
  }
};

struct Fp16 {
  using Element = __half;
  using Accumulator = float;
  using Word = uint32_t;
  template <class V>
  __device__ __forceinline__ static V prepare(V value) {
    return value;
  }
  __device__ __forceinline__ static void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    MYCONV2D_MMA_32("m16n8k16.row.col.f32.f16.f16.f32");
  }
};

// Rounded to nearest on the way into shared memory; the tensor core itself would cut the low bits off.
struct Tf32 {
  using Element = float;
  using Accumulator = float;
  using Word = uint32_t;
  __device__ __forceinline__ static float prepare(float value) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return __uint_as_float(rounded);
  }
  __device__ __forceinline__ static void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    MYCONV2D_MMA_32("m16n8k8.row.col.f32.tf32.tf32.f32");
  }
};

#undef MYCONV2D_MMA_32

struct Fp64 {
  using Element = double;
  using Accumulator = double;
  using Word = double;
  template <class V>
  __device__ __forceinline__ static V prepare(V value) {
    return value;
  }
  __device__ __forceinline__ static void multiply(double (&d)[4], const double (&a)[2],
                                                  const double (&b)[1]) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                   : "+d"(d[2 * half]), "+d"(d[2 * half + 1])
                   : "d"(a[half]), "d"(b[0]));
  }
};

}  // namespace myconv2d::cuda
