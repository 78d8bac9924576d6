// The products of Winograd's points: C[rows][width] = Σ_depth A[depth, rows] · B[depth][width], in panels whose width
// is cut to the channels at hand — two vectors, one and a half, one, a half — so that 24 channels cost what 24 do.
//
// A and B lie as the transforms store them, a vector at a time. Depths that are channels: A in blocks of `lanes`,
// [depth / lanes][row][depth % lanes], B as panel_row() says. Depths that are tiles: A as [depth][row], B in blocks of
// `lanes`, [width / lanes][depth][lanes]. Each step loads the width of B and broadcasts `rows` values of A; all sums
// stay in registers.
//
// An instruction on half a vector costs what one on a whole vector does. So two halves share one, its lanes in turns:
// two depths, added up at the end, or two rows. What meets them are two values of A that are neighbours in memory.
// Bound: the FMA units, as long as both operands stay in L1/L2.
#pragma once

#include "winograd.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int sum_registers = MYCONV2D_REGISTERS == 32 ? 24 : 12;  // of 32 and of 16

struct PanelShape {
  int vectors, halves;  // 0 to 3 whole vectors and perhaps half a one

  int64_t width() const { return vectors * lanes + halves * (lanes / 2); }
  int64_t max_rows() const { return least(12, sum_registers / (vectors + halves)); }
};

// The panels of `channels` channels: all of `whole`, but the last, which is as wide as what is left.
struct Panels {
  int64_t channels, count;
  PanelShape whole, last;

  // Without `halves` every channel is summed in the same order, wherever among the others it stands.
  explicit Panels(int64_t channels, bool halves = true) : channels(channels) {
    const auto cut = [&](int64_t part) {
      const int count = static_cast<int>(halves ? ceil_div(part, lanes / 2) : 2 * ceil_div(part, lanes));
      return PanelShape{count / 2, count % 2};
    };
    const bool three = sum_registers == 12 && channels > 2 * lanes && channels <= 3 * lanes;
    whole = channels > 2 * lanes ? PanelShape{three ? 3 : 2, 0} : cut(channels);
    count = ceil_div(channels, whole.width());
    last = count == 1 ? whole : cut(channels - (count - 1) * whole.width());
  }
  const PanelShape& at(int64_t panel) const { return panel + 1 < count ? whole : last; }
  int64_t first_channel(int64_t panel) const { return panel * whole.width(); }
  int64_t channels_of(int64_t panel) const { return least(whole.width(), channels - first_channel(panel)); }
  int64_t padded() const { return first_channel(count - 1) + last.width(); }
};

// Where a row of B begins, of channels as depth. Two rows with a half vector each lie together: their whole vectors, one
// behind the other, then both halves, their lanes in turns. The last of an odd number of rows lies alone.
MYCONV2D_INLINE int64_t panel_row(int64_t depth, int64_t width) {
  const int64_t whole = width / lanes * lanes;
  return depth / 2 * 2 * width + depth % 2 * whole;
}

// Lanes in turns: of two halves, of one with itself, and back.
template <size_t... l>
MYCONV2D_INLINE Lanes in_turns(HalfLanes a, HalfLanes b, std::index_sequence<l...>) {
  return picked<(l / 2 + l % 2 * sizeof...(l) / 2)...>(a, b);
}
template <int first, size_t... l>
MYCONV2D_INLINE HalfLanes every_other(Lanes v, std::index_sequence<l...>) {
  return picked<(2 * l + first)...>(v, v);
}
MYCONV2D_INLINE Lanes in_turns(HalfLanes a, HalfLanes b) { return in_turns(a, b, std::make_index_sequence<lanes>()); }
template <int first>
MYCONV2D_INLINE HalfLanes every_other(Lanes v) {
  return every_other<first>(v, std::make_index_sequence<lanes / 2>());
}

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

enum class Depth { channels, tiles };

using MultiplyPanel = void (*)(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c,
                               int64_t c_step, bool accumulate);

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

// `size` rows cut into the fewest panels that the registers allow, as even as they can be.
inline int64_t even_rows(int64_t size, int64_t max_rows) { return ceil_div(size, ceil_div(size, max_rows)); }

}  // namespace myconv2d::MYCONV2D_ISA
