// Forward and grad_input of a 3×3 convolution of stride 1 by Winograd F(4×4, 3×3), and the part of it that a
// convolution of an upsampled image (upsampled.h) shares.
//
// Per task, a few dozen tiles: their input is taken to the points, for each point one matrix product
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

  // As many as fit the cache, and the work of one, two, four and eight threads is as even as can be: the choice must not
  // depend on how many there are, because sums over a task's pixels do.
  WinogradBlocking(int points, const TileGrid& grid, int64_t in_channels, const Panels& panels) {
    const int64_t count = grid.count(), max_rows = panels.whole.max_rows();
    const int64_t fitting =
        (512 << 10) / (points * sizeof(float) * (round_up(in_channels, lanes) + panels.whole.width()));
    int64_t least_cost = INT64_MAX;
    for (int64_t n = least(count, 4); n <= least(count, most(max_rows, least(fitting, 64))); ++n) {
      const int64_t tasks = ceil_div(count, n), registers = ceil_div(n, max_rows);
      // In half tiles: the products, as register tiles are full; loading each of these; the weights' way through the cache.
      const int64_t cost = (2 * registers * even_rows(n, max_rows) + registers + 4) *
                           (tasks + round_up(tasks, 2) + round_up(tasks, 4) + round_up(tasks, 8));
      if (cost < least_cost) least_cost = cost, tiles = n;
    }
    rows = even_rows(tiles, max_rows);
  }
};

// Tiles at the points, channels in blocks of a vector: [point][channel / lanes][tile][channel % lanes].
struct TilesAtPoints {
  float* data;
  int64_t tiles, step;  // tiles there is room for, and floats from point to point

