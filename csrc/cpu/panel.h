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

enum class Depth { channels, tiles };

using MultiplyPanel = void (*)(int64_t depth, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c,
                               int64_t c_step, bool accumulate);

template <Depth depth>
MultiplyPanel multiply_panel_for(int64_t rows, const PanelShape& shape);  // panel.cpp

// `size` rows cut into the fewest panels that the registers allow, as even as they can be.
inline int64_t even_rows(int64_t size, int64_t max_rows) { return ceil_div(size, ceil_div(size, max_rows)); }

}  // namespace myconv2d::MYCONV2D_ISA
