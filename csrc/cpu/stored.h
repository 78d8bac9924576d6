// Elements as they are stored, and as they are computed with: T in memory, A in registers, one by one and by vectors.
#pragma once

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "vector.h"

namespace myconv2d::MYCONV2D_ISA {

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

// The upper half of a float's bits, or of several floats': to nearest, ties to even.
template <typename Bits>
inline Bits rounded_to_upper_half(Bits bits) {
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <>
inline bfloat16 narrow<bfloat16, float>(float value) {  // NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>(value != value ? bits >> 16 | 0x40 : rounded_to_upper_half(bits))};
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

template <int lanes>
struct BitsOfFloats {
  typedef uint32_t all __attribute__((vector_size(4 * lanes)));
  typedef uint16_t upper_half __attribute__((vector_size(2 * lanes)));
};

#ifdef __AVX512F__
constexpr __mmask16 all_16 = 0xffff;  // without a mask GCC 12 warns of its own header
#endif

// A vector V from as many elements, and back. By hand, as GCC 12 takes such conversions apart, lane by lane.
template <typename V, typename T>
inline V load_lanes(const T* from) {
  using A = std::remove_cvref_t<decltype(V{}[0])>;
  constexpr int lanes = sizeof(V) / sizeof(A);
  V result;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(&result, from, sizeof result);
  } else if constexpr (std::is_same_v<T, bfloat16> && lanes > 1) {
    using Bits = BitsOfFloats<lanes>;
    typename Bits::upper_half half;
    std::memcpy(&half, from, sizeof half);
    const typename Bits::all bits = __builtin_convertvector(half, typename Bits::all) << 16;
    std::memcpy(&result, &bits, sizeof result);
#ifdef __F16C__
#ifdef __AVX512F__
  } else if constexpr (std::is_same_v<T, float16> && lanes == 16) {
    result = _mm512_maskz_cvtph_ps(all_16, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
  } else if constexpr (std::is_same_v<T, float16> && lanes == 8) {
    result = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  } else if constexpr (std::is_same_v<T, float16> && lanes == 4) {
    result = _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
  } else {
    for (int i = 0; i < lanes; ++i) result[i] = load<A>(from[i]);
  }
  return result;
}

template <typename V, typename T>
inline void store_lanes(T* to, V value) {
  using A = std::remove_cvref_t<decltype(value[0])>;
  constexpr int lanes = sizeof(V) / sizeof(A);
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(to, &value, sizeof value);
  } else if constexpr (std::is_same_v<T, bfloat16> && lanes > 1) {
    using Bits = BitsOfFloats<lanes>;
    typename Bits::all bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = value != value ? bits >> 16 | 0x40 : rounded_to_upper_half(bits);
    const auto half = __builtin_convertvector(bits, typename Bits::upper_half);
    std::memcpy(to, &half, sizeof half);
#ifdef __F16C__
#ifdef __AVX512F__
  } else if constexpr (std::is_same_v<T, float16> && lanes == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_maskz_cvtps_ph(all_16, value, _MM_FROUND_TO_NEAREST_INT));
#endif
  } else if constexpr (std::is_same_v<T, float16> && lanes == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  } else if constexpr (std::is_same_v<T, float16> && lanes == 4) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#endif
  } else {
    for (int i = 0; i < lanes; ++i) to[i] = narrow<T, A>(value[i]);
  }
}

template <typename A, typename T>
inline typename Vector<A>::type load_vector(const T* from) {
  return load_lanes<typename Vector<A>::type>(from);
}

template <typename T, typename A>
inline void store_vector(T* to, typename Vector<A>::type value) {
  store_lanes(to, value);
}

}  // namespace myconv2d::MYCONV2D_ISA
