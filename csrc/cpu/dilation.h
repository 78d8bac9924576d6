// A dilated convolution is so many undilated ones, its phases: between the pixels that lie a multiple of the dilation
// apart.
#pragma once

#include "winograd_grad_weight.h"

namespace myconv2d::MYCONV2D_ISA {

// Every dilation-th row or column of an image from `first` on.
template <typename T>
Planes<T> every(Planes<T> planes, int64_t dilation_h, int64_t dilation_w, int64_t first_h, int64_t first_w) {
  planes.data += first_h * planes.strides.h + first_w * planes.strides.w;
  planes.height = ceil_div(most(0, planes.height - first_h), dilation_h);
  planes.width = ceil_div(most(0, planes.width - first_w), dilation_w);
  planes.strides.h *= dilation_h;
  planes.strides.w *= dilation_w;
  return planes;
}

// Of the convolution between these, the padding: result pixel `first` reads source row first − padding before all others.
inline int64_t padding_of(int64_t padding, int64_t dilation, int64_t first) {
  return padding > first ? ceil_div(padding - first, dilation) : -((first - padding) / dilation);
}

template <typename T>
using Product = void (*)(const Correlation&, const Threads&, const Planes<const T>& source, const T* weight,
                         const WeightView&, const T* bias, int64_t bias_stride, const Planes<T>& result);

// `p` has the padding in pixels of the whole image.
template <typename T>
void dilated_product(Product<T> product, bool packs_ahead, const Conv2d& conv, const Correlation& p,
                     const Threads& threads, const Planes<const T>& source, const T* weight, const WeightView& view,
                     const T* bias, int64_t bias_stride, const Planes<T>& result) {
  const int64_t dilation_h = conv.dilation_h, dilation_w = conv.dilation_w;
  WeightView packed_view = view;
  const auto phase = [&](int64_t h, int64_t w) {
    Correlation part = p;
    part.padding_h = padding_of(p.padding_h, dilation_h, h);
    part.padding_w = padding_of(p.padding_w, dilation_w, w);
    product(part, threads,
            every(source, dilation_h, dilation_w, h - p.padding_h + part.padding_h * dilation_h,
                  w - p.padding_w + part.padding_w * dilation_w),
            weight, packed_view, bias, bias_stride, every(result, dilation_h, dilation_w, h, w));
  };
  PackedWeights packed{PackedWeights::measure, nullptr, 0, 0};  // once for all phases
  if (packs_ahead && dilation_h * dilation_w > 1 && result.height * result.width > 0) {
    packed_view.ahead = &packed;
    phase(0, 0);
    packed.stage = PackedWeights::fill;
    packed.data = static_cast<float*>(scratch(Scratch::weights, packed.floats * sizeof(float)));
    phase(0, 0);
    packed.stage = PackedWeights::use;
  }
  for (int64_t h = 0; h < least(dilation_h, result.height); ++h)
    for (int64_t w = 0; w < least(dilation_w, result.width); ++w) phase(h, w);
}

// By Winograd.
template <typename Grads, typename Images, typename W>
void dilated_grad_weight(const Conv2d& conv, const Threads& threads, const Grads& grads, const Images& images,
                         W* grad_weight, const Strides& weight_strides, W* grad_bias) {
  const int64_t h = conv.dilation_h, w = conv.dilation_w, columns = least(w, conv.out_width);
  const auto phase = [&](int64_t i) {
    const int64_t y = i / columns, x = i % columns;
    const int64_t padding_h = padding_of(conv.padding_h, h, y), padding_w = padding_of(conv.padding_w, w, x);
    return GradWeightPart<Grads, Images>{
        every(grads, h, w, y, x),
        every(images, h, w, y - conv.padding_h + padding_h * h, x - conv.padding_w + padding_w * w), padding_h,
        padding_w};
  };
  grad_weight_of_parts<F3x3>(conv, threads, least(h, conv.out_height) * columns, phase, grad_weight, weight_strides,
                             grad_bias);
}

}  // namespace myconv2d::MYCONV2D_ISA
