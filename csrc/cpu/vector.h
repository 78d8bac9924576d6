// What an instruction set is to the kernels: a vector width, a register budget, and conversions between
// storage and accumulator. One source for all of them through the compilers' vector extensions.
//
// Everything below, and in every header that includes this one, lives in a namespace named after the
// instruction set: the linker must never merge two compilations of one inline function. For the same reason
// these headers use no function template of the standard library.
#pragma once

#include <cstdint>
#include <cstring>

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

// Rows of the register tile: rows × 2 accumulators, two vectors and a broadcast fit 32 registers with AVX-512, else 16.
constexpr int max_rows = MYCONV2D_VECTOR_BYTES == 64 ? 12 : 6;

struct bfloat16 {
  uint16_t bits;
};

// T is how an element is stored, A how it is accumulated.
template <typename T> struct Accumulator { using type = T; };
template <> struct Accumulator<_Float16> { using type = float; };
template <> struct Accumulator<bfloat16> { using type = float; };
template <> struct Accumulator<int32_t> { using type = int64_t; };
template <> struct Accumulator<int16_t> { using type = int64_t; };
template <> struct Accumulator<int8_t> { using type = int64_t; };
template <> struct Accumulator<uint8_t> { using type = int64_t; };

template <typename A, typename T>
inline A load(const T& value) { return static_cast<A>(value); }

template <>
inline float load<float, bfloat16>(const bfloat16& value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <typename T, typename A>
inline T narrow(A value) { return static_cast<T>(value); }

template <>
inline bfloat16 narrow<bfloat16, float>(float value) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace myconv2d::MYCONV2D_ISA
