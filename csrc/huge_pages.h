// Large results on huge pages. malloc maps every result of 32 MiB and more afresh, and smaller ones too whenever it has
// given the end of its heap back; each 4 KiB page of such memory costs a fault as it is first written, in all .4 to .6 ms
// a MiB, more than a layer of few channels takes to compute that much. A page of 2 MiB costs one fault, .1 ms a MiB.
// Before the first and behind the last of these small ones remain, up to a thousand: they are asked for together.
// Only pages that lie wholly in the result, so that nothing becomes resident which the kernels do not write anyway; the
// advice changes nothing where memory is resident already, and nothing where the kernel has no huge pages.
#pragma once

#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "thread_pool.h"

namespace myconv2d {

#if defined(__linux__)
inline void ask_for_small_pages(uintptr_t begin, uintptr_t end) {
#if defined(MADV_POPULATE_WRITE)  // since Linux 5.14; refused by older ones, which changes nothing
  constexpr uintptr_t page = 4 << 10;
  begin = (begin + page - 1) / page * page, end = end / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE);
#else
  (void)begin, (void)end;
#endif
}
#endif

// Takes a result that was just allocated, its contents still undefined, and gives it back.
inline torch::stable::Tensor on_huge_pages(torch::stable::Tensor result) {
#if defined(__linux__)
  constexpr int64_t page = 2 << 20;  // of x86-64, and of AArch64 where its small pages are 4 KiB
  int64_t bytes;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(result.get(), &bytes));
  if (bytes < 2 * page || !result.is_cpu()) return result;
  const uintptr_t data = reinterpret_cast<uintptr_t>(result.mutable_data_ptr());
  const uintptr_t begin = (data + page - 1) / page * page, end = (data + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  // Where planes are written side by side, all threads would meet in each page, and each would clear it.
  struct Pages {
    uintptr_t data, begin, end, data_end;
    static void touch(void* context, int64_t first, int64_t last) {
      const Pages& p = *static_cast<const Pages*>(context);
      const int64_t pages = static_cast<int64_t>(p.end - p.begin) / page;
      for (int64_t i = first; i < last; ++i)
        if (i < pages) *reinterpret_cast<volatile char*>(p.begin + i * page) = 0;
        else if (i == pages) ask_for_small_pages(p.data, p.begin);
        else ask_for_small_pages(p.end, p.data_end);
    }
  } pages{data, begin, end, data + bytes};
  on_thread_pool(static_cast<int64_t>(end - begin) / page + 2, &pages, Pages::touch);
#endif
  return result;
}

}  // namespace myconv2d
