// Forward and grad_input by direct convolution:
//   result[pixel, k] = bias[k] + Σ_(tap, c) source[pixel, tap, c] · weight[tap, c, k]
//
// A task is a piece of one image's grid. It reads its band of the source once; a register tile then holds some
// neighbouring pixels × two vectors of channels k and walks over all taps and channels: at every step it broadcasts
// the pixels' values straight from the band and multiplies them with two vectors of packed weights. There is no im2col
// and no partial sum in memory. Taps that lie outside the image above or below are left out.
// Bound: the FMA units; weights stream from L2.
#pragma once

#include "band.h"
#include "gemm.h"
#include "parallel.h"
#include "scratch.h"

namespace myconv2d::MYCONV2D_ISA {

struct Run {  // channels that lie side by side in a band under one tap
  int64_t offset, length;
};

// sums[rows pixels][vectors] = bias + Σ_runs Σ_d band[run + d, pixel] · weights[run, d]
template <typename A, int rows, int vectors>
void direct_tile(const Run* run, const Run* end, const A* band, const A* weights, const A* bias, A* sums) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes;
  V sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) sum[i][v] = reinterpret_cast<const V*>(bias)[v];
  for (; run != end; ++run) {
    const A* a = band + run->offset;
    for (const A* last = a + run->length; a != last; ++a, weights += vectors * lanes) {
      V b[vectors];
      for (int v = 0; v < vectors; ++v) b[v] = reinterpret_cast<const V*>(weights)[v];
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i)
        for (int v = 0; v < vectors; ++v) sum[i][v] += a[i * lanes] * b[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) reinterpret_cast<V*>(sums)[i * vectors + v] = sum[i][v];
}

template <typename A>
using DirectTile = void (*)(const Run*, const Run*, const A*, const A*, const A*, A*);

template <typename A, int vectors>
DirectTile<A> direct_tile_for(int64_t rows) {
  static constexpr DirectTile<A> table[] = {
      direct_tile<A, 1, vectors>, direct_tile<A, 2, vectors>, direct_tile<A, 3, vectors>,
      direct_tile<A, 4, vectors>, direct_tile<A, 5, vectors>, direct_tile<A, 6, vectors>,
#if MYCONV2D_VECTOR_BYTES == 64
      direct_tile<A, 7, vectors>, direct_tile<A, 8, vectors>, direct_tile<A, 9, vectors>,
      direct_tile<A, 10, vectors>, direct_tile<A, 11, vectors>, direct_tile<A, 12, vectors>,
#endif
  };
  return table[rows - 1];
}

// One group's weights: [panel of two vectors, or one for the last few channels][tap][c][panel], then the bias.
template <typename T, typename A>
void pack_weight(const Gather& gather, const WeightView& view, int64_t channels, const T* weight, const T* bias,
                 int64_t bias_stride, A* packed) {
  constexpr int64_t lanes = Vector<A>::lanes;
  const int64_t padded = round_up(channels, lanes);
  for (int64_t first = 0; first < padded; first += columns<A>) {
    const int64_t width = least(columns<A>, padded - first);
    for (int64_t r = 0; r < gather.h.taps; ++r)
      for (int64_t s = 0; s < gather.w.taps; ++s)
        for (int64_t c = 0; c < gather.channels; ++c, packed += width) {
          const T* from = weight + (gather.h.first_tap + r * gather.h.tap_spacing) * view.r +
                          (gather.w.first_tap + s * gather.w.tap_spacing) * view.s + c * view.c + first * view.k;
          for (int64_t i = 0; i < width; ++i)
            packed[i] = first + i < channels ? load<A>(from[i * view.k]) : A(0);
        }
  }
  for (int64_t k = 0; k < padded; ++k)
    packed[k] = bias && k < channels ? load<A>(bias[k * bias_stride]) : A(0);
}

