// The operators of kernels.h: each call goes to the algorithm that algorithm.h chooses for its shape.
#include <cstring>

#include "cost.h"
#include "kernels.h"

namespace myconv2d::cuda {
namespace {

void correlate(const Conv2d& conv, bool transposed, ConstImage image, ConstImage weight, ConstVector bias,
               Image out, const Context& context) {
  const Pass pass = transposed ? Pass::grad_input : Pass::forward;
  const int64_t channels = transposed ? conv.out_channels : conv.in_channels,
                filters = transposed ? conv.in_channels : conv.out_channels;
  const Setting setting{context.allow_tf32,
                        suits_halo(conv, context.type, channels, image.strides, image.data) &&
                            suits_halo(conv, context.type, filters, out.strides, out.data),
                        compute_capability()};
  switch (choose_algorithm(conv, context.type, pass, setting)) {
#if defined(MYCONV2D_HALO)
    case Algorithm::halo:
      return correlate_halo(conv, transposed, image, weight, bias, out, context);
#endif
    case Algorithm::few_in:
      return correlate_few_in(conv, transposed, image, weight, bias, out, context);
    case Algorithm::few_out:
      return correlate_few_out(conv, transposed, image, weight, bias, out, context);
    default:
      return correlate_gemm(conv, transposed, image, weight, bias, out, context);
  }
}

}  // namespace

void forward(const Conv2d& conv, ConstImage input, ConstImage weight, ConstVector bias, Image output,
             const Context& context) {
  correlate(conv, false, input, weight, bias, output, context);
}

void grad_input(const Conv2d& conv, ConstImage grad_output, ConstImage weight, Image grad_input,
                const Context& context) {
  correlate(conv, true, grad_output, weight, {nullptr, 0}, grad_input, context);
}

void grad_weight(const Conv2d& conv, ConstImage grad_output, ConstImage input, Image grad_weight,
                 void* grad_bias, const Context& context) {
  const bool few = choose_few(conv, context.type, Pass::grad_weight) == Algorithm::few_grad_weight;
  (few ? grad_weight_few : grad_weight_gemm)(conv, grad_output, input, grad_weight, grad_bias, context);
}

}  // namespace myconv2d::cuda

namespace {

myconv2d::Conv2d convolution(const int64_t* numbers) {
  myconv2d::Conv2d conv;
  static_assert(sizeof conv == 16 * sizeof(int64_t), "one number per field");
  std::memcpy(&conv, numbers, sizeof conv);
  return conv;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

const char* myconv2d_cuda_device_problem() { return myconv2d::cuda::device_problem(); }

// Of a convolution, its 16 numbers in the order of struct Conv2d; Type and Pass as numbers; the fields of
// Setting.

const char* myconv2d_cuda_algorithm(const int64_t* numbers, int type, int pass, int allow_tf32,
                                    int channels_last, int capability) {
  using namespace myconv2d;
  const cuda::Setting setting{allow_tf32 != 0, channels_last != 0, capability};
  return cuda::algorithm_name(cuda::choose_algorithm(convolution(numbers), static_cast<Type>(type),
                                                     static_cast<cuda::Pass>(pass), setting));
}

// Why the halo kernel does not serve forward or grad_input; null if it does.
const char* myconv2d_cuda_halo_problem(const int64_t* numbers, int type, int pass, int allow_tf32,
                                       int channels_last, int capability) {
  using namespace myconv2d;
  return cuda::halo_problem(convolution(numbers), static_cast<Type>(type),
                            static_cast<cuda::Pass>(pass) == cuda::Pass::grad_input,
                            {allow_tf32 != 0, channels_last != 0, capability});
}

// The numbers of struct Cost.
void myconv2d_cuda_cost(const int64_t* numbers, int type, int pass, int allow_tf32, int channels_last,
                        int capability, int64_t* cost) {
  using namespace myconv2d;
  const cuda::Cost found =
      cuda::cost(convolution(numbers), static_cast<Type>(type), static_cast<cuda::Pass>(pass),
                 {allow_tf32 != 0, channels_last != 0, capability});
  static_assert(sizeof found == 5 * sizeof(int64_t), "one number per field");
  std::memcpy(cost, &found, sizeof found);
}

}  // extern "C"
#pragma GCC visibility pop
