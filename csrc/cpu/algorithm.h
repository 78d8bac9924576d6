// Which algorithm serves a convolution on the CPU: the one place where that is decided, by shape and type alone.
#pragma once

#include "../conv2d.h"

namespace myconv2d {

enum class Pass { forward, grad_input, grad_weight };
enum class Algorithm { direct, direct_phases, depthwise, small_groups, winograd, few_in, few_out };

constexpr int64_t few_channels = 4, widest_few_kernel = 6;  // what the register tiles for few channels hold

// Whether the fused blocks, which know fewer algorithms, can be this convolution.
bool fits_a_block(const Conv2d& conv);

Algorithm choose_algorithm(const Conv2d& conv, Type type, Pass pass);
const char* algorithm_name(Algorithm algorithm);

}  // namespace myconv2d
