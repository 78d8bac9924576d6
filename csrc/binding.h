// From the framework's tensors to conv2d.h and back: the part that the CPU and the CUDA library share.
// LibTorch's stable ABI only, so that one binary serves every torch from 2.11 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/shim_utils.h>  // TORCH_ERROR_CODE_CHECK: the check that headers of 2.10 have

#include <array>
#include <exception>
#include <optional>
#include <tuple>
#include <vector>

#include "conv2d.h"
#if !defined(USE_CUDA)
#include "results.h"
#endif

namespace myconv2d {

using torch::stable::Tensor;
using IntList = std::vector<int64_t>;

inline Type type_of(const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Type::f64;
    case ScalarType::Float: return Type::f32;
    case ScalarType::Half: return Type::f16;
    case ScalarType::BFloat16: return Type::bf16;
    case ScalarType::Long: return Type::i64;
    case ScalarType::Int: return Type::i32;
    case ScalarType::Short: return Type::i16;
    case ScalarType::Char: return Type::i8;
    case ScalarType::Byte: return Type::u8;
    default: STD_TORCH_CHECK(false, "myconv2d: this element type is not supported by the native library");
  }
}

inline Strides strides_of(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

// The framework's own rule (is_channels_last_strides_2d), so that results and fakes agree on every stride.
inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  int64_t least = 0;
  if (strides[1] == 0) return false;
  for (int d : {1, 3, 2, 0}) {
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;  // N111 and the like: contiguous by convention
    least = strides[d];
    if (sizes[d] > 1) least *= sizes[d];
  }
  return true;
}

inline double elements(int64_t dim, const int64_t* sizes) {  // for messages: what does not fit any integer too
  double count = 1;
  for (int64_t d = 0; d < dim; ++d) count *= static_cast<double>(sizes[d]);
  return count;
}

// A fresh tensor. Not torch::stable::empty, which looks its operator up by name, as slow as a tiny layer.
inline Tensor empty_strided(const Tensor& like, int32_t dtype, int64_t dim, const int64_t* sizes, const int64_t* strides) {
  int32_t device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
#if !defined(USE_CUDA)
  if (device == aoti_torch_device_type_cpu())
    if (const AtenTensorHandle kept = in_kept_memory(dtype, dim, sizes, strides)) return Tensor(kept);
#endif
  AtenTensorHandle result;
  const auto error =
      aoti_torch_empty_strided(dim, sizes, strides, dtype, device, like.get_device_index(), &result);
  STD_TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "myconv2d: out of memory: a result of ", elements(dim, sizes), " elements");
  return Tensor(result);
}

// A fresh result beside its operands: channels_last if either of them is, contiguous otherwise.
inline Tensor empty_beside(const Tensor& a, const Tensor& b, const std::array<int64_t, 4>& sizes) {
  const bool channels_last = is_channels_last(a) || is_channels_last(b);
  std::array<int64_t, 4> strides;
  int64_t next = 1;
  for (int d : channels_last ? std::array{1, 3, 2, 0} : std::array{3, 2, 1, 0}) {
    strides[d] = next;
    const int64_t size = channels_last || sizes[d] > 0 ? sizes[d] : 1;  // as the framework counts empty axes
    STD_TORCH_CHECK(!__builtin_mul_overflow(next, size, &next), "myconv2d: the result is too large for any memory");
  }
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(a.get(), &dtype));
  return empty_strided(a, dtype, 4, sizes.data(), strides.data());
}

// Along one axis; refused where the kernel does not fit into the padded input, or their sizes into 64 bits.
inline int64_t out_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  int64_t padded, reach;
  const bool fits = !__builtin_mul_overflow(padding, 2, &padded) && !__builtin_add_overflow(padded, in, &padded) &&
                    !__builtin_mul_overflow(dilation, kernel - 1, &reach) && reach < padded;
  STD_TORCH_CHECK(fits, "myconv2d: the kernel is larger than the padded input");
  return (padded - reach - 1) / stride + 1;
}

struct Pair {  // (vertical, horizontal)
  int64_t values[2];

  Pair(int64_t vertical, int64_t horizontal) : values{vertical, horizontal} {}
  Pair(const IntList& list) {
    STD_TORCH_CHECK(list.size() == 2, "myconv2d: stride, padding and dilation take two values each");
    values[0] = list[0], values[1] = list[1];
  }
  int64_t operator[](int i) const { return values[i]; }
};

// The description of a convolution whose sizes agree; anything that would read or write out of bounds is refused.
// The wording for people is Python's task (functional.py).
inline Conv2d describe(const int64_t* input, const int64_t* weight, const Pair& stride, const Pair& padding,
                       const Pair& dilation, int64_t groups) {
  for (int d = 0; d < 2; ++d)
    STD_TORCH_CHECK(stride[d] > 0 && padding[d] >= 0 && dilation[d] > 0 && weight[2 + d] > 0,
                    "myconv2d: stride, dilation and kernel must be positive, padding must not be negative");
  STD_TORCH_CHECK(groups > 0 && input[1] == weight[1] * groups && weight[0] % groups == 0,
                  "myconv2d: channels of input and weight do not fit the groups");
  Conv2d conv{input[0], input[1], input[2], input[3], weight[0], weight[2], weight[3],
              out_size(input[2], weight[2], stride[0], padding[0], dilation[0]),
              out_size(input[3], weight[3], stride[1], padding[1], dilation[1]),
              stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups};
  return conv;
}

