// grad_weight + grad_bias: kernels and launches around grad_weight.h.
#include "grad_weight.h"
#include "launch.cuh"
#include "reduce.cuh"

namespace myconv2d::cuda {
namespace {

constexpr int tile_rows = 64;

template <class Tile>
__global__ void __launch_bounds__(block_threads, Tile::N <= 8 ? 5 : 4) grad_weight_partial(
    const __grid_constant__ GradWeightArguments<typename Tile::Element, typename Tile::Accumulator> args) {
  __shared__ GradWeightShared<Tile> shared;
  GradWeightThread<Tile> thread(args, blockIdx.x, threadIdx.x, shared);
  run_block(
      [&thread](auto&& work) {
        work(thread);
        __syncthreads();
      },
      thread.steps());
}

}  // namespace

void grad_weight_gemm(const Conv2d& conv, ConstImage grad_output, ConstImage input, Image grad_weight,
                      void* grad_bias, const Context& context) {
  require_fits(conv);
  GradWeightShape shape =
      grad_weight_shape(conv, grad_output.strides, input.strides, grad_weight.strides, grad_bias);
  if (shape.partial_size() == 0) return;
  with_tile<tile_rows>(context, shape.group_outputs, [&](auto use) {
    using Tile = typename decltype(use)::type;
    using T = typename Tile::Element;
    using Accumulator = typename Tile::Accumulator;

    const int64_t tiles = shape.tiles(Tile::M, Tile::N);
    set_splits(shape, tiles, step_size<T>);
    const int64_t bytes = shape.splits * shape.partial_size() * static_cast<int64_t>(sizeof(Accumulator));
    auto* partial = static_cast<Accumulator*>(context.workspace(bytes));

    const GradWeightArguments<T, Accumulator> args{shape, static_cast<const T*>(input.data),
                                                   static_cast<const T*>(grad_output.data), partial};
    grad_weight_partial<Tile>
        <<<grid_size(tiles * shape.splits), block_threads, 0, stream_of(context)>>>(args);
    check_launch("grad_weight_partial");

    reduce_splits(shape, partial, static_cast<T*>(grad_weight.data), static_cast<T*>(grad_bias), context);
  });
}

}  // namespace myconv2d::cuda
