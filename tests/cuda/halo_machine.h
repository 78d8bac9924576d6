// The processor under the halo kernel (csrc/cuda/halo.h), played on the host: shared memory, asynchronous
// copies and wgmma, after the PTX ISA.
//
// Shared memory exists twice, as threads see it and as the tensor core does: a write reaches the latter with
// its thread's fence alone. When a copy that may be under way arrives is up to the hardware, so both ends are
// played: `late` ones arrive with the wait that covers them, others at once. Products are done when they are
// waited for, after whatever the threads did in the meantime.
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/wgmma.h"

inline void must(bool so, const char* what) {
  if (so) return;
  std::printf("not allowed: %s\n", what);
  std::exit(1);
}

template <class T>  // int16_t stands in for the 16-bit floats
struct HaloMachine {
  using Element = T;
  using Chunk = std::array<unsigned char, 16>;
  static constexpr bool rounds = std::is_same_v<T, float>;
  static constexpr int k = 32 / sizeof(T), warpgroup = 128;
  static constexpr uint32_t begin =
      1040;  // of a block's own memory: at a multiple of 16, as is promised, no more

  struct Write {
    uint32_t target;
    Chunk value;
  };
  struct Product {
    float* d;
    int registers;
    uint64_t a, b;
    bool add;
    bool operator!=(const Product& other) const {
      return std::tie(registers, a, b, add) != std::tie(other.registers, other.a, other.b, other.add);
    }
  };
  struct Thread {
    std::vector<std::vector<Write>> groups;  // of copies under way
    std::vector<Write> open;                 // copies of no group yet
    std::vector<uint32_t> unpublished;       // chunks that the tensor core does not see yet
    std::vector<Product> products;
    bool in_group = false;
  };

  static inline bool late;
  static inline int thread;  // the one that runs
  static inline std::vector<Thread> threads;
  static inline std::vector<unsigned char> memory, tensor_core_memory;

  static unsigned char* start_block(int count, int bytes) {
    threads.assign(count, {});
    memory.assign(begin + bytes, poison);
    memory.shrink_to_fit();  // so that the address sanitizer sees its end
    tensor_core_memory = memory;
    return memory.data() + begin;
  }

  static uint32_t address(const void* shared) {
    return static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - memory.data());
  }
  static int uniform(int value) { return value; }

  static void copy(uint32_t target, const void* source, bool inside) {
    must(target + 16 <= memory.size(), "a copy beyond shared memory");
    must(target % 16 == 0 && reinterpret_cast<uintptr_t>(source) % 16 == 0, "a copy that is not aligned");
    Write write{target, {}};
    if (inside) std::memcpy(write.value.data(), source, 16);
    threads[thread].open.push_back(write);
    if (late) return;
    land(write);
    std::memcpy(&tensor_core_memory[target], write.value.data(), 16);
  }
  static void commit() {
    Thread& me = threads[thread];
    me.groups.push_back(std::move(me.open));
    me.open.clear();
  }
  template <int pending>
  static void wait() {
    Thread& me = threads[thread];
    while (me.groups.size() > pending) {
      for (const Write& write : me.groups.front()) {
        if (late) land(write);
        me.unpublished.push_back(write.target);
      }
      me.groups.erase(me.groups.begin());
    }
  }
  static void publish() {
    for (uint32_t target : threads[thread].unpublished)
      std::memcpy(&tensor_core_memory[target], &memory[target], 16);
    threads[thread].unpublished.clear();
  }
  static void round(uint32_t target) {  // to TF32, to nearest
    for (int i = 0; i < 4; ++i) {
      uint32_t word;
      std::memcpy(&word, &memory[target + 4 * i], 4);
      word = (word + 0x1000) & 0xffffe000;
      std::memcpy(&memory[target + 4 * i], &word, 4);
    }
    threads[thread].unpublished.push_back(target);
  }

  static void open() { threads[thread].in_group = true; }
  static void close() { threads[thread].in_group = false; }
  template <int registers>
  static void multiply(float (&d)[registers], uint64_t a, uint64_t b, bool add) {
    must(threads[thread].in_group, "a product outside a group");
    threads[thread].products.push_back({d, registers, a, b, add});
  }

  // Does the products of all warpgroups, in order.
  static void settle() {
    for (size_t first = 0; first < threads.size(); first += warpgroup) {
      const std::vector<Product>& products = threads[first].products;
      for (int t = 0; t < warpgroup; ++t)
        must(threads[first + t].products.size() == products.size(), "a warpgroup that is not of one mind");
      for (size_t i = 0; i < products.size(); ++i) perform(first, i);
    }
    for (Thread& each : threads) each.products.clear();
  }

 private:
  static constexpr unsigned char poison = 0x7f;

  static void land(const Write& write) { std::memcpy(&memory[write.target], write.value.data(), 16); }

  static void perform(size_t first, size_t i) {
    const Product& product = threads[first].products[i];
    const int columns = 2 * product.registers;
    const std::vector<double> a = operand(product.a, 64), b = operand(product.b, columns);
    for (int t = 0; t < warpgroup; ++t) {
      const Product& own = threads[first + t].products[i];
      must(!(own != product), "a warpgroup that is not of one mind");
      for (int index = 0; index < product.registers;
           ++index) {  // fragment of D: PTX ISA, "wgmma.mma_async.m64nNk16"
        const int row = t / 32 * 16 + t % 32 / 4 + index / 2 % 2 * 8,
                  column = index / 4 * 8 + t % 4 * 2 + index % 2;
        double sum = own.add ? own.d[index] : 0;
        for (int l = 0; l < k; ++l) sum += a[row * k + l] * b[column * k + l];
        own.d[index] = static_cast<float>(sum);
      }
    }
  }

  // The rows × k elements behind a descriptor: K-major, no swizzle.
  static std::vector<double> operand(uint64_t descriptor, int rows) {
    const auto field = [descriptor](int bit) { return static_cast<size_t>(descriptor >> bit & 0x3fff) << 4; };
    const size_t start = field(0), leading = field(16), stride = field(32);
    must((descriptor & ~0x00003fff3fff3fffull) == 0,
         "a descriptor with bits that K-major without swizzle has not");
    std::vector<double> values(rows * k);
    for (int row = 0; row < rows; ++row)
      for (int l = 0; l < k; ++l) {
        constexpr int chunk = 16 / sizeof(T);
        const size_t at =
            start + row / 8 * stride + row % 8 * 16 + l / chunk * leading + l % chunk * sizeof(T);
        must(at + sizeof(T) <= tensor_core_memory.size(), "an operand beyond shared memory");
        values[row * k + l] = element(&tensor_core_memory[at]);
      }
    return values;
  }

  static double element(const unsigned char* bytes) {
    unsigned char unwritten[sizeof(T)];
    std::memset(unwritten, poison, sizeof(T));
    if (std::memcmp(bytes, unwritten, sizeof(T)) == 0) return std::numeric_limits<double>::quiet_NaN();
    T value;
    if constexpr (std::is_same_v<T, float>) {
      uint32_t word;
      std::memcpy(&word, bytes, 4);
      word &= 0xffffe000;  // the tensor core does not look at the rest
      std::memcpy(&value, &word, 4);
    } else {
      std::memcpy(&value, bytes, sizeof(T));
    }
    return static_cast<double>(value);
  }
};
