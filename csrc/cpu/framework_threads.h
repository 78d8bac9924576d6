// The framework's own thread pool as the kernels see it.
#pragma once

#include "../thread_pool.h"
#include "kernels.h"

namespace myconv2d {

inline Threads framework_threads() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()), on_thread_pool};
}

}  // namespace myconv2d
