// What a launch of the kernels for few channels or of the halo kernel takes, counted on the host: for
// myconv2d.cuda_report.
#pragma once

#include "algorithm.h"

namespace myconv2d::cuda {

struct Cost {
  int64_t blocks, threads, shared_bytes;  // threads and shared memory of a block
  int64_t filters;                        // of a block of the halo kernel, else 0
  int64_t moved_bytes;                    // what the blocks load, halos and filters included, and store
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

// Image lines (or columns) that the halos of 3×3 tiles along one axis cover, likewise.
inline int64_t covered(int size, int tiles, int tile) {
  int64_t sum = 0;
  for (int first = -1; first < tiles * tile - 1; first += tile)
    sum += smaller(first + tile + 2, size) - larger(first, 0);
  return sum;
}

inline Cost halo_cost(const Conv2d& conv, bool transposed, int element) {
  HaloShape shape;
  choose_halo_shape(conv, transposed, element, shape);
  const int64_t filters = halo_taps * shape.channels * shape.columns + (transposed ? 0 : shape.columns),
                images = conv.batch * covered(shape.height, shape.tiles_down, shape.tile.rows()) *
                         covered(shape.width, shape.tiles_across, shape.tile.columns()) * shape.channels,
                outputs = conv.batch * conv.in_pixels() * shape.filters;
  return {shape.blocks(), shape.tile.threads(), shape.shared_bytes(), shape.columns,
          (shape.blocks() * filters + shape.splits * images + outputs) * element};
}

// All zero for the implicit GEMM, which is not counted.
inline Cost cost(const Conv2d& conv, Type type, Pass pass, const Setting& setting) {
  const int64_t element = type == Type::f32 ? 4 : 2, float_bytes = 4;
  const Algorithm algorithm = choose_algorithm(conv, type, pass, setting);
  if (algorithm == Algorithm::implicit_gemm) return {};
  if (algorithm == Algorithm::halo)
    return halo_cost(conv, pass == Pass::grad_input, static_cast<int>(element));
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
    return {shape.blocks(), few_threads, few_gw_shared(shape) * float_bytes, 0,
            (narrow + wide + bias + shape.partial_size()) * element + partial * float_bytes};
  }
  const bool turned = pass == Pass::grad_input, in = algorithm == Algorithm::few_in;
  const Correlation shape = correlation(conv, turned, {}, {});
  FewGrid grid;
  in ? choose_few_in_grid(shape, grid) : choose_few_out_grid(shape, grid);
  const int64_t blocks = grid.blocks();
  const int64_t filters = conv.taps() * shape.channels * shape.filters + (turned ? 0 : shape.filters),
                outputs = conv.batch * (turned ? conv.in_pixels() : conv.out_pixels()) * shape.filters;
  const int64_t shared = in ? few_in_shared(shape, grid.tile) : few_out_shared(shape, grid.tile);
  return {blocks, few_threads, shared * float_bytes, 0,
          (halo_pixels(grid) * shape.channels + blocks * filters + outputs) * element};
}

}  // namespace myconv2d::cuda
