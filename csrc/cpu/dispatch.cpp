// Which instruction set serves: chosen once, when the library is loaded, from what the processor has.
// MYCONV2D_ISA in the environment, or myconv2d_cpu_use_isa(), names another one.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "algorithm.h"
#include "kernels.h"

namespace myconv2d {

namespace portable { extern const KernelTable table; }
namespace avx2 { extern const KernelTable table; }
namespace avx512 { extern const KernelTable table; }

namespace {

struct Candidate {
  const KernelTable* table;
  bool runs_here;
};

struct Candidates {
  Candidate list[3];
  int count;
};

const Candidates& candidates() {  // the best first
  static const Candidates all = [] {
    Candidates found{};
#if defined(MYCONV2D_HAS_avx2) || defined(MYCONV2D_HAS_avx512)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
#ifdef MYCONV2D_HAS_avx512
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    found.list[found.count++] = {&avx512::table, avx512};
#endif
#ifdef MYCONV2D_HAS_avx2
    found.list[found.count++] = {&avx2::table, avx2};
#endif
    found.list[found.count++] = {&portable::table, true};
    return found;
  }();
  return all;
}

const KernelTable* find(const char* name) {
  for (int i = 0; i < candidates().count; ++i)
    if (candidates().list[i].runs_here && (!name || std::strcmp(candidates().list[i].table->isa, name) == 0))
      return candidates().list[i].table;
  return nullptr;
}

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> table = [] {
    const KernelTable* named = find(std::getenv("MYCONV2D_ISA"));
    return named ? named : find(nullptr);
  }();
  return table;
}

}  // namespace

const KernelTable& kernels_for(Type type) {
  const bool integer = type != Type::f64 && type != Type::f32 && type != Type::f16 && type != Type::bf16;
  return integer ? portable::table : *current().load(std::memory_order_relaxed);
}

#pragma GCC visibility push(default)
extern "C" {

// The instruction set in use.
const char* myconv2d_cpu_isa() { return current().load()->isa; }

// Names of the instruction sets compiled in, index 0 the best; null behind the last. `runs_here` says if it can be used.
const char* myconv2d_cpu_isa_built(int index, int* runs_here) {
  if (index < 0 || index >= candidates().count) return nullptr;
  *runs_here = candidates().list[index].runs_here;
  return candidates().list[index].table->isa;
}

// Switches to another instruction set; 0 if this processor or this build does not have it.
int myconv2d_cpu_use_isa(const char* name) {
  const KernelTable* table = find(name);
  if (table) current().store(table);
  return table != nullptr;
}

// The algorithm that serves a convolution: its 16 numbers in the order of struct Conv2d, Type and Pass as numbers.
const char* myconv2d_cpu_algorithm(const int64_t* numbers, int type, int pass) {
  Conv2d conv;
  static_assert(sizeof conv == 16 * sizeof(int64_t), "one number per field");
  std::memcpy(&conv, numbers, sizeof conv);
  return algorithm_name(choose_algorithm(conv, static_cast<Type>(type), static_cast<Pass>(pass)));
}

const char* myconv2d_cpu_build_info() { return MYCONV2D_BUILD_INFO; }

}  // extern "C"
#pragma GCC visibility pop

}  // namespace myconv2d
