// The weights of a product as it reads them, transformed and in panels: made once, for a network that does not change.
#pragma once

#include <cstdint>

namespace myconv2d {

struct PackedWeights {
  enum Stage { measure, fill, use } stage;  // a call only sets `floats` and `maker`; only fills `data`; computes from it
  float* data;                              // 64-byte aligned
  int64_t floats;
  int64_t maker;  // the product and its vectors: any other call packs anew, from the weights themselves
};

}  // namespace myconv2d
