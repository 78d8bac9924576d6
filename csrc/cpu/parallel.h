// What the products share: tasks on the caller's threads, and how they describe themselves.
#pragma once

#include "kernels.h"
#include "scratch.h"
#include "vector.h"

namespace myconv2d::MYCONV2D_ISA {

template <typename F>
void parallel_for(const Threads& threads, int64_t tasks, const F& body) {
  if (tasks == 1) return body(0);  // tiny problems spare themselves the thread pool
  threads.parallel_for(tasks, const_cast<F*>(&body), [](void* context, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) (*static_cast<const F*>(context))(i);
  });
}

// A product over a batch: result pixel (y, x) reads source rows stride_h·y − padding_h … and columns stride_w·x −
// padding_w …. The forward pass is one, with the convolution's numbers; at stride 1 grad_input is one, with the kernel
// turned by half a turn.
struct Correlation {
  int64_t batch, groups, kernel_h, kernel_w, padding_h, padding_w;
  int64_t stride_h = 1, stride_w = 1;
};

// The weight as a product sees it: strides of its reduced channel c, its resulting channel k, and its taps.
struct WeightView {
  int64_t c, k, r, s;
  int64_t group;  // from one group to the next
  PackedWeights* ahead = nullptr;
};

// Where a call's packed weights lie: in scratch memory, made anew (`missing`), or where they were made ahead.
struct Packing {
  float* data;
  bool missing, only;  // only: there is nothing to compute

  Packing(PackedWeights* ahead, int64_t floats) {
    if (ahead && ahead->stage == PackedWeights::use && ahead->floats != floats) ahead = nullptr;
    only = ahead && ahead->stage != PackedWeights::use;
    missing = !ahead || ahead->stage == PackedWeights::fill;
    if (only) ahead->floats = floats;
    data = ahead ? ahead->data : static_cast<float*>(scratch(Scratch::weights, floats * sizeof(float)));
  }
};

}  // namespace myconv2d::MYCONV2D_ISA
