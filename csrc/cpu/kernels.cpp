// The kernels of one instruction set, behind a table. Compiled once per instruction set (see CMakeLists.txt);
// integers, which no network is slow in, are left to the portable one.
#include "kernels.h"

#include "algorithm.h"
#include "depthwise.h"
#include "depthwise_grad_weight.h"
#include "dilation.h"
#include "families.h"
#include "few_channels.h"
#include "grad_weight.h"
#include "phases.h"
#include "strided.h"
#include "winograd_backward.h"

namespace myconv2d::MYCONV2D_ISA {

MYCONV2D_EACH_FLOAT(MYCONV2D_WINOGRAD, extern template)
MYCONV2D_EACH_FLOAT(MYCONV2D_STRIDED, extern template)
MYCONV2D_EACH_FLOAT(MYCONV2D_FEW_CHANNELS, extern template)
MYCONV2D_EACH_TYPE(MYCONV2D_DEPTHWISE, extern template)
MYCONV2D_EACH_FLOAT(MYCONV2D_SMALL_GROUPS, extern template)
MYCONV2D_EACH_TYPE(MYCONV2D_DIRECT, extern template)

namespace {

template <typename F>
void with_type(Type type, const F& call) {
  switch (type) {
    case Type::f64: return call(double{});
    case Type::f32: return call(float{});
    case Type::f16: return call(float16{});
    case Type::bf16: return call(bfloat16{});
#ifdef MYCONV2D_INTEGERS
    case Type::i64: return call(int64_t{});
    case Type::i32: return call(int32_t{});
    case Type::i16: return call(int16_t{});
    case Type::i8: return call(int8_t{});
    case Type::u8: return call(uint8_t{});
#else
    default: return;  // kernels_for() never sends them here
#endif
  }
}

template <typename T>
constexpr bool in_float = sizeof(typename Accumulator<T>::type) == sizeof(float);  // float, half, bfloat16

template <typename T>
Planes<const T> planes(const ConstImage& image, int64_t channels, int64_t height, int64_t width) {
  return {static_cast<const T*>(image.data), image.strides, channels, height, width};
}

template <typename T>
Planes<T> planes(const Image& image, int64_t channels, int64_t height, int64_t width) {
  return {static_cast<T*>(image.data), image.strides, channels, height, width};
}

template <typename T>
void clear(const Threads& threads, int64_t batch, int64_t channels, const Planes<T>& planes) {
  const Strides& s = planes.strides;
  parallel_for(threads, batch * planes.height, [&](int64_t row) {
    T* to = planes.data + row / planes.height * s.n + row % planes.height * s.h;
    if (s.c == 1 && s.w == channels)
      std::memset(to, 0, planes.width * channels * sizeof(T));
    else
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t x = 0; x < planes.width; ++x) to[c * s.c + x * s.w] = T{};
  });
}

// The algorithms for stride 1 that forward and grad_input share; false if it is none of them.
template <typename T>
bool correlate(Algorithm algorithm, const Conv2d& conv, const Correlation& p, const Threads& threads,
               const Planes<const T>& source, const T* weight, const WeightView& view, const T* bias,
               int64_t bias_stride, const Planes<T>& result) {
  if constexpr (in_float<T>) {
    const Product<T> product = algorithm == Algorithm::winograd  ? winograd_product<Planes<const T>, T, Planes<T>>
                               : algorithm == Algorithm::strided ? strided_product<Planes<const T>, T, Planes<T>>
                               : algorithm == Algorithm::few_in  ? few_in_product<Planes<const T>, T, T, Planes<T>>
                               : algorithm == Algorithm::few_out ? few_out_product<Planes<const T>, T, T, Planes<T>>
                                                                 : nullptr;
    if (!product) return false;
    dilated_product(product, algorithm == Algorithm::winograd, conv, p, threads, source, weight, view, bias,
                    bias_stride, result);
    return true;
  }
  return false;
}

// The products for groups of one channel, or of a few; null for another algorithm.
template <typename T>
auto depthwise_product_for(Algorithm algorithm, int64_t group) -> decltype(&depthwise_product<1, T>) {
  if (algorithm == Algorithm::depthwise) return depthwise_product<1, T>;
  if constexpr (in_float<T>)
    if (algorithm == Algorithm::small_groups)
      return group == 2 ? depthwise_product<2, T> : group == 4 ? depthwise_product<4, T> : depthwise_product<8, T>;
  return nullptr;
}

template <typename T>
auto depthwise_grad_weight_for(Algorithm algorithm, int64_t group) -> decltype(&depthwise_grad_weight<1, T>) {
  if (algorithm == Algorithm::depthwise) return depthwise_grad_weight<1, T>;
  if constexpr (in_float<T>)
    if (algorithm == Algorithm::small_groups)
      return group == 2   ? depthwise_grad_weight<2, T>
             : group == 4 ? depthwise_grad_weight<4, T>
                          : depthwise_grad_weight<8, T>;
  return nullptr;
}

void forward(const Conv2d& conv, Type type, const Threads& threads, ConstImage input, ConstImage weight,
             ConstVector bias, Image output) {
  const WeightView view{weight.strides.c, weight.strides.n, weight.strides.h, weight.strides.w,
                        conv.group_out_channels() * weight.strides.n};
  const Correlation p{conv.batch,     conv.groups,    conv.kernel_height, conv.kernel_width,
                      conv.padding_h, conv.padding_w, conv.stride_h,      conv.stride_w};
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto source = planes<T>(input, conv.group_in_channels(), conv.in_height, conv.in_width);
    const auto result = planes<T>(output, conv.group_out_channels(), conv.out_height, conv.out_width);
    const T* weights = static_cast<const T*>(weight.data);
    const T* add = static_cast<const T*>(bias.data);
    const Algorithm algorithm = choose_algorithm(conv, type, Pass::forward);
    if (correlate(algorithm, conv, p, threads, source, weights, view, add, bias.stride, result)) return;
    if (const auto product = depthwise_product_for<T>(algorithm, conv.group_in_channels()))
      return product({conv, false}, threads, source.data, input.strides, weights, view, add, bias.stride, result.data,
                     output.strides);
    direct_product<T>(forward_gather(conv), conv.groups, conv.group_out_channels(), threads, source.data, input.strides,
                      weights, view, add, bias.stride, Grid<T>{result.data, output.strides});
  });
}

