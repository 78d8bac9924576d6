// Forward and grad_input of a 3×3 convolution of stride 1 by Winograd F(4×4, 3×3).
//
// Per task, a few dozen tiles: their input is taken to the 36 points, for each point one matrix product
// [tiles × channels] · [channels × a panel of out channels], and the results are taken back, bias added. Transforms
// and products of a task share L2; the transformed weights stream from there too, once per task.
// Bound: the FMA units, at a quarter of the direct convolution's products; the transforms add 10–25 %.
#pragma once

#include "panel.h"
#include "parallel.h"
#include "scratch.h"
#include "tiles.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t off_the_set = lanes;  // floats between points, so that all 36 do not fall into one set of the cache

struct WinogradBlocking {
  int64_t channels_padded;  // in channels to whole vectors
  int64_t tiles, rows;      // tiles of a task, and of a register tile

  WinogradBlocking(const TileGrid& grid, int64_t in_channels, const Panels& panels) {
    channels_padded = round_up(in_channels, lanes);
    const int64_t max_rows = panels.whole.max_rows();
    const int64_t fitting = (512 << 10) / (points * sizeof(float) * (channels_padded + panels.whole.width()));
    const int64_t fair = round_up(ceil_div(grid.count(), 16), max_rows);  // not by threads: results must not depend on them
    tiles = least(grid.count(), most(max_rows, least(least(fitting, 96) / max_rows * max_rows, fair)));
    rows = even_rows(tiles, max_rows);
  }
  int64_t row_panels() const { return ceil_div(tiles, rows); }
  int64_t input_step() const { return row_panels() * rows * channels_padded + off_the_set; }
  int64_t output_step(const Panels& panels) const { return row_panels() * rows * panels.whole.width() + off_the_set; }
};

// packed[panel][point][in channel][out channel of the panel]
template <typename T>
void transform_weights(const Threads& threads, const T* weight, const WeightView& view, int64_t in_channels,
                       const Panels& panels, float* packed) {
  parallel_for(threads, panels.count * in_channels, [&](int64_t task) {
    const int64_t panel = task / in_channels, c = task % in_channels, width = panels.at(panel).width();
    float* to = packed + panels.first_channel(panel) * points * in_channels + c * width;
    for_each_vector(panels.channels_of(panel), [&]<typename V>(int64_t first) {
      const int64_t k = panels.first_channel(panel) + first;
      const int64_t count = least(sizeof(V) / sizeof(float), panels.channels - k);
      const T* from = weight + c * view.c + k * view.k;
      V g[3][3] = {};
      for (int r = 0; r < 3; ++r)
        for (int s = 0; s < 3; ++s)
          for (int64_t i = 0; i < count; ++i) g[r][s][i] = load<float>(from[i * view.k + r * view.r + s * view.s]);
      transform<KernelToPoints, V>([&](int r, int s) { return g[r][s]; }, AtPoints<V>{to + first, in_channels * width});
    });
  });
}

template <typename Source, typename W, typename Sink>
void winograd_product(const Correlation& p, const Threads& threads, const Source& source, const W* weight,
                      const WeightView& view, const W* bias, int64_t bias_stride, const Sink& result) {
  const int64_t in_channels = source.channels;
  const TileGrid grid = tile_grid(p.batch, result.height, result.width);
  if (grid.count() == 0) return;
  const Panels panels(result.channels);
  const WinogradBlocking blocking(grid, in_channels, panels);
  const int64_t group_weights = points * in_channels * panels.padded();
  float* weights = static_cast<float*>(scratch(Scratch::weights, p.groups * group_weights * sizeof(float)));
  for (int64_t g = 0; g < p.groups; ++g)
    transform_weights(threads, weight + g * view.group, view, in_channels, panels, weights + g * group_weights);

  const int64_t ranges = ceil_div(grid.count(), blocking.tiles);
  begin_tasks(result, ranges * p.groups);
  parallel_for(threads, ranges * p.groups, [&](int64_t task) {
    const int64_t g = task / ranges, begin = task % ranges * blocking.tiles;
    const int64_t end = least(begin + blocking.tiles, grid.count());
    const int64_t rows = blocking.rows, channels_padded = blocking.channels_padded;
    const int64_t input_step = blocking.input_step(), output_step = blocking.output_step(panels);
    const Source from = of_group(source, g);
    const Sink to = for_task(of_group(result, g), task);

    float* input = static_cast<float*>(scratch(Scratch::panel, points * input_step * sizeof(float)));
    float* output = static_cast<float*>(scratch(Scratch::accumulators, points * output_step * sizeof(float)));
    const int64_t band_columns = (end - begin) * tile_size + tile_reach - tile_size;
    float* band = static_cast<float*>(scratch(
        Scratch::band, tile_reach * band_columns * most(channels_padded, panels.whole.width()) * sizeof(float)));

    for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
      const Window under = run.window(tile_reach, p.padding_h, p.padding_w);
      read_pixels(from, under, band, channels_padded);
      const int64_t band_row = under.columns * channels_padded;
      for_each_vector(in_channels, [&]<typename V>(int64_t c) {
        for (int64_t t = 0; t < run.count; ++t) {
          const int64_t panel = (first + t) / rows, row = (first + t) % rows;
          const float* window = band + t * tile_size * channels_padded + c;
          const auto pixel = [&](int i, int j) __attribute__((always_inline)) {
            return get<V>(window + i * band_row + j * channels_padded);
          };
          transform<InputToPoints, V>(
              pixel, AtPoints<V>{input + panel * rows * channels_padded + c * rows + row * lanes, input_step});
        }
      });
    });

    for (int64_t panel = 0; panel < panels.count; ++panel) {
      const int64_t width = panels.at(panel).width(), row_panels = ceil_div(end - begin, rows);
      const MultiplyPanel multiply = multiply_panel_for<Depth::in_blocks>(rows, panels.at(panel));
      const float* panel_weights =
          weights + g * group_weights + panels.first_channel(panel) * points * in_channels;
      for (int64_t point = 0; point < points; ++point)
        for (int64_t i = 0; i < row_panels; ++i)
          multiply(in_channels, input + point * input_step + i * rows * channels_padded, rows * lanes,
                   panel_weights + point * in_channels * width, output + point * output_step + i * rows * width,
                   width, false);

      const int64_t first_channel = panels.first_channel(panel), channels = panels.channels_of(panel);
      float add[3 * lanes] = {};
      if (bias)
        for (int64_t k = 0; k < channels; ++k)
          add[k] = load<float>(bias[(g * result.channels + first_channel + k) * bias_stride]);
      for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
        const int64_t band_row = run.count * tile_size * width;
        for_each_vector(channels, [&]<typename V>(int64_t k) {
          const V plus = get<V>(add + k);
          for (int64_t t = 0; t < run.count; ++t) {
            float* window = band + t * tile_size * width + k;
            transform<PointsToOutput, V>(AtPoints<V>{output + (first + t) * width + k, output_step},
                                         [&](int i, int j, V value) __attribute__((always_inline)) {
                                           put(window + i * band_row + j * width, value + plus);
                                         });
          }
        });
        write_pixels(band, width, run.window(tile_size, 0, 0), first_channel, channels, to);
      });
    }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
