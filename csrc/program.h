// A frozen network in numbers: steps over numbered images. Image 0 is the input, image i + 1 what step i gives; the last
// one is the result. What a step reads beside images lies in one vector of constants, and is named by where it begins.
#pragma once

#include <cstdint>

namespace myconv2d {

struct Step {  // int64 only: a program is a tensor of them (kernels/myconv2d/frozen.py has the fields in this order)
  enum Kind : int64_t {
    block,        // a fused block in inference (block.h): convolution, ReLU if `relu`, 2×2 max-pool if `pool`
    convolution,  // any other
    pad,          // by repeating the border: `numbers` are what is added on top, at the bottom, left and right
    crop,         // `numbers` are the first row and column, the height and the width that stay
  };
  int64_t kind;
  int64_t first, first_upsampled, second, second_upsampled;  // images, enlarged twice or not; second: −1 for none
  int64_t out_channels, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
  int64_t relu, pool;
  int64_t weight, bias;                         // constants; bias: −1 for none
  int64_t packed, packed_floats, packed_maker;  // constants (packed_weights.h); packed: −1 for none
  int64_t numbers[4];
};

constexpr int64_t step_fields = sizeof(Step) / sizeof(int64_t);

}  // namespace myconv2d
