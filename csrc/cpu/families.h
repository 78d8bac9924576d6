// The algorithms that kernels.cpp chooses from, by family. Each family is instantiated for the types of tensors in a file
// of its own, winograd.cpp and so on, so that they are compiled side by side; kernels.cpp declares these instances.
#pragma once

#define MYCONV2D_EACH_FLOAT(family, how) \
  family(how, float)                     \
  family(how, float16)                   \
  family(how, bfloat16)

#ifdef MYCONV2D_INTEGERS
#define MYCONV2D_EACH_INTEGER(family, how) \
  family(how, int64_t)                     \
  family(how, int32_t)                     \
  family(how, int16_t)                     \
  family(how, int8_t)                      \
  family(how, uint8_t)
#else
#define MYCONV2D_EACH_INTEGER(family, how)
#endif

#define MYCONV2D_EACH_TYPE(family, how) \
  MYCONV2D_EACH_FLOAT(family, how)      \
  family(how, double)                   \
  MYCONV2D_EACH_INTEGER(family, how)

// `how` is `template` or `extern template`.
#define MYCONV2D_INSTANCE(how, ...) how decltype(__VA_ARGS__) __VA_ARGS__;

#define MYCONV2D_WINOGRAD(how, T)                                                                  \
  MYCONV2D_INSTANCE(how, winograd_product<Planes<const T>, T, Planes<T>>)                          \
  MYCONV2D_INSTANCE(how, winograd_backward<Planes<const T>, Planes<const T>, T, Planes<T>>)        \
  MYCONV2D_INSTANCE(how, dilated_grad_weight<Planes<const T>, Planes<const T>, T>)

#define MYCONV2D_STRIDED(how, T)                                                                   \
  MYCONV2D_INSTANCE(how, strided_product<Planes<const T>, T, Planes<T>>)                           \
  MYCONV2D_INSTANCE(how, strided_grad_input<Planes<const T>, T, Planes<T>>)                        \
  MYCONV2D_INSTANCE(how, winograd_grad_weight<Strided3x3, Planes<const T>, Planes<const T>, T>)

#define MYCONV2D_FEW_CHANNELS(how, T)                                                              \
  MYCONV2D_INSTANCE(how, few_in_product<Planes<const T>, T, T, Planes<T>>)                         \
  MYCONV2D_INSTANCE(how, few_out_product<Planes<const T>, T, T, Planes<T>>)                        \
  MYCONV2D_INSTANCE(how, few_in_grad_weight<Planes<const T>, Planes<const T>, T>)                  \
  MYCONV2D_INSTANCE(how, few_out_grad_weight<Planes<const T>, Planes<const T>, T>)

#define MYCONV2D_DEPTHWISE(how, T)                   \
  MYCONV2D_INSTANCE(how, depthwise_product<1, T>)    \
  MYCONV2D_INSTANCE(how, depthwise_grad_weight<1, T>)

#define MYCONV2D_SMALL_GROUPS(how, T)                 \
  MYCONV2D_INSTANCE(how, depthwise_product<2, T>)     \
  MYCONV2D_INSTANCE(how, depthwise_product<4, T>)     \
  MYCONV2D_INSTANCE(how, depthwise_product<8, T>)     \
  MYCONV2D_INSTANCE(how, depthwise_grad_weight<2, T>) \
  MYCONV2D_INSTANCE(how, depthwise_grad_weight<4, T>) \
  MYCONV2D_INSTANCE(how, depthwise_grad_weight<8, T>)

#define MYCONV2D_DIRECT(how, T)                      \
  MYCONV2D_INSTANCE(how, direct_product<T>)          \
  MYCONV2D_INSTANCE(how, grad_input_in_phases<T>)    \
  MYCONV2D_INSTANCE(how, grad_weight_product<T>)
