// grad_weight and grad_bias of depthwise convolutions and of small groups (depthwise_rows.h).
//
// A task walks down pieces of images, for some vectors of channels. A register tile is the taps of some rows of the
// kernel: it passes along a row of grad_output once, in windows of four pixels, and every multiply-add takes one
// operand from registers. As for grad_weight_product, the pixels are summed in ranges that the shape alone decides.
// Bound: memory for small kernels, L1 loads for large ones, the FMA units for groups.
#pragma once

#include "depthwise_rows.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename A>
using VectorOf = typename Vector<A>::type;

// Some taps of a grad_weight over a row of pixels: where the rows of the source that they see begin, and their sums.
template <typename A>
struct DepthwiseTaps {
  const A* source[3];
  int64_t pixel, tap;    // columns of the source from pixel to pixel, from tap to tap
  int64_t column;        // elements from column to column
  Axis::Range inside;    // the columns that lie in the image, counted from the first tap of the first pixel
  A* sums;               // [row][tap][c][lane]
  int64_t sums_row;
  A* of_grads;           // the sums of grad_output itself, or null
  // Asked for meanwhile: the next row of grad_output, which is so far on (0: none), and what it is the first to read.
  int64_t to_next;
  const A* next_source;
  int64_t next_rows, next_step;

  bool has(int64_t x) const { return x >= inside.begin && x < inside.end; }
  bool has_all(int64_t first, int64_t last) const {
    return least(first, last) >= inside.begin && most(first, last) < inside.end;
  }
  template <int pixels>
  __attribute__((always_inline)) void ask(int64_t x, const A* grads, int64_t grads_step) const {
    if (!to_next) return;
    for (int i = 0; i < pixels; ++i) __builtin_prefetch(grads + to_next + i * grads_step, 0, 2);
    for (int64_t r = 0; r < next_rows; ++r)
      for (int64_t i = 0; i < pixels * pixel; ++i)
        __builtin_prefetch(next_source + r * next_step + (x + i) * column, 0, 2);
  }
};

// sum[rows][taps] += Σ_pixels grads[pixel] · source[row, pixel + tap, c], each source pixel loaded once for all taps.
// At an edge those that lie outside the image, which are not there to be loaded, are left out.
template <typename A, int group, int c, int rows, int taps, int pixels, bool edge>
__attribute__((always_inline)) inline void depthwise_reduce_window(const DepthwiseTaps<A>& at, int64_t x,
                                                                   const A* grads, int64_t grads_step,
                                                                   VectorOf<A> (&sum)[rows][taps],
                                                                   VectorOf<A>& of_grads) {
  using V = VectorOf<A>;
  V grad[pixels];
#pragma GCC unroll 4
  for (int i = 0; i < pixels; ++i) {
    grad[i] = load_vector<A>(grads + i * grads_step);
    if (c == 0) of_grads += grad[i];
  }
#pragma GCC unroll 3
  for (int r = 0; r < rows; ++r) {
    const A* from = at.source[r] + x * at.column;
#pragma GCC unroll 16
    for (int i = 0; i < pixels + taps - 1; ++i, from += at.column) {
      if (edge && !at.has(x + i)) continue;
      const V value = in_register(of_group<A, group, c>(from));
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t)
        if (i - t >= 0 && i - t < pixels) sum[r][t] += value * grad[i - t];
    }
  }
}

// The same for one pixel under any taps.
template <typename A, int group, int c, int rows, int taps, bool edge>
__attribute__((always_inline)) inline void depthwise_reduce_pixel(const DepthwiseTaps<A>& at, int64_t x,
                                                                  const A* grads, VectorOf<A> (&sum)[rows][taps],
                                                                  VectorOf<A>& of_grads) {
  const auto grad = load_vector<A>(grads);
  if (c == 0) of_grads += grad;
#pragma GCC unroll 8
  for (int t = 0; t < taps; ++t) {
    const int64_t column = x + t * at.tap;
    if (edge && !at.has(column)) continue;
#pragma GCC unroll 3
    for (int r = 0; r < rows; ++r) sum[r][t] += of_group<A, group, c>(at.source[r] + column * at.column) * grad;
  }
}