inline void require(const Tensor& tensor, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 4, "myconv2d: ", name, " must have 4 dimensions, got ", tensor.dim());
  STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type() && tensor.device() == like.device(),
                  "myconv2d: all tensors of a convolution must have one type and one device (", name, " differs)");
}

// grad_output must have the size of the output it is the gradient of.
inline void require_output(const Tensor& grad_output, const Conv2d& conv) {
  STD_TORCH_CHECK(grad_output.size(0) == conv.batch && grad_output.size(1) == conv.out_channels &&
                      grad_output.size(2) == conv.out_height && grad_output.size(3) == conv.out_width,
                  "myconv2d: grad_output does not have the size of the convolution's output");
}

constexpr auto channels_last = torch::headeronly::MemoryFormat::ChannelsLast;

// A fresh vector, or image in channels_last.
inline Tensor fresh(const Tensor& like, const std::vector<int64_t>& size,
                    torch::headeronly::ScalarType type = torch::headeronly::ScalarType::Float) {
  const bool bytes = type == torch::headeronly::ScalarType::Byte;
  const int32_t dtype = bytes ? aoti_torch_dtype_uint8() : aoti_torch_dtype_float32();
  if (size.size() == 1) return empty_strided(like, dtype, 1, size.data(), std::array<int64_t, 1>{1}.data());
  const int64_t pixel = size[1], row = size[3] * pixel;
  return empty_strided(like, dtype, 4, size.data(), std::array<int64_t, 4>{size[2] * row, 1, row, pixel}.data());
}

// The tensor itself where its channels lie innermost, else a copy of which that is true.
inline Tensor innermost(const Tensor& tensor) {
  if (tensor.stride(1) == 1 || tensor.size(1) == 1) return tensor;
  try {
    return torch::stable::contiguous(tensor, channels_last);
  } catch (const std::exception&) {  // whose text is that of a macro
    STD_TORCH_CHECK(false, "myconv2d: out of memory: a channels_last copy of ", elements(4, tensor.sizes().data()),
                    " elements");
  }
}

inline ConstImage read(const Tensor& tensor) { return {tensor.const_data_ptr(), strides_of(tensor)}; }
inline Image write(const Tensor& tensor) { return {tensor.mutable_data_ptr(), strides_of(tensor)}; }

// What each operator is on every device: its arguments checked, its results allocated.

struct Forward {
  Conv2d conv;
  ConstVector bias;
  Tensor output;

  Forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Pair& stride,
          const Pair& padding, const Pair& dilation, int64_t groups) {
    require(input, input, "input");
    require(weight, input, "weight");
    conv = describe(input.sizes().data(), weight.sizes().data(), stride, padding, dilation, groups);
    this->bias = {nullptr, 0};
    if (bias) {
      STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == conv.out_channels &&
                          bias->scalar_type() == input.scalar_type() && bias->device() == input.device(),
                      "myconv2d: bias must have one value per out channel, of the input's type and device");
      this->bias = {bias->const_data_ptr(), bias->stride(0)};
    }
    output = empty_beside(input, weight, {conv.batch, conv.out_channels, conv.out_height, conv.out_width});
  }
};

struct GradInput {
  Conv2d conv;
  Tensor grad_input;

  GradInput(const Tensor& grad_output, const Tensor& weight, const IntList& input_size, const IntList& stride,
            const IntList& padding, const IntList& dilation, int64_t groups) {
    require(grad_output, grad_output, "grad_output");
    require(weight, grad_output, "weight");
    STD_TORCH_CHECK(input_size.size() == 4, "myconv2d: input_size takes four values");
    conv = describe(input_size.data(), weight.sizes().data(), stride, padding, dilation, groups);
    require_output(grad_output, conv);
    grad_input = empty_beside(grad_output, weight, {conv.batch, conv.in_channels, conv.in_height, conv.in_width});
  }
};

struct GradWeight {
  Conv2d conv;
  Tensor grad_weight, grad_bias;  // grad_bias is empty where it is not wanted

  GradWeight(const Tensor& grad_output, const Tensor& input, const IntList& weight_size, const IntList& stride,
             const IntList& padding, const IntList& dilation, int64_t groups, bool bias) {
    require(grad_output, grad_output, "grad_output");
    require(input, grad_output, "input");
    STD_TORCH_CHECK(weight_size.size() == 4, "myconv2d: weight_size takes four values");
    conv = describe(input.sizes().data(), weight_size.data(), stride, padding, dilation, groups);
    require_output(grad_output, conv);
    grad_weight =
        empty_beside(grad_output, input, {weight_size[0], weight_size[1], weight_size[2], weight_size[3]});
    const int64_t bias_size = bias ? conv.out_channels : 0;
    grad_bias = torch::stable::empty({&bias_size, 1}, input.scalar_type(), std::nullopt, input.device());
  }
  void* bias_data() const { return grad_bias.numel() ? grad_bias.mutable_data_ptr() : nullptr; }
};

}  // namespace myconv2d
