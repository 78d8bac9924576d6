// Both derivatives of a 3×3 convolution of stride 1 in one pass: grad_output, which it costs something to put together,
// is read and taken to the points once.
//
// grad_input is a product of tiles of grad_output (winograd_product.h). The same tiles serve grad_weight when its
// roles are swapped: as a correlation of 4×4 tiles of the *input* with grad_output, it is the kernel's gradient turned
// by half a turn,
//   grad_weight = turned( Gᵀ [ Σ_tiles (A input Aᵀ) ⊙ (Bᵀ grad_output B) ] G ),
// so the input needs no halo either. Per block of tiles: grad_output to the points; grad_input, to where it goes; the
// input, to the points in the place of grad_input's products; the sums.
//
// Of an upsampled image (upsampled.h) grad_output has four phases, every second pixel of a row and column: one behind
// the other as channels of grad_input's product, each with sums of its own.
// Bound: the FMA units.
#pragma once

#include "winograd_grad_weight.h"

namespace myconv2d::MYCONV2D_ISA {

// Whether memory allows enough ranges of sums to be grad_input's tasks too.
inline bool enough_ranges(const PointSums& sums, const TileGrid& grid) {
  return 2 * sums.ranges > least(16, grid.count() * sums.phases / 256);
}

// … and every pixel of grad_output, for its bias, lies under a tile of the input.
inline bool winograd_backward_suits(const Conv2d& conv) {
  if (conv.kernel_height != 3 || conv.kernel_width != 3 || conv.groups > 1) return false;
  if (conv.dilation_h != 1 || conv.dilation_w != 1) return false;
  const TileGrid grid = tile_grid(conv.batch, conv.in_height, conv.in_width);
  const PointSums sums(F3x3{}, 1, grid, 1, conv.in_channels, Panels(conv.out_channels));
  return conv.padding_h <= 1 && conv.padding_w <= 1 && enough_ranges(sums, grid);
}

// `upsampled` is 1, or 2 where grad_output has twice the size of `input`. halo: rows or columns of grad_output before a
// tile. pack(panels) gives the weights of grad_input; finish(partial) takes the sums of grad_weight: both are null or
// not called where they are not wanted.
template <typename F, int upsampled, typename Grads, typename Images, typename Sink, typename Pack, typename Finish>
void backward_by_tiles(const TileGrid& grid, const PointSums& sums, const Threads& threads, const Grads& grad_output,
                       int64_t halo_h, int64_t halo_w, const Images& input, const Sink* grad_input, const Pack& pack,
                       bool with_weight, bool with_bias, const Finish& finish) {
  constexpr int size = upsampled * tile_size, phases = upsampled * upsampled;
  const int64_t out_channels = grad_output.channels, in_channels = input.channels;
  const int64_t stride = round_up(out_channels, lanes);
  const Panels panels(grad_input ? grad_input->channels : in_channels, !channels_stand_alone<Sink>);
  float* partial =
      static_cast<float*>(scratch(Scratch::partial_sums, sums.ranges * sums.partial_size * sizeof(float)));
  const float* weights = grad_input ? pack(panels) : nullptr;
  const int64_t rows = even_rows(sums.tiles, panels.whole.max_rows());
  const int64_t range_blocks = ceil_div(sums.range_tiles, sums.tiles);
  if (grad_input) begin_tasks(*grad_input, sums.ranges * range_blocks);
  parallel_for(threads, sums.ranges, [&](int64_t range) {
    float* my_sums = partial + range * sums.partial_size;
    const TilesAtPoints at_grads(Scratch::panel, F::points, round_up(sums.tiles, rows), phases * stride);
    const int64_t output_step = at_grads.tiles * panels.whole.width() + off_the_set;
    float* either = static_cast<float*>(  // grad_input's products, then the input at the points
        scratch(Scratch::accumulators, F::points * most(output_step, sums.row_step()) * sizeof(float)));
    const int64_t halo = F3x3::taps - 1, most_channels = round_up(most(in_channels, out_channels), lanes);
    float* band = static_cast<float*>(
        scratch(Scratch::band, (size + halo) * (sums.tiles * size + halo) * most_channels * sizeof(float)));

    const int64_t range_begin = range * sums.range_tiles, range_end = sums.range_end(range, grid);
    sums.clear(my_sums, range_begin >= range_end);
    for (int64_t begin = range_begin, block = range * range_blocks; begin < range_end; begin += sums.tiles, ++block) {
      const int64_t end = least(begin + sums.tiles, range_end);
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        const Window under = run.window(size + halo, halo_h, halo_w, size);
        const int64_t row = under.columns * stride;
        read_pixels(grad_output, under, band, stride);
        for (int phase = 0; phase < phases; ++phase) {  // the later one of two begins a pixel before
          const int y = upsampled - 1 - phase / upsampled, x = upsampled - 1 - phase % upsampled;
          const auto to = [&](int64_t t, int64_t k) __attribute__((always_inline)) {
            return at_grads.at(first + t, phase * stride + k);
          };
          transform_tiles<InputToPoints<F>>(band + y * row + x * stride, upsampled * row, upsampled * stride,
                                            out_channels, run.count, to, at_grads.step);
        }
        if (with_bias)
          add_pixels(band + halo_h * row + halo_w * stride, row, stride, size, run.count * size, out_channels,
                     sums.bias_sums(my_sums));
      });
      if (grad_input)
        write_tiles<TilesOf<F>, float>({}, grid, begin, end, at_grads, phases, out_channels, rows, weights, panels, nullptr,
                                       0, either, band, for_task(*grad_input, block));
      if (!with_weight) continue;
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        const auto to = [&](int64_t t, int64_t c) __attribute__((always_inline)) {
          return either + (first + t) * sums.padded + c;
        };
        read_tiles<OutputToPoints<F>>(input, run.pixels(), run.count, band, to, sums.row_step());
      });
      sums.add(end - begin, either, at_grads, my_sums, begin > range_begin);
    }
  });
  if (with_weight) finish(partial);
}

