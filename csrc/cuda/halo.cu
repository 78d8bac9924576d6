// The halo kernel: kernels and launches around halo.h. For sm_90a alone, so compiled for nothing else.
#include "halo.h"
#include "pack.cuh"
#include "wgmma.cuh"

namespace myconv2d::cuda {
namespace {

extern __shared__ uint4 halo_shared[];

template <class Arithmetic, int N>
__global__ void __launch_bounds__(most_patches* warpgroup, 1)
    halo(const __grid_constant__ HaloArguments<typename Arithmetic::Element> args) {
  using Machine = Sm90<Arithmetic>;
  HaloThread<Machine, N> thread(args, blockIdx.x, gridDim.x, threadIdx.x,
                                reinterpret_cast<unsigned char*>(halo_shared));
  run_halo(
      [&thread](auto&& work) {
        work(thread);
        __syncthreads();
      },
      [&thread](auto&& work) {
        work(thread);
        Machine::settle(thread.sums());
      },
      [&thread](auto&& work) { work(thread); }, thread.steps());
}

template <class Arithmetic>
void correlate(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight, ConstVector bias,
               Image out, const Context& context) {
  using T = typename Arithmetic::Element;
  HaloArguments<T> args{};
  choose_halo_shape(conv, transposed, sizeof(T), args.shape);
  const auto filters = provide_filters(correlation(conv, transposed, image.strides, out.strides),
                                       filter_strides(conv, transposed, weight.strides),
                                       static_cast<const T*>(weight.data), context);
  args.image = halo_images(static_cast<const T*>(image.data), image.strides);
  args.filter = filters.data;
  args.filter_pitch = filters.pitch;
  args.turned = transposed;
  args.bias = static_cast<const T*>(bias.data);
  args.bias_stride = bias.stride;
  args.out = halo_images(static_cast<T*>(out.data), out.strides);

  const HaloShape& shape = args.shape;
  const auto kernel = shape.columns == 32   ? halo<Arithmetic, 32>
                      : shape.columns == 64 ? halo<Arithmetic, 64>
                                            : halo<Arithmetic, 128>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, block_shared);  // not fewer: few_channels.cu
  kernel<<<grid_size(shape.blocks()), shape.tile.threads(), shape.shared_bytes(), stream_of(context)>>>(args);
  check_launch("halo");
}

}  // namespace

void correlate_halo(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                    ConstVector bias, Image out, const Context& context) {
  switch (context.type) {
    case Type::f16:
      return correlate<Fp16>(conv, transposed, image, weight, bias, out, context);
    case Type::bf16:
      return correlate<Bf16>(conv, transposed, image, weight, bias, out, context);
    default:
      return correlate<Tf32>(conv, transposed, image, weight, bias, out, context);
  }
}

}  // namespace myconv2d::cuda
