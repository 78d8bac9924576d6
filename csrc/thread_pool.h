// The framework's own thread pool: the one place where the library's parallel work begins and ends.
//
// ThreadSanitizer does not see how the pool hands work over (libgomp is not instrumented), so its build says it: what
// the caller did happens before each range, and each range before what the caller does next. No range happens before
// another, so that races between them are found (tests/bench/test_trust.py). In other builds this is no code.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <exception>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace myconv2d {

inline void happens_before([[maybe_unused]] const void* what_is_after_it) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(const_cast<void*>(what_is_after_it));
#endif
}

inline void happens_after([[maybe_unused]] const void* what_is_before_it) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(const_cast<void*>(what_is_before_it));
#endif
}

// Calls `body` with disjoint ranges that together cover 0 … tasks. Throws what one of them has thrown: of an exception that
// goes through the pool there is left that there was one.
inline void on_thread_pool(int64_t tasks, void* context, void (*body)(void* context, int64_t begin, int64_t end)) {
  struct Range {
    void* context;  // its address stands for the beginning, that of the other for the end
    void (*body)(void*, int64_t, int64_t);
    std::atomic_flag& failed;
    std::exception_ptr& problem;
    void operator()(int64_t begin, int64_t end) const {
      happens_after(&context);
      try {
        body(context, begin, end);
      } catch (...) {
        if (!failed.test_and_set()) problem = std::current_exception();
      }
      happens_before(&body);
    }
  };
  std::atomic_flag failed;
  std::exception_ptr problem;
  const Range range{context, body, failed, problem};
  happens_before(&range.context);
  torch::stable::parallel_for(0, tasks, 1, range);
  happens_after(&range.body);
  if (problem) std::rethrow_exception(problem);
}

}  // namespace myconv2d
