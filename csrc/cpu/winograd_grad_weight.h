// grad_weight and grad_bias of a 3×3 convolution of stride 1 by Winograd F(4×4, 3×3), summed at the 36 points:
//   Gᵀ [ Σ_tiles (A grad_output Aᵀ) ⊙ (Bᵀ input B) ] G.
//
// Ranges of tiles, as many as the shape says, each sum into a partial result of their own; these are added in order
// before the one inverse transform. The bias gradient is summed apart, from the untransformed grad_output.
// Bound: the FMA units; per block of tiles the partial result passes through the cache once.
#pragma once

#include "winograd_product.h"

namespace myconv2d::MYCONV2D_ISA {

// How the sums over all tiles are cut, and where they lie: one side's channels are the rows of register tiles, the
// other's, in panels, the columns. The columns may be of several phases, each with all channels.
struct PointSums {
  int64_t points, phases, kernels;  // kernels: sums of all points that meet the same one are one
  int (*kernel_of)(int64_t point);
  int64_t channels, padded;  // of the rows
  Panels panels;
  int64_t rows;           // of a register tile
  int64_t step;           // sums[kernel][phase][panel][channel][channel of the panel]
  int64_t partial_size;   // … and then the sums of the bias
  int64_t ranges, tiles;  // ranges of tiles, and tiles of one product: its depth
  int64_t range_tiles;

  template <typename F>
  PointSums(F, int64_t phases, const TileGrid& grid, int64_t groups, int64_t channels, const Panels& panels)
      : points(F::points), phases(phases), kernels(of_kernel<F>), kernel_of(myconv2d::MYCONV2D_ISA::kernel_of<F>),
        channels(channels), padded(round_up(channels, lanes)), panels(panels) {
    rows = even_rows(channels, panels.whole.max_rows());
    step = channels * panels.padded() + off_the_set;
    partial_size = round_up(kernels * phases * step + panels.padded(), lanes);
    const int64_t affordable = (int64_t{16} << 20) / (groups * partial_size);
    ranges = 1;  // a power of two, which threads share evenly
    while (2 * ranges <= least(affordable, least(16, most(2, grid.count() * phases / 256)))) ranges *= 2;
    const int64_t fitting = (400 << 10) / (points * sizeof(float) * (padded + phases * panels.padded()));
    range_tiles = ceil_div(grid.count(), ranges);
    tiles = even_rows(most(1, range_tiles), most(16, least(fitting, 96)));
  }
  int64_t row_step() const { return tiles * padded + off_the_set; }  // of the rows' side, [point][tile][channel]
  float* bias_sums(float* sums) const { return sums + kernels * phases * step; }
  int64_t range_end(int64_t range, const TileGrid& grid) const {
    return least((range + 1) * range_tiles, grid.count());
  }

  // Before the first `add`: it overwrites all but the bias's sums, unless there are no tiles.
  void clear(float* sums, bool no_tiles) const {
    if (no_tiles) std::memset(sums, 0, partial_size * sizeof(float));
    else std::memset(bias_sums(sums), 0, panels.padded() * sizeof(float));
  }

  // sums ← (or += if `accumulate`) Σ over `count` tiles, at each point.
  void add(int64_t count, const float* by_rows, const TilesAtPoints& by_columns, float* sums, bool accumulate) const {
    for (int64_t i = 0, begun = accumulate ? kernels : 0; i < points * phases * panels.count; ++i) {
      const int64_t point = i / panels.count / phases, phase = i / panels.count % phases, panel = i % panels.count;
      const int64_t kernel = kernel_of(point);
      const bool others = kernel < begun;  // have summed there: points come to the kernels in their order
      if (phase + 1 == phases && panel + 1 == panels.count) begun = most(begun, kernel + 1);
      const int64_t width = panels.at(panel).width(), first = panels.first_channel(panel);
      const float* columns = by_columns.at(0, phase * round_up(panels.channels, lanes) + first) + point * by_columns.step;
      float* to = sums + (kernel * phases + phase) * step + first * channels;
      for (int64_t c = 0; c < channels; c += rows)
        multiply_panel_for<Depth::tiles>(least(rows, channels - c), panels.at(panel))(
            count, by_rows + point * row_step() + c, padded, columns, by_columns.tiles * lanes, to + c * width, width,
            others);
    }
  }

