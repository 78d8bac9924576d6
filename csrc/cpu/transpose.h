// Between planes (NCHW) and pixels (channels innermost): blocks of lanes × lanes turned in registers, and runs of
// pixels of one to four channels taken apart and put together there.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <utility>

#include "stored.h"

namespace myconv2d::MYCONV2D_ISA {

// The first lanes of a vector of floats: those behind load as zero and stay as they are in memory.
class FirstLanes {
  using V = Vector<float>::type;
  static constexpr int lanes = Vector<float>::lanes;

 public:
  int64_t count;

#if defined(__AVX512F__) && MYCONV2D_VECTOR_BYTES == 64
  explicit FirstLanes(int64_t count) : count(count), mask(static_cast<__mmask16>((1u << count) - 1)) {}
  V load(const float* from) const { return _mm512_maskz_loadu_ps(mask, from); }
  void store(float* to, V value) const { _mm512_mask_storeu_ps(to, mask, value); }

 private:
  __mmask16 mask;
#elif defined(__AVX2__) && MYCONV2D_VECTOR_BYTES == 32
  explicit FirstLanes(int64_t count) : count(count) {
    alignas(32) int32_t on[lanes];
    for (int i = 0; i < lanes; ++i) on[i] = i < count ? -1 : 0;
    mask = _mm256_load_si256(reinterpret_cast<const __m256i*>(on));
  }
  V load(const float* from) const { return _mm256_maskload_ps(from, mask); }
  void store(float* to, V value) const { _mm256_maskstore_ps(to, mask, value); }

 private:
  __m256i mask;
#else
  explicit FirstLanes(int64_t count) : count(count) {}
  V load(const float* from) const {
    if (count == lanes) return load_vector<float>(from);
    V value{};
    for (int i = 0; i < count; ++i) value[i] = from[i];
    return value;
  }
  void store(float* to, V value) const {
    if (count == lanes) return store_vector<float, float>(to, value);
    for (int i = 0; i < count; ++i) to[i] = value[i];
  }
#endif

