// The products of Winograd's points: C[rows][width] = Σ_depth A[depth, rows] · B[depth][width], in panels whose width
// is cut to the channels at hand — two vectors, one and a half, one, a half — so that 24 channels cost what 24 do.
//
// A and B lie as the transforms store them, a vector at a time. Depths that are channels: A in blocks of `lanes`,
// [depth / lanes][row][depth % lanes], B as [depth][width]. Depths that are tiles: A as [depth][row], B in blocks of
// `lanes`, [width / lanes][depth][lanes]. Each step loads the width of B and broadcasts `rows` values of A; all sums
// stay in registers.
// Bound: the FMA units, as long as both operands stay in L1/L2.
#pragma once

#include "winograd.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int sum_registers = MYCONV2D_VECTOR_BYTES == 64 ? 24 : 12;  // of 32 and of 16

struct PanelShape {
  int vectors, halves;  // 0 to 3 whole vectors and perhaps half a one

  int64_t width() const { return vectors * lanes + halves * (lanes / 2); }
  int64_t max_rows() const { return least(12, sum_registers / (vectors + halves)); }
};

// The panels of `channels` channels: all of `whole`, but the last, which is as wide as what is left.
struct Panels {
  int64_t channels, count;
  PanelShape whole, last;

  explicit Panels(int64_t channels) : channels(channels) {
    const bool three = sum_registers == 12 && channels > 2 * lanes && channels <= 3 * lanes;
    whole = channels > 2 * lanes ? PanelShape{three ? 3 : 2, 0} : cut(channels);
    count = ceil_div(channels, whole.width());
    last = count == 1 ? whole : cut(channels - (count - 1) * whole.width());
  }
  static PanelShape cut(int64_t channels) {
    const int halves = static_cast<int>(ceil_div(channels, lanes / 2));
    return {halves / 2, halves % 2};
  }
  const PanelShape& at(int64_t panel) const { return panel + 1 < count ? whole : last; }
  int64_t first_channel(int64_t panel) const { return panel * whole.width(); }
  int64_t channels_of(int64_t panel) const { return least(whole.width(), channels - first_channel(panel)); }
  int64_t padded() const { return first_channel(count - 1) + last.width(); }
};

enum class Depth { channels, tiles };

// `a_step`: floats from one block of A's depths, or one depth, to the next; `b_step`: from one vector of B to the next.
template <Depth of, int rows, int vectors, int halves>
void multiply_panel(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c,
                    int64_t c_step, bool accumulate) {
  constexpr bool channels = of == Depth::channels;
  constexpr int64_t row_step = channels ? lanes : 1, run = channels ? lanes : 1;
  constexpr int64_t b_depth_step = channels ? vectors * lanes + halves * (lanes / 2) : lanes;
  if (channels) b_step = lanes;
  Lanes sum[rows][vectors ? vectors : 1] = {};
  HalfLanes half_sum[rows] = {};
  for (int64_t begin = 0; begin < depth; begin += run, a += a_step) {
    const int64_t count = run == 1 ? 1 : least(run, depth - begin);
    for (int64_t d = 0; d < count; ++d, b += b_depth_step) {
      Lanes right[vectors ? vectors : 1];
      HalfLanes half_right{};
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) right[v] = get<Lanes>(b + v * b_step);
      if constexpr (halves) half_right = get<HalfLanes>(b + vectors * b_step);
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        const float left = a[i * row_step + d];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; ++v) sum[i][v] += left * right[v];
        if constexpr (halves) half_sum[i] += left * half_right;
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i, c += c_step) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) {
      float* to = c + v * lanes;
      put(to, accumulate ? get<Lanes>(to) + sum[i][v] : sum[i][v]);
    }
    if constexpr (halves) {
      float* to = c + vectors * lanes;
      put(to, accumulate ? get<HalfLanes>(to) + half_sum[i] : half_sum[i]);
    }
  }
}

using MultiplyPanel = void (*)(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c,
                               int64_t c_step, bool accumulate);

template <Depth depth>
MultiplyPanel multiply_panel_for(int64_t rows, const PanelShape& shape) {
  constexpr auto of = []<int vectors, int halves>(int64_t rows) {
    constexpr int fitting = sum_registers / (vectors + halves), most_rows = fitting < 12 ? fitting : 12;
    return [&]<int... row>(std::integer_sequence<int, row...>) {
      static constexpr MultiplyPanel table[] = {multiply_panel<depth, row + 1, vectors, halves>...};
      return table[rows - 1];
    }(std::make_integer_sequence<int, most_rows>());
  };
  switch (2 * shape.vectors + shape.halves) {
    case 1: return of.template operator()<0, 1>(rows);
    case 2: return of.template operator()<1, 0>(rows);
    case 3: return of.template operator()<1, 1>(rows);
    case 4: return of.template operator()<2, 0>(rows);
    case 5: return of.template operator()<2, 1>(rows);
    default: return of.template operator()<3, 0>(rows);
  }
}

// `size` rows cut into the fewest panels that the registers allow, as even as they can be.
inline int64_t even_rows(int64_t size, int64_t max_rows) { return ceil_div(size, ceil_div(size, max_rows)); }

}  // namespace myconv2d::MYCONV2D_ISA
