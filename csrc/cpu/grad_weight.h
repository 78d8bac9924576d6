// grad_weight and grad_bias: one GEMM whose reduced axis is the pixels,
//   grad_weight[k, (tap, c)] = Σ_pixel grad_output[pixel, k] · input[pixel, tap, c].
//
// The pixels are split into a number of ranges that depends on the shape alone; each range sums into a partial
// result of its own, and the partial results are added in order. So results do not depend on the number of threads,
// and no two threads ever write to one place.
#pragma once

#include "gathered_product.h"

namespace myconv2d::MYCONV2D_ISA {

constexpr int64_t pixel_chunk = 256;  // the depth of one multiplication

struct Reduction {
  int64_t rows, row_panels;               // of out channels
  int64_t block, blocks;                  // columns of one task, and how many such blocks
  int64_t ranges, range_pixels;
  int64_t rows_padded() const { return rows * row_panels; }

  Reduction(const Gather& gather, int64_t groups, int64_t channels, int64_t vector_columns) {
    rows = rows_per_panel(channels);
    row_panels = ceil_div(channels, rows);
    block = least(8 * vector_columns, round_up(most(gather.depth(), 1), vector_columns));
    blocks = most(1, ceil_div(gather.depth(), block));  // one even without a column: grad_bias
    const int64_t result_size = groups * blocks * block * rows_padded();
    const int64_t affordable = (int64_t{8} << 20) / most(result_size, 1);
    const int64_t useful = least(32, gather.pixels() / 1024);
    ranges = most(1, least(affordable, useful));
    range_pixels = ceil_div(gather.pixels(), ranges);
  }
};

// panel[pixel][width]: lanes are (tap, channel) columns `first` … of the im2col matrix, zero behind its end.
template <typename T, typename A>
void pack_columns(const Gather& gather, const PixelTile& tile, int64_t first, int64_t width, const T* source,
                  const Strides& strides, A* panel) {
  int64_t offsets[max_tile_pixels];
  const int64_t end = least(first + width, gather.depth());
  int64_t lane = 0;
  for (int64_t column = first; column < end;) {
    const int64_t tap = column / gather.channels, channel = column % gather.channels;
    const int64_t channels = least(gather.channels - channel, end - column);
    const T* from = source + channel * strides.c;
    tap_offsets(gather, tap, tile, 0, tile.count, strides, offsets);
    if (strides.c == 1) {
      for (int64_t i = 0; i < tile.count; ++i)
        for (int64_t c = 0; c < channels; ++c)
          panel[i * width + lane + c] = offsets[i] >= 0 ? load<A>(from[offsets[i] + c]) : A(0);
    } else {
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < tile.count; ++i)
          panel[i * width + lane + c] = offsets[i] >= 0 ? load<A>(from[offsets[i] + c * strides.c]) : A(0);
    }
    lane += channels;
    column += channels;
  }
  for (; lane < width; ++lane)
    for (int64_t i = 0; i < tile.count; ++i) panel[i * width + lane] = A(0);
}

// panel[pixel][rows]: lanes are out channels `first` …, zero behind their end.
template <typename T, typename A>
void pack_rows(const PixelTile& tile, int64_t first, int64_t rows, int64_t channels, const T* grad_output,
               int64_t channel_stride, A* panel) {
  for (int64_t lane = 0; lane < rows; ++lane) {
    const T* from = grad_output + (first + lane) * channel_stride;
    if (first + lane < channels)
      for (int64_t i = 0; i < tile.count; ++i) panel[i * rows + lane] = load<A>(from[tile.target[i]]);
    else
      for (int64_t i = 0; i < tile.count; ++i) panel[i * rows + lane] = A(0);
  }
}

template <typename A>
void add_bias_sums(const Reduction& plan, int64_t count, int64_t channels, const A* rows_panels, A* sums) {
  for (int64_t k = 0; k < channels; ++k) {
    const A* panel = rows_panels + k / plan.rows * plan.rows * count + k % plan.rows;
    A sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += panel[i * plan.rows];
    sums[k] += sum;
  }
}

