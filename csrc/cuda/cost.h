// What a launch of the kernels for few channels takes, counted on the host: for myconv2d.cuda_report.
#pragma once

#include "algorithm.h"

namespace myconv2d::cuda {

struct Cost {
  int64_t blocks, shared_bytes;  // shared memory of a block
  int64_t moved_bytes;           // what the blocks load, halos and filters included, and store
};

// Image lines (or columns) that the halos of all rectangles along one axis cover, what lies outside left out.
inline int64_t covered(const Window* windows, int classes, int tiles, int tile, int halo) {
  int64_t sum = 0;
  for (int i = 0; i < classes; ++i)
    for (int t = 0; t < tiles; ++t) {
      const int first = t * tile * windows[i].step + windows[i].origin;
      sum += larger(smaller(first + halo, windows[i].size) - larger(first, 0), 0);
    }
  return sum;
}

inline int64_t halo_pixels(const FewGrid& grid) {
  return grid.batch * covered(grid.h, grid.classes_h, grid.down, grid.tile.rows, grid.halo_rows.value) *
         covered(grid.w, grid.classes_w, grid.across, grid.tile.columns, grid.halo_columns.value);
}

// All zero for the implicit GEMM, which is not counted.
inline Cost cost(const Conv2d& conv, Type type, Pass pass) {
  const int64_t element = type == Type::f32 ? 4 : 2, float_bytes = 4;
  const Algorithm algorithm = choose_algorithm(conv, type, pass);
  if (algorithm == Algorithm::implicit_gemm) return {};
  if (algorithm == Algorithm::few_grad_weight) {
    FewGradWeightShape shape = few_grad_weight_shape(conv, {}, {}, {}, true);
    choose_few_grad_weight_grid(shape);
    const int64_t wide_pixels = shape.bias_of_wide ? conv.out_pixels() : conv.in_pixels(),
                  narrow = halo_pixels(shape.grid) * shape.narrow.channels * shape.tiles_rows() *
                           shape.tiles_wide(),
                  wide = conv.batch * wide_pixels * shape.narrow.filters * shape.tiles_rows(),
                  bias = shape.bias_of_wide ? 0 : conv.batch * conv.out_pixels() * shape.narrow.channels,
                  partial =
                      2 * shape.splits * shape.partial_size();  // stored, and loaded by the second stage
    return {shape.blocks(), few_gw_shared(shape) * float_bytes,
            (narrow + wide + bias + shape.partial_size()) * element + partial * float_bytes};
  }
  const bool turned = pass == Pass::grad_input, in = algorithm == Algorithm::few_in;
  const Correlation shape = correlation(conv, turned, {}, {});
  FewGrid grid;
  in ? choose_few_in_grid(shape, grid) : choose_few_out_grid(shape, grid);
  const int64_t blocks = grid.blocks();
  const int64_t filters = conv.taps() * shape.channels * shape.filters + (turned ? 0 : shape.filters),
                outputs = conv.batch * (turned ? conv.in_pixels() : conv.out_pixels()) * shape.filters;
  return {blocks, (in ? few_in_shared(shape, grid.tile) : few_out_shared(shape, grid.tile)) * float_bytes,
          (halo_pixels(grid) * shape.channels + blocks * filters + outputs) * element};
}

}  // namespace myconv2d::cuda
