// Parallel work as ThreadSanitizer sees it, for test_trust.py: nothing to find in "none", one race in each of the others.
#include "thread_pool.h"

#include <cstring>

constexpr int64_t tasks = 64;

struct Sums {
  int64_t of[tasks], all;
  const char* race;
};

int main(int, char** arguments) {
  Sums sums = {};
  sums.race = arguments[1];
  for (int64_t& sum : sums.of) sum = 1;
  for (int round = 0; round < 3; ++round) {  // each range reads what the caller, and the round before in any order, wrote
    myconv2d::on_thread_pool(tasks, &sums, [](void* context, int64_t begin, int64_t end) {
      Sums& sums = *static_cast<Sums*>(context);
      for (int64_t i = begin; i < end; ++i) sums.of[i] += 1;
      if (!std::strcmp(sums.race, "one sum for all")) sums.all += end - begin;
      if (!std::strcmp(sums.race, "the neighbour's task")) sums.of[end % tasks] += 1;
    });
    myconv2d::on_thread_pool(tasks / 2, &sums, [](void* context, int64_t begin, int64_t end) {
      Sums& sums = *static_cast<Sums*>(context);
      for (int64_t i = begin; i < end; ++i) sums.of[i] += sums.of[tasks - 1 - i];
    });
    for (const int64_t sum : sums.of) sums.all += sum;
  }
  return sums.all == 0;
}
