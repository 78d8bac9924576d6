// grad_weight and grad_bias of depthwise convolutions and of small groups (depthwise_rows.h).
//
// A task walks down pieces of images, for some vectors of channels. A register tile is the taps of some rows of the kernel:
// it passes along a row of grad_output once, and every multiply-add takes one operand from registers. As for
// grad_weight_product, the pixels are summed in ranges that the shape alone decides.
// Bound: memory for small kernels, L1 loads for large ones, the FMA units for groups.
#pragma once

#include "depthwise_rows.h"

namespace myconv2d::MYCONV2D_ISA {

// Where some taps of a grad_weight lie: the rows of the source that they see from the first pixel, and their sums.
template <typename A>
struct DepthwiseTaps {
  const A* source[3];
  int64_t step, spacing;  // from pixel to pixel, from tap to tap
  A* sums;                // [row][tap][c][lane]
  int64_t sums_row;
};

// sums[rows][taps][c] += Σ_pixels grads[pixel] · source[row, pixel · step + tap · spacing, c], few sums in two streams.
template <typename A, int group, int rows, int taps>
void depthwise_reduce(int64_t all_pixels, const DepthwiseTaps<A>& at, const A* all_grads, int64_t grads_step) {
  using V = typename Vector<A>::type;
  constexpr int streams = rows * taps <= 4 ? 2 : 1, together = 4;
  for_group<group>([&]<int c>() {
    int64_t pixels = all_pixels;
    const A* grads = all_grads;
    const A* a[rows];
    V sum[streams][rows][taps] = {};
    for (int r = 0; r < rows; ++r) a[r] = at.source[r];
    if (at.step == at.spacing)  // neighbouring pixels under neighbouring taps: each is loaded once
      for (; pixels >= together; pixels -= together) {
        V grad[together];
#pragma GCC unroll 4
        for (int i = 0; i < together; ++i, grads += grads_step) grad[i] = load_vector<A>(grads);
#pragma GCC unroll 3
        for (int r = 0; r < rows; ++r) {
          const A* from = a[r];
#pragma GCC unroll 16
          for (int x = 0; x < together + taps - 1; ++x, from += at.step) {
            const V value = in_register(of_group<A, group, c>(from));
#pragma GCC unroll 8
            for (int t = 0; t < taps; ++t)
              if (x - t >= 0 && x - t < together) sum[x % streams][r][t] += value * grad[x - t];
          }
          a[r] += together * at.step;
        }
      }
    for (; pixels > 0; --pixels, grads += grads_step) {
      const V grad = load_vector<A>(grads);
#pragma GCC unroll 3
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < taps; ++t) sum[0][r][t] += of_group<A, group, c>(a[r] + t * at.spacing) * grad;
        a[r] += at.step;
      }
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) {
        V total = sum[0][r][t];
        if constexpr (streams == 2) total += sum[1][r][t];
        reinterpret_cast<V*>(at.sums + r * at.sums_row)[t * group + c] += total;
      }
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

// The sums of all taps of a kernel over neighbouring pixels that have the same taps.
template <typename T, typename A, int group>
void depthwise_reduce_row(const Gather& gather, const SourceRows<T, A>& rows, int64_t block, int64_t y, int64_t x,
                          int64_t pixels, const Axis::Range& inside_h, const Axis::Range& inside_w, const A* grads,
                          int64_t grads_step, A* sums) {
  constexpr int64_t most_taps = group == 1 ? 7 : 3, lanes = Vector<A>::lanes, tap_sums = group * lanes;
  const int64_t tile_taps = ceil_div(inside_w.size(), most(1, ceil_div(inside_w.size(), most_taps)));
  const A* data = rows.data + Channels<A, group>::source(block) +
                  (x * gather.w.step + gather.w.origin) * rows.column_step;
  for (int64_t r = inside_h.begin, tile_rows; r < inside_h.end; r += tile_rows) {
    tile_rows = tile_taps <= 3 && inside_h.end - r >= 3 ? 3 : 1;
    for (int64_t s = inside_w.begin; s < inside_w.end; s += tile_taps) {
      const int64_t taps = least(tile_taps, inside_w.end - s);
      DepthwiseTaps<A> at{{}, gather.w.step * rows.column_step, gather.w.spacing * rows.column_step,
                          sums + (r * gather.w.taps + s) * tap_sums, gather.w.taps * tap_sums};
      for (int64_t i = 0; i < tile_rows; ++i)
        at.source[i] = data + rows.row(y * gather.h.step + gather.h.origin + (r + i) * gather.h.spacing) +
                       s * gather.w.spacing * rows.column_step;
      const DepthwiseReduce<A> reduce = tile_rows == 3 ? depthwise_reduces<A, group, 3>[taps]
                                        : taps <= 3    ? depthwise_reduces<A, group, 1>[taps]
                                                       : depthwise_reduces_wide<A>[taps - 4];
      reduce(pixels, at, grads, grads_step);
    }
  }
}

template <int group, typename T, typename A = typename Accumulator<T>::type>
void depthwise_grad_weight(const Conv2d& conv, const Threads& threads, const T* grad_output,
                           const Strides& output_strides, const T* input, const Strides& input_strides, T* grad_weight,
                           const Strides& weight_strides, T* grad_bias) {
  using V = typename Vector<A>::type;
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
  const bool source_in_place = SourceRows<T, A>::suits(gather, input_strides, cut.count);
  A* partial = static_cast<A*>(scratch(Scratch::partial_sums, partial_size));
  std::memset(partial, 0, partial_size);

  parallel_for(threads, ranges * cut.chunks, [&](int64_t task) {
    const int64_t range = task / cut.chunks, first_block = task % cut.chunks * cut.together;
    const int64_t first = first_block * lanes, channels = least(padded, cut.count - first);
    A* grads = static_cast<A*>(scratch(Scratch::panel, pieces.columns * padded * sizeof(A)));
    std::memset(grads, 0, pieces.columns * padded * sizeof(A));
    constexpr int64_t line = 64 / sizeof(T);
    const bool in_place = sizeof(T) == sizeof(A) && output_strides.c == 1 && channels % lanes == 0;
    for (int64_t i = range * all_pieces / ranges; i < (range + 1) * all_pieces / ranges; ++i) {
      const Piece piece(gather, pieces, i);
      SourceRows<T, A> rows(source_in_place, gather, whole, piece, channels,
                            input + first * input_strides.c + piece.image * input_strides.n, input_strides);
      const Band<A> of_grads{channels, padded, 1, 1, piece.columns, 1, piece.columns};
      const T* from = grad_output + first * output_strides.c + piece.image * output_strides.n +
                      piece.y * output_strides.h + piece.x * output_strides.w;
      const Axis::Range in_whole =
          rows.in_place ? whole_steps(gather.w, piece.x, piece.columns) : Axis::Range{0, piece.columns};
      for (int64_t y = 0; y < piece.rows; ++y, from += output_strides.h) {
        rows.advance(y);
        if (!in_place) read_row<T, A>(of_grads, from, output_strides, 0, piece.columns, grads);
        const A* row_grads = in_place ? reinterpret_cast<const A*>(from) : grads;
        const int64_t grads_step = in_place ? output_strides.w : padded, at = piece.y + y;
        const Axis::Range inside = gather.h.taps_inside(at);
        if (in_place && y + 1 < piece.rows)
          for (int64_t x = 0; x < piece.columns; ++x)
            for (int64_t c = 0; c < channels; c += line)
              __builtin_prefetch(from + output_strides.h + x * output_strides.w + c, 0, 2);
        rows.ask(y, in_whole.begin + piece.x * gather.w.step, in_whole.size() * gather.w.step);
        for (int64_t block = 0; block * lanes < channels; ++block) {
          A* sums = partial + (range * cut.blocks + first_block + block) * block_size;
          const A* block_grads = row_grads + block * lanes;
          for (int64_t x = 0, end; x < piece.columns; x = end) {  // pixels with the same taps
            const bool all = x == in_whole.begin && in_whole.size() > 0;
            end = all ? in_whole.end : x + 1;
            depthwise_reduce_row<T, A, group>(
                gather, rows, block, at, piece.x + x, end - x, inside,
                all ? Axis::Range{0, gather.w.taps} : gather.w.taps_inside(piece.x + x), block_grads + x * grads_step,
                grads_step, sums);
          }
          if (grad_bias)
            *reinterpret_cast<V*>(sums + taps * tap_sums) += sum_of_vectors<A>(block_grads, grads_step, piece.columns);
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