// sums[rows][taps][c] += Σ_pixels of a row grads[pixel] · source[row, pixel, tap, c]
template <typename A, int group, int rows, int taps>
void depthwise_reduce(int64_t all_pixels, const DepthwiseTaps<A>& at, const A* all_grads, int64_t grads_step) {
  using V = typename Vector<A>::type;
  constexpr int window = 4;
  for_group<group>([&]<int c>() {
    V sum[rows][taps] = {}, of_grads{};
    const A* grads = all_grads;
    int64_t pixels = all_pixels, x = 0;
    if (at.pixel == 1 && at.tap == 1)
      for (; pixels >= window; pixels -= window, x += window, grads += window * grads_step) {
        if (c == 0) at.template ask<window>(x, grads, grads_step);
        if (at.has_all(x, x + window + taps - 2))
          depthwise_reduce_window<A, group, c, rows, taps, window, false>(at, x, grads, grads_step, sum, of_grads);
        else
          depthwise_reduce_window<A, group, c, rows, taps, window, true>(at, x, grads, grads_step, sum, of_grads);
      }
    for (; pixels > 0; --pixels, x += at.pixel, grads += grads_step) {
      if (c == 0) at.template ask<1>(x, grads, grads_step);
      if (at.has_all(x, x + (taps - 1) * at.tap))
        depthwise_reduce_pixel<A, group, c, rows, taps, false>(at, x, grads, sum, of_grads);
      else
        depthwise_reduce_pixel<A, group, c, rows, taps, true>(at, x, grads, sum, of_grads);
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) reinterpret_cast<V*>(at.sums + r * at.sums_row)[t * group + c] += sum[r][t];
    if (c == 0 && at.of_grads) *reinterpret_cast<V*>(at.of_grads) += of_grads;
  });
}

template <typename A>
using DepthwiseReduce = void (*)(int64_t, const DepthwiseTaps<A>&, const A*, int64_t);

template <typename A, int group, int rows>
constexpr DepthwiseReduce<A> depthwise_reduces[] = {
    nullptr, depthwise_reduce<A, group, rows, 1>, depthwise_reduce<A, group, rows, 2>,
    depthwise_reduce<A, group, rows, 3>};

template <typename A>
constexpr DepthwiseReduce<A> depthwise_reduces_wide[] = {depthwise_reduce<A, 1, 1, 4>, depthwise_reduce<A, 1, 1, 5>,
                                                         depthwise_reduce<A, 1, 1, 6>, depthwise_reduce<A, 1, 1, 7>};

// The sums of all taps of a kernel over a row of a piece; and of grad_output, unless `of_grads` is null.
template <typename T, typename A, int group>
void depthwise_reduce_row(const Gather& gather, const SourceRows<T, A>& rows, int64_t block, int64_t y,
                          const Piece& piece, const Axis::Range& inside_h, const A* grads, int64_t grads_step, A* sums,
                          A* of_grads, int64_t to_next) {
  constexpr int64_t most_taps = group == 1 ? 7 : 3, lanes = Vector<A>::lanes, tap_sums = group * lanes;
  const Axis& w = gather.w;
  const int64_t tile_taps = ceil_div(w.taps, most(1, ceil_div(w.taps, most_taps)));
  const int64_t first = piece.x * w.step + w.origin;  // column of the source
  const Axis::Range next = rows.first_read_by(y - piece.y + 1);
  const A* next_source = rows.data + block * lanes + piece.x * w.step * rows.column_step + next.begin * rows.row_step();
  for (int64_t r = inside_h.begin, tile_rows; r < inside_h.end; r += tile_rows) {
    tile_rows = tile_taps <= 3 && inside_h.end - r >= 3 ? 3 : 1;
    for (int64_t s = 0; s < w.taps; s += tile_taps) {
      const int64_t taps = least(tile_taps, w.taps - s), column = first + s * w.spacing;
      DepthwiseTaps<A> at{{}, w.step, w.spacing, rows.column_step, rows.columns_from(column),
                          sums + (r * w.taps + s) * tap_sums, w.taps * tap_sums, of_grads,
                          to_next, next_source, next.size(), rows.row_step()};
      of_grads = nullptr;
      to_next = 0;
      for (int64_t i = 0; i < tile_rows; ++i)
        at.source[i] = rows.data + Channels<A, group>::source(block) + column * rows.column_step +
                       rows.row(y * gather.h.step + gather.h.origin + (r + i) * gather.h.spacing);
      const DepthwiseReduce<A> reduce = tile_rows == 3 ? depthwise_reduces<A, group, 3>[taps]
                                        : taps <= 3    ? depthwise_reduces<A, group, 1>[taps]
                                                       : depthwise_reduces_wide<A>[taps - 4];
      reduce(piece.columns, at, grads, grads_step);
    }
  }
  if (of_grads)  // no tap reaches into the image
    *reinterpret_cast<typename Vector<A>::type*>(of_grads) += sum_of_vectors<A>(grads, grads_step, piece.columns);
}

