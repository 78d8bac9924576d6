// The CPU library's inside interface: one table of kernels per instruction set, filled by kernels.cpp,
// which is compiled once for each; dispatch.cpp picks one table when the library is loaded.
#pragma once

#include "../block.h"
#include "../conv2d.h"
#include "../cross_entropy.h"

namespace myconv2d {

// The caller's thread pool. `body` is called with disjoint ranges that together cover 0 … tasks.
struct Threads {
  int64_t count;
  void (*parallel_for)(int64_t tasks, void* context, void (*body)(void* context, int64_t begin, int64_t end));
};

struct BlockKernels {  // block.cpp
  void (*forward)(const BlockForward&, const Threads&);
  void (*inference)(const BlockInference&, const Threads&);
  void (*backward)(const BlockBackward&, const Threads&);
  void (*activate)(const Activation&, const Threads&, Image output);
  void (*activate_backward)(const Activation&, const Threads&, ConstImage grad, FeedGradient gradient);
};

struct KernelTable {
  const char* isa;
  void (*forward)(const Conv2d&, Type, const Threads&, ConstImage input, ConstImage weight, ConstVector bias,
                  Image output);
  void (*grad_input)(const Conv2d&, Type, const Threads&, ConstImage grad_output, ConstImage weight,
                     Image grad_input);
  // grad_bias is contiguous, or null where it is not wanted.
  void (*grad_weight)(const Conv2d&, Type, const Threads&, ConstImage grad_output, ConstImage input,
                      Image grad_weight, void* grad_bias);
  // Both, with the same results.
  void (*backward)(const Conv2d&, Type, const Threads&, ConstImage grad_output, ConstImage input, ConstImage weight,
                   Image grad_input, Image grad_weight, void* grad_bias);
  const BlockKernels* block;
  BadTarget (*cross_entropy)(CrossEntropy, const Threads&);
};

// The table in use for a type: the best the processor has, or what MYCONV2D_ISA names.
const KernelTable& kernels_for(Type type);

}  // namespace myconv2d