  // Channel c of the rows and k … of the columns for one kernel and phase: all ranges' sums, in their order.
  template <typename V>
  V total(const float* partial, int64_t kernel, int64_t phase, int64_t c, int64_t k) const {
    const int64_t panel = k / panels.whole.width(), first = panels.first_channel(panel);
    const float* from = partial + (kernel * phases + phase) * step + first * channels + c * panels.at(panel).width() +
                        k - first;
    V sum{};
    for (int64_t range = 0; range < ranges; ++range) sum += get<V>(from + range * partial_size);
    return sum;
  }

  template <typename W>
  void finish_bias(float* partial, W* grad_bias) const {
    for (int64_t k = 0; k < panels.channels; ++k) {
      double sum = 0;
      for (int64_t range = 0; range < ranges; ++range) sum += bias_sums(partial + range * partial_size)[k];
      grad_bias[k] = narrow<W, float>(static_cast<float>(sum));
    }
  }
};

// sums[k] += rows × columns pixels of a band
inline void add_pixels(const float* pixels, int64_t row_step, int64_t stride, int64_t rows, int64_t columns,
                       int64_t channels, float* sums) {
  for_each_vector(channels, [&]<typename V>(int64_t k) {
    V sum{};
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t x = 0; x < columns; ++x) sum += get<V>(pixels + i * row_step + x * stride + k);
    put(sums + k, get<V>(sums + k) + sum);
  });
}

// The partial results of all ranges, added up and taken back; grad_bias may be null.
template <typename F, typename W>
void finish_grad_weight(const Threads& threads, const PointSums& sums, int64_t groups, const KernelBlocks& blocks,
                        float* partial, W* grad_weight, const Strides& strides, W* grad_bias) {
  const Panels& panels = sums.panels;
  const int64_t in_channels = sums.channels / blocks.count(), out_channels = panels.channels;
  parallel_for(threads, groups * sums.channels, [&](int64_t task) {
    const int64_t g = task / sums.channels, c = task % sums.channels;
    const int64_t block = c / in_channels, y = blocks.y(block), x = blocks.x(block);
    float* from = partial + g * sums.ranges * sums.partial_size;
    for_each_vector(out_channels, [&]<typename V>(int64_t k) {
      W* to = grad_weight + (g * out_channels + k) * strides.n + c % in_channels * strides.c + y * strides.h +
              x * strides.w;
      V g3[3][3];
      V at_points[6][6];
      for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j) at_points[i][j] = sums.total<V>(from, i * 6 + j, 0, c, k);
      transform<PointsToKernel<F>, V>([&](int i, int j) { return at_points[i][j]; },
                                      [&](int r, int s, V value) { g3[r][s] = value; });
      const int64_t count = least(sizeof(V) / sizeof(float), out_channels - k);
      for (int r = 0; r < least(3, blocks.kernel_h - y); ++r)
        for (int s = 0; s < least(3, blocks.kernel_w - x); ++s)
          for (int64_t i = 0; i < count; ++i)
            to[i * strides.n + r * strides.h + s * strides.w] = narrow<W, float>(g3[r][s][i]);
    });
    if (grad_bias && c == 0) sums.finish_bias(from, grad_bias + g * out_channels);
  });
}

// One of the convolutions, all with the same kernel, whose gradients are added up: a phase of a dilated one.
template <typename Grads, typename Images>
struct GradWeightPart {
  Grads grad_output;  // no larger than the first part's
  Images input;
  int64_t padding_h, padding_w;
};

