// Working memory that is kept from call to call: fresh pages cost more than the arithmetic of a small layer.
#pragma once

#include <cstddef>

namespace myconv2d {

// Each thread owns one buffer per purpose, so that the buffers of one call never overlap.
enum class Scratch {
  weights, phase_weights, partial_sums, panel, accumulators, band, turned, task_sums, vectors, count
};

// At least `bytes` bytes, 64-byte aligned, contents undefined; valid until this thread asks for the same purpose
// again. Throws a std::bad_alloc that says how many.
void* scratch(Scratch purpose, size_t bytes);

}  // namespace myconv2d
