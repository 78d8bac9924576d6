// Forward and grad_input of a 3×3 convolution of stride 1 by Winograd F(4×4, 3×3).
//
// Per task, a few dozen tiles: their input is taken to the 36 points, for each point one matrix product
// [tiles × channels] · [channels × two vectors of out channels], and the results are taken back, bias added. Transforms
// and products of a task share L2; the transformed weights stream from there too, once per task.
// Bound: the FMA units, at a quarter of the direct convolution's products; the transforms add 10–25 %.
#pragma once

#include "gemm.h"
#include "parallel.h"
#include "scratch.h"
#include "tiles.h"

namespace myconv2d::MYCONV2D_ISA {

struct WinogradBlocking {
  int64_t channels_padded, panels;  // in channels to whole vectors; out channels in panels of two vectors
  int64_t tiles, rows;              // tiles of a task, and of a register tile
  int64_t input_step() const { return round_up(tiles, rows) * channels_padded + lanes; }

  WinogradBlocking(const TileGrid& grid, int64_t in_channels, int64_t out_channels, int64_t threads) {
    channels_padded = round_up(in_channels, lanes);
    panels = ceil_div(out_channels, columns<float>);
    const int64_t fitting = (640 << 10) / (points * sizeof(float) * (channels_padded + columns<float>));
    const int64_t fair = ceil_div(grid.count(), 2 * threads);
    tiles = most(1, least(least(fitting, 96) / max_rows * max_rows, fair));
    rows = rows_per_panel(tiles);
  }
};

// packed[point][panel][in channel][two vectors of out channels]
template <typename T>
void transform_weights(const Threads& threads, const T* weight, const WeightView& view, int64_t in_channels,
                       int64_t out_channels, int64_t panels, float* packed) {
  const int64_t step = panels * in_channels * columns<float>;
  parallel_for(threads, panels * in_channels, [&](int64_t task) {
    const int64_t panel = task / in_channels, c = task % in_channels;
    for (int half = 0; half < 2; ++half) {
      const int64_t first = panel * columns<float> + half * lanes;
      const int64_t count = least(lanes, out_channels - first);
      const T* from = weight + c * view.c + first * view.k;
      const auto taps = [&](int r, int s) {
        Lanes g{};
        for (int64_t k = 0; k < count; ++k) g[k] = load<float>(from[k * view.k + r * view.r + s * view.s]);
        return g;
      };
      transform(kernel_to_points, taps, AtPoints{packed + task * columns<float> + half * lanes, step});
    }
  });
}

template <typename T>
void winograd_product(const Correlation& p, const Threads& threads, const Planes<const T>& source, const T* weight,
                      const WeightView& view, const T* bias, int64_t bias_stride, const Planes<T>& result) {
  const int64_t in_channels = source.channels, out_channels = result.channels;
  const TileGrid grid = tile_grid(p.batch, result.height, result.width);
  if (grid.count() == 0) return;
  const WinogradBlocking blocking(grid, in_channels, out_channels, threads.count);
  const int64_t weight_step = blocking.panels * in_channels * columns<float>;
  float* weights = static_cast<float*>(scratch(Scratch::weights, p.groups * points * weight_step * sizeof(float)));
  for (int64_t g = 0; g < p.groups; ++g)
    transform_weights(threads, weight + g * view.group, view, in_channels, out_channels, blocking.panels,
                      weights + g * points * weight_step);

  const int64_t ranges = ceil_div(grid.count(), blocking.tiles);
  parallel_for(threads, ranges * p.groups, [&](int64_t task) {
    const int64_t g = task / ranges, begin = task % ranges * blocking.tiles;
    const int64_t end = least(begin + blocking.tiles, grid.count());
    const int64_t rows = blocking.rows, row_panels = ceil_div(end - begin, rows);
    const int64_t channels_padded = blocking.channels_padded, input_step = blocking.input_step();
    const int64_t output_step = row_panels * rows * columns<float> + lanes;
    const Planes<const T> from = of_group(source, g);
    const Planes<T> to = of_group(result, g);

    float* input = static_cast<float*>(scratch(Scratch::panel, points * input_step * sizeof(float)));
    float* output = static_cast<float*>(scratch(Scratch::accumulators, points * output_step * sizeof(float)));
    const int64_t band_columns = (end - begin) * tile_size + tile_reach - tile_size;
    float* band = static_cast<float*>(scratch(
        Scratch::band, tile_reach * band_columns * most(channels_padded, columns<float>) * sizeof(float)));

    for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
      const Window under = run.window(tile_reach, p.padding_h, p.padding_w);
      read_pixels(from, under, band, channels_padded);
      const int64_t band_row = under.columns * channels_padded;
      for (int64_t t = 0; t < run.count; ++t) {
        const int64_t panel = (first + t) / rows, row = (first + t) % rows;
        for (int64_t c = 0; c < channels_padded; c += lanes) {
          const float* window = band + t * tile_size * channels_padded + c;
          const auto pixel = [&](int i, int j) {
            return *reinterpret_cast<const Lanes*>(window + i * band_row + j * channels_padded);
          };
          transform(input_to_points, pixel,
                    AtPoints{input + panel * rows * channels_padded + c * rows + row * lanes, input_step});
        }
      }
    });

    const MultiplyTile<float> multiply = multiply_tile_for<float, lanes>(rows);
    for (int64_t panel = 0; panel < blocking.panels; ++panel) {
      const float* panel_weights = weights + g * points * weight_step + panel * in_channels * columns<float>;
      for (int64_t point = 0; point < points; ++point)
        for (int64_t i = 0; i < row_panels; ++i)
          multiply(in_channels,
                   {input + point * input_step + i * rows * channels_padded, 1, lanes, rows * lanes},
                   panel_weights + point * weight_step, output + point * output_step + i * rows * columns<float>,
                   columns<float>, false);

      const int64_t first_channel = panel * columns<float>;
      const int64_t channels = least(columns<float>, out_channels - first_channel);
      Lanes add[2] = {};
      if (bias)
        for (int64_t k = 0; k < channels; ++k)
          add[k / lanes][k % lanes] = load<float>(bias[(g * out_channels + first_channel + k) * bias_stride]);
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        const int64_t band_row = run.count * tile_size * columns<float>;
        for (int64_t t = 0; t < run.count; ++t)
          for (int half = 0; half < 2; ++half) {
            float* window = band + t * tile_size * columns<float> + half * lanes;
            transform(points_to_output, AtPoints{output + (first + t) * columns<float> + half * lanes, output_step},
                      [&](int i, int j, Lanes value) {
                        *reinterpret_cast<Lanes*>(window + i * band_row + j * columns<float>) = value + add[half];
                      });
          }
        write_pixels(band, columns<float>, run.window(tile_size, 0, 0), first_channel, channels, to);
      });
    }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