 public:
  template <typename T>
  void store(T* to, V value) const {
    T all[lanes];
    store_vector<T, float>(all, value);
    std::memcpy(to, all, count * sizeof(T));
  }
};

// Element e of `n` vectors in a row belongs to channel e % n: taken apart, vector c holds channel c. In a run of three
// vectors every channel has each lane once, as 3 divides no number of lanes: blends pick, a permutation sorts.
template <int n, int lanes>
struct Interleaved {
  static constexpr int vector_with(int lane, int channel) {  // of channel's element in this lane
    for (int v = 0; v < n; ++v)
      if ((v * lanes + lane) % n == channel) return v;
    return 0;
  }
  static constexpr int element_in(int lane, int channel) {  // that element's place among the channel's own
    return (vector_with(lane, channel) * lanes + lane) / n;
  }
};

template <int channel, typename V, size_t... l>
inline V third_of(const V& a, const V& b, const V& c, std::index_sequence<l...>) {
  constexpr int lanes = sizeof...(l);
  using I = Interleaved<3, lanes>;
  const V ab = picked<(I::vector_with(l, channel) == 1 ? lanes + l : l)...>(a, b);
  const V abc = picked<(I::vector_with(l, channel) == 2 ? lanes + l : l)...>(ab, c);
  return picked<((3 * l + channel) % lanes)...>(abc, abc);
}

template <int channel, typename V, size_t... l>
inline V spread(const V& a, std::index_sequence<l...>) {
  return picked<Interleaved<3, static_cast<int>(sizeof...(l))>::element_in(l, channel)...>(a, a);
}

template <int vector, typename V, size_t... l>
inline V blend_thirds(const V& a, const V& b, const V& c, std::index_sequence<l...>) {
  constexpr int lanes = sizeof...(l);
  const V ab = picked<((vector * lanes + l) % 3 == 1 ? lanes + l : l)...>(a, b);
  return picked<((vector * lanes + l) % 3 == 2 ? lanes + l : l)...>(ab, c);
}

template <typename V, size_t... l>
inline void take_pair_apart(V& a, V& b, std::index_sequence<l...>) {
  const V even = picked<(2 * l)...>(a, b);
  b = picked<(2 * l + 1)...>(a, b);
  a = even;
}

template <typename V, size_t... l>
inline void put_pair_together(V& a, V& b, std::index_sequence<l...>) {
  constexpr int lanes = sizeof...(l);
  const V low = picked<(l / 2 + l % 2 * lanes)...>(a, b);
  b = picked<(lanes / 2 + l / 2 + l % 2 * lanes)...>(a, b);
  a = low;
}

template <typename A, int n>
inline void take_apart(typename Vector<A>::type (&v)[n]) {
  constexpr auto all = std::make_index_sequence<Vector<A>::lanes>();
  if constexpr (n == 2) take_pair_apart(v[0], v[1], all);
  if constexpr (n == 3) {
    const typename Vector<A>::type a = v[0], b = v[1], c = v[2];
    v[0] = third_of<0>(a, b, c, all), v[1] = third_of<1>(a, b, c, all), v[2] = third_of<2>(a, b, c, all);
  }
  if constexpr (n == 4) {
    take_pair_apart(v[0], v[1], all), take_pair_apart(v[2], v[3], all);  // channels 0 2 0 2 …, 1 3 1 3 …
    take_pair_apart(v[0], v[2], all), take_pair_apart(v[1], v[3], all);
  }
}

template <typename A, int n>
inline void put_together(typename Vector<A>::type (&v)[n]) {
  constexpr auto all = std::make_index_sequence<Vector<A>::lanes>();
  if constexpr (n == 2) put_pair_together(v[0], v[1], all);
  if constexpr (n == 3) {
    const typename Vector<A>::type a = spread<0>(v[0], all), b = spread<1>(v[1], all), c = spread<2>(v[2], all);
    v[0] = blend_thirds<0>(a, b, c, all), v[1] = blend_thirds<1>(a, b, c, all), v[2] = blend_thirds<2>(a, b, c, all);
  }
  if constexpr (n == 4) {
    put_pair_together(v[0], v[2], all), put_pair_together(v[1], v[3], all);
    put_pair_together(v[0], v[1], all), put_pair_together(v[2], v[3], all);
  }
}

// Two rows `distance` apart exchange their off-diagonal blocks of that width.
template <int distance, typename V, size_t... lane>
inline void exchange(V& a, V& b, std::index_sequence<lane...>) {
  constexpr int lanes = sizeof...(lane);
  const V low = picked<(lane & distance ? lanes + lane - distance : lane)...>(a, b);
  b = picked<(lane & distance ? lanes + lane : lane + distance)...>(a, b);
  a = low;
}

template <int distance, typename V, int lanes>
inline void exchange_all(V (&rows)[lanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i)
    if (!(i & distance)) exchange<distance>(rows[i], rows[i + distance], std::make_index_sequence<lanes>());
  if constexpr (distance > 1) exchange_all<distance / 2>(rows);
}

// to[column][row] = from[row][column] for rows, columns up to lanes; both are contiguous along their second axis.
template <typename U, typename T, typename A>
void transpose_block(const T* from, int64_t from_stride, int64_t rows, int64_t columns, U* to, int64_t to_stride) {
  constexpr int lanes = Vector<A>::lanes;
  if (rows == lanes && columns == lanes) {
    typename Vector<A>::type block[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      block[i] = load_vector<A>(from + i * from_stride);
      __builtin_prefetch(from + (lanes + i) * from_stride);  // the next block's: strided rows defeat the hardware
    }
    exchange_all<lanes / 2>(block);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) store_vector<U, A>(to + i * to_stride, block[i]);
    return;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      to[j * to_stride + i] = narrow<U, A>(load<A>(from[i * from_stride + j]));
}

// `count` pixels of n channels, one behind the other, to planes, and back.
template <typename A, int n, typename U, typename T>
void pixels_to_planes(const T* from, int64_t count, U* to, int64_t to_stride) {
  constexpr int lanes = Vector<A>::lanes;
  int64_t x = 0;
  for (; x + lanes <= count; x += lanes) {
    typename Vector<A>::type v[n];
    for (int i = 0; i < n; ++i) v[i] = load_vector<A>(from + x * n + i * lanes);
    take_apart<A, n>(v);
    for (int i = 0; i < n; ++i) store_vector<U, A>(to + i * to_stride + x, v[i]);
  }
  for (; x < count; ++x)
    for (int i = 0; i < n; ++i) to[i * to_stride + x] = narrow<U, A>(load<A>(from[x * n + i]));
}

template <typename A, int n, typename U, typename T>
void planes_to_pixels(const T* from, int64_t from_stride, int64_t count, U* to) {
  constexpr int lanes = Vector<A>::lanes;
  int64_t x = 0;
  for (; x + lanes <= count; x += lanes) {
    typename Vector<A>::type v[n];
    for (int i = 0; i < n; ++i) v[i] = load_vector<A>(from + i * from_stride + x);
    put_together<A, n>(v);
    for (int i = 0; i < n; ++i) store_vector<U, A>(to + x * n + i * lanes, v[i]);
  }
  for (; x < count; ++x)
    for (int i = 0; i < n; ++i) to[x * n + i] = narrow<U, A>(load<A>(from[i * from_stride + x]));
}

// The same for any numbers of rows and columns.
template <typename A, typename U, typename T>
void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, U* to, int64_t to_stride) {
  constexpr int lanes = Vector<A>::lanes;
  if (columns == from_stride && columns == 2) return pixels_to_planes<A, 2>(from, rows, to, to_stride);
  if (columns == from_stride && columns == 3) return pixels_to_planes<A, 3>(from, rows, to, to_stride);
  if (columns == from_stride && columns == 4) return pixels_to_planes<A, 4>(from, rows, to, to_stride);
  if (rows == to_stride && rows == 2) return planes_to_pixels<A, 2>(from, from_stride, columns, to);
  if (rows == to_stride && rows == 3) return planes_to_pixels<A, 3>(from, from_stride, columns, to);
  if (rows == to_stride && rows == 4) return planes_to_pixels<A, 4>(from, from_stride, columns, to);
  for (int64_t i = 0; i < rows; i += lanes)
    for (int64_t j = 0; j < columns; j += lanes)
      transpose_block<U, T, A>(from + i * from_stride + j, from_stride, least(lanes, rows - i),
                               least(lanes, columns - j), to + j * to_stride + i, to_stride);
}

}  // namespace myconv2d::MYCONV2D_ISA