  TilesAtPoints(Scratch purpose, int points, int64_t tiles, int64_t channels)
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

// taps[(r, s)][c][k]: a kernel for `in` channels c and `out` channels k, zero beyond its last tap. Channels that lie
// innermost are turned in registers.
template <int size, typename T>
void read_taps(const T* weight, const WeightView& view, int64_t in, int64_t out, int64_t last_r, int64_t last_s,
               float* taps) {
  for (int64_t tap = 0; tap < size * size; ++tap, taps += lanes * lanes) {
    const int64_t r = tap / size, s = tap % size;
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

// The kernels of up to `lanes` channels in and one panel of `channels` out at the points: `step` floats from point to
// point, rows of the panel as panel_row() has them.
template <typename F, typename T>
void transform_kernels(const T* weight, const WeightView& view, int64_t in, int64_t channels, int64_t last_r,
                       int64_t last_s, float* to, int64_t step, int64_t width) {
  for_each_vector(width, [&]<typename V>(int64_t k) {
    float taps[F::taps * F::taps * lanes * lanes];
    const int64_t all = sizeof(V) / sizeof(float), out = least(all, channels - k);
    if (out < all) std::memset(taps, 0, sizeof taps);  // the lanes behind the last channel
    read_taps<F::taps>(weight + k * view.k, view, in, out, last_r, last_s, taps);
    const auto tap = [&](int r, int s, int64_t c) __attribute__((always_inline)) {
      return get<V>(taps + ((r * F::taps + s) * lanes + c) * lanes);
    };
    const auto to_points = [&]<typename U>(const auto& load, float* first) __attribute__((always_inline)) {
      transform<KernelToPoints<F>, U>(load, AtPoints<U, F::kernel_reach>{first, step});
    };
    int64_t c = 0;
    if constexpr (sizeof(V) == sizeof(HalfLanes))
      for (; c + 1 < in; c += 2)
        to_points.template operator()<Lanes>([&](int r, int s) { return in_turns(tap(r, s, c), tap(r, s, c + 1)); },
                                             to + c * width + 2 * k);
    for (; c < in; ++c)
      to_points.template operator()<V>([&](int r, int s) { return tap(r, s, c); }, to + panel_row(c, width) + k);
  });
}

// packed[panel][point][(block, in channel)][out channel of the panel]
template <typename F, typename T>
void transform_weights(const Threads& threads, const KernelBlocks& blocks, const T* weight, const WeightView& view,
                       int64_t in_channels, const Panels& panels, float* packed) {
  const int64_t depth = blocks.count() * in_channels, chunks = ceil_div(in_channels, lanes);
  parallel_for(threads, panels.count * blocks.count() * chunks, [&](int64_t task) {
    const int64_t panel = task / chunks / blocks.count(), block = task / chunks % blocks.count();
    const int64_t first_in = task % chunks * lanes, in = least(lanes, in_channels - first_in);
    const int64_t width = panels.at(panel).width(), first_out = panels.first_channel(panel);
    const int64_t y = blocks.y(block), x = blocks.x(block);
    transform_kernels<F>(weight + first_in * view.c + first_out * view.k + y * view.r + x * view.s, view, in,
                            panels.channels_of(panel), blocks.kernel_h - 1 - y, blocks.kernel_w - 1 - x,
                            packed + first_out * of_kernel<F> * depth + (block * in_channels + first_in) * width,
                            depth * width, width);
  });
}

// `count` tiles at the points, one next to the other in pixels that lie `row` and `column` floats apart.
template <typename Map, int size = tile_size, typename To>
void transform_tiles(const float* pixels, int64_t row, int64_t column, int64_t channels, int64_t count, const To& to,
                     int64_t step) {
  for_each_vector(channels, [&]<typename V>(int64_t c) {
    for (int64_t t = 0; t < count; ++t) {
      const float* tile = pixels + t * size * column + c;
      const auto pixel = [&](int i, int j) __attribute__((always_inline)) { return get<V>(tile + i * row + j * column); };
      transform<Map, V>(pixel, AtPoints<V, Map::to>{to(t, c), step});
    }
  });
}

// `count` tiles under a window at the points: tile t's channels from c on go to to(t, c), `step` floats from point to
// point. Leaves the pixels of the window in `band`, channels in whole vectors.
template <typename Map, int size = tile_size, typename Source, typename To>
void read_tiles(const Source& source, const Window& under, int64_t count, float* band, const To& to, int64_t step) {
  const int64_t stride = round_up(source.channels, lanes);
  read_pixels(source, under, band, stride);
  transform_tiles<Map, size>(band, under.columns * stride, stride, source.channels, count, to, step);
}

// Floats of a band that `tiles` tiles of one row are read to with their halo, or written to.
template <typename F>
int64_t band_size(int64_t tiles, int64_t channels) {
  return most(F::reach, PointsToOutput<F>::to) * (tiles * most(F::size, PointsToOutput<F>::to) + F::reach) *
         round_up(channels, lanes);
}

// What a product by tiles is made of: the points that it multiplies at, how many kernels meet them and which one each,
// the pixels of a tile's result, and the way there.
template <typename F>
struct TilesOf {
  static constexpr int points = F::points, pixels = PointsToOutput<F>::to, kernels = of_kernel<F>;
  static constexpr int64_t kernel_at(int64_t point) { return kernel_of<F>(point); }
  Window result(const TileRun& run) const { return run.pixels(pixels); }

  template <typename V, typename Store>
  static MYCONV2D_INLINE void restore(float* at_points, int64_t step, const Store& store) {
    transform<PointsToOutput<F>, V>(AtPoints<V, F::reach>{at_points, step}, store);
  }
};

// Of a 3×3 convolution, or of a larger one in blocks.
template <typename F>
struct BlockTiles : TilesOf<F> {
  KernelBlocks blocks;  // more than one only where the source's channels are whole vectors
  int64_t padding_h, padding_w;

  explicit BlockTiles(const Correlation& p)
      : blocks(p.kernel_h, p.kernel_w), padding_h(p.padding_h), padding_w(p.padding_w) {}
  int64_t depth(int64_t channels) const { return blocks.count() * channels; }
  int64_t band(int64_t tiles, int64_t channels, int64_t width) const {
    return band_size<F>(tiles, most(channels, width));
  }

  template <typename W>
  void pack(const Threads& threads, const W* weight, const WeightView& view, int64_t channels, const Panels& panels,
            float* packed) const {
    transform_weights<F>(threads, blocks, weight, view, channels, panels, packed);
  }

  template <typename Source>
  void read(const Source& from, const TileRun& run, int64_t first, float* band, const TilesAtPoints& input) const {
    for (int64_t block = 0; block < blocks.count(); ++block) {
      Window under = run.window(InputToPoints<F>::from, padding_h, padding_w, F::size);
      under.y += blocks.y(block), under.x += blocks.x(block);
      const auto to = [&](int64_t t, int64_t c) __attribute__((always_inline)) {
        return input.at(first + t, block * from.channels + c);
      };
      read_tiles<InputToPoints<F>, F::size>(from, under, run.count, band, to, input.step);
    }
  }
};

// The tiles `begin` … `end` of a result, panel by panel of its channels: the products of the points, taken back, bias
// added. `output` has room for a panel at the points, `band` for the pixels of a run. The depth is `parts` of so many
// channels, the input's each in whole vectors.
template <typename Tiles, typename W, typename Sink>
void write_tiles(const Tiles& tiles, const TileGrid& grid, int64_t begin, int64_t end, const TilesAtPoints& input,
                 int64_t parts, int64_t in_channels, int64_t rows, const float* weights, const Panels& panels,
                 const W* bias, int64_t bias_stride, float* output, float* band, const Sink& to) {
  constexpr int points = Tiles::points, pixels = Tiles::pixels;
  if (in_channels % lanes == 0) in_channels *= parts, parts = 1;  // no gaps between them
  const int64_t output_step = input.tiles * panels.whole.width() + off_the_set, depth = parts * in_channels;
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    const int64_t width = panels.at(panel).width(), first_channel = panels.first_channel(panel);
    const MultiplyPanel multiply = multiply_panel_for<Depth::channels>(rows, panels.at(panel));
    const float* panel_weights = weights + first_channel * Tiles::kernels * depth;
    for (int64_t point = 0; point < points; ++point)
      for (int64_t tile = 0; tile < end - begin; tile += rows)
        for (int64_t part = 0, begun = 0; part < parts; ++part)
          for (int64_t c = 0; c < in_channels; c += summed_at_once, ++begun)
            multiply(least(summed_at_once, in_channels - c),
                     input.at(tile, part * round_up(in_channels, lanes) + c) + point * input.step, input.tiles * lanes,
                     panel_weights + (Tiles::kernel_at(point) * depth + part * in_channels + c) * width, lanes,
                     output + point * output_step + tile * width, width, begun > 0);

    const int64_t channels = panels.channels_of(panel);
    float add[3 * lanes] = {};
    if (bias)
      for (int64_t k = 0; k < channels; ++k) add[k] = load<float>(bias[(first_channel + k) * bias_stride]);
    for_each_run(grid, begin, end, [&](const TileRun& run, int64_t first) {
      const int64_t band_row = run.count * pixels * width;
      for_each_vector(channels, [&]<typename V>(int64_t k) {
        const V plus = get<V>(add + k);
        for (int64_t t = 0; t < run.count; ++t) {
          float* window = band + t * pixels * width + k;
          Tiles::template restore<V>(output + (first + t) * width + k, output_step,
                                     [&](int i, int j, V value) __attribute__((always_inline)) {
                                       put(window + i * band_row + j * width, value + plus);
                                     });
        }
      });
      Window window = tiles.result(run);
      window.rows = tile_size;  // sums of few pixels
      for (int64_t y = 0; y < pixels && window.y < to.height; y += tile_size, window.y += tile_size)
        write_pixels(band + y * band_row, width, window, first_channel, channels, to);
    });
  }
}

template <typename Tiles, typename Source, typename W, typename Sink>
void product_by_tiles(const Tiles& tiles, const TileGrid& grid, int64_t groups, const Threads& threads,
                      const Source& source, const W* weight, const WeightView& view, const W* bias, int64_t bias_stride,
                      const Sink& result) {
  constexpr int points = Tiles::points;
  if (grid.count() == 0) return;
  const int64_t depth = tiles.depth(source.channels);
  const Panels panels(result.channels, !channels_stand_alone<Sink>);
  const WinogradBlocking blocking(points, grid, depth, panels);
  const int64_t group_weights = Tiles::kernels * depth * panels.padded();
  const Packing packing(view.ahead, groups * group_weights);
  float* weights = packing.data;
  for (int64_t g = 0; packing.missing && g < groups; ++g)
    tiles.pack(threads, weight + g * view.group, view, source.channels, panels, weights + g * group_weights);
  if (packing.only) return;

  const int64_t ranges = ceil_div(grid.count(), blocking.tiles);
  begin_tasks(result, ranges * groups);
  parallel_for(threads, ranges * groups, [&](int64_t task) {
    const int64_t g = task / ranges, begin = task % ranges * blocking.tiles;
    const int64_t end = least(begin + blocking.tiles, grid.count());
    const Source from = of_group(source, g);
    const TilesAtPoints input(Scratch::panel, points, round_up(blocking.tiles, blocking.rows), depth);
    float* output = static_cast<float*>(
        scratch(Scratch::accumulators, points * (input.tiles * panels.whole.width() + off_the_set) * sizeof(float)));
    float* band = static_cast<float*>(
        scratch(Scratch::band, tiles.band(end - begin, source.channels, panels.whole.width()) * sizeof(float)));

    for_each_run(grid, begin, end,
                 [&](const TileRun& run, int64_t first) { tiles.read(from, run, first, band, input); });
    const W* of_bias = bias ? bias + g * result.channels * bias_stride : nullptr;
    write_tiles(tiles, grid, begin, end, input, 1, depth, blocking.rows, weights + g * group_weights, panels, of_bias,
                       bias_stride, output, band, for_task(of_group(result, g), task));
  });
}

template <typename Source, typename W, typename Sink>
void winograd_product(const Correlation& p, const Threads& threads, const Source& source, const W* weight,
                      const WeightView& view, const W* bias, int64_t bias_stride, const Sink& result) {
  product_by_tiles(BlockTiles<F3x3>(p), tile_grid(p.batch, result.height, result.width), p.groups, threads, source,
                   weight, view, bias, bias_stride, result);
}

}  // namespace myconv2d::MYCONV2D_ISA
