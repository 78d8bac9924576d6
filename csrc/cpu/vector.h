// What an instruction set is to the kernels: a vector width and a register budget. One source for all of them through
// the compilers' vector extensions.
//
// Everything below, and in every header that includes this one, lives in a namespace named after the
// instruction set: the linker must never merge two compilations of one inline function. For the same reason
// these headers use no function template of the standard library.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if !defined(MYCONV2D_ISA) || !defined(MYCONV2D_VECTOR_BYTES)
#error "compile with MYCONV2D_ISA (a name) and MYCONV2D_VECTOR_BYTES (16, 32 or 64)"
#endif

namespace myconv2d::MYCONV2D_ISA {

template <typename A>
struct Vector {
  typedef A type __attribute__((vector_size(MYCONV2D_VECTOR_BYTES), may_alias));
  typedef A half __attribute__((vector_size(MYCONV2D_VECTOR_BYTES / 2), may_alias));
  typedef A one __attribute__((vector_size(sizeof(A)), may_alias));
  static constexpr int lanes = MYCONV2D_VECTOR_BYTES / sizeof(A);
};

// Several multiply-adds share a value: the compiler would fold its load into each of them as a memory operand.
template <typename V>
inline V in_register(V value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

// Lanes of two vectors, counted through both.
template <int... from, typename V>
__attribute__((always_inline)) inline auto picked(const V& a, const V& b) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, from...);
#else  // GCC before 12
  constexpr int lanes = sizeof(V) / sizeof(a[0]);
  if constexpr (sizeof...(from) == lanes) {
    const decltype(a == b) numbers = {from...};
    return __builtin_shuffle(a, b, numbers);
  } else {
    typedef std::remove_cvref_t<decltype(a[0])> Picked __attribute__((vector_size(sizeof...(from) * sizeof(a[0]))));
    return Picked{(from < lanes ? a[from % lanes] : b[from % lanes])...};
  }
#endif
}

#if MYCONV2D_VECTOR_BYTES == 64 || defined(__aarch64__)
#define MYCONV2D_REGISTERS 32
#else
#define MYCONV2D_REGISTERS 16
#endif

// Rows of the register tile: rows × 2 accumulators, two vectors and a broadcast.
constexpr int max_rows = MYCONV2D_REGISTERS == 32 ? 12 : 6;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace myconv2d::MYCONV2D_ISA
