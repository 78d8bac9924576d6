#include "results.h"

#include <cstddef>
#include <cstdint>

#include "cpu/heap.h"

// Part of the stable ABI since torch 2.11; null where torch is older.
extern "C" __attribute__((weak, visibility("default"))) AOTITorchError torch_from_blob(
    void* data, int64_t dim, const int64_t* sizes, const int64_t* strides, int64_t offset, int32_t dtype, int32_t device,
    int32_t device_index, AtenTensorHandle* result, int32_t layout, const uint8_t* metadata, int64_t metadata_size,
    void (*deleter)(void* data, void* context), void* context);

namespace myconv2d {
namespace {

thread_local void* last_given_back;

void give_back(void* data, void*) {
  last_given_back = data;
  Heap::instance().give_back(data);
}

bool kept() {
#if defined(MYCONV2D_SANITIZED)
  return false;
#else
  return torch_from_blob != nullptr;
#endif
}

}  // namespace

AtenTensorHandle in_kept_memory(int32_t dtype, int64_t dim, const int64_t* sizes, const int64_t* strides) {
  constexpr int64_t least = 256 << 10;  // below, malloc's heap does well
  int64_t bytes = static_cast<int64_t>(aoti_torch_dtype_element_size(dtype));
  for (int64_t d = 0; d < dim; ++d)
    if (__builtin_mul_overflow(bytes, sizes[d], &bytes)) return nullptr;
  if (!kept() || bytes < least) return nullptr;
  void* const data = Heap::instance().take(static_cast<size_t>(bytes));
  if (!data) return nullptr;
  AtenTensorHandle result = nullptr;
  last_given_back = nullptr;
  const auto error = torch_from_blob(data, dim, sizes, strides, 0, dtype, aoti_torch_device_type_cpu(), -1, &result,
                                     aoti_torch_layout_strided(), nullptr, 0, give_back, nullptr);
  if (error == AOTI_TORCH_SUCCESS) return result;
  if (last_given_back != data) give_back(data, nullptr);  // it fails before or after it has the deleter
  return nullptr;
}

#pragma GCC visibility push(default)
extern "C" {
// Whether results lie there, how many bytes are kept, and how many of them are in use.
int myconv2d_cpu_kept_memory(int64_t* bytes, int64_t* in_use) {
  const auto size = Heap::instance().size();
  *bytes = static_cast<int64_t>(size.bytes), *in_use = static_cast<int64_t>(size.in_use);
  return kept();
}

int64_t myconv2d_cpu_release_memory() { return static_cast<int64_t>(Heap::instance().release()); }
}
#pragma GCC visibility pop

}  // namespace myconv2d
