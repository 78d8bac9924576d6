// Forward and grad_input: kernels and launches around correlate.h.
#include "correlate.h"
#include "pack.cuh"

namespace myconv2d::cuda {
namespace {

template <class Tile, bool vector_loads>
__global__ void __launch_bounds__(block_threads, Tile::N <= 8 ? 4 : 3)
    correlate(const __grid_constant__ CorrelateArguments<typename Tile::Element> args) {
  __shared__ CorrelateShared<Tile> shared;
  CorrelateThread<Tile, vector_loads> thread(args, blockIdx.x, threadIdx.x, shared);
  run_block(
      [&thread](auto&& work) {
        work(thread);
        __syncthreads();
      },
      thread.steps());
}

}  // namespace

void correlate_gemm(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                    ConstVector bias, Image out, const Context& context) {
  require_fits(conv);
  const Correlation shape = correlation(conv, transposed, image.strides, out.strides);
  with_tile<block_threads>(context, shape.filters, [&](auto use) {
    using Tile = typename decltype(use)::type;
    using T = typename Tile::Element;
    CorrelateArguments<T> args{};
    args.shape = shape;
    args.image = static_cast<const T*>(image.data);
    args.filter = static_cast<const T*>(weight.data);
    args.bias = static_cast<const T*>(bias.data);
    args.bias_stride = bias.stride;
    args.out = static_cast<T*>(out.data);
    const unsigned blocks = grid_size(args.blocks(Tile::M, Tile::N));
    if (blocks == 0) return;
    const auto filters =
        provide_filters(shape, filter_strides(conv, transposed, weight.strides), args.filter, context);
    args.filter = filters.data;
    args.filter_pitch = filters.pitch;
    if (loads_vectors(shape, args.image))
      correlate<Tile, true><<<blocks, block_threads, 0, stream_of(context)>>>(args);
    else
      correlate<Tile, false><<<blocks, block_threads, 0, stream_of(context)>>>(args);
    check_launch("correlate");
  });
}

}  // namespace myconv2d::cuda
