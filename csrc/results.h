// Large results, in memory that is kept for those of the next call. malloc maps a result of 32 MiB and more afresh every
// time, and smaller ones whenever it has given the end of its heap back; each 4 KiB page of such memory costs a fault as
// it is first written, in all .4 to .6 ms a MiB, more than a layer of few channels takes to compute that much.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace myconv2d {

// A fresh result on the CPU, contents undefined; null where the framework is to make it: of a small one, where torch is
// older than 2.11 and takes no memory from others, under a sanitizer, which knows malloc's bounds, or without memory.
AtenTensorHandle in_kept_memory(int32_t dtype, int64_t dim, const int64_t* sizes, const int64_t* strides);

}  // namespace myconv2d
