// Random projections whose entries are functions of (seed, row id, column).
#pragma once
#include <cstdint>

namespace graphkit {

// out[i, c - first] in {1, -1, 0}: 1 with probability threshold / 2^33, and -1 the same.
struct SignBlock {
  const int64_t *ids;
  int64_t num_ids, first, last;  // columns first..last-1
  uint64_t threshold;            // at most 2^32
  uint64_t seed;
  float *out;                    // [num_ids, last - first]
  int threads;
};
void sign_block(const SignBlock &a);

}  // namespace graphkit