template <int group, typename T, typename A = typename Accumulator<T>::type>
void depthwise_grad_weight(const Conv2d& conv, const Threads& threads, const T* grad_output,
                           const Strides& output_strides, const T* input, const Strides& input_strides, T* grad_weight,
                           const Strides& weight_strides, T* grad_bias) {
  constexpr int64_t lanes = Vector<A>::lanes, tap_sums = group * lanes;
  const Gather gather = forward_gather(conv);
  const Channels<A, group> cut(conv.groups, input_strides);
  const int64_t taps = gather.taps(), padded = cut.padded();
  const Pieces pieces = tall_pieces(gather, padded * sizeof(A), 1, 16);
  const int64_t all_pieces = gather.pixels() > 0 ? gather.batch * pieces.per_image() : 0;
  const int64_t ranges = most(1, least(16, all_pieces));
  const int64_t block_size = taps * tap_sums + lanes;  // [tap][c][lane], then the sums of grad_output
  const int64_t partial_size = ranges * cut.blocks * block_size * sizeof(A);
  const Band<A> whole = Band<A>::dense(gather, padded, 1, pieces.columns);
  const bool source_in_place = SourceRows<T, A>::suits(input_strides, cut.count);
  A* partial = static_cast<A*>(scratch(Scratch::partial_sums, partial_size));
  std::memset(partial, 0, partial_size);

  parallel_for(threads, ranges * cut.chunks, [&](int64_t task) {
    const int64_t range = task / cut.chunks, first_block = task % cut.chunks * cut.together;
    const int64_t first = first_block * lanes, channels = least(padded, cut.count - first);
    A* grads = static_cast<A*>(scratch(Scratch::panel, pieces.columns * padded * sizeof(A)));
    std::memset(grads, 0, pieces.columns * padded * sizeof(A));
    const bool in_place = sizeof(T) == sizeof(A) && output_strides.c == 1 && channels % lanes == 0;
    for (int64_t i = range * all_pieces / ranges; i < (range + 1) * all_pieces / ranges; ++i) {
      const Piece piece(gather, pieces, i);
      SourceRows<T, A> rows(source_in_place, gather, whole, piece, channels,
                            input + first * input_strides.c + piece.image * input_strides.n, input_strides);
      const Band<A> of_grads{channels, padded, 1, 1, piece.columns, 1, piece.columns};
      const T* from = grad_output + first * output_strides.c + piece.image * output_strides.n +
                      piece.y * output_strides.h + piece.x * output_strides.w;
      for (int64_t y = 0; y < piece.rows; ++y, from += output_strides.h) {
        rows.advance(y);
        if (!in_place) read_row<T, A>(of_grads, from, output_strides, 0, piece.columns, grads);
        const A* row_grads = in_place ? reinterpret_cast<const A*>(from) : grads;
        const int64_t grads_step = in_place ? output_strides.w : padded, at = piece.y + y;
        const int64_t to_next = in_place && y + 1 < piece.rows ? output_strides.h : 0;
        const Axis::Range inside = gather.h.taps_inside(at);
        for (int64_t block = 0; block * lanes < channels; ++block) {
          A* sums = partial + (range * cut.blocks + first_block + block) * block_size;
          depthwise_reduce_row<T, A, group>(gather, rows, block, at, piece, inside, row_grads + block * lanes,
                                            grads_step, sums, grad_bias ? sums + taps * tap_sums : nullptr, to_next);
        }
      }
    }
  });

  for (int64_t k = 0; k < cut.count; ++k) {
    const auto total = [&](int64_t place) {
      A sum = 0;
      for (int64_t range = 0; range < ranges; ++range)
        sum += partial[(range * cut.blocks + k / lanes) * block_size + place * lanes + k % lanes];
      return narrow<T, A>(sum);
    };
    T* to = grad_weight + k * weight_strides.n;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t c = 0; c < group; ++c)
        to[c * weight_strides.c + tap / gather.w.taps * weight_strides.h + tap % gather.w.taps * weight_strides.w] =
            total(tap * group + c);
    if (grad_bias) grad_bias[k] = total(taps * group);
  }
}

}  // namespace myconv2d::MYCONV2D_ISA
