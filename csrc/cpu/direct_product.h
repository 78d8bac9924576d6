// Forward and grad_input by direct convolution:
//   result[pixel, k] = bias[k] + Σ_(tap, c) source[pixel, tap, c] · weight[tap, c, k]
//
// A task is a piece of one image's grid. It reads its band of the source once; a register tile then holds some
// neighbouring pixels × two vectors of channels k and walks over all taps and channels: at every step it broadcasts
// the pixels' values straight from the band and multiplies them with two vectors of packed weights. There is no im2col
// and no partial sum in memory. Taps that lie outside the image above or below are left out.
// Bound: the FMA units; weights stream from L2. Few taps and channels are bound by memory: their results, if large, are
// stored past the caches.
#pragma once

#include "band.h"
#include "gemm.h"
#include "parallel.h"
#include "scratch.h"
#include "stream.h"

namespace myconv2d::MYCONV2D_ISA {

struct Run {  // channels that lie side by side in the source under one tap, or under a row of taps
  int64_t offset, length;
};

// sums[rows pixels][vectors] = bias + Σ_runs Σ_d source[run + d, pixel] · weights[run, d]
// Pixels are `pixel_step` apart: `constant_step` where that is compiled in.
template <typename A, int rows, int vectors, int constant_step>
void direct_tile(const Run* run, const Run* end, const A* source, int64_t pixel_step, const A* weights, const A* bias,
                 A* sums, int64_t sums_step, bool stream) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes, threes = (rows + 2) / 3;
  const int64_t step = constant_step ? constant_step : pixel_step;
  V sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) sum[i][v] = reinterpret_cast<const V*>(bias)[v];
  for (; run != end; ++run) {
    const A* a[threes];
    a[0] = source + run->offset;
#pragma GCC unroll 4
    for (int j = 1; j < threes; ++j) a[j] = a[0] + 3 * j * step;
    for (const A* last = a[0] + run->length; a[0] != last; weights += vectors * lanes) {
      V b[vectors];
      for (int v = 0; v < vectors; ++v) b[v] = reinterpret_cast<const V*>(weights)[v];
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i)
        for (int v = 0; v < vectors; ++v) sum[i][v] += a[i / 3][i % 3 * step] * b[v];
#pragma GCC unroll 4
      for (int j = 0; j < threes; ++j) ++a[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) {
      A* to = sums + i * sums_step + v * lanes;
      if (stream) stream_vector<A>(to, sum[i][v]);
      else store_vector<A, A>(to, sum[i][v]);
    }
}

template <typename A>
using DirectTile = void (*)(const Run*, const Run*, const A*, int64_t, const A*, const A*, A*, int64_t, bool);

