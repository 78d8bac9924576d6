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
  TORCH_ERROR_CODE_CHECK(get_stream(device, &stream));
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

Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
              const IntList& stride, const IntList& padding, const IntList& dilation, int64_t groups,
              bool allow_tf32) {
  const Forward forward(input, weight, bias, stride, padding, dilation, groups);
  const Call call(input, allow_tf32);
  cuda::forward(forward.conv, read(input), read(weight), forward.bias, write(forward.output), call.context());
  return forward.output;
}

Tensor conv2d_grad_input(const Tensor& grad_output, const Tensor& weight, const IntList& input_size,
                         const IntList& stride, const IntList& padding, const IntList& dilation,
                         int64_t groups, bool allow_tf32) {
  const GradInput backward(grad_output, weight, input_size, stride, padding, dilation, groups);
  const Call call(grad_output, allow_tf32);
  cuda::grad_input(backward.conv, read(grad_output), read(weight), write(backward.grad_input), call.context());
  return backward.grad_input;
}

std::tuple<Tensor, Tensor> conv2d_grad_weight(const Tensor& grad_output, const Tensor& input,
                                              const IntList& weight_size, const IntList& stride,
                                              const IntList& padding, const IntList& dilation, int64_t groups,
                                              bool bias, bool allow_tf32) {
  const GradWeight backward(grad_output, input, weight_size, stride, padding, dilation, groups, bias);
  const Call call(grad_output, allow_tf32);
  cuda::grad_weight(backward.conv, read(grad_output), read(input), write(backward.grad_weight),
                    backward.bias_data(), call.context());
  return {backward.grad_weight, backward.grad_bias};
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
