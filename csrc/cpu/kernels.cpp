// The kernels of one instruction set, behind a table. Compiled once per instruction set (see CMakeLists.txt);
// integers, which no network is slow in, are left to the portable one.
#include "kernels.h"

#include "gathered_product.h"
#include "grad_weight.h"

namespace myconv2d::MYCONV2D_ISA {
namespace {

template <typename F>
void with_type(Type type, const F& call) {
  switch (type) {
    case Type::f64: return call(double{});
    case Type::f32: return call(float{});
    case Type::f16: return call(_Float16{});
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

void forward(const Conv2d& conv, Type type, const Threads& threads, ConstImage input, ConstImage weight,
             ConstVector bias, Image output) {
  const WeightView view{weight.strides.c, weight.strides.n, weight.strides.h, weight.strides.w,
                        conv.group_out_channels() * weight.strides.n};
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    gathered_product<T>(forward_gather(conv), conv.groups, conv.group_out_channels(), threads,
                        static_cast<const T*>(input.data), input.strides, static_cast<const T*>(weight.data), view,
                        static_cast<const T*>(bias.data), bias.stride, static_cast<T*>(output.data), output.strides);
  });
}

void grad_input(const Conv2d& conv, Type type, const Threads& threads, ConstImage grad_output, ConstImage weight,
                Image grad_input) {
  const WeightView view{weight.strides.n, weight.strides.c, weight.strides.h, weight.strides.w,
                        conv.group_out_channels() * weight.strides.n};
  const Strides& strides = grad_input.strides;
  const Strides steps{strides.n, strides.c, strides.h * conv.stride_h, strides.w * conv.stride_w};
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t h = 0; h < conv.stride_h; ++h)
      for (int64_t w = 0; w < conv.stride_w; ++w)
        gathered_product<T>(grad_input_gather(conv, h, w), conv.groups, conv.group_in_channels(), threads,
                            static_cast<const T*>(grad_output.data), grad_output.strides,
                            static_cast<const T*>(weight.data), view, static_cast<const T*>(nullptr), 0,
                            static_cast<T*>(grad_input.data) + h * strides.h + w * strides.w, steps);
  });
}

void grad_weight(const Conv2d& conv, Type type, const Threads& threads, ConstImage grad_output, ConstImage input,
                 Image grad_weight, void* grad_bias) {
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    grad_weight_product<T>(conv, threads, static_cast<const T*>(grad_output.data), grad_output.strides,
                           static_cast<const T*>(input.data), input.strides, static_cast<T*>(grad_weight.data),
                           grad_weight.strides, static_cast<T*>(grad_bias));
  });
}

#define MYCONV2D_TEXT_(name) #name
#define MYCONV2D_TEXT(name) MYCONV2D_TEXT_(name)

}  // namespace

extern const KernelTable table;
const KernelTable table = {MYCONV2D_TEXT(MYCONV2D_ISA), forward, grad_input, grad_weight};

}  // namespace myconv2d::MYCONV2D_ISA
