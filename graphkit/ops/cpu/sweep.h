// One pass over the rows of a graph with running sums per row: rows in parallel, hubs in pieces.
#pragma once
#include "features.h"

namespace graphkit {
namespace {

// Units of work that a pass may keep a table for: they depend on the graph only, not on threads.
constexpr int64_t sweep_blocks = 64;

inline int64_t sweep_units(const Graph &g) {
  const Rows rows(g);
  FaultFlag fault;
  int64_t units = sweep_blocks;
  for (int64_t i : rows.hubs()) units += num_pieces(rows.entries(i, fault));
  return units;
}

// `entries(i, range, sums, scratch, unit)` adds the entries of row i into `sum_size` values that
// start at zero, `merge(sums, later)` adds a later piece of the same row, and
// `finish(i, sums, scratch)` writes the row.
template <class C, class Entries, class Merge, class Finish>
Fault sweep(const Graph &g, int64_t work_per_entry, int64_t sum_size, int64_t scratch_size,
            int max_threads, FaultFlag &fault, Entries entries, Merge merge, Finish finish) {
  const Rows rows(g);
  const int threads = threads_for(g.num_entries * work_per_entry + g.num_rows, max_threads);
  const std::vector<int64_t> hubs = rows.hubs();
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<C> sums(static_cast<size_t>(sum_size + scratch_size));
    C *const scratch = sums.data() + sum_size;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < sweep_blocks; ++b) {
      const Range block = rows.block(b, sweep_blocks);
      for (int64_t i = block.begin; i < block.end; ++i) {
        const Range row = rows.entries(i, fault);
        if (row.size() > hub_degree) continue;
        std::fill(sums.data(), scratch, C(0));
        entries(i, row, sums.data(), scratch, b);
        finish(i, sums.data(), scratch);
      }
    }
    stream_fence();
  }
  int64_t unit = sweep_blocks;
  for (int64_t i : hubs) {
    const Range row = rows.entries(i, fault);
    const int64_t pieces = num_pieces(row), each = sum_size + scratch_size;
    if (!pieces) continue;
    std::vector<C> sums(size_t(pieces * each), C(0));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int64_t p = 0; p < pieces; ++p) {
      C *own = sums.data() + p * each;
      entries(i, piece(row, p), own, own + sum_size, unit + p);
      stream_fence();
    }
    unit += pieces;
    for (int64_t p = 1; p < pieces; ++p) merge(sums.data(), sums.data() + p * each);
    finish(i, sums.data(), sums.data() + sum_size);
    stream_fence();
  }
  return fault.result();
}

// Sums that simply add.
template <class C>
struct Added {
  int64_t size;
  void operator()(C *to, const C *later) const {
    for (int64_t f = 0; f < size; ++f) to[f] += later[f];
  }
};

}  // namespace
}  // namespace graphkit
