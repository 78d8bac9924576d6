// The fused block in numbers (kernels/myconv2d/block_reference.py says what it computes): a 3×3, or few-channel,
// convolution of stride 1 over one or two feeds. float32; every image has its channels innermost.
#pragma once

#include "conv2d.h"
#include "packed_weights.h"

namespace myconv2d {

// relu(scale·tensor + shift), or tensor itself where scale is null; enlarged twice (nearest) if `upsample`.
struct Feed {
  const float* data;  // null: no such feed
  Strides strides;
  int64_t channels;
  const float *scale, *shift;
  bool upsample;
};

struct Feeds {  // concatenated along the channels
  Feed first, second;
};

struct Norm {  // batch norm; gamma is null where there is none
  const float *gamma, *beta;
  double eps;
};

struct BlockForward {
  Conv2d conv;
  Feeds input;
  ConstImage weight;
  const float* bias;  // or null
  Norm norm;
  bool pool;
  Image raw, full, index;  // index (uint8) only with pool, full only where it is also kept (cpu/algorithm.h)
  float *scale, *shift, *mean, *var;  // only with norm
};

struct BlockInference {
  Conv2d conv;
  Feeds input;
  ConstImage weight;
  const float* bias;
  Norm norm;
  const float *mean, *var;  // only with norm
  bool relu, pool;
  Image output;
  PackedWeights* ahead;  // or null
};

struct FeedGradient {  // null: not wanted
  float* data;
  Strides strides;
  float *scale, *shift;
};

struct BlockBackward {
  Conv2d conv;
  Feeds input;
  ConstImage weight;
  Norm norm;
  const float *mean, *var;              // only with norm
  const float *grad_scale, *grad_shift;  // of this block's own scale and shift; null: zero
  ConstImage grad_raw, y, index;
  bool pool;
  Image again;                      // room for a y that was not kept, where gradients of feeds are wanted: y lies there
  FeedGradient first, second;
  Image grad_weight;                // data is null: no gradient of a parameter is wanted
  float *grad_bias, *grad_gamma, *grad_beta;  // or null
};

struct Activation {  // of one feed, batch N and H×W as stored
  Feed feed;
  int64_t batch, height, width;
};

}  // namespace myconv2d
