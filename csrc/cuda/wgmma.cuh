// The instructions of the halo kernel (halo.h) for sm_90a: asynchronous copies and wgmma. PTX ISA, "cp.async"
// and "wgmma.mma_async".
#pragma once

#include "mma.cuh"
#include "wgmma.h"

namespace myconv2d::cuda {

// D += A·B, or D = A·B: 64 × N, of 32 bytes of k; both operands by descriptor. D lies in registers that
// nothing may touch before the wait.
template <class Arithmetic, int N>
struct Wgmma;

#define MYCONV2D_16(d, i)                                                                               \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),           \
      "+f"(d[i + 6]), "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), \
      "+f"(d[i + 12]), "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])

#define MYCONV2D_LIST_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define MYCONV2D_REST_32 "%16, %17, p"
#define MYCONV2D_ADD_32 "%18"
#define MYCONV2D_D_32(d) MYCONV2D_16(d, 0)

#define MYCONV2D_LIST_64                                   \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define MYCONV2D_REST_64 "%32, %33, p"
#define MYCONV2D_ADD_64 "%34"
#define MYCONV2D_D_64(d) MYCONV2D_16(d, 0), MYCONV2D_16(d, 16)

#define MYCONV2D_LIST_128                                            \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"           \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define MYCONV2D_REST_128 "%64, %65, p"
#define MYCONV2D_ADD_128 "%66"
#define MYCONV2D_D_128(d) MYCONV2D_16(d, 0), MYCONV2D_16(d, 16), MYCONV2D_16(d, 32), MYCONV2D_16(d, 48)

#define MYCONV2D_WGMMA(Arithmetic, columns, instruction, majors)                                     \
  template <>                                                                                        \
  struct Wgmma<Arithmetic, columns> {                                                                \
    __device__ __forceinline__ static void multiply(float (&d)[columns / 2], uint64_t a, uint64_t b, \
                                                    bool add) {                                      \
      asm volatile("{.reg .pred p; setp.ne.s32 p, " MYCONV2D_ADD_##columns                           \
                   ", 0; wgmma.mma_async.sync.aligned.m64n" #columns instruction                     \
                   " {" MYCONV2D_LIST_##columns "}, " MYCONV2D_REST_##columns ", 1, 1" majors ";}"   \
                   : MYCONV2D_D_##columns(d)                                                         \
                   : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                    \
    }                                                                                                \
  }

#define MYCONV2D_WGMMAS(columns)                                              \
  MYCONV2D_WGMMA(Bf16, columns, "k16.f32.bf16.bf16", ", 0, 0"); /* K-major */ \
  MYCONV2D_WGMMA(Fp16, columns, "k16.f32.f16.f16", ", 0, 0");                 \
  MYCONV2D_WGMMA(Tf32, columns, "k8.f32.tf32.tf32", "") /* knows no other */

MYCONV2D_WGMMAS(32);
MYCONV2D_WGMMAS(64);
MYCONV2D_WGMMAS(128);

#undef MYCONV2D_16
#undef MYCONV2D_LIST_32
#undef MYCONV2D_REST_32
#undef MYCONV2D_ADD_32
#undef MYCONV2D_D_32
#undef MYCONV2D_LIST_64
#undef MYCONV2D_REST_64
#undef MYCONV2D_ADD_64
#undef MYCONV2D_D_64
#undef MYCONV2D_LIST_128
#undef MYCONV2D_REST_128
#undef MYCONV2D_ADD_128
#undef MYCONV2D_D_128
#undef MYCONV2D_WGMMA
#undef MYCONV2D_WGMMAS

// What HaloThread asks of the processor.
template <class Arithmetic>
struct Sm90 {
  using Element = typename Arithmetic::Element;
  static constexpr bool rounds = sizeof(Element) == 4;  // to TF32

  __device__ __forceinline__ static uint32_t address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  }

  // A number that a whole warp has in common, said so that the compiler knows.
  __device__ __forceinline__ static int uniform(int value) { return __shfl_sync(~0u, value, 0); }

  // 16 bytes, or as many zeros; the L2 cache fetches 128 bytes, as the next stage wants their neighbours.
  __device__ __forceinline__ static void copy(uint32_t target, const void* source, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
                 "r"(inside ? 16 : 0)
                 : "memory");
  }
  __device__ __forceinline__ static void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

  // Until all but the last `pending` groups of this thread's copies are complete.
  template <int pending>
  __device__ __forceinline__ static void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
  }

  // The tensor core reads through another proxy than copies and stores write through.
  __device__ __forceinline__ static void publish() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }

  __device__ __forceinline__ static void round(uint32_t address) {
    float v[4];
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
                 : "r"(address)
                 : "memory");
#pragma unroll
    for (float& value : v) value = Tf32::prepare(value);
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(v[0]), "f"(v[1]), "f"(v[2]),
                 "f"(v[3])
                 : "memory");
  }

  // Around a group of products.
  __device__ __forceinline__ static void open() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
  __device__ __forceinline__ static void close() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }

  template <int registers>
  __device__ __forceinline__ static void multiply(float (&d)[registers], uint64_t a, uint64_t b, bool add) {
    Wgmma<Arithmetic, 2 * registers>::multiply(d, a, b, add);
  }

  // Until all products are in D; no read of it moves up before this.
  template <int registers>
  __device__ __forceinline__ static void settle(float (&d)[registers]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (float& value : d) asm volatile("" : "+f"(value)::"memory");
  }
};

}  // namespace myconv2d::cuda
