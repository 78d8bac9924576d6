// What a block of the grad_weight kernel for few channels (few_grad_weight.h) has to do: the roles of the tensors, the
// rectangles of pixels and how they are split among the blocks, and where each partial sum belongs in the result.
#pragma once

#include "few_channels.h"

namespace myconv2d::cuda {

constexpr int row_group = 9, channel_group = 4;      // what a thread adds up
constexpr int wide_tile = 32, most_row_groups = 16;  // of a block
constexpr int few_gw_pixels = 128;                   // of a rectangle, at most
constexpr int narrow_loads = 4;                      // values of the halo per thread, at most
constexpr int wide_pitch = wide_tile + 4;  // floats from pixel to pixel: 16-byte stores meet no conflicts
constexpr int thread_sums = (row_group + 1) * channel_group;  // with those of `wide` itself

struct FewGradWeightShape {
  Correlation
      narrow;  // the windows of the wide pixels in the narrow image: channels, filters = wide channels
  Strides wide, narrow_strides;
  FilterStrides weight;  // of the result: filter is a wide channel, channel a narrow one
  bool bias, bias_of_wide;
  FewGrid grid;
  int64_t splits;
  int narrow_height, narrow_width;  // of grad_output where it is the narrow one

  HOST_DEVICE int taps() const { return narrow.h.kernel * narrow.w.kernel; }
  HOST_DEVICE int rows() const { return narrow.channels * taps(); }
  HOST_DEVICE int groups() const { return static_cast<int>(ceil_div(rows(), row_group)); }
  HOST_DEVICE int tiles_rows() const { return static_cast<int>(ceil_div(groups(), most_row_groups)); }
  HOST_DEVICE int tiles_wide() const { return static_cast<int>(ceil_div(narrow.filters, wide_tile)); }
  HOST_DEVICE int64_t weights() const { return static_cast<int64_t>(rows()) * narrow.filters; }
  HOST_DEVICE int biases() const { return !bias ? 0 : bias_of_wide ? narrow.filters : narrow.channels; }
  HOST_DEVICE int64_t partial_size() const { return weights() + biases(); }  // of one split
  HOST_DEVICE int64_t blocks() const { return splits * tiles_rows() * tiles_wide(); }
};

inline FewGradWeightShape few_grad_weight_shape(const Conv2d& conv, const Strides& grad_output,
                                                const Strides& input, const Strides& weight, bool bias) {
  const bool by_input =
      conv.in_channels > most_few;  // grad_output has few channels: the input is the wide one
  FewGradWeightShape shape{};
  shape.narrow = correlation(conv, by_input, {}, {});
  shape.wide = by_input ? input : grad_output;
  shape.narrow_strides = by_input ? grad_output : input;
  shape.weight = filter_strides(conv, by_input, weight);
  shape.bias = bias;
  shape.bias_of_wide = !by_input;
  shape.narrow_height = static_cast<int>(conv.out_height);
  shape.narrow_width = static_cast<int>(conv.out_width);
  return shape;
}

// Where element `index` of a split's partial sums, [row][wide channel], belongs in the result.
HOST_DEVICE int64_t weight_offset(const FewGradWeightShape& shape, int64_t index) {
  const Window &h = shape.grid.h[0], &w = shape.grid.w[0];
  const int row = static_cast<int>(divide(index, shape.narrow.filters)),
            filter = static_cast<int>(index - static_cast<int64_t>(row) * shape.narrow.filters);
  const int channel = row / shape.taps(), tap = row - channel * shape.taps(), r = tap / w.taps,
            s = tap - r * w.taps;
  return filter * shape.weight.filter + channel * shape.weight.channel +
         (h.first_tap + r * h.tap_step) * shape.weight.h + (w.first_tap + s * w.tap_step) * shape.weight.w;
}

inline int64_t few_gw_planes(const Correlation& narrow, const FewTile& tile) {
  return narrow.channels * plane_pitch(narrow, tile);
}

// Floats of shared memory: pixels' corners, wide pixels and planes; then in the same place the threads' sums.
inline int64_t few_gw_shared(const FewGradWeightShape& shape) {
  return larger<int64_t>(few_gw_pixels * (1 + wide_pitch) + few_gw_planes(shape.narrow, shape.grid.tile),
                         few_threads * thread_sums);
}

// As many splits as give every multiprocessor two blocks, of one rectangle at least.
inline bool choose_few_grad_weight_grid(FewGradWeightShape& shape) {
  FewTile tile = choose_tile(shape.narrow, few_gw_pixels);
  while (tile.pixels() > few_gw_pixels ||
         shape.narrow.channels * most_positions(shape.narrow, tile) > few_threads * narrow_loads)
    if (!shrink(tile)) return false;
  shape.grid = FewGrid(shape.narrow, tile);
  const int64_t wanted = ceil_div(2 * multiprocessors, shape.tiles_rows() * shape.tiles_wide());
  shape.splits = larger<int64_t>(smaller(wanted, shape.grid.rectangles()), 1);
  return true;
}

}  // namespace myconv2d::cuda
