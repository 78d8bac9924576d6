// What depthwise convolutions and those of small groups (as many channels out as in: 2, 4 or 8) read, and how.
//
// Vectors run along the channels, whatever the layout. A lane of the result needs every channel of its own group: that
// is the source's vector with a constant permutation of its lanes, one for each channel of a group. So a convolution of
// groups of `group` channels is `group` depthwise ones, and no product is wasted on another group's channels.
//
// Where the source's channels lie innermost its rows are read in place, and what lies outside the image is left out;
// otherwise a ring holds the rows under the kernel, padded, each read once on the walk down a piece. While a row of
// results is computed, the memory that the next one is the first to read is asked for.
#pragma once

#include <utility>

#include "band.h"
#include "parallel.h"
#include "scratch.h"
#include "stream.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t most_blocks = 16;  // vectors of channels to a task

// Every lane gets channel `c` of its group. A group larger than a vector begins at `at`.
template <typename A, int group, int c>
inline typename Vector<A>::type of_group(const A* at) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes;
  if constexpr (group > lanes) return V{} + at[c];
  V value;
  std::memcpy(&value, at, sizeof value);
  if constexpr (group == 1 || group > lanes) return value;
  return [&]<int... lane>(std::integer_sequence<int, lane...>) {
    return picked<(lane / group * group + c)...>(value, value);
  }(std::make_integer_sequence<int, lanes>());
}

// Calls visit.operator()<c>() for every channel of a group.
template <int group, typename F>
inline void for_group(const F& visit) {
  [&]<int... c>(std::integer_sequence<int, c...>) {
    (visit.template operator()<c>(), ...);
  }(std::make_integer_sequence<int, group>());
}

// How the channels are cut: into blocks of one vector, many to a task where they lie innermost in memory, so that a
// task reads and writes memory in order.
template <typename A, int group>
struct Channels {
  static constexpr int64_t lanes = Vector<A>::lanes;
  int64_t count, blocks, together, chunks;

  Channels(int64_t groups, const Strides& s)
      : count(groups * group), blocks(ceil_div(count, lanes)),
        together(s.c == 1 ? least(blocks, most_blocks) : ceil_div(group, lanes)), chunks(ceil_div(blocks, together)) {}
  int64_t padded() const { return together * lanes; }  // of a task
  // The source of a block's lanes begins here.
  static int64_t source(int64_t block) { return group > lanes ? block * lanes / group * group : block * lanes; }
};

// Pieces of as many rows as keep the threads busy: each piece reads the halo above it anew.
inline Pieces tall_pieces(const Gather& gather, int64_t source_bytes, int64_t chunks, int64_t tasks) {
  Pieces pieces(gather, source_bytes, 768);
  const int64_t others = most(1, gather.batch * pieces.per_image_w * chunks);
  pieces.rows = ceil_div(gather.h.grid, least(gather.h.grid, ceil_div(tasks, others)));
  pieces.per_image_h = ceil_div(gather.h.grid, pieces.rows);
  return pieces;
}

// Steps of an axis whose taps all lie in the source; the steps before and after lack some.
inline Axis::Range whole_steps(const Axis& axis, int64_t first, int64_t steps) {
  if (axis.taps == 0) return {0, steps};
  const Axis::Range a = steps_inside(axis, 0, first, steps), b = steps_inside(axis, axis.taps - 1, first, steps);
  const Axis::Range whole{most(a.begin, b.begin), least(a.end, b.end)};
  return whole.begin < whole.end ? whole : Axis::Range{0, 0};
}

// Which of the source's columns under some steps lie in the image, counted from the first.
inline Axis::Range inside_of(const Axis& axis, int64_t first, int64_t steps) {
  const int64_t begin = first * axis.step + axis.lowest(), columns = axis.span(steps);
  return {least(most(0, -begin), columns), most(0, least(columns, axis.source - begin))};
}

// The source's rows under a piece, on the walk down: pixel x of row y is at data + row(y) + x · column_step.
template <typename T, typename A>
class SourceRows {
 public:
  // To be read in place.
  static bool suits(const Strides& s, int64_t channels) {
    return sizeof(T) == sizeof(A) && s.c == 1 && channels % Vector<A>::lanes == 0;
  }
  static size_t ring_size(const Band<A>& whole) { return whole.size() * sizeof(A); }

  SourceRows(bool in_place, const Gather& gather, const Band<A>& whole, const Piece& piece, int64_t channels,
             const T* image, const Strides& s)
      : in_place(in_place), column_step(in_place ? s.w : whole.width), gather_(gather), band_(whole), image_(image),
        strides_(s), step_(gather.h.step), first_y_(piece.y * step_ + gather.h.lowest()),
        first_x_(piece.x * gather.w.step + gather.w.lowest()) {
    band_.channels = channels;
    band_.columns = gather.w.span(piece.columns);
    ring_ = in_place ? nullptr : static_cast<A*>(scratch(Scratch::band, ring_size(whole)));
    data = in_place ? reinterpret_cast<const A*>(image) : ring_ - first_x_ * column_step;
  }
  // Everything that step y of the piece reads.
  void advance(int64_t y) {
    if (!in_place)
      for (next_ = most(next_, y * step_); next_ < y * step_ + band_.rows; ++next_)
        read_line<T, A>(band_, gather_, image_, strides_, first_y_ + next_, first_x_,
                        ring_ + next_ % band_.rows * band_.row_size());
  }
  int64_t row(int64_t y) const { return in_place ? y * strides_.h : (y - first_y_) % band_.rows * band_.row_size(); }
  // The columns that are there, as they are counted from column x on.
  Axis::Range columns_from(int64_t x) const {
    return in_place ? Axis::Range{-x, gather_.w.source - x} : Axis::Range{INT64_MIN, INT64_MAX};
  }
  int64_t row_step() const { return strides_.h; }
  // The rows that step y of the piece is the first to read in place: none if they are copied, or not there.
  Axis::Range first_read_by(int64_t y) const {
    const int64_t end = first_y_ + y * step_ + band_.rows;
    return in_place ? Axis::Range{most(0, end - step_), least(end, gather_.h.source)} : Axis::Range{0, 0};
  }
  // Asks for a vector of channels, from `first` on, of columns x … of some rows. (Not inlined, it would be taken for a
  // function without effect.)
  __attribute__((always_inline)) void ask(const Axis::Range& rows, int64_t x, int64_t columns, int64_t first) const {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const A* from = data + row * strides_.h + x * column_step + first;
      for (int64_t i = 0; i < columns; ++i, from += column_step) __builtin_prefetch(from, 0, 2);
    }
  }

  const bool in_place;
  const int64_t column_step;
  const A* data;

 private:
  const Gather& gather_;
  Band<A> band_;
  const T* image_;
  const Strides& strides_;
  int64_t step_, first_y_, first_x_, next_ = 0;  // of the source; rows read so far
  A* ring_;
};

}  // namespace myconv2d::MYCONV2D_ISA
