// The CPU implementation of the three operators. Their schemas are defined in Python (operators.py), which also
// works where this library does not load; here tensors become conv2d.h and back.
#include "binding.h"
#include "cpu/kernels.h"

namespace myconv2d {
namespace {

Threads framework_threads() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()),
          [](int64_t tasks, void* context, void (*body)(void*, int64_t, int64_t)) {
            torch::stable::parallel_for(0, tasks, 1,
                                        [&](int64_t begin, int64_t end) { body(context, begin, end); });
          }};
}

ConstImage read(const Tensor& tensor) { return {tensor.const_data_ptr(), strides_of(tensor)}; }
Image write(const Tensor& tensor) { return {tensor.mutable_data_ptr(), strides_of(tensor)}; }

Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntList stride,
              IntList padding, IntList dilation, int64_t groups) {
  require(input, input, "input");
  require(weight, input, "weight");
  const Conv2d conv = describe(input.sizes().data(), weight.sizes().data(), stride, padding, dilation, groups);
  ConstVector bias_vector{nullptr, 0};
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == conv.out_channels &&
                        bias->scalar_type() == input.scalar_type() && bias->device() == input.device(),
                    "myconv2d: bias must have one value per out channel, of the input's type and device");
    bias_vector = {bias->const_data_ptr(), bias->stride(0)};
  }
  Tensor output =
      empty_beside(input, weight, {conv.batch, conv.out_channels, conv.out_height, conv.out_width});
  const Type type = type_of(input);
  kernels_for(type).forward(conv, type, framework_threads(), read(input), read(weight), bias_vector, write(output));
  return output;
}

Tensor conv2d_grad_input(const Tensor& grad_output, const Tensor& weight, IntList input_size, IntList stride,
                         IntList padding, IntList dilation, int64_t groups) {
  require(grad_output, grad_output, "grad_output");
  require(weight, grad_output, "weight");
  STD_TORCH_CHECK(input_size.size() == 4, "myconv2d: input_size takes four values");
  const Conv2d conv = describe(input_size.data(), weight.sizes().data(), stride, padding, dilation, groups);
  require_output(grad_output, conv);
  Tensor grad_input = empty_beside(grad_output, weight, {conv.batch, conv.in_channels, conv.in_height, conv.in_width});
  const Type type = type_of(grad_output);
  kernels_for(type).grad_input(conv, type, framework_threads(), read(grad_output), read(weight), write(grad_input));
  return grad_input;
}

std::tuple<Tensor, Tensor> conv2d_grad_weight(const Tensor& grad_output, const Tensor& input, IntList weight_size,
                                              IntList stride, IntList padding, IntList dilation, int64_t groups,
                                              bool bias) {
  require(grad_output, grad_output, "grad_output");
  require(input, grad_output, "input");
  STD_TORCH_CHECK(weight_size.size() == 4, "myconv2d: weight_size takes four values");
  const Conv2d conv = describe(input.sizes().data(), weight_size.data(), stride, padding, dilation, groups);
  require_output(grad_output, conv);
  Tensor grad_weight = empty_beside(
      grad_output, input, {weight_size[0], weight_size[1], weight_size[2], weight_size[3]});
  const std::array<int64_t, 1> bias_size{bias ? conv.out_channels : 0};
  Tensor grad_bias = torch::stable::empty({bias_size.data(), 1}, input.scalar_type(), std::nullopt, input.device());
  const Type type = type_of(input);
  kernels_for(type).grad_weight(conv, type, framework_threads(), read(grad_output), read(input), write(grad_weight),
                                bias ? grad_bias.mutable_data_ptr() : nullptr);
  return {grad_weight, grad_bias};
}

}  // namespace
}  // namespace myconv2d

// The default overloads too: on the CPU the native library is what they choose.
STABLE_TORCH_LIBRARY_IMPL(myconv2d, CPU, library) {
  library.impl("conv2d", TORCH_BOX(&myconv2d::conv2d));
  library.impl("conv2d.native", TORCH_BOX(&myconv2d::conv2d));
  library.impl("conv2d_grad_input", TORCH_BOX(&myconv2d::conv2d_grad_input));
  library.impl("conv2d_grad_input.native", TORCH_BOX(&myconv2d::conv2d_grad_input));
  library.impl("conv2d_grad_weight", TORCH_BOX(&myconv2d::conv2d_grad_weight));
  library.impl("conv2d_grad_weight.native", TORCH_BOX(&myconv2d::conv2d_grad_weight));
}
