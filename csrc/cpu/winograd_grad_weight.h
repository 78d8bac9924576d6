// grad_weight and grad_bias of a 3×3 convolution of stride 1 by Winograd F(4×4, 3×3), summed at the 36 points:
//   Gᵀ [ Σ_tiles (A grad_output Aᵀ) ⊙ (Bᵀ input B) ] G.
//
// Ranges of tiles, as many as the shape says, each sum into a partial result of their own; these are added in order
// before the one inverse transform. The bias gradient is summed apart, from the untransformed grad_output.
// Bound: the FMA units; per block of tiles the partial result passes through the cache once.
#pragma once

#include "winograd_product.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t reduction_tiles = 48;  // the depth of one product

template <typename T>
void winograd_grad_weight(const Conv2d& conv, const Threads& threads, const Planes<const T>& grad_output,
                          const Planes<const T>& input, T* grad_weight, const Strides& weight_strides,
                          T* grad_bias) {
  const KernelBlocks blocks({conv.batch, conv.groups, conv.kernel_height, conv.kernel_width, 0, 0});
  const int64_t in_channels = blocks.count() * input.channels, out_channels = grad_output.channels;
  const TileGrid grid = tile_grid(conv.batch, grad_output.height, grad_output.width);
  const int64_t in_padded = round_up(in_channels, lanes), panels = ceil_div(out_channels, columns<float>);
  const int64_t rows = rows_per_panel(in_channels), row_panels = ceil_div(in_channels, rows);
  const int64_t out_padded = panels * columns<float>;
  const int64_t sums_step = row_panels * rows * out_padded + lanes;  // sums[point][in channel][out channel]
  const int64_t partial_size = points * sums_step + out_padded;
  const int64_t affordable = (int64_t{16} << 20) / (conv.groups * partial_size);
  const int64_t ranges = most(1, least(affordable, least(16, most(2, grid.count() / 256))));
  const int64_t range_tiles = ceil_div(grid.count(), ranges);
  float* partial =
      static_cast<float*>(scratch(Scratch::partial_sums, conv.groups * ranges * partial_size * sizeof(float)));

  parallel_for(threads, conv.groups * ranges, [&](int64_t task) {
    const int64_t g = task / ranges, range = task % ranges;
    float* sums = partial + task * partial_size;
    float* bias_sums = sums + points * sums_step;
    std::memset(sums, 0, partial_size * sizeof(float));
    const Planes<const T> grads = of_group(grad_output, g), images = of_group(input, g);
    const int64_t input_step = reduction_tiles * in_padded + lanes, grads_step = reduction_tiles * out_padded + lanes;
    float* at_input = static_cast<float*>(  // the last register tile may look past the last channel
        scratch(Scratch::panel, (points * input_step + max_rows) * sizeof(float)));
    float* at_grads = static_cast<float*>(scratch(Scratch::accumulators, points * grads_step * sizeof(float)));
    const int64_t band_channels = round_up(input.channels, lanes);
    const int64_t band_columns = reduction_tiles * tile_size + tile_reach - tile_size;
    float* band = static_cast<float*>(
        scratch(Scratch::band, tile_reach * band_columns * most(band_channels, out_padded) * sizeof(float)));

    const int64_t range_end = least((range + 1) * range_tiles, grid.count());
    for (int64_t begin = range * range_tiles; begin < range_end; begin += reduction_tiles) {
      const int64_t end = least(begin + reduction_tiles, range_end);
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        for (int64_t block = 0; block < blocks.count(); ++block) {
          Window under = run.window(tile_reach, conv.padding_h, conv.padding_w);
          under.y += blocks.y(block), under.x += blocks.x(block);
          read_pixels(images, under, band, band_channels);
          for (int64_t t = 0; t < run.count; ++t)
            for (int64_t c = 0; c < band_channels; c += lanes) {
              const float* window = band + t * tile_size * band_channels + c;
              const auto pixel = [&](int i, int j) {
                return *reinterpret_cast<const Lanes*>(window + (i * under.columns + j) * band_channels);
              };
              transform(input_to_points, pixel,
                        AtPoints{at_input + (first + t) * in_padded + block * band_channels + c, input_step});
            }
        }
        const Window of_output = run.window(tile_size, 0, 0);
        read_pixels(grads, of_output, band, out_padded);
        for (int64_t k = 0; k < out_padded; k += lanes) {
          Lanes bias_sum{};
          for (int64_t t = 0; t < run.count; ++t) {
            const float* window = band + t * tile_size * out_padded + k;
            const auto pixel = [&](int i, int j) {
              const Lanes value = *reinterpret_cast<const Lanes*>(window + (i * of_output.columns + j) * out_padded);
              bias_sum += value;
              return value;
            };
            transform(output_to_points, pixel,
                      AtPoints{at_grads + k / columns<float> * reduction_tiles * columns<float> +
                                   (first + t) * columns<float> + k % columns<float>,
                               grads_step});
          }
          *reinterpret_cast<Lanes*>(bias_sums + k) += bias_sum;
        }
      });

      const MultiplyTile<float> multiply = multiply_tile_for<float>(rows);
      for (int64_t point = 0; point < points; ++point)
        for (int64_t panel = 0; panel < panels; ++panel)
          for (int64_t i = 0; i < row_panels; ++i)
            multiply(end - begin, {at_input + point * input_step + i * rows, in_padded, end - begin, 0},
                     at_grads + point * grads_step + panel * reduction_tiles * columns<float>,
                     sums + point * sums_step + i * rows * out_padded + panel * columns<float>, out_padded, true);
    }
  });

  parallel_for(threads, conv.groups * in_channels, [&](int64_t task) {
    const int64_t g = task / in_channels, c = task % in_channels;
    const int64_t block = c / input.channels, y = blocks.y(block), x = blocks.x(block);
    const float* from = partial + g * ranges * partial_size;
    for (int64_t k = 0; k < out_channels; k += lanes) {
      T* to = grad_weight + (g * out_channels + k) * weight_strides.n +
              c % input.channels * weight_strides.c + y * weight_strides.h + x * weight_strides.w;
      const auto total = [&](int i, int j) {
        Lanes sum{};
        for (int64_t range = 0; range < ranges; ++range)
          sum += *reinterpret_cast<const Lanes*>(from + range * partial_size + (i * 6 + j) * sums_step +
                                                 c * out_padded + k);
        return sum;
      };
      transform(points_to_kernel, total, [&](int r, int s, Lanes value) {
        if (y + r >= conv.kernel_height || x + s >= conv.kernel_width) return;
        for (int64_t i = 0; i < least(lanes, out_channels - k); ++i)
          to[i * weight_strides.n + r * weight_strides.h + s * weight_strides.w] = narrow<T, float>(value[i]);
      });
    }
    if (grad_bias && c == 0)
      for (int64_t k = 0; k < out_channels; ++k) {
        float sum = 0;
        for (int64_t range = 0; range < ranges; ++range) sum += from[range * partial_size + points * sums_step + k];
        grad_bias[g * out_channels + k] = narrow<T, float>(sum);
      }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
