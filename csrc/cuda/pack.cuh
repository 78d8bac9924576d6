// The filters as a correlation's kernel reads them: in place if they are packed already, else a packed copy
// (pack.h).
#pragma once

#include "launch.cuh"
#include "pack.h"

namespace myconv2d::cuda {
namespace {

template <class T>
struct Filters {
  const T* data;
  int64_t pitch;  // elements from row to row
};

template <class T>
__global__ void __launch_bounds__(256) pack_filters(const __grid_constant__ PackArguments<T> args) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index < args.elements()) pack_element(args, index);
}

template <class T>
Filters<T> provide_filters(const Correlation& shape, const FilterStrides& strides, const T* weight,
                           const Context& context) {
  if (is_packed(shape, strides, weight)) return {weight, strides.filter};
  PackArguments<T> packing{shape, strides, weight, nullptr, packed_pitch<T>(shape)};
  if (const int64_t elements = packing.elements()) {
    packing.packed = static_cast<T*>(context.workspace(elements * static_cast<int64_t>(sizeof(T))));
    pack_filters<T><<<grid_size(ceil_div(elements, 256)), 256, 0, stream_of(context)>>>(packing);
    check_launch("pack_filters");
  }
  return {packing.packed, packing.pitch};
}

}  // namespace
}  // namespace myconv2d::cuda
