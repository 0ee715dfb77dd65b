// How rows are shared out. Results never depend on the number of threads: each row has one owner,
// and a hub's entries are cut into pieces of fixed size that are combined in order.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace graphkit {
namespace {  // one copy per translation unit: each is compiled for its own ISA

constexpr int64_t hub_degree = 16384;  // rows longer than this are cut
constexpr int64_t hub_piece = 8192;
constexpr int64_t prefetch_distance = 32;  // entries
constexpr int64_t serial_work = 1 << 15;  // elements below which a parallel region costs more

inline int threads_for(int64_t work, int threads) { return work < serial_work ? 1 : threads; }

class FaultFlag {
 public:
  void raise(Fault::Kind kind, int64_t position, int64_t value) {
    int expected = 0;
    if (state_.compare_exchange_strong(expected, 1)) fault_ = {kind, position, value};
  }
  Fault result() const { return state_.load() ? fault_ : Fault{}; }

 private:
  std::atomic<int> state_{0};
  Fault fault_;
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The rows of a graph: their entries, blocks of about equal work, and the hubs.
class Rows {
 public:
  explicit Rows(const Graph &g)
      : base_(g.rowptr), wide_(g.index_bits == 64), num_rows_(g.num_rows),
        num_entries_(g.num_entries) {}

  int64_t start(int64_t row) const {
    return wide_ ? static_cast<const int64_t *>(base_)[row]
                 : static_cast<const int32_t *>(base_)[row];
  }

  // Entries of a row, or an empty range and a fault when rowptr is corrupt.
  Range entries(int64_t row, FaultFlag &fault) const {
    const int64_t begin = start(row), end = start(row + 1);
    if (__builtin_expect(begin < 0 || end < begin || end > num_entries_, 0)) {
      fault.raise(Fault::rowptr, row, begin < 0 || begin > num_entries_ ? begin : end);
      return {0, 0};
    }
    return {begin, end};
  }

  // Blocks hold about equal numbers of (rows + entries).
  Range block(int64_t index, int64_t count) const {
    return {block_start(index, count), block_start(index + 1, count)};
  }

  std::vector<int64_t> hubs() const {
    std::vector<int64_t> found;
    if (num_entries_ <= hub_degree) return found;
    for (int64_t i = 0; i < num_rows_; ++i)
      if (start(i + 1) - start(i) > hub_degree) found.push_back(i);
    return found;
  }

 private:
  int64_t block_start(int64_t index, int64_t count) const {
    if (index <= 0) return 0;
    if (index >= count) return num_rows_;
    const int64_t target =
        int64_t(double(num_rows_ + num_entries_) * double(index) / double(count));
    int64_t low = 0, high = num_rows_;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (start(middle) + middle < target) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  const void *base_;
  bool wide_;
  int64_t num_rows_, num_entries_;
};

inline int64_t num_pieces(Range entries) { return (entries.size() + hub_piece - 1) / hub_piece; }

inline Range piece(Range entries, int64_t index) {
  const int64_t begin = entries.begin + index * hub_piece;
  return {begin, std::min(begin + hub_piece, entries.end)};
}

}  // namespace
}  // namespace graphkit
