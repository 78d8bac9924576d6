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

// A larger kernel is cut into blocks of 3×3, each of which reads the image three pixels further on: a 3×3 convolution of
// so many times the channels, (block, c).
struct KernelBlocks {
  int64_t kernel_h, kernel_w, rows, columns;
  explicit KernelBlocks(const Correlation& p)
      : kernel_h(p.kernel_h), kernel_w(p.kernel_w), rows(ceil_div(p.kernel_h, 3)), columns(ceil_div(p.kernel_w, 3)) {}
  int64_t count() const { return rows * columns; }
  int64_t y(int64_t block) const { return block / columns * 3; }
  int64_t x(int64_t block) const { return block % columns * 3; }
};

// packed[point][panel][(block, in channel)][two vectors of out channels]
template <typename T>
void transform_weights(const Threads& threads, const KernelBlocks& blocks, const T* weight, const WeightView& view,
                       int64_t in_channels, int64_t out_channels, int64_t panels, float* packed) {
  const int64_t depth = blocks.count() * in_channels, step = panels * depth * columns<float>;
  parallel_for(threads, panels * depth, [&](int64_t task) {
    const int64_t panel = task / depth, block = task % depth / in_channels, c = task % in_channels;
    const int64_t y = blocks.y(block), x = blocks.x(block);
    for (int half = 0; half < 2; ++half) {
      const int64_t first = panel * columns<float> + half * lanes;
      const int64_t count = least(lanes, out_channels - first);
      const T* from = weight + c * view.c + first * view.k + y * view.r + x * view.s;
      const auto taps = [&](int r, int s) {
        Lanes g{};
        if (y + r >= blocks.kernel_h || x + s >= blocks.kernel_w) return g;
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
  const KernelBlocks blocks(p);  // more than one only where source.channels are whole vectors
  const int64_t in_channels = blocks.count() * source.channels, out_channels = result.channels;
  const TileGrid grid = tile_grid(p.batch, result.height, result.width);
  if (grid.count() == 0) return;
  const WinogradBlocking blocking(grid, in_channels, out_channels, threads.count);
  const int64_t weight_step = blocking.panels * in_channels * columns<float>;
  float* weights = static_cast<float*>(scratch(Scratch::weights, p.groups * points * weight_step * sizeof(float)));
  for (int64_t g = 0; g < p.groups; ++g)
    transform_weights(threads, blocks, weight + g * view.group, view, source.channels, out_channels, blocking.panels,
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
    const int64_t band_channels = round_up(source.channels, lanes);
    const int64_t band_columns = (end - begin) * tile_size + tile_reach - tile_size;
    float* band = static_cast<float*>(scratch(
        Scratch::band, tile_reach * band_columns * most(band_channels, columns<float>) * sizeof(float)));

    for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
      for (int64_t block = 0; block < blocks.count(); ++block) {
        Window under = run.window(tile_reach, p.padding_h, p.padding_w);
        under.y += blocks.y(block), under.x += blocks.x(block);
        read_pixels(from, under, band, band_channels);
        const int64_t band_row = under.columns * band_channels;
        for (int64_t t = 0; t < run.count; ++t) {
          const int64_t panel = (first + t) / rows, row = (first + t) % rows;
          float* at_points = input + panel * rows * channels_padded + block * band_channels * rows + row * lanes;
          for (int64_t c = 0; c < band_channels; c += lanes) {
            const float* window = band + t * tile_size * band_channels + c;
            const auto pixel = [&](int i, int j) {
              return *reinterpret_cast<const Lanes*>(window + i * band_row + j * band_channels);
            };
            transform(input_to_points, pixel, AtPoints{at_points + c * rows, input_step});
          }
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