// part(i) for i < parts: tiles of an image are tiles of all its parts.
template <typename F, typename Part, typename W>
void grad_weight_of_parts(const Conv2d& conv, const Threads& threads, int64_t parts, const Part& part, W* grad_weight,
                          const Strides& weight_strides, W* grad_bias) {
  const KernelBlocks blocks(conv.kernel_height, conv.kernel_width);
  const auto largest = part(0);
  const TileGrid grid = tile_grid(conv.batch * parts, largest.grad_output.height, largest.grad_output.width);
  const int64_t in_channels = blocks.count() * largest.input.channels;
  const PointSums sums(F{}, 1, grid, conv.groups, in_channels, Panels(largest.grad_output.channels));
  float* partial = static_cast<float*>(
      scratch(Scratch::partial_sums, conv.groups * sums.ranges * sums.partial_size * sizeof(float)));

  parallel_for(threads, conv.groups * sums.ranges, [&](int64_t task) {
    const int64_t g = task / sums.ranges, range = task % sums.ranges;
    float* my_sums = partial + task * sums.partial_size;
    float* at_input = static_cast<float*>(scratch(Scratch::panel, sums.points * sums.row_step() * sizeof(float)));
    const TilesAtPoints at_grads(Scratch::accumulators, sums.points, sums.tiles, sums.panels.channels);
    float* band = static_cast<float*>(
        scratch(Scratch::band, band_size<F>(sums.tiles, most(largest.input.channels, sums.panels.channels)) * sizeof(float)));

    const int64_t range_begin = range * sums.range_tiles, range_end = sums.range_end(range, grid);
    sums.clear(my_sums, range_begin >= range_end);
    for (int64_t begin = range_begin; begin < range_end; begin += sums.tiles) {
      const int64_t end = least(begin + sums.tiles, range_end);
      for_each_run(grid, begin, end, [&](TileRun run, int64_t first) {
        const auto of = part(run.image % parts);
        const auto grads = of_group(of.grad_output, g);
        const auto images = of_group(of.input, g);
        run.image /= parts;
        for (int64_t block = 0; block < blocks.count(); ++block) {
          Window under = run.window(InputToPoints<F>::from, of.padding_h, of.padding_w, F::size);
          under.y += blocks.y(block), under.x += blocks.x(block);
          float* row = at_input + first * sums.padded + block * images.channels;
          const auto to = [&](int64_t t, int64_t c) __attribute__((always_inline)) {
            return row + t * sums.padded + c;
          };
          read_tiles<InputToPoints<F>, F::size>(images, under, run.count, band, to, sums.row_step());
        }
        const Window of_output = run.pixels();
        const auto to = [&](int64_t t, int64_t k) __attribute__((always_inline)) { return at_grads.at(first + t, k); };
        read_tiles<OutputToPoints<F>>(grads, of_output, run.count, band, to, at_grads.step);
        const int64_t stride = round_up(grads.channels, lanes);
        if (grad_bias)
          add_pixels(band, of_output.columns * stride, stride, tile_size, of_output.columns, grads.channels,
                     sums.bias_sums(my_sums));
      });
      sums.add(end - begin, at_input, at_grads, my_sums, begin > range_begin);
    }
  });
  finish_grad_weight<F>(threads, sums, conv.groups, blocks, partial, grad_weight, weight_strides, grad_bias);
}

template <typename F = F3x3, typename Grads, typename Images, typename W>
void winograd_grad_weight(const Conv2d& conv, const Threads& threads, const Grads& grad_output, const Images& input,
                          W* grad_weight, const Strides& weight_strides, W* grad_bias) {
  const auto whole = [&](int64_t) {
    return GradWeightPart<Grads, Images>{grad_output, input, conv.padding_h, conv.padding_w};
  };
  grad_weight_of_parts<F>(conv, threads, 1, whole, grad_weight, weight_strides, grad_bias);
}

}  // namespace myconv2d::MYCONV2D_ISA
