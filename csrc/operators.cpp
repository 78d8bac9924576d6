// The CPU implementation of the three operators. Their schemas are defined in Python (operators.py), which also
// works where this library does not load; here tensors become conv2d.h and back.
#include "binding.h"
#include "cpu/framework_threads.h"

namespace myconv2d {
namespace {

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Pair& stride,
               const Pair& padding, const Pair& dilation, int64_t groups) {
  const Type type = type_of(input);
  const Forward call(input, weight, bias, stride, padding, dilation, groups);
  kernels_for(type).forward(call.conv, type, framework_threads(), read(input), read(weight), call.bias,
                            write(call.output));
  return call.output;
}

Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const IntList& stride,
              const IntList& padding, const IntList& dilation, int64_t groups) {
  return forward(input, weight, bias, stride, padding, dilation, groups);
}

Tensor conv2d_at_once(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, int64_t stride_h,
                      int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w,
                      int64_t groups) {
  STD_TORCH_CHECK(weight.dim() != 4 || weight.size(0) > 0, "myconv2d: no out channels");  // functional.py's rule
  return forward(input, weight, bias, {stride_h, stride_w}, {padding_h, padding_w}, {dilation_h, dilation_w}, groups);
}

Tensor conv2d_grad_input(const Tensor& grad_output, const Tensor& weight, const IntList& input_size,
                         const IntList& stride, const IntList& padding, const IntList& dilation, int64_t groups) {
  const Type type = type_of(grad_output);
  const GradInput call(grad_output, weight, input_size, stride, padding, dilation, groups);
  kernels_for(type).grad_input(call.conv, type, framework_threads(), read(grad_output), read(weight),
                               write(call.grad_input));
  return call.grad_input;
}

std::tuple<Tensor, Tensor> conv2d_grad_weight(const Tensor& grad_output, const Tensor& input,
                                              const IntList& weight_size, const IntList& stride,
                                              const IntList& padding, const IntList& dilation, int64_t groups,
                                              bool bias) {
  const Type type = type_of(grad_output);
  const GradWeight call(grad_output, input, weight_size, stride, padding, dilation, groups, bias);
  kernels_for(type).grad_weight(call.conv, type, framework_threads(), read(grad_output), read(input),
                                write(call.grad_weight), call.bias_data());
  return {call.grad_weight, call.grad_bias};
}

// The two above in one call.
std::tuple<Tensor, Tensor, Tensor> conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                                   const IntList& stride, const IntList& padding,
                                                   const IntList& dilation, int64_t groups, bool bias) {
  const Type type = type_of(grad_output);
  const auto sizes = [](const Tensor& tensor) { return IntList(tensor.sizes().begin(), tensor.sizes().end()); };
  const GradInput to_input(grad_output, weight, sizes(input), stride, padding, dilation, groups);
  const GradWeight to_weight(grad_output, input, sizes(weight), stride, padding, dilation, groups, bias);
  kernels_for(type).backward(to_input.conv, type, framework_threads(), read(grad_output), read(input), read(weight),
                             write(to_input.grad_input), write(to_weight.grad_weight), to_weight.bias_data());
  return {to_input.grad_input, to_weight.grad_weight, to_weight.grad_bias};
}

}  // namespace
}  // namespace myconv2d

// The default overloads too: on the CPU the native library is what they choose.
STABLE_TORCH_LIBRARY_IMPL(myconv2d, CPU, library) {
  library.impl("conv2d", TORCH_BOX(&myconv2d::conv2d));
  library.impl("conv2d.native", TORCH_BOX(&myconv2d::conv2d));
  library.impl("conv2d_at_once", TORCH_BOX(&myconv2d::conv2d_at_once));
  library.impl("conv2d_grad_input", TORCH_BOX(&myconv2d::conv2d_grad_input));
  library.impl("conv2d_grad_input.native", TORCH_BOX(&myconv2d::conv2d_grad_input));
  library.impl("conv2d_grad_weight", TORCH_BOX(&myconv2d::conv2d_grad_weight));
  library.impl("conv2d_grad_weight.native", TORCH_BOX(&myconv2d::conv2d_grad_weight));
  library.impl("conv2d_backward", TORCH_BOX(&myconv2d::conv2d_backward));
}
