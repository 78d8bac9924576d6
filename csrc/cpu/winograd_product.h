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

constexpr int64_t summed_at_once = 128;  // channels: a long sum in parts keeps the rounding error low

struct WinogradBlocking {
  int64_t tiles, rows;  // tiles of a task, and of a register tile

  WinogradBlocking(const TileGrid& grid, int64_t in_channels, const Panels& panels) {
    const int64_t max_rows = panels.whole.max_rows();
    const int64_t fitting =
        (512 << 10) / (points * sizeof(float) * (round_up(in_channels, lanes) + panels.whole.width()));
    const int64_t fair = round_up(ceil_div(grid.count(), 16), max_rows);  // not by threads: results must not depend on them
    tiles = least(grid.count(), most(max_rows, least(least(fitting, 96) / max_rows * max_rows, fair)));
    if (tiles < grid.count() && grid.count() <= 2 * tiles) tiles = ceil_div(grid.count(), 2);  // two tasks: as long as each other
    rows = even_rows(tiles, max_rows);
  }
};

// Tiles at the 36 points, channels in blocks of a vector: [point][channel / lanes][tile][channel % lanes].
struct TilesAtPoints {
  float* data;
  int64_t tiles, step;  // tiles there is room for, and floats from point to point

  TilesAtPoints(Scratch purpose, int64_t tiles, int64_t channels)
      : tiles(tiles), step(tiles * round_up(channels, lanes) + off_the_set) {
    data = static_cast<float*>(scratch(purpose, points * step * sizeof(float)));
  }
  float* at(int64_t tile, int64_t first_channel) const { return data + first_channel * tiles + tile * lanes; }
};

// A larger kernel is cut into blocks of 3×3, each of which reads the image three pixels further on: a 3×3 convolution of
// so many times the channels, (block, c).
struct KernelBlocks {
  int64_t kernel_h, kernel_w, rows, columns;

  KernelBlocks(int64_t kernel_h, int64_t kernel_w)
      : kernel_h(kernel_h), kernel_w(kernel_w), rows(ceil_div(kernel_h, 3)), columns(ceil_div(kernel_w, 3)) {}
  int64_t count() const { return rows * columns; }
  int64_t y(int64_t block) const { return block / columns * 3; }
  int64_t x(int64_t block) const { return block % columns * 3; }
};

// taps[(r, s)][c][k]: one block of a kernel for `in` channels c and `out` channels k, zero where the block reaches beyond
// the kernel. Channels that lie innermost are turned in registers.
template <typename T>
void read_taps(const T* weight, const WeightView& view, int64_t in, int64_t out, int64_t last_r, int64_t last_s,
               float* taps) {
  for (int64_t tap = 0; tap < 9; ++tap, taps += lanes * lanes) {
    const int64_t r = tap / 3, s = tap % 3;
    const T* from = weight + r * view.r + s * view.s;
    if (r > last_r || s > last_s)
      std::memset(taps, 0, lanes * lanes * sizeof(float));
    else if (view.c == 1)
      transpose<float>(from, view.k, out, in, taps, lanes);
    else
      for (int64_t c = 0; c < in; ++c)
        for (int64_t k = 0; k < out; ++k) taps[c * lanes + k] = load<float>(from[c * view.c + k * view.k]);
  }
}

// packed[panel][point][(block, in channel)][out channel of the panel]
template <typename T>
void transform_weights(const Threads& threads, const KernelBlocks& blocks, const T* weight, const WeightView& view,
                       int64_t in_channels, const Panels& panels, float* packed) {
  const int64_t depth = blocks.count() * in_channels, chunks = ceil_div(in_channels, lanes);
  parallel_for(threads, panels.count * blocks.count() * chunks, [&](int64_t task) {
    const int64_t panel = task / chunks / blocks.count(), block = task / chunks % blocks.count();
    const int64_t first_in = task % chunks * lanes, in = least(lanes, in_channels - first_in);
    const int64_t width = panels.at(panel).width(), first_out = panels.first_channel(panel);
    float* to = packed + first_out * points * depth + (block * in_channels + first_in) * width;
    for_each_vector(panels.channels_of(panel), [&]<typename V>(int64_t k) {
      float taps[9 * lanes * lanes];
      const int64_t all = sizeof(V) / sizeof(float), out = least(all, panels.channels - first_out - k);
      if (out < all) std::memset(taps, 0, sizeof taps);  // the lanes behind the last channel
      read_taps(weight + first_in * view.c + (first_out + k) * view.k + blocks.y(block) * view.r + blocks.x(block) * view.s,
                view, in, out, least(2, blocks.kernel_h - 1 - blocks.y(block)),
                least(2, blocks.kernel_w - 1 - blocks.x(block)), taps);
      for (int64_t c = 0; c < in; ++c)
        transform<KernelToPoints, V>(
            [&](int r, int s) { return get<V>(taps + ((r * 3 + s) * lanes + c) * lanes); },
            AtPoints<V>{to + c * width + k, depth * width});
    });
  });
}