// result: pixel (0, 0) of this gather's grid, with strides from one grid step to the next.
template <typename T, typename A = typename Accumulator<T>::type>
void direct_product(Gather gather, int64_t groups, int64_t channels, const Threads& threads, const T* source,
                    Strides source_strides, const T* weight, const WeightView& view, const T* bias,
                    int64_t bias_stride, T* result, Strides result_strides) {
  if (gather.pixels() == 0 || channels == 0) return;
  source += simplify(gather, source_strides, result_strides);
  constexpr int64_t lanes = Vector<A>::lanes;
  const int64_t depth = gather.depth(), padded = round_up(channels, lanes), packed_size = (depth + 1) * padded;
  A* packed = static_cast<A*>(scratch(Scratch::weights, groups * packed_size * sizeof(A)));
  parallel_for(threads, groups, [&](int64_t g) {
    pack_weight<T, A>(gather, view, channels, weight + g * view.group, bias ? bias + g * channels * bias_stride : bias,
                      bias_stride, packed + g * packed_size);
  });

  // How the work is cut does not change the results: every pixel is summed in one go.
  const Pieces pieces(gather, round_up(most(1, gather.channels), lanes) * sizeof(A),
                      ceil_div(gather.pixels() * groups, 2 * threads.count));
  const Band<A> whole = Band<A>::in_blocks(gather, gather.channels, pieces.rows, pieces.columns);
  const int64_t runs_per_row = gather.w.taps * whole.blocks;
  Run* runs = static_cast<Run*>(scratch(Scratch::partial_sums, gather.h.taps * runs_per_row * sizeof(Run)));
  Run* run = runs;
  for (int64_t r = 0; r < gather.h.taps; ++r)
    for (int64_t s = 0; s < gather.w.taps; ++s)
      for (int64_t block = 0; block < whole.blocks; ++block)
        *run++ = {gather.h.offset(r) * whole.row_size() + whole.column(gather.w.offset(s)) + block * whole.block_size(),
                  least(lanes, gather.channels - block * lanes)};

  const int64_t tile_rows = rows_per_panel(pieces.columns);
  parallel_for(threads, gather.batch * pieces.per_image() * groups, [&](int64_t task) {
    const int64_t g = task % groups;
    const Piece piece(gather, pieces, task / groups);
    Band<A> band = whole;
    band.rows = gather.h.span(piece.rows);
    band.columns = gather.w.span(piece.columns);
    A* pixels = static_cast<A*>(scratch(Scratch::band, whole.size() * sizeof(A)));
    A* sums = static_cast<A*>(
        scratch(Scratch::accumulators, pieces.rows * pieces.columns * columns<A> * sizeof(A)));
    if (depth > 0)
      read_band<T, A>(band, gather, source + g * gather.channels * source_strides.c + piece.image * source_strides.n,
                      source_strides, piece.y, piece.x, pixels);
    const A* weights = packed + g * packed_size;
    const A* biases = weights + depth * padded;
    T* to = result + g * channels * result_strides.c + piece.image * result_strides.n +
            piece.y * result_strides.h + piece.x * result_strides.w;

    const Piece next(gather, pieces, least(task / groups + 1, gather.batch * pieces.per_image() - 1));
    Ahead<T> ahead(gather, next, source + g * gather.channels * source_strides.c + next.image * source_strides.n,
                   source_strides);
    const int64_t tiles = ceil_div(padded, columns<A>) * piece.rows * ceil_div(piece.columns, tile_rows);
    const int64_t share = ceil_div(ahead.lines(), tiles);
    for (int64_t first = 0; first < padded; first += columns<A>) {
      const int64_t width = least(columns<A>, padded - first);
      const auto tile_for = width == lanes ? direct_tile_for<A, 1> : direct_tile_for<A, 2>;
      for (int64_t y = 0; y < piece.rows; ++y) {
        const auto taps = gather.h.taps_inside(piece.y + y);
        const A* row_weights = weights + first * depth + taps.begin * gather.w.taps * gather.channels * width;
        for (int64_t x = 0; x < piece.columns; x += tile_rows) {
          ahead.next(share);
          tile_for(least(tile_rows, piece.columns - x))(
              runs + taps.begin * runs_per_row, runs + taps.end * runs_per_row,
              pixels + y * gather.h.step * band.row_size() + x * lanes, row_weights, biases + first,
              sums + (y * piece.columns + x) * width);
        }
      }
      for (int64_t y = 0; y < piece.rows; ++y)
        write_row<T, A>(sums + y * piece.columns * width, width, lanes, piece.columns, least(width, channels - first),
                        to + y * result_strides.h + first * result_strides.c, result_strides);
    }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
