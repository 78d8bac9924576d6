// A 2-D convolution in numbers: the one description that every kernel, on every device, works from.
// Plain data, no tensors: what the pointers point at is the caller's business.
#pragma once

#include <cstdint>

namespace myconv2d {

// Element types of storage. Half and bfloat16 are accumulated in float; everything else in itself,
// integers in int64 (wrapping, as the framework's integers do).
enum class Type { f64, f32, f16, bf16, i64, i32, i16, i8, u8 };

// Strides of a 4-D tensor in elements. The axes are (N, C, H, W) for an image and (K, C/groups, R, S)
// for a weight. Any value is allowed, zero (an expanded axis) and overlapping ones included.
struct Strides {
  int64_t n, c, h, w;
};

struct ConstImage {  // an image or a weight that is read
  const void* data;
  Strides strides;
};

struct Image {  // … that is written
  void* data;
  Strides strides;
};

struct ConstVector {  // a bias; data is null where there is none
  const void* data;
  int64_t stride;
};

// out[n, k, p, q] = bias[k] + Σ_{c, r, s} in[n, c, p·stride_h + r·dilation_h − padding_h, …] · weight[k, c, r, s]
// with c over the channels of k's group, and zero outside the input. The two derivatives
// grad_input and grad_weight are described by the numbers of the forward convolution they belong to.
struct Conv2d {
  int64_t batch, in_channels, in_height, in_width;      // N, C, H, W
  int64_t out_channels, kernel_height, kernel_width;    // K, R, S
  int64_t out_height, out_width;                        // P, Q
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
  int64_t groups;

  int64_t group_in_channels() const { return in_channels / groups; }    // C / groups
  int64_t group_out_channels() const { return out_channels / groups; }  // K / groups
  int64_t taps() const { return kernel_height * kernel_width; }         // R·S
  int64_t out_pixels() const { return out_height * out_width; }         // P·Q
  int64_t in_pixels() const { return in_height * in_width; }            // H·W
};

}  // namespace myconv2d
