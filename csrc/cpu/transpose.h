// Between planes (NCHW) and pixels (channels innermost): blocks of lanes × lanes turned in registers.
#pragma once

#include <utility>

#include "vector.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename A, typename T>
inline typename Vector<A>::type load_vector(const T* from) {
  typename Vector<A>::type result;
  for (int i = 0; i < Vector<A>::lanes; ++i) result[i] = load<A>(from[i]);
  return result;
}

template <>
inline Vector<float>::type load_vector<float, float>(const float* from) {
  Vector<float>::type result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

template <typename T, typename A>
inline void store_vector(T* to, typename Vector<A>::type value) {
  for (int i = 0; i < Vector<A>::lanes; ++i) to[i] = narrow<T, A>(value[i]);
}

template <>
inline void store_vector<float, float>(float* to, Vector<float>::type value) {
  std::memcpy(to, &value, sizeof value);
}

// Two rows `distance` apart exchange their off-diagonal blocks of that width.
template <int distance, typename V, size_t... lane>
inline void exchange(V& a, V& b, std::index_sequence<lane...>) {
  constexpr int lanes = sizeof...(lane);
  const V low = __builtin_shufflevector(a, b, (lane & distance ? lanes + lane - distance : lane)...);
  b = __builtin_shufflevector(a, b, (lane & distance ? lanes + lane : lane + distance)...);
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
    for (int i = 0; i < lanes; ++i) block[i] = load_vector<A>(from + i * from_stride);
    exchange_all<lanes / 2>(block);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) store_vector<U, A>(to + i * to_stride, block[i]);
    return;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      to[j * to_stride + i] = narrow<U, A>(load<A>(from[i * from_stride + j]));
}

// The same for any numbers of rows and columns.
template <typename A, typename U, typename T>
void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, U* to, int64_t to_stride) {
  constexpr int lanes = Vector<A>::lanes;
  for (int64_t i = 0; i < rows; i += lanes)
    for (int64_t j = 0; j < columns; j += lanes)
      transpose_block<U, T, A>(from + i * from_stride + j, from_stride, least(lanes, rows - i),
                               least(lanes, columns - j), to + j * to_stride + i, to_stride);
}

}  // namespace myconv2d::MYCONV2D_ISA
