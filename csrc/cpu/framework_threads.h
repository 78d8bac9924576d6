// The framework's own thread pool as the kernels see it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "kernels.h"

namespace myconv2d {

inline Threads framework_threads() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()),
          [](int64_t tasks, void* context, void (*body)(void*, int64_t, int64_t)) {
            torch::stable::parallel_for(0, tasks, 1,
                                        [&](int64_t begin, int64_t end) { body(context, begin, end); });
          }};
}

}  // namespace myconv2d