template <typename T, typename A = typename Accumulator<T>::type>
void grad_weight_product(const Conv2d& conv, const Threads& threads, const T* grad_output,
                         const Strides& output_strides, const T* input, const Strides& input_strides, T* grad_weight,
                         const Strides& weight_strides, T* grad_bias) {
  const Gather gather = forward_gather(conv);
  const int64_t groups = conv.groups, channels = conv.group_out_channels(), pixels = gather.pixels();
  if (channels == 0) return;
  const Reduction plan(gather, groups, channels, columns<A>);
  const int64_t block_size = plan.rows_padded() * plan.block;
  const int64_t blocks = groups * plan.blocks, range_size = blocks * block_size;
  A* partial = static_cast<A*>(
      scratch(Scratch::partial_sums, plan.ranges * (range_size + conv.out_channels) * sizeof(A)));
  A* bias_partial = partial + plan.ranges * range_size;
  std::memset(partial, 0, plan.ranges * (range_size + conv.out_channels) * sizeof(A));

  parallel_for(threads, plan.ranges * blocks, [&](int64_t task) {
    const int64_t range = task / blocks, g = task % blocks / plan.blocks, block = task % plan.blocks;
    const int64_t first_column = block * plan.block;
    const int64_t column_panels = ceil_div(least(plan.block, gather.depth() - first_column), columns<A>);
    A* sums = partial + task * block_size;
    A* rows = static_cast<A*>(scratch(Scratch::weight_panel, plan.rows_padded() * pixel_chunk * sizeof(A)));
    A* panel = static_cast<A*>(scratch(Scratch::panel, plan.block * pixel_chunk * sizeof(A)));
    PixelTile tile;
    const int64_t range_end = least((range + 1) * plan.range_pixels, pixels);
    for (int64_t first = range * plan.range_pixels; first < range_end; first += pixel_chunk) {
      const int64_t count = least(pixel_chunk, range_end - first);
      tile.locate(gather, first, count, input_strides, output_strides);
      for (int64_t i = 0; i < plan.row_panels; ++i)
        pack_rows<T, A>(tile, i * plan.rows, plan.rows, channels, grad_output + g * channels * output_strides.c,
                        output_strides.c, rows + i * plan.rows * count);
      for (int64_t j = 0; j < column_panels; ++j)
        pack_columns<T, A>(gather, tile, first_column + j * columns<A>, columns<A>,
                           input + g * gather.channels * input_strides.c, input_strides,
                           panel + j * columns<A> * count);
      multiply<A>(count, rows, plan.row_panels, plan.rows, panel, column_panels, sums, plan.block, true);
      if (grad_bias && block == 0)
        add_bias_sums<A>(plan, count, channels, rows, bias_partial + range * conv.out_channels + g * channels);
    }
  });

  parallel_for(threads, conv.out_channels, [&](int64_t k) {
    const int64_t g = k / channels, row = k % channels;
    T* to = grad_weight + k * weight_strides.n;
    for (int64_t column = 0; column < gather.depth(); ++column) {
      const A* from = partial + (g * plan.blocks + column / plan.block) * block_size + row * plan.block +
                      column % plan.block;
      A sum = 0;
      for (int64_t range = 0; range < plan.ranges; ++range) sum += from[range * range_size];
      const int64_t tap = column / gather.channels, c = column % gather.channels;
      to[c * weight_strides.c + tap / conv.kernel_width * weight_strides.h +
         tap % conv.kernel_width * weight_strides.w] = narrow<T, A>(sum);
    }
    if (grad_bias) {
      A sum = 0;
      for (int64_t range = 0; range < plan.ranges; ++range) sum += bias_partial[range * conv.out_channels + k];
      grad_bias[k] = narrow<T, A>(sum);
    }
  });
}

}  // namespace myconv2d::MYCONV2D_ISA
