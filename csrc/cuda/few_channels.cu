// The kernels for few channels: kernels and launches around few_in.h, few_out.h and few_grad_weight.h.
#include "few_grad_weight.h"
#include "few_in.h"
#include "few_out.h"
#include "launch.cuh"
#include "reduce.cuh"

namespace myconv2d::cuda {
namespace {

extern __shared__ float4 few_shared[];

// Runs a function for this thread, then meets the others.
template <class Thread>
__device__ auto phase_of(Thread& thread) {
  return [&thread](auto&& work) {
    work(thread);
    __syncthreads();
  };
}

template <class T>
__global__ void __launch_bounds__(few_threads, 3) few_in(const __grid_constant__ FewArguments<T> args) {
  FewInThread<T> thread(args, blockIdx.x, threadIdx.x, reinterpret_cast<float*>(few_shared));
  run_few_in(phase_of(thread), thread.three_rows());
}

// Three blocks leave 80 registers, which hold three filters of 16 bits or two of 32, not more.
template <class T, int filters>
__global__ void __launch_bounds__(few_threads, filters * sizeof(T) > 8 || filters > 3 ? 2 : 3)
    few_out(const __grid_constant__ FewArguments<T> args) {
  FewOutThread<T, filters> thread(args, blockIdx.x, threadIdx.x, reinterpret_cast<float*>(few_shared));
  run_few_out(phase_of(thread), thread.slices(), thread.three_rows());
}

template <class T>
__global__ void __launch_bounds__(few_threads, 2)
    few_grad_weight(const __grid_constant__ FewGradWeightArguments<T> args) {
  FewGradWeightThread<T> thread(args, blockIdx.x, threadIdx.x, reinterpret_cast<float*>(few_shared));
  run_few_grad_weight(phase_of(thread), thread.rectangles(), thread.three_columns(), thread.sums_narrow());
}

template <class Arguments>
void launch(void (*kernel)(Arguments), const char* name, const Arguments& args, int64_t blocks,
            int64_t floats, const Context& context) {
  const int bytes = static_cast<int>(floats * static_cast<int64_t>(sizeof(float)));
  // Not `bytes`: of two host threads that launch the kernel, the one that needs less must not lower it.
  if (bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared);
  kernel<<<grid_size(blocks), few_threads, bytes, stream_of(context)>>>(args);
  check_launch(name);
}

// Calls use(T()) with the element type.
template <class Use>
void with_type(const Context& context, Use&& use) {
  switch (context.type) {
    case Type::f16:
      return use(__half());
    case Type::bf16:
      return use(__nv_bfloat16());
    default:
      return use(float());
  }
}

template <class T>
FewArguments<T> arguments(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                          ConstVector bias, Image out) {
  FewArguments<T> args{};
  args.shape = correlation(conv, transposed, image.strides, out.strides);
  args.image = static_cast<const T*>(image.data);
  args.filter = static_cast<const T*>(weight.data);
  args.filter_strides = filter_strides(conv, transposed, weight.strides);
  args.bias = static_cast<const T*>(bias.data);
  args.bias_stride = bias.stride;
  args.out = static_cast<T*>(out.data);
  args.image_vectors = moves_vectors(image.strides, args.shape.channels, args.image);
  args.out_vectors = moves_vectors(out.strides, args.shape.filters, args.out);
  return args;
}

}  // namespace

void correlate_few_in(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                      ConstVector bias, Image out, const Context& context) {
  with_type(context, [&](auto type) {
    using T = decltype(type);
    FewArguments<T> args = arguments<T>(conv, transposed, image, weight, bias, out);
    choose_few_in_grid(args.shape, args.grid);
    arrange_few_in(args);
    launch(few_in<T>, "few_in", args, args.grid.blocks(), few_in_shared(args.shape, args.grid.tile), context);
  });
}

void correlate_few_out(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight,
                       ConstVector bias, Image out, const Context& context) {
  with_type(context, [&](auto type) {
    using T = decltype(type);
    FewArguments<T> args = arguments<T>(conv, transposed, image, weight, bias, out);
    choose_few_out_grid(args.shape, args.grid);
    arrange_few_out(args);
    constexpr void (*kernels[])(FewArguments<T>) = {few_out<T, 1>, few_out<T, 2>, few_out<T, 3>,
                                                    few_out<T, 4>};
    launch(kernels[args.shape.filters - 1], "few_out", args, args.grid.blocks(),
           few_out_shared(args.shape, args.grid.tile), context);
  });
}

void grad_weight_few(const Conv2d& conv, ConstImage grad_output, ConstImage input, Image grad_weight,
                     void* grad_bias, const Context& context) {
  with_type(context, [&](auto type) {
    using T = decltype(type);
    FewGradWeightArguments<T> args{};
    FewGradWeightShape& shape = args.shape;
    shape = few_grad_weight_shape(conv, grad_output.strides, input.strides, grad_weight.strides, grad_bias);
    choose_few_grad_weight_grid(shape);
    grid_size(shape.grid.rectangles());  // must be a number that a block can count to
    const ConstImage narrow = shape.bias_of_wide ? input : grad_output,
                     wide = shape.bias_of_wide ? grad_output : input;
    args.narrow = static_cast<const T*>(narrow.data);
    args.wide = static_cast<const T*>(wide.data);
    args.wide_vectors = moves_vectors(shape.wide, shape.narrow.filters, args.wide);
    const int64_t bytes = shape.splits * shape.partial_size() * static_cast<int64_t>(sizeof(float));
    args.partial = static_cast<float*>(context.workspace(bytes));
    launch(few_grad_weight<T>, "few_grad_weight", args, shape.blocks(), few_gw_shared(shape), context);
    reduce_splits(shape, args.partial, static_cast<T*>(grad_weight.data), static_cast<T*>(grad_bias),
                  context);
  });
}

}  // namespace myconv2d::cuda
