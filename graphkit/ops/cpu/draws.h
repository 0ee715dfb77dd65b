// The random numbers of walks and sampling, and checked access to the graph they run on.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "parallel.h"

namespace graphkit {
namespace {

constexpr uint64_t golden = 0x9E3779B97F4A7C15u;

// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

inline uint64_t after(uint64_t key, int64_t counter) {
  return mix(key + (uint64_t(counter) + 1) * golden);
}

// The draws of one item at one step.
struct Draws {
  uint64_t key;
  Draws(uint64_t item_key, int64_t step) : key(after(item_key, step)) {}
  double unit(int64_t draw) const { return double(after(key, draw) >> 11) * 0x1p-53; }
  int64_t below(int64_t draw, int64_t n) const {
    return std::min(int64_t(unit(draw) * double(n)), n - 1);
  }
};

template <class I>
struct View {
  const I *rowptr, *col, *eid;
  int64_t num_rows, num_cols, num_entries;
  explicit View(const Graph &g)
      : rowptr(static_cast<const I *>(g.rowptr)), col(static_cast<const I *>(g.col)),
        eid(static_cast<const I *>(g.eid)), num_rows(g.num_rows), num_cols(g.num_cols),
        num_entries(g.num_entries) {}

  // False, with the fault told, for a row that is not there or a corrupt rowptr.
  bool row(int64_t i, Range &r, FaultFlag &fault) const {
    if (__builtin_expect(uint64_t(i) >= uint64_t(num_rows), 0)) {
      fault.raise(Fault::key, 0, i);
      return false;
    }
    r = {int64_t(rowptr[i]), int64_t(rowptr[i + 1])};
    if (__builtin_expect(r.begin < 0 || r.end < r.begin || r.end > num_entries, 0)) {
      fault.raise(Fault::rowptr, i, r.end);
      return false;
    }
    return true;
  }
  bool source(int64_t k, int64_t &node, FaultFlag &fault) const {
    node = int64_t(col[k]);
    if (__builtin_expect(uint64_t(node) < uint64_t(num_cols), 1)) return true;
    fault.raise(Fault::col, k, node);
    return false;
  }
  int64_t edge(int64_t k) const { return eid ? int64_t(eid[k]) : k; }
};

}  // namespace
}  // namespace graphkit
