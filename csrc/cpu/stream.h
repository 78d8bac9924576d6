// Stores past the caches, for results that are larger than these.
#pragma once

#include "../conv2d.h"
#include "transpose.h"

namespace myconv2d::MYCONV2D_ISA {

// Results of a call that moves more than the last cache holds would be gone before anybody reads them: they are
// stored past the caches, which spares reading the lines that they overwrite. (On fresh pages too: a huge one's zeros
// do not stay in the level-2 cache.)
template <typename T>
bool streams(int64_t read, int64_t written, const T* result, const Strides& s) {
  constexpr int64_t lanes = MYCONV2D_VECTOR_BYTES / sizeof(T), last_cache = (int64_t{32} << 20) / sizeof(T);
  return read + written > last_cache && s.n % lanes == 0 && s.h % lanes == 0 &&
         s.w % lanes == 0 && reinterpret_cast<uintptr_t>(result) % MYCONV2D_VECTOR_BYTES == 0;
}

template <typename A>
inline void stream_vector(A* to, typename Vector<A>::type value) {
#if defined(__AVX512F__) && MYCONV2D_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)value);
#elif defined(__AVX2__) && MYCONV2D_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)value);
#else
  store_vector<A, A>(to, value);
#endif
}
inline void end_of_stream() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

}  // namespace myconv2d::MYCONV2D_ISA
