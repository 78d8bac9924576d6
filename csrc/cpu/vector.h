// What an instruction set is to the kernels: a vector width, a register budget, and conversions between
// storage and accumulator. One source for all of them through the compilers' vector extensions.
//
// Everything below, and in every header that includes this one, lives in a namespace named after the
// instruction set: the linker must never merge two compilations of one inline function. For the same reason
// these headers use no function template of the standard library.
#pragma once

#ifdef __F16C__
#include <immintrin.h>
#endif

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

struct bfloat16 {
  uint16_t bits;
};

#if defined(__aarch64__)
using float16 = __fp16;
#elif defined(__FLT16_MANT_DIG__) && !defined(MYCONV2D_FLOAT16_OF_BITS)
using float16 = _Float16;
#else  // C++ of GCC before 12, of Clang before 15
#define MYCONV2D_FLOAT16_OF_BITS
struct float16 {
  uint16_t bits;
};
#endif

// T is how an element is stored, A how it is accumulated.
template <typename T> struct Accumulator { using type = T; };
template <> struct Accumulator<float16> { using type = float; };
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

#ifdef MYCONV2D_FLOAT16_OF_BITS
template <>
inline float load<float, float16>(const float16& value) {
#ifdef __F16C__
  return _cvtsh_ss(value.bits);
#else
  const uint32_t sign = (value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31, mantissa = value.bits & 0x3ff;
  uint32_t bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
  float result = mantissa * 0x1p-24f;  // a subnormal number
  if (exponent == 0) std::memcpy(&bits, &result, sizeof bits), bits |= sign;
  std::memcpy(&result, &bits, sizeof result);
  return result;
#endif
}

template <>
inline float16 narrow<float16, float>(float value) {  // to nearest, ties to even; NaN stays NaN
#ifdef __F16C__
  return {_cvtss_sh(value, 0)};
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff))};
  if (bits >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and more
  if (bits < 0x38800000) {  // subnormal: of a float beside 0.5 the last bit is 2⁻²⁴
    const float beside = (value < 0 ? -value : value) + 0.5f;
    std::memcpy(&bits, &beside, sizeof bits);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000))};
  }
  return {static_cast<uint16_t>(sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13))};
#endif
}
#endif

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace myconv2d::MYCONV2D_ISA