void grad_input(const Conv2d& conv, Type type, const Threads& threads, ConstImage grad_output, ConstImage weight,
                Image grad_input) {
  const WeightView view{weight.strides.n, weight.strides.c, weight.strides.h, weight.strides.w,
                        conv.group_out_channels() * weight.strides.n};
  const WeightView turned{view.c, view.k, -view.r, -view.s, view.group};  // by half a turn, from the last tap
  const int64_t last_tap = (conv.kernel_height - 1) * view.r + (conv.kernel_width - 1) * view.s;
  const Correlation p{conv.batch, conv.groups, conv.kernel_height, conv.kernel_width,
                      conv.dilation_h * (conv.kernel_height - 1) - conv.padding_h,
                      conv.dilation_w * (conv.kernel_width - 1) - conv.padding_w};
  const Strides& strides = grad_input.strides;
  const Strides steps{strides.n, strides.c, strides.h * least(conv.stride_h, conv.in_height),  // beyond: one pixel each
                      strides.w * least(conv.stride_w, conv.in_width)};
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto source = planes<T>(grad_output, conv.group_out_channels(), conv.out_height, conv.out_width);
    const auto result = planes<T>(grad_input, conv.group_in_channels(), conv.in_height, conv.in_width);
    const T* weights = static_cast<const T*>(weight.data);
    const T* no_bias = nullptr;
    const Algorithm algorithm = choose_algorithm(conv, type, Pass::grad_input);
    if constexpr (in_float<T>)
      if (algorithm == Algorithm::strided)
        return strided_grad_input(conv, threads, source, weights + last_tap, turned, result);
    if (correlate(algorithm, conv, p, threads, source, weights + last_tap, turned, no_bias, 0, result)) return;
    if (algorithm == Algorithm::direct_phases)
      return grad_input_in_phases<T>(conv, threads, source.data, grad_output.strides, weights, view, result.data, strides);
    if (const auto product = depthwise_product_for<T>(algorithm, conv.group_in_channels()))
      return product({conv, true}, threads, source.data, grad_output.strides, weights, view, no_bias, 0, result.data,
                     strides);
    // Where no tap reaches there are zeros: all of them first, in the order of memory.
    const Phases phases{conv, true};
    const auto at = [&](int64_t h, int64_t w) { return grad_input_gather(conv, h, w); };
    if (phases.some_have_no_taps()) clear(threads, conv.batch, conv.in_channels, result);
    for (int64_t h = 0; h < phases.count_h(); ++h)
      for (int64_t w = 0; w < phases.count_w(); ++w)
        if (at(h, w).taps() > 0)
          direct_product<T>(at(h, w), conv.groups, conv.group_in_channels(), threads, source.data, grad_output.strides,
                            weights, view, no_bias, 0,
                            Grid<T>{result.data + h * strides.h + w * strides.w, steps});
  });
}

