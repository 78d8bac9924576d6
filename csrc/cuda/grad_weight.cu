// grad_weight + grad_bias: kernels and launches around grad_weight.h.
#include "grad_weight.h"
#include "launch.cuh"

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

// Adds the splits in a fixed order: 16 slices of them side by side, each in order, then the slices in order.
// A warp reads 32 neighbouring elements; bound by DRAM, or by latency where the weight is small.
constexpr int reduce_elements = 32, reduce_slices = 16;

template <class T, class Accumulator>
__global__ void __launch_bounds__(reduce_elements* reduce_slices)
    grad_weight_reduce(const __grid_constant__ GradWeightShape shape, const Accumulator* __restrict__ partial,
                       T* __restrict__ grad_weight, T* __restrict__ grad_bias) {
  __shared__ Accumulator slices[reduce_slices][reduce_elements];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * reduce_elements + threadIdx.x,
                size = shape.partial_size();
  Accumulator sum = 0;
  if (index < size)
#pragma unroll 4
    for (int64_t split = threadIdx.y; split < shape.splits; split += reduce_slices)
      sum += partial[split * size + index];
  slices[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || index >= size) return;
  sum = 0;
  for (int slice = 0; slice < reduce_slices; ++slice) sum += slices[slice][threadIdx.x];
  if (index < shape.weights())
    grad_weight[weight_offset(shape, index)] = static_cast<T>(sum);
  else
    grad_bias[index - shape.weights()] = static_cast<T>(sum);
}

}  // namespace

void grad_weight(const Conv2d& conv, ConstImage grad_output, ConstImage input, Image grad_weight,
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

    const unsigned blocks = grid_size(ceil_div(shape.partial_size(), reduce_elements));
    grad_weight_reduce<T, Accumulator>
        <<<blocks, dim3(reduce_elements, reduce_slices), 0, stream_of(context)>>>(
            shape, partial, static_cast<T*>(grad_weight.data), static_cast<T*>(grad_bias));
    check_launch("grad_weight_reduce");
  });
}

}  // namespace myconv2d::cuda
