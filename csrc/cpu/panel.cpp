#include "panel.h"

namespace myconv2d::MYCONV2D_ISA {

MYCONV2D_INLINE Lanes two_in_turns(const float* from) {  // from[0], from[1], from[0], …
  int64_t both;  // as an integer, which no arithmetic mode of the caller's touches
  std::memcpy(&both, from, sizeof both);
  return reinterpret_cast<Lanes>(both + Vector<int64_t>::type{});
}

template <typename V>
MYCONV2D_INLINE void put_sum(float* to, V sum, bool accumulate) {
  put(to, accumulate ? get<V>(to) + sum : sum);
}

// `a_step`: floats from one block of A's depths to the next. `b_step` is not used: the panel's width is known.
template <int rows, int vectors, int halves>
void multiply_channels(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t, float* c, int64_t c_step,
                       bool accumulate) {
  constexpr int64_t whole = vectors * lanes, width = whole + halves * (lanes / 2);
  Lanes sum[rows][vectors ? vectors : 1] = {}, of_two[rows] = {};
  const auto add_whole = [&](const float* left, const float* from) __attribute__((always_inline)) {
    Lanes right[vectors ? vectors : 1];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) right[v] = get<Lanes>(from + v * lanes);
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sum[i][v] += left[i * lanes] * right[v];
  };
  for (int64_t begin = 0; begin < depth; begin += lanes, a += a_step) {
    const int64_t count = least(lanes, depth - begin);
    int64_t d = 0;
    if constexpr (halves) {
      for (; d + 1 < count; d += 2, b += 2 * width) {
        add_whole(a + d, b);
        add_whole(a + d + 1, b + whole);
        const Lanes right = get<Lanes>(b + 2 * whole);
#pragma GCC unroll 12
        for (int i = 0; i < rows; ++i) of_two[i] += two_in_turns(a + i * lanes + d) * right;
      }
      if (d < count) add_whole(a + d, b);
    } else {
      for (; d < count; ++d, b += width) add_whole(a + d, b);
    }
  }
  a += (depth - 1) % lanes - a_step;  // the last depth
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i, c += c_step) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) put_sum(c + v * lanes, sum[i][v], accumulate);
    if constexpr (halves) {
      HalfLanes half = every_other<0>(of_two[i]) + every_other<1>(of_two[i]);
      if (depth % 2) half += a[i * lanes] * get<HalfLanes>(b + whole);
      put_sum(c + whole, half, accumulate);
    }
  }
}

// `a_step`: floats from one depth of A to the next; `b_step`: from one vector of B to the next.
template <int rows, int vectors, int halves>
void multiply_tiles(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c,
                    int64_t c_step, bool accumulate) {
  constexpr int pairs = halves ? rows / 2 : 0;
  constexpr bool single = halves && rows % 2;
  Lanes sum[rows][vectors ? vectors : 1] = {}, of_two[pairs ? pairs : 1] = {};
  HalfLanes last{};
  for (int64_t d = 0; d < depth; ++d, a += a_step, b += lanes) {
    Lanes right[vectors ? vectors : 1];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) right[v] = get<Lanes>(b + v * b_step);
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sum[i][v] += a[i] * right[v];
    if constexpr (halves) {
      const HalfLanes half = get<HalfLanes>(b + vectors * b_step);
      const Lanes twice = in_turns(half, half);
#pragma GCC unroll 6
      for (int i = 0; i < pairs; ++i) of_two[i] += two_in_turns(a + 2 * i) * twice;
      if constexpr (single) last += a[rows - 1] * half;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i, c += c_step) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) put_sum(c + v * lanes, sum[i][v], accumulate);
    if constexpr (halves) {
      const HalfLanes half = i == 2 * pairs ? last : i % 2 ? every_other<1>(of_two[i / 2]) : every_other<0>(of_two[i / 2]);
      put_sum(c + vectors * lanes, half, accumulate);
    }
  }
}

template <Depth depth>
MultiplyPanel multiply_panel_for(int64_t rows, const PanelShape& shape) {
  constexpr auto of = []<int vectors, int halves>(int64_t rows) {
    constexpr int fitting = sum_registers / (vectors + halves), most_rows = fitting < 12 ? fitting : 12;
    return [&]<int... row>(std::integer_sequence<int, row...>) {
      constexpr bool channels = depth == Depth::channels;
      static constexpr MultiplyPanel table[] = {
          channels ? multiply_channels<row + 1, vectors, halves> : multiply_tiles<row + 1, vectors, halves>...};
      return table[rows - 1];
    }(std::make_integer_sequence<int, most_rows>());
  };
  switch (2 * shape.vectors + shape.halves) {
    case 1: return of.template operator()<0, 1>(rows);
    case 2: return of.template operator()<1, 0>(rows);
    case 3: return of.template operator()<1, 1>(rows);
    case 4: return of.template operator()<2, 0>(rows);
    default: return of.template operator()<3, 0>(rows);
  }
}

template MultiplyPanel multiply_panel_for<Depth::channels>(int64_t, const PanelShape&);
template MultiplyPanel multiply_panel_for<Depth::tiles>(int64_t, const PanelShape&);

}  // namespace myconv2d::MYCONV2D_ISA
