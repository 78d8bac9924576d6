// The threads of a block: one after another between its barriers, or, with SIDE_BY_SIDE, each on a thread of the host
// that meets the others at a real barrier, for ThreadSanitizer to see what two of them touch in between.
#pragma once

#include <vector>

#if defined(SIDE_BY_SIDE)
#include <pthread.h>

#include <thread>
#endif

// `life(phase)` is the life of a block; `before(t)` goes before the work of thread t in every phase, `after()` behind
// that of all of them.
template <class Thread, class Life, class Before, class After>
void run_threads(std::vector<Thread>& threads, Life&& life, Before&& before, After&& after) {
#if defined(SIDE_BY_SIDE)
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, threads.size());
  const auto live = [&](Thread& thread) {
    life([&](auto&& work) {
      work(thread);
      pthread_barrier_wait(&barrier);
    });
  };
  std::vector<std::thread> running;
  for (Thread& thread : threads) running.emplace_back(live, std::ref(thread));
  for (std::thread& each : running) each.join();
  pthread_barrier_destroy(&barrier);
#else
  life([&](auto&& work) {
    for (size_t t = 0; t < threads.size(); ++t) {
      before(static_cast<int>(t));
      work(threads[t]);
    }
    after();
  });
#endif
}

template <class Thread, class Life>
void run_threads(std::vector<Thread>& threads, Life&& life) {
  run_threads(threads, life, [](int) {}, [] {});
}
