// What the emulations compare with: tensors of small integers in any layout, and every product of a
// convolution.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "conv2d.h"

using namespace myconv2d;

inline int random_digit() {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return static_cast<int>(state >> 16) % 7 - 3;
}

template <class T>
struct Tensor {
  int64_t size[4];
  Strides strides;
  std::vector<T> data;

  Tensor(std::vector<int64_t> sizes, const std::string& layout, bool fill) {
    std::copy(sizes.begin(), sizes.end(), size);
    std::vector<int> order{3, 2, 1, 0};  // innermost first
    if (layout == "channels_last") order = {1, 3, 2, 0};
    if (layout == "permuted") order = {2, 0, 3, 1};
    int64_t step[4], next = layout == "permuted" ? 2 : 1;  // with gaps
    for (int axis : order) {
      step[axis] = next;
      next = next * size[axis] + (layout == "permuted" ? 1 : 0);
    }
    if (layout == "expanded" && fill) step[0] = 0;
    strides = {step[0], step[1], step[2], step[3]};
    data.assign(next, static_cast<T>(77));
    if (fill)
      for (T& value : data) value = static_cast<T>(random_digit());
  }
  T& at(int64_t a, int64_t b, int64_t c, int64_t d) {
    return data[a * strides.n + b * strides.c + c * strides.h + d * strides.w];
  }
};

template <class T, class U>
int compare(Tensor<T>& actual, Tensor<U>& expected) {
  for (int64_t n = 0; n < actual.size[0]; ++n)
    for (int64_t c = 0; c < actual.size[1]; ++c)
      for (int64_t h = 0; h < actual.size[2]; ++h)
        for (int64_t w = 0; w < actual.size[3]; ++w)
          if (double(actual.at(n, c, h, w)) != double(expected.at(n, c, h, w))) {
            std::printf("at (%ld, %ld, %ld, %ld): %g, expected %g\n", long(n), long(c), long(h), long(w),
                        double(actual.at(n, c, h, w)), double(expected.at(n, c, h, w)));
            return 1;
          }
  std::puts("ok");
  return 0;
}

// Calls visit(n, k, p, q, c, h, w, r, s) for every product of the convolution; c counts all channels.
template <class Visit>
void for_each_product(const Conv2d& conv, Visit&& visit) {
  for (int64_t n = 0; n < conv.batch; ++n)
    for (int64_t k = 0; k < conv.out_channels; ++k)
      for (int64_t p = 0; p < conv.out_height; ++p)
        for (int64_t q = 0; q < conv.out_width; ++q)
          for (int64_t c = 0; c < conv.group_in_channels(); ++c)
            for (int64_t r = 0; r < conv.kernel_height; ++r)
              for (int64_t s = 0; s < conv.kernel_width; ++s) {
                const int64_t h = p * conv.stride_h + r * conv.dilation_h - conv.padding_h;
                const int64_t w = q * conv.stride_w + s * conv.dilation_w - conv.padding_w;
                if (h >= 0 && h < conv.in_height && w >= 0 && w < conv.in_width)
                  visit(n, k, p, q, k / conv.group_out_channels() * conv.group_in_channels() + c, c, h, w, r,
                        s);
              }
}

// What each operator must give. The bias has stride 2.

template <class T>
Tensor<double> naive_forward(const Conv2d& conv, Tensor<T>& input, Tensor<T>& weight,
                             const std::vector<T>& bias) {
  Tensor<double> output({conv.batch, conv.out_channels, conv.out_height, conv.out_width}, "contiguous",
                        false);
  for (int64_t i = 0; i < int64_t(output.data.size()); ++i)
    output.data[i] = bias[i / conv.out_pixels() % conv.out_channels * 2];
  for_each_product(conv,
                   [&](auto n, auto k, auto p, auto q, auto c, auto gc, auto h, auto w, auto r, auto s) {
                     output.at(n, k, p, q) += double(input.at(n, c, h, w)) * double(weight.at(k, gc, r, s));
                   });
  return output;
}

template <class T>
Tensor<double> naive_grad_input(const Conv2d& conv, Tensor<T>& grad_output, Tensor<T>& weight) {
  Tensor<double> grad({conv.batch, conv.in_channels, conv.in_height, conv.in_width}, "contiguous", false);
  std::fill(grad.data.begin(), grad.data.end(), 0.0);
  for_each_product(
      conv, [&](auto n, auto k, auto p, auto q, auto c, auto gc, auto h, auto w, auto r, auto s) {
        grad.at(n, c, h, w) += double(grad_output.at(n, k, p, q)) * double(weight.at(k, gc, r, s));
      });
  return grad;
}

template <class T>
Tensor<double> naive_grad_weight(const Conv2d& conv, Tensor<T>& grad_output, Tensor<T>& input) {
  Tensor<double> grad({conv.out_channels, conv.group_in_channels(), conv.kernel_height, conv.kernel_width},
                      "contiguous", false);
  std::fill(grad.data.begin(), grad.data.end(), 0.0);
  for_each_product(
      conv, [&](auto n, auto k, auto p, auto q, auto c, auto gc, auto h, auto w, auto r, auto s) {
        grad.at(k, gc, r, s) += double(grad_output.at(n, k, p, q)) * double(input.at(n, c, h, w));
      });
  return grad;
}

template <class T>
Tensor<double> naive_grad_bias(const Conv2d& conv, Tensor<T>& grad_output) {
  Tensor<double> grad({conv.out_channels, 1, 1, 1}, "contiguous", false);
  std::fill(grad.data.begin(), grad.data.end(), 0.0);
  for (int64_t n = 0; n < conv.batch; ++n)
    for (int64_t k = 0; k < conv.out_channels; ++k)
      for (int64_t p = 0; p < conv.out_height; ++p)
        for (int64_t q = 0; q < conv.out_width; ++q) grad.data[k] += double(grad_output.at(n, k, p, q));
  return grad;
}

// N C H W K R S stride(2) padding(2) dilation(2) groups, as the command line has them.
inline Conv2d parse(char** arguments) {
  int64_t v[14];
  for (int i = 0; i < 14; ++i) v[i] = std::atoll(arguments[i]);
  Conv2d conv{};
  conv.batch = v[0], conv.in_channels = v[1], conv.in_height = v[2], conv.in_width = v[3];
  conv.out_channels = v[4], conv.kernel_height = v[5], conv.kernel_width = v[6];
  conv.stride_h = v[7], conv.stride_w = v[8], conv.padding_h = v[9], conv.padding_w = v[10];
  conv.dilation_h = v[11], conv.dilation_w = v[12], conv.groups = v[13];
  conv.out_height = (v[2] + 2 * v[9] - v[11] * (v[5] - 1) - 1) / v[7] + 1;
  conv.out_width = (v[3] + 2 * v[10] - v[12] * (v[6] - 1) - 1) / v[8] + 1;
  return conv;
}