// grad_input, which has the size of `input`, and grad_weight are null where they are not wanted.
template <typename Grads, typename Images, typename W, typename Sink>
void winograd_backward(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const Images& input,
                       const W* weight, const Strides& strides, const Sink* grad_input, W* grad_weight,
                       const Strides& grad_strides, W* grad_bias) {
  const KernelBlocks blocks(3, 3);
  const TileGrid grid = tile_grid(conv.batch, conv.in_height, conv.in_width);
  const PointSums sums(F3x3{}, 1, grid, 1, conv.in_channels, Panels(conv.out_channels));
  const auto pack = [&](const Panels& panels) {
    const int64_t size = F3x3::points * conv.out_channels * panels.padded();
    float* packed = static_cast<float*>(scratch(Scratch::weights, size * sizeof(float)));
    const WeightView turned{strides.n, strides.c, -strides.h, -strides.w, 0};  // by half a turn, from the last tap
    transform_weights<F3x3>(threads, blocks, weight + 2 * strides.h + 2 * strides.w, turned, conv.out_channels, panels, packed);
    return packed;
  };
  const auto finish = [&](float* partial) {
    finish_grad_weight<F3x3>(threads, sums, 1, blocks, partial, grad_weight + 2 * grad_strides.h + 2 * grad_strides.w,
                       Strides{grad_strides.n, grad_strides.c, -grad_strides.h, -grad_strides.w}, grad_bias);
  };
  backward_by_tiles<F3x3, 1>(grid, sums, threads, grad_output, 2 - conv.padding_h, 2 - conv.padding_w, input, grad_input,
                             pack, grad_weight, grad_bias, finish);
}

}  // namespace myconv2d::MYCONV2D_ISA
