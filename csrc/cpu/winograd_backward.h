// Both derivatives of a 3×3 convolution of stride 1 in one pass: grad_output, which it costs something to put together,
// is read and taken to the 36 points once.
//
// grad_input is a product of 6×6 tiles of grad_output (winograd_product.h). The same tiles serve grad_weight when its
// roles are swapped: as a correlation of 4×4 tiles of the *input* with grad_output, it is the kernel's gradient turned
// by half a turn,
//   grad_weight = turned( Gᵀ [ Σ_tiles (A input Aᵀ) ⊙ (Bᵀ grad_output B) ] G ),
// so the input needs no halo either. Per block of tiles: grad_output to the points; grad_input, to where it goes; the
// input, to the points in the place of grad_input's products; the sums.
// Bound: the FMA units.
#pragma once

#include "winograd_grad_weight.h"

namespace myconv2d::MYCONV2D_ISA {

// Whether memory allows enough ranges of sums to be grad_input's tasks too, and every pixel of grad_output, for its
// bias, lies under a tile of the input.
inline bool winograd_backward_suits(const Conv2d& conv) {
  if (conv.kernel_height != 3 || conv.kernel_width != 3 || conv.groups > 1) return false;
  const TileGrid grid = tile_grid(conv.batch, conv.in_height, conv.in_width);
  const PointSums sums(grid, 1, conv.in_channels, Panels(conv.out_channels));
  return conv.padding_h <= 1 && conv.padding_w <= 1 && sums.ranges >= least(16, grid.count() / 256);
}

// grad_input, which has the size of `input`, and grad_weight are null where they are not wanted.
template <typename Grads, typename Images, typename W, typename Sink>
void winograd_backward(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const Images& input,
                       const W* weight, const Strides& strides, const Sink* grad_input, W* grad_weight,
                       const Strides& grad_strides, W* grad_bias) {
  const KernelBlocks blocks(3, 3);
  const int64_t in_channels = conv.in_channels, out_channels = conv.out_channels;
  const int64_t halo_h = 2 - conv.padding_h, halo_w = 2 - conv.padding_w;
  const TileGrid grid = tile_grid(conv.batch, conv.in_height, conv.in_width);
  const Panels panels(in_channels);
  const PointSums sums(grid, 1, in_channels, Panels(out_channels));
  float* partial =
      static_cast<float*>(scratch(Scratch::partial_sums, sums.ranges * sums.partial_size * sizeof(float)));
  float* weights = nullptr;
  if (grad_input) {
    const int64_t size = points * out_channels * panels.padded();
    weights = static_cast<float*>(scratch(Scratch::weights, size * sizeof(float)));
    const WeightView turned{strides.n, strides.c, -strides.h, -strides.w, 0};  // by half a turn, from the last tap
    transform_weights(threads, blocks, weight + 2 * strides.h + 2 * strides.w, turned, out_channels, panels, weights);
  }
  const int64_t rows = even_rows(sums.tiles, panels.whole.max_rows());
  const int64_t range_blocks = ceil_div(sums.range_tiles, sums.tiles);
  if (grad_input) begin_tasks(*grad_input, sums.ranges * range_blocks);
  parallel_for(threads, sums.ranges, [&](int64_t range) {
    float* my_sums = partial + range * sums.partial_size;
    const TilesAtPoints at_grads(Scratch::panel, round_up(sums.tiles, rows), out_channels);
    const int64_t output_step = at_grads.tiles * panels.whole.width() + off_the_set;
    float* either = static_cast<float*>(  // grad_input's products, then the input at the points
        scratch(Scratch::accumulators, points * most(output_step, sums.row_step()) * sizeof(float)));
    float* band = static_cast<float*>(
        scratch(Scratch::band, band_size(sums.tiles, most(in_channels, out_channels)) * sizeof(float)));

    const int64_t range_begin = range * sums.range_tiles, range_end = sums.range_end(range, grid);
    sums.clear(my_sums, range_begin >= range_end);
    for (int64_t begin = range_begin, block = range * range_blocks; begin < range_end; begin += sums.tiles, ++block) {
      const int64_t end = least(begin + sums.tiles, range_end);
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        const Window under = run.window(tile_reach, halo_h, halo_w);
        const auto to = [&](int64_t t, int64_t k) __attribute__((always_inline)) {
          return at_grads.at(first + t, k);
        };
        read_tiles<InputToPoints>(grad_output, under, run.count, band, to, at_grads.step);
        const int64_t stride = round_up(out_channels, lanes), row = under.columns * stride;
        if (grad_bias)
          add_pixels(band + halo_h * row + halo_w * stride, row, stride, tile_size, run.count * tile_size,
                     out_channels, sums.bias_sums(my_sums));
      });
      if (grad_input)
        write_tiles<W>(grid, begin, end, at_grads, out_channels, rows, weights, panels, nullptr, 0, either, band,
                       for_task(*grad_input, block));
      if (!grad_weight) continue;
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        const auto to = [&](int64_t t, int64_t c) __attribute__((always_inline)) {
          return either + (first + t) * sums.padded + c;
        };
        read_tiles<OutputToPoints>(input, run.window(tile_size, 0, 0), run.count, band, to, sums.row_step());
      });
      sums.add(end - begin, either, at_grads, my_sums, begin > range_begin);
    }
  });
  if (!grad_weight) return;
  finish_grad_weight(threads, sums, 1, blocks, partial, grad_weight + 2 * grad_strides.h + 2 * grad_strides.w,
                     Strides{grad_strides.n, grad_strides.c, -grad_strides.h, -grad_strides.w}, grad_bias);
}

}  // namespace myconv2d::MYCONV2D_ISA
