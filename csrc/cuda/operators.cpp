// The CUDA library's operators: the framework's tensors, device and stream in front of kernels.h.
// The schemas are defined in Python (kernels/myconv2d/operators.py); here are the `…_cuda` operators.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "../binding.h"
#include "kernels.h"

namespace myconv2d {
namespace {

using torch::stable::accelerator::DeviceGuard;

// The framework's current stream. The function lives in libtorch_cuda.so, which this library must not need
// in order to load: a torch without CUDA can then load it and say what it was built for.
void* current_stream(int32_t device) {
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const auto get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"))
                   : nullptr;
  }();
  STD_TORCH_CHECK(
      get_stream,
      "myconv2d: the CUDA operators need a torch built with CUDA (libtorch_cuda.so is not loaded)");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(get_stream(device, &stream));
  return stream;
}

// One call: while it lives, the operands' device is current and the workspace is kept.
class Call {
 public:
  Call(const Tensor& operand, bool allow_tf32)
      : context_{type_of(operand), allow_tf32, current_stream(operand.get_device_index()),
                 [this, device = operand.device()](int64_t bytes) {
                   workspace_ = torch::stable::empty({&bytes, 1}, torch::headeronly::ScalarType::Byte,
                                                     std::nullopt, device);
                   return workspace_->mutable_data_ptr();
                 }},
        guard_(operand.get_device_index()) {}
  Call(const Call&) = delete;

  const cuda::Context& context() const { return context_; }

 private:
  std::optional<Tensor> workspace_;
  cuda::Context context_;
  DeviceGuard guard_;
};

cuda::ConstImage read(const Tensor& tensor) { return {tensor.const_data_ptr(), strides_of(tensor)}; }
cuda::Image write(const Tensor& tensor) { return {tensor.mutable_data_ptr(), strides_of(tensor)}; }

Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
              const IntList& stride, const IntList& padding, const IntList& dilation, int64_t groups,
              bool allow_tf32) {
  require(input, input, "input");
  require(weight, input, "weight");
  const Conv2d conv =
      describe(input.sizes().data(), weight.sizes().data(), stride, padding, dilation, groups);
  cuda::ConstVector bias_vector{nullptr, 0};
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == conv.out_channels &&
                        bias->scalar_type() == input.scalar_type() && bias->device() == input.device(),
                    "myconv2d: bias must have one value per out channel, of the input's type and device");
    bias_vector = {bias->const_data_ptr(), bias->stride(0)};
  }
  const Tensor output =
      empty_beside(input, weight, {conv.batch, conv.out_channels, conv.out_height, conv.out_width});
  const Call call(input, allow_tf32);
  cuda::forward(conv, read(input), read(weight), bias_vector, write(output), call.context());
  return output;
}

Tensor conv2d_grad_input(const Tensor& grad_output, const Tensor& weight, const IntList& input_size,
                         const IntList& stride, const IntList& padding, const IntList& dilation,
                         int64_t groups, bool allow_tf32) {
  require(grad_output, grad_output, "grad_output");
  require(weight, grad_output, "weight");
  STD_TORCH_CHECK(input_size.size() == 4, "myconv2d: input_size takes four values");
  const Conv2d conv = describe(input_size.data(), weight.sizes().data(), stride, padding, dilation, groups);
  require_output(grad_output, conv);
  const Tensor grad_input =
      empty_beside(grad_output, weight, {conv.batch, conv.in_channels, conv.in_height, conv.in_width});
  const Call call(grad_output, allow_tf32);
  cuda::grad_input(conv, read(grad_output), read(weight), write(grad_input), call.context());
  return grad_input;
}

std::tuple<Tensor, Tensor> conv2d_grad_weight(const Tensor& grad_output, const Tensor& input,
                                              const IntList& weight_size, const IntList& stride,
                                              const IntList& padding, const IntList& dilation, int64_t groups,
                                              bool bias, bool allow_tf32) {
  require(grad_output, grad_output, "grad_output");
  require(input, grad_output, "input");
  STD_TORCH_CHECK(weight_size.size() == 4, "myconv2d: weight_size takes four values");
  const Conv2d conv = describe(input.sizes().data(), weight_size.data(), stride, padding, dilation, groups);
  require_output(grad_output, conv);
  const Tensor grad_weight =
      empty_beside(grad_output, input, {weight_size[0], weight_size[1], weight_size[2], weight_size[3]});
  const int64_t outputs = bias ? conv.out_channels : 0;
  const Tensor grad_bias =
      torch::stable::empty({&outputs, 1}, input.scalar_type(), std::nullopt, input.device());
  const Call call(grad_output, allow_tf32);
  cuda::grad_weight(conv, read(grad_output), read(input), write(grad_weight),
                    bias ? grad_bias.mutable_data_ptr() : nullptr, call.context());
  return {grad_weight, grad_bias};
}

}  // namespace
}  // namespace myconv2d

STABLE_TORCH_LIBRARY_IMPL(myconv2d, CUDA, library) {
  library.impl("conv2d_cuda", TORCH_BOX(&myconv2d::conv2d));
  library.impl("conv2d_grad_input_cuda", TORCH_BOX(&myconv2d::conv2d_grad_input));
  library.impl("conv2d_grad_weight_cuda", TORCH_BOX(&myconv2d::conv2d_grad_weight));
}

extern "C" __attribute__((visibility("default"))) const char* myconv2d_cuda_build_info() {
  return MYCONV2D_BUILD_INFO;
}
