#include "blocks.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace graphkit {
namespace {

constexpr int64_t huge_page = int64_t(2) << 20;

struct Block {
  void *at;
  int64_t size;
};

// Oldest first. Never destroyed: tensors may be freed after this module's statics.
struct Kept {
  std::mutex mutex;
  std::vector<Block> blocks;
  int64_t bytes = 0, limit = 0;
};

Kept &kept() {
  static Kept *const it = new Kept;
  return *it;
}

void *from_system(int64_t size) {
  void *at = std::aligned_alloc(size_t(huge_page), size_t(size));
#ifdef __linux__
  if (at) madvise(at, size_t(size), MADV_HUGEPAGE);
#endif
  return at;
}

void to_system(const Block &block) { std::free(block.at); }

}  // namespace

void *take_block(int64_t bytes, int64_t &size) {
  size = (std::max<int64_t>(bytes, 1) + huge_page - 1) / huge_page * huge_page;
  {
    Kept &k = kept();
    const std::lock_guard<std::mutex> lock(k.mutex);
    // The smallest that fits without wasting more than an eighth; of equals the warmest.
    auto best = k.blocks.end();
    for (auto b = k.blocks.begin(); b != k.blocks.end(); ++b)
      if (b->size >= size && b->size - size <= size / 8 &&
          (best == k.blocks.end() || b->size <= best->size))
        best = b;
    if (best != k.blocks.end()) {
      void *at = best->at;
      size = best->size;
      k.bytes -= size;
      k.blocks.erase(best);
      return at;
    }
  }
  void *at = from_system(size);
  if (!at) {
    drop_blocks();
    at = from_system(size);
  }
  return at;
}

void give_block(void *at, int64_t size) {
  std::vector<Block> excess;
  {
    Kept &k = kept();
    const std::lock_guard<std::mutex> lock(k.mutex);
    if (size > k.limit) {
      excess.push_back({at, size});
    } else {
#if defined(__linux__) && defined(MADV_FREE)
      madvise(at, size_t(size), MADV_FREE);
#endif
      k.blocks.push_back({at, size});
      k.bytes += size;
      while (k.bytes > k.limit) {
        excess.push_back(k.blocks.front());
        k.bytes -= k.blocks.front().size;
        k.blocks.erase(k.blocks.begin());
      }
    }
  }
  for (const Block &block : excess) to_system(block);
}

void drop_blocks() {
  std::vector<Block> all;
  {
    Kept &k = kept();
    const std::lock_guard<std::mutex> lock(k.mutex);
    all.swap(k.blocks);
    k.bytes = 0;
  }
  for (const Block &block : all) to_system(block);
}

int64_t kept_bytes() {
  const std::lock_guard<std::mutex> lock(kept().mutex);
  return kept().bytes;
}

void set_kept_limit(int64_t bytes) {
#ifdef __GLIBC__
  if (bytes > 0) {
    mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the largest that glibc takes
    mallopt(M_TRIM_THRESHOLD, int(std::min<int64_t>(bytes, 512 << 20)));
    mallopt(M_TOP_PAD, 8 << 20);
  }
#endif
  {
    const std::lock_guard<std::mutex> lock(kept().mutex);
    kept().limit = std::max<int64_t>(bytes, 0);
  }
  if (bytes <= kept_bytes()) drop_blocks();
}

}  // namespace graphkit
