// A heap of few, large blocks, kept for the next. A block is cut from the first free range that is large enough, so that
// what is in use stays together; free neighbours become one range. The heap grows by regions. It gives one back to the
// system when it is idle, all of it free, and either too small for what is asked for or beyond what is kept.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>

namespace myconv2d {

class Heap {
 public:
  struct Size {
    size_t bytes, in_use;
  };

  // The process's, never destroyed: tensors may outlive everything static. A child of fork() finds it whole.
  static Heap& instance() {
    static Heap* const heap = [] {
      static Heap* const heap = new Heap;
      pthread_atfork([] { heap->mutex_.lock(); }, [] { heap->mutex_.unlock(); }, [] { heap->mutex_.unlock(); });
      return heap;
    }();
    return *heap;
  }

  // At least `bytes` bytes on a cache line's boundary, contents undefined; null where the system has none.
  void* take(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return nullptr;
    bytes = rounded(bytes, line) + apart;
    const std::lock_guard lock(mutex_);
    try {
      auto range = free_.begin();
      while (range != free_.end() && range->second < bytes) ++range;
      if (range == free_.end() && (range = grow(bytes)) == free_.end()) return nullptr;
      if (range->second > bytes) free_.emplace(range->first + bytes, range->second - bytes);
      range->second = bytes;
      return used_.insert(free_.extract(range)).position->first;
    } catch (const std::bad_alloc&) {  // by a map, before anything is lost
      return nullptr;
    }
  }

  // From any thread. Allocates nothing, so it cannot fail.
  void give_back(void* data) {
    const std::lock_guard lock(mutex_);
    const auto used = used_.find(static_cast<char*>(data));
    auto range = join_with_next(free_.insert(used_.extract(used)).position);
    if (range != free_.begin() && can_join(std::prev(range))) range = join_with_next(std::prev(range));
    const auto region = regions_.find(range->first);
    if (region != regions_.end() && region->second == range->second) release_idle(most_idle, region->first);
  }

  Size size() {
    const std::lock_guard lock(mutex_);
    Size result{};
    for (const auto& [_, size] : regions_) result.bytes += size;
    for (const auto& [_, size] : used_) result.in_use += size;
    return result;
  }

  // Gives the system back the regions of which nothing is in use; returns how many bytes.
  size_t release() {
    const std::lock_guard lock(mutex_);
    return release_idle(0, nullptr);
  }

 private:
  using Ranges = std::map<char*, size_t>;  // sizes by address

  static constexpr size_t line = 64, page = size_t(2) << 20;  // a huge one: one fault in place of 512
  static constexpr size_t apart = 5 * line;  // images of one size would lie pages from each other, and meet in the caches
  static constexpr size_t least_region = size_t(64) << 20, most_idle = size_t(1) << 30;

  static constexpr size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

  static char* map(size_t bytes) {
    void* const all = mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    const uintptr_t address = reinterpret_cast<uintptr_t>(all);
    const size_t before = rounded(address, page) - address;
    char* const region = static_cast<char*>(all) + before;
    if (before) munmap(all, before);
    munmap(region + bytes, page - before);
#if defined(MADV_HUGEPAGE)
    madvise(region, bytes, MADV_HUGEPAGE);  // changes nothing where the system has none
#endif
    return region;
  }

  // A free range of a new region; the end where there is none.
  Ranges::iterator grow(size_t bytes) {
    release_idle(0, nullptr);
    const size_t size = rounded(bytes > least_region ? bytes : least_region, page);
    char* const region = map(size);
    if (!region) return free_.end();
    try {
      regions_.emplace(region, size);
      return free_.emplace(region, size).first;
    } catch (...) {
      regions_.erase(region);
      munmap(region, size);
      throw;
    }
  }

  bool can_join(Ranges::iterator range) const {
    const auto next = std::next(range);
    return next != free_.end() && range->first + range->second == next->first && !regions_.count(next->first);
  }

  Ranges::iterator join_with_next(Ranges::iterator range) {
    if (can_join(range)) {
      range->second += std::next(range)->second;
      free_.erase(std::next(range));
    }
    return range;
  }

  bool is_idle(const Ranges::value_type& region) const {
    const auto range = free_.find(region.first);
    return range != free_.end() && range->second == region.second;
  }

  // Until the idle regions have at most `most` bytes, that at `last` the last of them; returns how many bytes went.
  size_t release_idle(size_t most, char* last) {
    size_t idle = 0, released = 0;
    for (const auto& region : regions_) idle += is_idle(region) ? region.second : 0;
    for (const bool and_last : {false, true})
      for (auto region = regions_.begin(); region != regions_.end() && idle - released > most;) {
        const auto [data, size] = *region;
        if (!is_idle(*region) || (data == last && !and_last)) {
          ++region;
          continue;
        }
        munmap(data, size);
        released += size;
        free_.erase(data);
        region = regions_.erase(region);
      }
    return released;
  }

  std::mutex mutex_;
  Ranges free_, used_, regions_;
};

}  // namespace myconv2d