// Both derivatives in one pass, if Winograd serves both. That of the weight alone (`result` is null) is this one too, so
// that it does not depend on what else is wanted.
template <typename T>
bool one_pass(const Conv2d& conv, Type type, const Threads& threads, const Planes<const T>& grads,
              const Planes<const T>& images, const ConstImage& weight, const Planes<T>* result,
              const Image& grad_weight, void* grad_bias) {
  if constexpr (in_float<T>) {
    if (choose_algorithm(conv, type, Pass::grad_input) != Algorithm::winograd ||
        choose_algorithm(conv, type, Pass::grad_weight) != Algorithm::winograd || !winograd_backward_suits(conv))
      return false;
    winograd_backward(conv, threads, grads, images, static_cast<const T*>(weight.data), weight.strides, result,
                      static_cast<T*>(grad_weight.data), grad_weight.strides, static_cast<T*>(grad_bias));
    return true;
  }
  return false;
}

void grad_weight(const Conv2d& conv, Type type, const Threads& threads, ConstImage grad_output, ConstImage input,
                 Image grad_weight, void* grad_bias) {
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto grads = planes<T>(grad_output, conv.group_out_channels(), conv.out_height, conv.out_width);
    const auto images = planes<T>(input, conv.group_in_channels(), conv.in_height, conv.in_width);
    if (one_pass<T>(conv, type, threads, grads, images, {}, nullptr, grad_weight, grad_bias)) return;
    T* weights = static_cast<T*>(grad_weight.data);
    T* bias = static_cast<T*>(grad_bias);
    const Algorithm algorithm = choose_algorithm(conv, type, Pass::grad_weight);
    if constexpr (in_float<T>) switch (algorithm) {
        case Algorithm::winograd:
          return dilated_grad_weight(conv, threads, grads, images, weights, grad_weight.strides, bias);
        case Algorithm::strided:
          return winograd_grad_weight<Strided3x3>(conv, threads, grads, images, weights, grad_weight.strides, bias);
        case Algorithm::few_in:
          return few_in_grad_weight(conv, threads, grads, images, weights, grad_weight.strides, bias);
        case Algorithm::few_out:
          return few_out_grad_weight(conv, threads, grads, images, weights, grad_weight.strides, bias);
        default: break;
      }
    auto product = depthwise_grad_weight_for<T>(algorithm, conv.group_in_channels());
    if (!product) product = grad_weight_product<T>;
    product(conv, threads, grads.data, grad_output.strides, images.data, input.strides, weights, grad_weight.strides,
            bias);
  });
}

void backward(const Conv2d& conv, Type type, const Threads& threads, ConstImage grad_output, ConstImage input,
              ConstImage weight, Image to_input, Image to_weight, void* to_bias) {
  bool done = false;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto result = planes<T>(to_input, conv.group_in_channels(), conv.in_height, conv.in_width);
    done = one_pass<T>(conv, type, threads,
                       planes<T>(grad_output, conv.group_out_channels(), conv.out_height, conv.out_width),
                       planes<T>(input, conv.group_in_channels(), conv.in_height, conv.in_width), weight, &result,
                       to_weight, to_bias);
  });
  if (done) return;
  grad_input(conv, type, threads, grad_output, weight, to_input);
  grad_weight(conv, type, threads, grad_output, input, to_weight, to_bias);
}

#define MYCONV2D_TEXT_(name) #name
#define MYCONV2D_TEXT(name) MYCONV2D_TEXT_(name)

}  // namespace

extern const BlockKernels block_kernels;                   // block.cpp
BadTarget cross_entropy(CrossEntropy, const Threads&);     // cross_entropy.cpp
extern const KernelTable table;
const KernelTable table = {MYCONV2D_TEXT(MYCONV2D_ISA), forward, grad_input, grad_weight, backward, &block_kernels,
                           cross_entropy};

}  // namespace myconv2d::MYCONV2D_ISA
