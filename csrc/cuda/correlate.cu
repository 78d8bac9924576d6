// Forward and grad_input: kernels and launches around correlate.h.
#include "correlate.h"
#include "launch.cuh"
#include "pack.h"

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

template <class T>
__global__ void __launch_bounds__(256) pack_filters(const __grid_constant__ PackArguments<T> args) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index < args.elements()) pack_element(args, index);
}

// The filters as the kernel reads them: the weight itself if it is packed already, else a packed copy.
template <class T>
void provide_filters(CorrelateArguments<T>& args, const FilterStrides& strides, const Context& context) {
  args.filter_pitch = strides.filter;
  if (is_packed(args.shape, strides, args.filter)) return;
  PackArguments<T> packing{args.shape, strides, args.filter, nullptr, packed_pitch<T>(args.shape)};
  if (const int64_t elements = packing.elements()) {
    packing.packed = static_cast<T*>(context.workspace(elements * static_cast<int64_t>(sizeof(T))));
    pack_filters<T><<<grid_size(ceil_div(elements, 256)), 256, 0, stream_of(context)>>>(packing);
    check_launch("pack_filters");
  }
  args.filter = packing.packed;
  args.filter_pitch = packing.pitch;
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
    provide_filters(args, filter_strides(conv, transposed, weight.strides), context);
    if (loads_vectors(shape, args.image))
      correlate<Tile, true><<<blocks, block_threads, 0, stream_of(context)>>>(args);
    else
      correlate<Tile, false><<<blocks, block_threads, 0, stream_of(context)>>>(args);
    check_launch("correlate");
  });
}

}  // namespace myconv2d::cuda
