#include "scratch.h"

#include <cstdlib>
#include <new>
#include <string>

namespace myconv2d {
namespace {

struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  ~Buffer() { std::free(data); }
};

struct OutOfMemory : std::bad_alloc {
  std::string text;
  explicit OutOfMemory(size_t bytes) : text("myconv2d: out of memory: " + std::to_string(bytes) + " bytes to work in") {}
  const char* what() const noexcept override { return text.c_str(); }
};

}  // namespace

void* scratch(Scratch purpose, size_t bytes) {
  thread_local Buffer buffers[static_cast<int>(Scratch::count)];
  Buffer& buffer = buffers[static_cast<int>(purpose)];
  if (buffer.bytes < bytes) {
    std::free(buffer.data);
    buffer.bytes = 0;
    const size_t rounded = (bytes + 63) / 64 * 64;
    buffer.data = rounded < bytes ? nullptr : std::aligned_alloc(64, rounded);
    if (!buffer.data) throw OutOfMemory(bytes);
    buffer.bytes = rounded;
  }
  return buffer.data;
}

}  // namespace myconv2d