template <typename A, int vectors, int constant_step>
DirectTile<A> direct_tile_for(int64_t rows) {
  return [&]<int... row>(std::integer_sequence<int, row...>) {
    static constexpr DirectTile<A> table[] = {direct_tile<A, row + 1, vectors, constant_step>...};
    return table[rows - 1];
  }(std::make_integer_sequence<int, max_rows>());
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

// Where a product leaves a row of its pixels: a tensor whose pixel (0, 0) is `data`, with strides from one step of the
// grid to the next.
template <typename T>
struct Grid {
  T* data;
  Strides strides;
  static constexpr bool whole_pixels = false;  // it takes two vectors of channels at a time

  T* at(const Piece& piece, int64_t y, int64_t channel) const {
    return data + channel * strides.c + piece.image * strides.n + (piece.y + y) * strides.h + piece.x * strides.w;
  }
  template <typename A>
  void take(const A* sums, int64_t sums_step, const Piece& piece, int64_t y, int64_t channel, int64_t channels) const {
    write_row<T, A>(sums, sums_step, Vector<A>::lanes, piece.columns, channels, at(piece, y, channel), strides);
  }
};

// How tiles see the source. Where every tap lies in the image and channels are innermost that is the image itself;
// otherwise it is a band, of pixels side by side where channels are few and in blocks of one vector where they are not.
template <typename T, typename A>
struct Reading {
  static constexpr int64_t lanes = Vector<A>::lanes;
  bool in_place, dense;
  Band<A> band;
  int64_t row_step, pixel_step;  // of the source; from one pixel of the grid to the next

  Reading(const Gather& gather, const Strides& s, int64_t grid_rows, int64_t grid_columns)
      : in_place(sizeof(T) == sizeof(A) && s.c == 1 && gather.h.stays_inside() && gather.w.stays_inside()),
        dense(gather.channels < lanes),
        band(dense ? Band<A>::dense(gather, gather.channels, grid_rows, grid_columns)
                   : Band<A>::in_blocks(gather, gather.channels, grid_rows, grid_columns)),
        row_step(in_place ? s.h : band.row_size()),
        pixel_step(in_place ? gather.w.step * s.w : dense ? gather.w.step * gather.channels : lanes),
        column_step(s.w) {}

  int64_t column(int64_t x) const { return in_place ? x * column_step : band.column(x); }
  bool constant_step() const { return !in_place && !dense; }
  int64_t blocks() const { return in_place ? 1 : band.blocks; }
  // Where the taps of a row follow each other they make one run.
  int64_t runs_per_row(const Gather& gather) const {
    const bool joined = gather.w.spacing == 1 && column(1) == gather.channels && !constant_step();
    return joined ? least(1, gather.w.taps) : gather.w.taps * blocks();
  }
  void list_runs(const Gather& gather, Run* run) const {
    const int64_t per_row = runs_per_row(gather), block_step = constant_step() ? lanes : gather.channels;
    const int64_t length = per_row < gather.w.taps ? gather.w.taps * gather.channels : gather.channels;
    for (int64_t r = 0; r < gather.h.taps; ++r)
      for (int64_t i = 0; i < per_row; ++i) {
        const int64_t tap = i / blocks(), block = i % blocks();
        *run++ = {gather.h.offset(r) * row_step + column(gather.w.offset(tap)) + block * band.block_size(),
                  constant_step() ? least(lanes, gather.channels - block * block_step) : length};
      }
  }

 private:
  int64_t column_step;
};

template <typename T, typename A = typename Accumulator<T>::type, typename Result = Grid<T>>
void direct_product(Gather gather, int64_t groups, int64_t channels, const Threads& threads, const T* source,
                    Strides source_strides, const T* weight, const WeightView& view, const T* bias,
                    int64_t bias_stride, Result result) {
  if (gather.pixels() == 0 || channels == 0) return;
  if constexpr (!Result::whole_pixels) source += simplify(gather, source_strides, result.strides);
  constexpr int64_t lanes = Vector<A>::lanes;
  const int64_t depth = gather.depth(), padded = round_up(channels, lanes), packed_size = (depth + 1) * padded;
  A* packed = static_cast<A*>(scratch(Scratch::weights, groups * packed_size * sizeof(A)));
  parallel_for(threads, groups, [&](int64_t g) {
    pack_weight<T, A>(gather, view, channels, weight + g * view.group, bias ? bias + g * channels * bias_stride : bias,
                      bias_stride, packed + g * packed_size);
  });

  // How the work is cut does not change the results: every pixel is summed in one go.
  const int64_t band_channels = gather.channels < lanes ? gather.channels : round_up(gather.channels, lanes);
  const Pieces pieces(gather, most(1, band_channels) * sizeof(A), ceil_div(gather.pixels() * groups, 2 * threads.count));
  const Reading<T, A> reading(gather, source_strides, pieces.rows, pieces.columns);
  const int64_t runs_per_row = reading.runs_per_row(gather);
  Run* runs = static_cast<Run*>(scratch(Scratch::partial_sums, gather.h.taps * runs_per_row * sizeof(Run)));
  reading.list_runs(gather, runs);

  bool stream = false;  // past the caches, where results go straight to where they belong
  if constexpr (!Result::whole_pixels)
    stream = (groups == 1 || channels % lanes == 0) &&  // every group begins where a vector may
             streams(gather.batch * gather.h.source * gather.w.source * gather.channels * groups,
                     gather.pixels() * channels * groups, result.data, result.strides);
  const int64_t tile_rows = rows_per_panel(pieces.columns);
  parallel_for(threads, gather.batch * pieces.per_image() * groups, [&](int64_t task) {
    const int64_t g = task % groups;
    const Piece piece(gather, pieces, task / groups);
    const T* image = source + g * gather.channels * source_strides.c + piece.image * source_strides.n;
    const A* pixels;
    if (reading.in_place) {
      pixels = reinterpret_cast<const A*>(image) +
               (piece.y * gather.h.step + gather.h.lowest()) * source_strides.h +
               (piece.x * gather.w.step + gather.w.lowest()) * source_strides.w;
    } else {
      Band<A> band = reading.band;
      band.rows = gather.h.span(piece.rows);
      band.columns = gather.w.span(piece.columns);
      A* copy = static_cast<A*>(scratch(Scratch::band, reading.band.size() * sizeof(A)));
      if (depth > 0) read_band<T, A>(band, gather, image, source_strides, piece.y, piece.x, copy);
      pixels = copy;
    }
    const int64_t sums_width = Result::whole_pixels ? padded : columns<A>;
    A* sums = static_cast<A*>(
        scratch(Scratch::accumulators, pieces.rows * pieces.columns * sums_width * sizeof(A)));
    const A* weights = packed + g * packed_size;
    const A* biases = weights + depth * padded;

    const Piece next(gather, pieces, least(task / groups + 1, gather.batch * pieces.per_image() - 1));
    Ahead<T> ahead(gather, next, source + g * gather.channels * source_strides.c + next.image * source_strides.n,
                   source_strides);
    const int64_t tiles = ceil_div(padded, columns<A>) * piece.rows * ceil_div(piece.columns, tile_rows);
    const int64_t share = ceil_div(ahead.lines(), tiles);
    for (int64_t first = 0; first < padded; first += columns<A>) {
      const int64_t width = least(columns<A>, padded - first), real = least(width, channels - first);
      const auto tile_for = width == lanes ? reading.constant_step() ? direct_tile_for<A, 1, lanes>
                                                                     : direct_tile_for<A, 1, 0>
                                           : reading.constant_step() ? direct_tile_for<A, 2, lanes>
                                                                     : direct_tile_for<A, 2, 0>;
      for (int64_t y = 0; y < piece.rows; ++y) {
        const auto taps = gather.h.taps_inside(piece.y + y);
        const A* row_weights = weights + first * depth + taps.begin * gather.w.taps * gather.channels * width;
        A* to = sums + y * piece.columns * sums_width + (Result::whole_pixels ? first : 0);
        int64_t to_step = sums_width;
        bool direct = false;  // straight to where the results belong
        if constexpr (!Result::whole_pixels && sizeof(T) == sizeof(A))
          if (result.strides.c == 1 && real == width) {
            direct = true;
            to = reinterpret_cast<A*>(result.at(piece, y, g * channels + first));
            to_step = result.strides.w;
          }
        for (int64_t x = 0; x < piece.columns; x += tile_rows) {
          ahead.next(share);
          tile_for(least(tile_rows, piece.columns - x))(
              runs + taps.begin * runs_per_row, runs + taps.end * runs_per_row,
              pixels + y * gather.h.step * reading.row_step + x * reading.pixel_step, reading.pixel_step, row_weights,
              biases + first, to + x * to_step, to_step, direct && stream);
        }
        if (!Result::whole_pixels && !direct) result.template take<A>(to, to_step, piece, y, g * channels + first, real);
      }
    }
    if (stream) end_of_stream();
    if constexpr (Result::whole_pixels)
      for (int64_t y = 0; y < piece.rows; ++y)
        result.template take<A>(sums + y * piece.columns * sums_width, sums_width, piece, y, g, channels);
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
