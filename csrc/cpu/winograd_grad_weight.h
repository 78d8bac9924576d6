// grad_weight and grad_bias of a 3×3 convolution of stride 1 by Winograd F(4×4, 3×3), summed at the 36 points:
//   Gᵀ [ Σ_tiles (A grad_output Aᵀ) ⊙ (Bᵀ input B) ] G.
//
// Ranges of tiles, as many as the shape says, each sum into a partial result of their own; these are added in order
// before the one inverse transform. The bias gradient is summed apart, from the untransformed grad_output.
// Bound: the FMA units; per block of tiles the partial result passes through the cache once.
#pragma once

#include "winograd_product.h"

namespace myconv2d::MYCONV2D_ISA {

struct ReductionBlocking {
  int64_t in_padded;
  int64_t rows;           // in channels of a register tile
  int64_t sums_step;      // sums[point][panel][in channel][out channel of the panel]
  int64_t partial_size;   // … and then the sums of the bias
  int64_t ranges, tiles;  // ranges of tiles, and tiles of one product: its depth

  ReductionBlocking(const TileGrid& grid, int64_t groups, int64_t in_channels, const Panels& panels) {
    in_padded = round_up(in_channels, lanes);
    rows = even_rows(in_channels, panels.whole.max_rows());
    sums_step = in_channels * panels.padded() + off_the_set;
    partial_size = round_up(points * sums_step + panels.padded(), lanes);
    const int64_t affordable = (int64_t{16} << 20) / (groups * partial_size);
    ranges = most(1, least(affordable, least(16, most(2, grid.count() / 256))));
    const int64_t fitting = (640 << 10) / (points * sizeof(float) * (in_padded + panels.padded()));
    tiles = most(16, least(fitting, 96));
  }
  int64_t range_tiles(const TileGrid& grid) const { return ceil_div(grid.count(), ranges); }
};

template <typename Grads, typename Images, typename W>
void winograd_grad_weight(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const Images& input,
                          W* grad_weight, const Strides& weight_strides, W* grad_bias) {
  const KernelBlocks blocks(conv.kernel_height, conv.kernel_width);
  const int64_t in_channels = blocks.count() * input.channels, out_channels = grad_output.channels;
  const TileGrid grid = tile_grid(conv.batch, grad_output.height, grad_output.width);
  const Panels panels(out_channels);
  const ReductionBlocking blocking(grid, conv.groups, in_channels, panels);
  const int64_t ranges = blocking.ranges, sums_step = blocking.sums_step, partial_size = blocking.partial_size;
  float* partial =
      static_cast<float*>(scratch(Scratch::partial_sums, conv.groups * ranges * partial_size * sizeof(float)));

  parallel_for(threads, conv.groups * ranges, [&](int64_t task) {
    const int64_t g = task / ranges, range = task % ranges;
    float* sums = partial + task * partial_size;
    float* bias_sums = sums + points * sums_step;
    const Grads grads = of_group(grad_output, g);
    const Images images = of_group(input, g);
    const int64_t in_padded = blocking.in_padded, out_padded = panels.padded();
    const int64_t input_step = blocking.tiles * in_padded + off_the_set;
    const int64_t grads_step = blocking.tiles * out_padded + off_the_set;
    float* at_input = static_cast<float*>(scratch(Scratch::panel, points * input_step * sizeof(float)));
    float* at_grads = static_cast<float*>(scratch(Scratch::accumulators, points * grads_step * sizeof(float)));
    const int64_t band_channels = round_up(input.channels, lanes);
    const int64_t band_columns = blocking.tiles * tile_size + tile_reach - tile_size;
    float* band = static_cast<float*>(
        scratch(Scratch::band, tile_reach * band_columns * most(band_channels, out_padded) * sizeof(float)));
    std::memset(bias_sums, 0, out_padded * sizeof(float));

    const int64_t range_begin = range * blocking.range_tiles(grid);
    const int64_t range_end = least(range_begin + blocking.range_tiles(grid), grid.count());
    if (range_begin >= range_end) std::memset(sums, 0, points * sums_step * sizeof(float));
    for (int64_t begin = range_begin; begin < range_end; begin += blocking.tiles) {
      const int64_t end = least(begin + blocking.tiles, range_end);
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        for (int64_t block = 0; block < blocks.count(); ++block) {
          Window under = run.window(tile_reach, conv.padding_h, conv.padding_w);
          under.y += blocks.y(block), under.x += blocks.x(block);
          read_pixels(images, under, band, band_channels);
          for_each_vector(input.channels, [&]<typename V>(int64_t c) {
            for (int64_t t = 0; t < run.count; ++t) {
              const float* window = band + t * tile_size * band_channels + c;
              const auto pixel = [&](int i, int j) __attribute__((always_inline)) {
                return get<V>(window + (i * under.columns + j) * band_channels);
              };
              float* to = at_input + (first + t) * in_padded + block * band_channels + c;
              transform<InputToPoints, V>(pixel, AtPoints<V>{to, input_step});
            }
          });
        }
        const Window of_output = run.window(tile_size, 0, 0);
        read_pixels(grads, of_output, band, out_padded);
        for_each_vector(out_channels, [&]<typename V>(int64_t k) {
          const int64_t panel = k / panels.whole.width(), width = panels.at(panel).width();
          float* to = at_grads + panels.first_channel(panel) * blocking.tiles + k - panels.first_channel(panel);
          V bias_sum{};
          for (int64_t t = 0; t < run.count; ++t) {
            const float* window = band + t * tile_size * out_padded + k;
            const auto pixel = [&](int i, int j) __attribute__((always_inline)) {
              return get<V>(window + (i * of_output.columns + j) * out_padded);
            };
            transform<OutputToPoints, V>(pixel, AtPoints<V>{to + (first + t) * width, grads_step});
            if (grad_bias)
              for (int i = 0; i < tile_size; ++i)
                for (int j = 0; j < tile_size; ++j) bias_sum += pixel(i, j);
          }
          put(bias_sums + k, get<V>(bias_sums + k) + bias_sum);
        });
      });

      for (int64_t point = 0; point < points; ++point)
        for (int64_t panel = 0; panel < panels.count; ++panel) {
          const int64_t width = panels.at(panel).width(), first_channel = panels.first_channel(panel);
          for (int64_t c = 0; c < in_channels; c += blocking.rows)
            multiply_panel_for<Depth::outermost>(least(blocking.rows, in_channels - c), panels.at(panel))(
                end - begin, at_input + point * input_step + c, in_padded,
                at_grads + point * grads_step + first_channel * blocking.tiles,
                sums + point * sums_step + first_channel * in_channels + c * width, width, begin > range_begin);
        }
    }
  });

  parallel_for(threads, conv.groups * in_channels, [&](int64_t task) {
    const int64_t g = task / in_channels, c = task % in_channels;
    const int64_t block = c / input.channels, y = blocks.y(block), x = blocks.x(block);
    const float* from = partial + g * ranges * partial_size;
    for_each_vector(out_channels, [&]<typename V>(int64_t k) {
      const int64_t panel = k / panels.whole.width(), first_channel = panels.first_channel(panel);
      const int64_t at = first_channel * in_channels + c * panels.at(panel).width() + k - first_channel;
      W* to = grad_weight + (g * out_channels + k) * weight_strides.n + c % input.channels * weight_strides.c +
              y * weight_strides.h + x * weight_strides.w;
      const auto total = [&](int i, int j) {
        V sum{};
        for (int64_t range = 0; range < ranges; ++range)
          sum += get<V>(from + range * partial_size + (i * 6 + j) * sums_step + at);
        return sum;
      };
      V g3[3][3];
      V at_points[6][6];
      for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j) at_points[i][j] = total(i, j);
      transform<PointsToKernel, V>([&](int i, int j) { return at_points[i][j]; },
                                   [&](int r, int s, V value) { g3[r][s] = value; });
      const int64_t count = least(sizeof(V) / sizeof(float), out_channels - k);
      for (int r = 0; r < least(3, conv.kernel_height - y); ++r)
        for (int s = 0; s < least(3, conv.kernel_width - x); ++s)
          for (int64_t i = 0; i < count; ++i)
            to[i * weight_strides.n + r * weight_strides.h + s * weight_strides.w] = narrow<W, float>(g3[r][s][i]);
    });
    if (grad_bias && c == 0)
      for (int64_t k = 0; k < out_channels; ++k) {
        double sum = 0;
        for (int64_t range = 0; range < ranges; ++range) sum += from[range * partial_size + points * sums_step + k];
        grad_bias[g * out_channels + k] = narrow<W, float>(static_cast<float>(sum));
      }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
