// An allocator for tests (LD_PRELOAD): each block that is asked for with an alignment, as tensors and scratch memory are,
// lies between two pages that nobody may touch, at the end of its pages or, with GUARD=begin, at their beginning, and is
// unmapped when it is freed. Whatever reads or writes beyond it, intrinsics that no sanitizer sees included, is a
// segmentation fault. At the end up to 63 bytes are out of sight, since blocks stay aligned to a vector.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { page = 4096, line = 64, slots = 1 << 16, most_blocks = 1 << 13 };  // a process has 65,530 mappings at most

static struct { char *block, *pages; size_t size; } table[slots];  // open addressing; a freed slot keeps its place
static char freed;
static size_t blocks;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void (*next_free)(void*);
static int (*next_posix_memalign)(void**, size_t, size_t);
static int at_begin;

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

__attribute__((constructor)) static void start(void) {
  if (next_free) return;
  next_posix_memalign = (int (*)(void**, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
  next_free = (void (*)(void*))dlsym(RTLD_NEXT, "free");
  const char* const guard = getenv("GUARD");
  at_begin = guard && strcmp(guard, "begin") == 0;
  unsetenv("LD_PRELOAD");  // compilers that the tests start need none
  pthread_atfork(lock, unlock, unlock);
}

static size_t slot_of(const char* block) { return ((uintptr_t)block >> 6) * 0x9E3779B97F4A7C15u % slots; }

// A slot for a new block; -1 where there are enough.
static long vacant(const char* block) {
  if (blocks == most_blocks) return -1;
  for (size_t i = slot_of(block);; i = (i + 1) % slots)
    if (!table[i].block || table[i].block == &freed) return (long)i;
}

static long find(const char* block) {
  size_t i = slot_of(block);
  for (int tried = 0; tried < slots && table[i].block; ++tried, i = (i + 1) % slots)
    if (table[i].block == block) return (long)i;
  return -1;
}

int posix_memalign(void** to, size_t alignment, size_t bytes) {
  start();
  const size_t inside = (bytes + page - 1) / page * page;
  if (bytes == 0 || alignment > line || inside < bytes) return next_posix_memalign(to, alignment, bytes);
  char* const pages = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return next_posix_memalign(to, alignment, bytes);
  char* const block = pages + page + (at_begin ? 0 : (inside - bytes) / line * line);
  lock();
  const long i = mprotect(pages + page, inside, PROT_READ | PROT_WRITE) == 0 ? vacant(block) : -1;
  if (i >= 0) {
    table[i].block = block, table[i].pages = pages, table[i].size = inside + 2 * page;
    ++blocks;
  }
  unlock();
  if (i < 0) {
    munmap(pages, inside + 2 * page);
    return next_posix_memalign(to, alignment, bytes);
  }
  *to = block;
  return 0;
}

void* aligned_alloc(size_t alignment, size_t bytes) {
  void* block;
  return posix_memalign(&block, alignment, bytes) == 0 ? block : NULL;
}

void free(void* block) {
  if (!next_free) start();
  if ((uintptr_t)block % line == 0 && block) {
    lock();
    const long i = find(block);
    if (i >= 0) {
      munmap(table[i].pages, table[i].size);
      table[i].block = &freed;
      --blocks;
    }
    unlock();
    if (i >= 0) return;
  }
  next_free(block);
}
