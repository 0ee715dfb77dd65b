// Whether the rows of a graph are in ascending order.
#include <algorithm>
#include <vector>

#include "intersect.h"
#include "parallel.h"

namespace graphkit {
namespace {

template <class I>
void check_order(const Graph &g, int threads, FaultFlag &fault, Disorder &first) {
  const Rows rows(g);
  const I *col = static_cast<const I *>(g.col);
  const int blocks = int(std::min<int64_t>(g.num_rows, int64_t(threads) * 8));
  std::vector<Disorder> found(size_t(std::max(blocks, 0)));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
  for (int block = 0; block < blocks; ++block) {
    const Range range = rows.block(block, blocks);
    Disorder &bad = found[size_t(block)];
    for (int64_t i = range.begin; i < range.end && bad.row < 0; ++i) {
      const Range r = rows.entries(i, fault);
      for (int64_t k = r.begin; k < r.end; ++k) {
        if (uint64_t(col[k]) >= uint64_t(g.num_cols)) fault.raise(Fault::col, k, int64_t(col[k]));
        if (k > r.begin && col[k] < col[k - 1]) {
          bad = {i, k};
          break;
        }
      }
    }
  }
  for (const Disorder &bad : found)
    if (bad.row >= 0) {
      first = bad;
      return;
    }
}

}  // namespace

Fault find_disorder(const Graph &graph, int threads, Disorder &out) {
  FaultFlag fault;
  threads = threads_for(graph.num_entries, threads);
  if (graph.index_bits == 32) check_order<int32_t>(graph, threads, fault, out);
  else check_order<int64_t>(graph, threads, fault, out);
  return fault.result();
}

}  // namespace graphkit