// `count` tiles under a window at the points: tile t's channels from c on go to to(t, c), `step` floats from point to
// point. Leaves the pixels of the window in `band`, channels in whole vectors.
template <typename Map, typename Source, typename To>
void read_tiles(const Source& source, const Window& under, int64_t count, float* band, const To& to, int64_t step) {
  const int64_t stride = round_up(source.channels, lanes), row = under.columns * stride;
  read_pixels(source, under, band, stride);
  for_each_vector(source.channels, [&]<typename V>(int64_t c) {
    for (int64_t t = 0; t < count; ++t) {
      const float* window = band + t * tile_size * stride + c;
      const auto pixel = [&](int i, int j) __attribute__((always_inline)) {
        return get<V>(window + i * row + j * stride);
      };
      transform<Map, V>(pixel, AtPoints<V>{to(t, c), step});
    }
  });
}

// Floats of a band that `tiles` tiles of one row are read to with their halo, or written to.
inline int64_t band_size(int64_t tiles, int64_t channels) {
  return tile_reach * (tiles * tile_size + tile_reach - tile_size) * round_up(channels, lanes);
}

// The tiles `begin` … `end` of a result, panel by panel of its channels: the products of the points, taken back, bias
// added. `output` has room for a panel at the points, `band` for the pixels of a run.
template <typename W, typename Sink>
void write_tiles(const TileGrid& grid, int64_t begin, int64_t end, const TilesAtPoints& input, int64_t in_channels,
                 int64_t rows, const float* weights, const Panels& panels, const W* bias, int64_t bias_stride,
                 float* output, float* band, const Sink& to) {
  const int64_t output_step = input.tiles * panels.whole.width() + off_the_set;
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    const int64_t width = panels.at(panel).width(), first_channel = panels.first_channel(panel);
    const MultiplyPanel multiply = multiply_panel_for<Depth::channels>(rows, panels.at(panel));
    const float* panel_weights = weights + first_channel * points * in_channels;
    for (int64_t point = 0; point < points; ++point)
      for (int64_t tile = 0; tile < end - begin; tile += rows)
        for (int64_t c = 0; c < in_channels; c += summed_at_once)
          multiply(least(summed_at_once, in_channels - c), input.at(tile, c) + point * input.step, input.tiles * lanes,
                   panel_weights + (point * in_channels + c) * width, lanes,
                   output + point * output_step + tile * width, width, c > 0);

    const int64_t channels = panels.channels_of(panel);
    float add[3 * lanes] = {};
    if (bias)
      for (int64_t k = 0; k < channels; ++k) add[k] = load<float>(bias[(first_channel + k) * bias_stride]);
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
}

template <typename Source, typename W, typename Sink>
void winograd_product(const Correlation& p, const Threads& threads, const Source& source, const W* weight,
                      const WeightView& view, const W* bias, int64_t bias_stride, const Sink& result) {
  const KernelBlocks blocks(p.kernel_h, p.kernel_w);  // more than one only where source.channels are whole vectors
  const int64_t in_channels = blocks.count() * source.channels;
  const TileGrid grid = tile_grid(p.batch, result.height, result.width);
  if (grid.count() == 0) return;
  const Panels panels(result.channels);
  const WinogradBlocking blocking(grid, in_channels, panels);
  const int64_t group_weights = points * in_channels * panels.padded();
  const Packing packing(view.ahead, p.groups * group_weights);
  float* weights = packing.data;
  for (int64_t g = 0; packing.missing && g < p.groups; ++g)
    transform_weights(threads, blocks, weight + g * view.group, view, source.channels, panels,
                      weights + g * group_weights);
  if (packing.only) return;

  const int64_t ranges = ceil_div(grid.count(), blocking.tiles);
  begin_tasks(result, ranges * p.groups);
  parallel_for(threads, ranges * p.groups, [&](int64_t task) {
    const int64_t g = task / ranges, begin = task % ranges * blocking.tiles;
    const int64_t end = least(begin + blocking.tiles, grid.count());
    const Source from = of_group(source, g);
    const TilesAtPoints input(Scratch::panel, round_up(blocking.tiles, blocking.rows), in_channels);
    float* output = static_cast<float*>(
        scratch(Scratch::accumulators, points * (input.tiles * panels.whole.width() + off_the_set) * sizeof(float)));
    float* band = static_cast<float*>(scratch(
        Scratch::band, band_size(end - begin, most(source.channels, panels.whole.width())) * sizeof(float)));

    for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
      for (int64_t block = 0; block < blocks.count(); ++block) {
        Window under = run.window(tile_reach, p.padding_h, p.padding_w);
        under.y += blocks.y(block), under.x += blocks.x(block);
        const auto to = [&](int64_t t, int64_t c) __attribute__((always_inline)) {
          return input.at(first + t, block * source.channels + c);
        };
        read_tiles<InputToPoints>(from, under, run.count, band, to, input.step);
      }
    });
    const W* of_bias = bias ? bias + g * result.channels * bias_stride : nullptr;
    write_tiles(grid, begin, end, input, in_channels, blocking.rows, weights + g * group_weights, panels, of_bias,
                bias_stride, output, band, for_task(of_group(result, g), task));
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
