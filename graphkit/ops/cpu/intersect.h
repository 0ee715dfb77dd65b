// Sorted rows of a CSR as sets: what the rows of many pairs share, or what one has and the other
// has not.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels.h"

namespace graphkit {

// The first entry that is smaller than the one before it in its row; row is -1 where there is none.
struct Disorder {
  int64_t row = -1, entry = 0;
};
Fault find_disorder(const Graph &graph, int threads, Disorder &out);

struct IntersectRows {
  Graph a, b;              // of one index type, over the same columns
  bool difference;         // row of a without row of b, rather than what both hold
  int64_t num_pairs;
  const int64_t *row_a;    // [num_pairs]
  const int64_t *row_b;
  int64_t *count;          // [num_pairs], written
  int threads;
};

// What was found. A value that a row repeats is found once, at its first entry.
class FoundEntries {
 public:
  virtual ~FoundEntries() = default;
  // One pair after the other: node ids, entries of a, and of b, in 32 or 64 bits. Null where not
  // wanted.
  virtual void copy(int bits, void *node, void *entry, void *entry_b) const = 0;

  int64_t total = 0;
  Fault fault;
};

}  // namespace graphkit
