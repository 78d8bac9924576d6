// Which algorithm serves a convolution on the CPU: the one place where that is decided, by shape and type alone.
#pragma once

#include "../conv2d.h"

namespace myconv2d {

enum class Pass { forward, grad_input, grad_weight };
enum class Algorithm { direct, direct_phases, depthwise, small_groups, winograd, strided, few_in, few_out, upsampled };

constexpr int64_t few_channels = 4, widest_few_kernel = 6;  // what the register tiles for few channels hold

// Whether the fused blocks, which know fewer algorithms, can be this convolution.
bool fits_a_block(const Conv2d& conv);

// Whether a block whose input has `low_channels` at half its resolution (upsampled.h) takes fewer products there.
bool suits_low_resolution(const Conv2d& conv, int64_t low_channels);

// Whether a pooled block with batch norm keeps its convolution, in full size, for the backward. Where few channels come
// in, the moments of the input serve as well (few_in_pooled.h). block_operators.py has the same rule for its fakes.
bool keeps_full(const Conv2d& conv);

Algorithm choose_algorithm(const Conv2d& conv, Type type, Pass pass);
const char* algorithm_name(Algorithm algorithm);

}  // namespace myconv2d
