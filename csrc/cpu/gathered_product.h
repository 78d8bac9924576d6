// Forward and grad_input: one implicit GEMM, result[pixel, k] = Σ_(tap, c) source[pixel, tap, c] · weight[tap, c, k].
//
// Work is cut into tiles of pixels, which run over image borders so that small images fill the vectors too. A tile
// gathers its part of the source into packed panels, multiplies them with the packed weights, and writes its results
// once, bias added, in the layout of the result: vectors run along the channels when those are innermost there
// (channels_last) and along the pixels otherwise, so neither layout is ever copied.
#pragma once

#include "gather.h"
#include "gemm.h"
#include "parallel.h"
#include "scratch.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename A>
struct Blocking {
  bool along_channels;  // vectors run along the resulting channels
  int64_t rows;         // of the register tile; the other axis is columns<A> wide
  int64_t tile_pixels, depth, channels_padded;

  Blocking(const Gather& gather, int64_t channels, bool channels_innermost, int64_t threads) {
    const int64_t padded = round_up(channels, columns<A>);
    along_channels = channels_innermost && 10 * channels >= 7 * padded;
    depth = ceil_div(gather.depth(), ceil_div(most(gather.depth(), 1), max_depth));
    rows = along_channels ? max_rows : rows_per_panel(channels);
    const int64_t unit = along_channels ? max_rows : columns<A>;
    const int64_t fair = ceil_div(gather.pixels(), 2 * threads);  // small work is still shared out
    tile_pixels = most(unit, least(max_tile_pixels / 4, round_up(fair, unit)) / unit * unit);
    channels_padded = along_channels ? padded : round_up(channels, rows);
  }
  int64_t weight_panel() const { return along_channels ? columns<A> : rows; }
  int64_t pixel_panel() const { return along_channels ? rows : columns<A>; }
};

// All of a group's weights, chunk after chunk of the depth, in panels of `weight_panel` channels.
template <typename T, typename A>
void pack_weight(const Gather& gather, const WeightView& view, const Blocking<A>& blocking, int64_t channels,
                 const T* weight, A* packed) {
  const int64_t width = blocking.weight_panel(), depth = gather.depth();
  for (int64_t begin = 0; begin < depth; begin += blocking.depth) {
    const int64_t end = least(begin + blocking.depth, depth);
    for (int64_t first = 0; first < blocking.channels_padded; first += width)
      for (int64_t d = begin; d < end; ++d) {
        const int64_t tap = d / gather.channels, c = d % gather.channels;
        const int64_t r = gather.h.first_tap + tap / gather.w.taps * gather.h.tap_spacing;
        const int64_t s = gather.w.first_tap + tap % gather.w.taps * gather.w.tap_spacing;
        const T* from = weight + r * view.r + s * view.s + c * view.c + first * view.k;
        for (int64_t i = 0; i < width; ++i)
          *packed++ = first + i < channels ? load<A>(from[i * view.k]) : A(0);
      }
  }
}

template <typename T, typename A>
void write_tile(const Blocking<A>& blocking, const PixelTile& tile, const A* sums, int64_t sums_stride,
                int64_t channels, const T* bias, int64_t bias_stride, T* result, int64_t channel_stride) {
  if (blocking.along_channels) {
    for (int64_t i = 0; i < tile.count; ++i)
      for (int64_t k = 0; k < channels; ++k) {
        const A sum = sums[i * sums_stride + k];
        result[tile.target[i] + k] = narrow<T, A>(bias ? sum + load<A>(bias[k * bias_stride]) : sum);
      }
    return;
  }
  for (int64_t k = 0; k < channels; ++k) {
    const A add = bias ? load<A>(bias[k * bias_stride]) : A(0);
    const A* row = sums + k * sums_stride;
    T* to = result + k * channel_stride;
    for (int64_t i = 0; i < tile.count;) {  // runs of consecutive pixels
      int64_t run = 1;
      while (i + run < tile.count && tile.target[i + run] == tile.target[i] + run) ++run;
      for (int64_t j = 0; j < run; ++j) to[tile.target[i] + j] = narrow<T, A>(row[i + j] + add);
      i += run;
    }
  }
}

// result: pixel (0, 0) of this gather's grid, with strides from one grid step to the next.
template <typename T, typename A = typename Accumulator<T>::type>
void gathered_product(const Gather& gather, int64_t groups, int64_t channels, const Threads& threads, const T* source,
                      const Strides& source_strides, const T* weight, const WeightView& view, const T* bias,
                      int64_t bias_stride, T* result, const Strides& result_strides) {
  const int64_t pixels = gather.pixels(), depth = gather.depth();
  if (pixels == 0 || channels == 0) return;
  const Blocking<A> blocking(gather, channels, result_strides.c == 1, threads.count);
  const int64_t packed_size = depth * blocking.channels_padded;
  A* packed = static_cast<A*>(scratch(Scratch::weights, groups * packed_size * sizeof(A)));
  parallel_for(threads, groups, [&](int64_t g) {
    pack_weight(gather, view, blocking, channels, weight + g * view.group, packed + g * packed_size);
  });

  const int64_t tiles = ceil_div(pixels, blocking.tile_pixels);
  parallel_for(threads, tiles * groups, [&](int64_t task) {
    const int64_t g = task % groups, first = task / groups * blocking.tile_pixels;
    PixelTile tile;
    tile.locate(gather, first, least(blocking.tile_pixels, pixels - first), source_strides, result_strides);
    const int64_t width = blocking.pixel_panel(), panels = ceil_div(tile.count, width);
    const int64_t sums_stride = blocking.along_channels ? blocking.channels_padded : blocking.tile_pixels;
    const int64_t sums_rows = blocking.along_channels ? blocking.tile_pixels : blocking.channels_padded;
    A* panel = static_cast<A*>(scratch(Scratch::panel, blocking.tile_pixels * blocking.depth * sizeof(A)));
    A* sums = static_cast<A*>(scratch(Scratch::accumulators, sums_rows * sums_stride * sizeof(A)));
    if (depth == 0) std::memset(sums, 0, sums_rows * sums_stride * sizeof(A));

    const A* weights = packed + g * packed_size;
    for (int64_t begin = 0; begin < depth; begin += blocking.depth) {
      const int64_t end = least(begin + blocking.depth, depth), length = end - begin;
      for (int64_t i = 0; i < panels; ++i)
        pack_pixels<T, A>(gather, tile, i * width, width, source + g * gather.channels * source_strides.c,
                          source_strides, begin, end, panel + i * width * length);
      if (blocking.along_channels)
        multiply<A>(length, panel, panels, width, weights, blocking.channels_padded / columns<A>, sums, sums_stride,
                    begin > 0);
      else
        multiply<A>(length, weights, blocking.channels_padded / blocking.rows, blocking.rows, panel, panels, sums,
                    sums_stride, begin > 0);
      weights += length * blocking.channels_padded;
    }
    write_tile<T, A>(blocking, tile, sums, sums_stride, channels, bias ? bias + g * channels * bias_stride : nullptr,
                     bias_stride, result + g * channels * result_strides.c, result_strides.c);
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
