// The second stage of grad_weight + grad_bias: adds the splits' partial sums in a fixed order.
#pragma once

#include "launch.cuh"

namespace myconv2d::cuda {

// Slices of them side by side, each in order, then the slices in order.
// A warp reads 32 neighbouring elements; bound by DRAM, or by latency where the weight is small.
template <class T, class Accumulator, class Shape>
__global__ void __launch_bounds__(reduce_elements* reduce_slices)
    grad_weight_reduce(const __grid_constant__ Shape shape, const Accumulator* __restrict__ partial,
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

// `Shape` says how many splits and elements there are, and where each belongs (weight_offset).
template <class T, class Accumulator, class Shape>
void reduce_splits(const Shape& shape, const Accumulator* partial, T* grad_weight, T* grad_bias,
                   const Context& context) {
  const unsigned blocks = grid_size(ceil_div(shape.partial_size(), reduce_elements));
  grad_weight_reduce<T, Accumulator><<<blocks, dim3(reduce_elements, reduce_slices), 0, stream_of(context)>>>(
      shape, partial, grad_weight, grad_bias);
  check_launch("grad_weight_reduce");
}

}  // namespace myconv2d::cuda
