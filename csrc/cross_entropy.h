// Cross-entropy of per-pixel classes in numbers: logits (N, K, H, W), one target class a pixel (N, H, W).
// Plain data, no tensors, as conv2d.h.
#pragma once

#include <cstdint>

#include "conv2d.h"

namespace myconv2d {

enum class Reduction { none, mean, sum };  // numbered as the framework numbers them

// loss[pixel] = log Σ_k exp(logits[k]) − logits[target]; pixels whose target is ignore_index count for nothing.
struct CrossEntropy {
  int64_t batch, classes, height, width;
  Reduction reduction;
  int64_t ignore_index;
  ConstImage logits;    // float32
  ConstImage target;    // int64 or uint8; its c stride means nothing
  bool target_is_byte;
  float* loss;          // one value, or with Reduction::none one a pixel, contiguous
  Image gradient;       // ∂loss/∂logits (of the sum of the losses, with Reduction::none); null where it is not wanted

  int64_t pixels() const { return batch * height * width; }
};

struct BadTarget {  // the first target that is neither a class nor ignore_index
  bool found;
  int64_t value;
};

}  // namespace myconv2d
