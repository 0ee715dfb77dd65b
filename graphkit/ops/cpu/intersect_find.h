// How the rows of pairs are compared. Compiled once per instruction set: a register of one row is
// compared with one value of the other at a time.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "features.h"
#include "intersect.h"
#include "lanes.h"

namespace graphkit {
namespace {

// As many values of a row as a register holds.
template <class I>
using Several = typename Register<std::conditional_t<sizeof(I) == 4, float, double>>::positions;
template <class I>
constexpr int64_t several = register_bytes / int64_t(sizeof(I));

constexpr int64_t most_pairs = 1024;  // of a block; blocks are handed out as threads get free
constexpr int64_t gallop_ratio = 32;  // lengths beyond this ratio: search instead of merging
template <class I>
constexpr int64_t search_ratio = 4 * several<I>;  // the same where rows are taken by registers
constexpr int64_t ahead = 16;  // pairs whose rows are asked for before their turn

// First place in v[from, n) with a value of at least `value`: doubling steps, then halving.
template <class I>
int64_t seek(const I *v, int64_t from, int64_t n, I value) {
  int64_t low = from, step = 1;
  while (low + step < n && v[low + step] < value) {
    low += step;
    step *= 2;
  }
  int64_t high = std::min(low + step, n);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (v[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// All bits if x > y, else none. Which row a merge advances in is a toss-up: as arithmetic on this
// mask it costs a cycle or two, while a comparison becomes a branch that is often mispredicted.
template <class I>
GRAPHKIT_INLINE int64_t above(I x, I y) {
  return int64_t(uint64_t(y) - uint64_t(x)) >> 63;
}

// Places in the two rows, written to arrays with room for one more than can be found: the loops
// always write and then move on only if there was something, which saves a mispredicted branch.
// Order was checked before; should a row have changed since, the loops still end, and stay inside.
template <class I>
struct Places {
  I *a, *b;
  int64_t count;
};

template <class I>
void merge_common(const I *a, int64_t na, const I *b, int64_t nb, Places<I> &out) {
  int64_t i = 0, j = 0, n = 0;
  I last = -1;
  while (i < na && j < nb) {
    const I x = a[i], y = b[j];
    out.a[n] = I(i);
    out.b[n] = I(j);
    const bool found = (x == y) & (x != last);
    n += found;
    last = x == y ? x : last;
    const int64_t past = above(x, y);
    i += 1 + past;
    j += 1 + (above(y, x) & ~past);  // both can be set where the difference overflows
  }
  out.count = n;
}

// The longer row is taken a register at a time and compared with values of the shorter one: how far
// they are apart is zero where one was met. Reads, and does not use, what lies behind the rows.
template <class I>
class Blocks {
 public:
  Blocks(const I *many, int64_t n_many, const I *few, int64_t n_few, I *at_many, I *at_few)
      : many_(many), n_many_(n_many), few_(few), n_few_(n_few), at_many_(at_many), at_few_(at_few) {}

  // Each value of the shorter row meets the blocks that it can be in.
  int64_t merge() {
    int64_t j = 0;
    for (int64_t i = 0; i < n_many_ && j < n_few_; i += size) {
      const int64_t first = j;
      const I end = many_[std::min(i + size, n_many_) - 1];
      if (few_[j] > end) continue;
      const Block x = block(i);
      Apart apart = ~Apart{};
      do meet(x, few_[j], apart);
      while (++j < n_few_ && few_[j] <= end);
      if (any_of(Block(apart == Apart{}))) note(i, x, apart, first);
    }
    return n_;
  }

  // Up to `few_most` values meet all blocks, as if there were `few_most`: most rows are short, and
  // the end of each loop over one would be a mispredicted branch.
  static constexpr int64_t few_most = 16;
  int64_t meet_all() {
    alignas(64) I value[few_most];
    for (int64_t k = 0; k < few_most; k += size) {
      const Block there = places() < I(n_few_ - k);
      *reinterpret_cast<Block *>(value + k) =
          (*reinterpret_cast<const Block *>(few_ + k) & there) | (few_[n_few_ - 1] & ~there);
    }
    asm volatile("" : : "r"(value) : "memory");  // broadcast from memory, not through registers
    for (int64_t i = 0; i < n_many_; i += size) {
      const Block x = block(i);
      Apart apart = ~Apart{};
#pragma GCC unroll 16
      for (int64_t k = 0; k < few_most; ++k) meet(x, value[k], apart);
      if (any_of(Block(apart == Apart{}))) note(i, x, apart, 0);
    }
    return n_;
  }

 private:
  static constexpr int64_t size = several<I>;
  using Block = Several<I>;
  using Unsigned = std::make_unsigned_t<I>;
  typedef Unsigned Apart __attribute__((vector_size(register_bytes), aligned(sizeof(I)), may_alias));

  static Block places() {
    Block lane{};
    for (int64_t l = 0; l < size; ++l) lane[l] = I(l);
    return lane;
  }
  Block block(int64_t i) const { return *reinterpret_cast<const Block *>(many_ + i); }
  static GRAPHKIT_INLINE void meet(Block x, I value, Apart &apart) {
    const Apart each = Apart(x ^ value);
    apart = each < apart ? each : apart;
  }
  // Few blocks hold what the other row holds: here branches may be missed.
  __attribute__((noinline)) void note(int64_t i, Block x, Apart apart, int64_t place) {
    const int64_t left = std::min(n_many_ - i, size);
    for (int64_t lane = 0; lane < left && n_ < n_few_; ++lane) {
      const I value = x[lane];
      if (apart[lane] || value == last_) continue;
      int64_t at = place;
      while (at < n_few_ && few_[at] != value) ++at;
      if (at == n_few_) continue;  // only where a row changed
      place = at;
      last_ = value;
      at_many_[n_] = I(i + lane);
      at_few_[n_++] = I(place);
    }
  }

  const I *many_;
  int64_t n_many_;
  const I *few_;
  int64_t n_few_;
  I *at_many_, *at_few_;
  int64_t n_ = 0;
  I last_ = -1;
};

template <class I>
void merge_difference(const I *a, int64_t na, const I *b, int64_t nb, Places<I> &out) {
  int64_t i = 0, j = 0, n = 0;
  I last = -1;  // of a
  while (i < na && j < nb) {
    const I x = a[i], y = b[j];
    out.a[n] = I(i);
    const int64_t past = above(x, y);  // else x is done with
    n += (x != y) & (x != last) & (past == 0);
    last = I((last & past) | (x & ~past));
    i += 1 + past;
    j += 1 + (above(y, x) & ~past);
  }
  for (; i < na; ++i) {
    out.a[n] = I(i);
    n += a[i] != last;
    last = a[i];
  }
  out.count = n;
}

// Each value of the short row is looked up in the long one, a few of them together: the next step of
// one does not wait for the memory that another asked for.
template <class I>
void search_common(const I *few, int64_t n_few, const I *many, int64_t n_many, I *at_few,
                   I *at_many, int64_t &count) {
  constexpr int64_t together = 8;
  int64_t n = 0, start = 0;
  for (int64_t k = 0; k < n_few && start < n_many; k += together) {
    const int64_t left = std::min(n_few - k, together);
    int64_t place[together];
    I key[together];
    for (int64_t l = 0; l < together; ++l) {
      place[l] = start;
      key[l] = few[k + std::min(l, left - 1)];
    }
    for (int64_t length = n_many - start; length > 0;) {  // first place with a value >= the key
      const int64_t half = (length + 1) / 2;
      for (int64_t l = 0; l < together; ++l)
        place[l] += half & -int64_t(many[place[l] + half - 1] < key[l]);
      length -= half;
    }
    for (int64_t l = 0; l < left; ++l) {
      if (k + l > 0 && key[l] == few[k + l - 1]) continue;
      at_few[n] = I(k + l);
      at_many[n] = I(place[l]);
      n += place[l] < n_many && many[place[l]] == key[l];
    }
    start = place[left - 1];
  }
  count = n;
}

template <class I>
void search_difference(const I *a, int64_t na, const I *b, int64_t nb, Places<I> &out) {
  int64_t n = 0, place = 0;
  if (na < nb) {
    for (int64_t i = 0; i < na; ++i) {
      if (i > 0 && a[i] == a[i - 1]) continue;
      place = seek(b, place, nb, a[i]);
      out.a[n] = I(i);
      n += place == nb || b[place] != a[i];
    }
  } else {  // all of a but the few values of b
    const auto keep = [&](int64_t until) {
      for (; place < until; ++place) {
        out.a[n] = I(place);
        n += place == 0 || a[place] != a[place - 1];
      }
    };
    for (int64_t j = 0; j < nb && place < na; ++j) {
      keep(seek(a, place, na, b[j]));
      while (place < na && a[place] == b[j]) ++place;
    }
    keep(na);
  }
  out.count = n;
}

template <class I>
void find_common(const I *a, int64_t na, const I *b, int64_t nb, bool readable_a, bool readable_b,
                 Places<I> &out) {
  const bool swap = na < nb;  // without a branch: which row is longer is a toss-up
  const I *const row[2] = {a, b};
  I *const at[2] = {out.a, out.b};
  const int64_t length[2] = {na, nb};
  const I *const many = row[swap], *const few = row[!swap];
  const int64_t n_many = length[swap], n_few = length[!swap];
  if (n_few == 0) out.count = 0;
  else if (n_many > search_ratio<I> * n_few)
    search_common(few, n_few, many, n_many, at[!swap], at[swap], out.count);
  else if (!readable_a || !readable_b) merge_common(a, na, b, nb, out);
  else {
    Blocks<I> blocks(many, n_many, few, n_few, at[swap], at[!swap]);
    out.count = n_few <= Blocks<I>::few_most ? blocks.meet_all() : blocks.merge();
  }
}

template <class I>
void find_difference(const I *a, int64_t na, const I *b, int64_t nb, Places<I> &out) {
  if (na > gallop_ratio * nb || nb > gallop_ratio * na) search_difference(a, na, b, nb, out);
  else merge_difference(a, na, b, nb, out);
}

// The two sides of the pairs: rows that are checked, and asked for from memory before their turn.
template <class I>
class Side {
 public:
  Side(const Graph &g, const int64_t *row)
      : rowptr_(static_cast<const I *>(g.rowptr)), col_(static_cast<const I *>(g.col)),
        num_rows_(g.num_rows), num_entries_(g.num_entries), row_(row) {}

  Range entries(int64_t pair, FaultFlag &fault) const {
    const int64_t row = row_[pair];
    if (__builtin_expect(uint64_t(row) >= uint64_t(num_rows_), 0)) {
      fault.raise(Fault::key, num_rows_, row);
      return {0, 0};
    }
    const int64_t begin = int64_t(rowptr_[row]), end = int64_t(rowptr_[row + 1]);
    if (__builtin_expect(begin < 0 || end < begin || end > num_entries_, 0)) {
      fault.raise(Fault::rowptr, row, begin < 0 || begin > num_entries_ ? begin : end);
      return {0, 0};
    }
    return {begin, end};
  }
  // Whether there are values in memory for all places that are read of blocks that start in the row.
  bool readable(Range r) const { return r.end + Blocks<I>::few_most <= num_entries_; }
  const I *col(Range r) const { return col_ + r.begin; }
  GRAPHKIT_INLINE void prefetch_start(int64_t pair) const {
    prefetch_line(reinterpret_cast<uintptr_t>(rowptr_) + uintptr_t(row_[pair]) * sizeof(I));
  }
  GRAPHKIT_INLINE void prefetch_row(int64_t pair) const {
    const int64_t row = row_[pair];
    if (uint64_t(row) >= uint64_t(num_rows_)) return;
    const uintptr_t start =
        reinterpret_cast<uintptr_t>(col_) + uintptr_t(rowptr_[row]) * sizeof(I);
    prefetch_line(start);
    prefetch_line(start + 64);
  }

 private:
  const I *rowptr_, *col_;
  int64_t num_rows_, num_entries_;
  const int64_t *row_;
};

// Positions are kept in blocks of consecutive pairs, in the index type of the graphs.
template <class I>
class Found final : public FoundEntries {
 public:
  Found(const IntersectRows &a, bool keep, bool keep_b)
      : col_(static_cast<const I *>(a.a.col)), threads_(a.threads) {
    find(a, keep, keep_b);
  }
  void copy(int bits, void *node, void *entry, void *entry_b) const override {
    if (bits == 32) copy_as(static_cast<int32_t *>(node), static_cast<int32_t *>(entry),
                            static_cast<int32_t *>(entry_b));
    else copy_as(static_cast<int64_t *>(node), static_cast<int64_t *>(entry),
                 static_cast<int64_t *>(entry_b));
  }

 private:
  void find(const IntersectRows &a, bool keep, bool keep_b);
  template <class To>
  void copy_as(To *node, To *entry, To *entry_b) const;

  struct Block {
    std::vector<I> entry, entry_b;
  };
  const I *col_;
  int threads_;
  std::vector<Block> blocks_;
};

template <class I>
void Found<I>::find(const IntersectRows &a, bool keep, bool keep_b) {
  const Side<I> left(a.a, a.row_a), right(a.b, a.row_b);
  const double degree = double(a.a.num_entries) / double(std::max<int64_t>(a.a.num_rows, 1)) +
                        double(a.b.num_entries) / double(std::max<int64_t>(a.b.num_rows, 1));
  const int threads = threads_for(int64_t(double(a.num_pairs) * (1 + degree)), threads_);
  const int64_t size =
      std::clamp<int64_t>(a.num_pairs / (int64_t(threads) * 16), 1, most_pairs);
  const int64_t blocks = (a.num_pairs + size - 1) / size;
  blocks_.resize(keep ? size_t(blocks) : 0);
  FaultFlag flag;
  int64_t sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum) if (threads > 1)
  {
    int64_t room = 0;
    std::unique_ptr<I[]> places;
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * size, end = std::min(begin + size, a.num_pairs);
      for (int64_t p = begin; p < end; ++p) {
        if (p + 2 * ahead < end) {
          left.prefetch_start(p + 2 * ahead);
          right.prefetch_start(p + 2 * ahead);
        }
        if (p + ahead < end) {
          left.prefetch_row(p + ahead);
          right.prefetch_row(p + ahead);
        }
        const Range row_a = left.entries(p, flag), row_b = right.entries(p, flag);
        const int64_t most =
            1 + (a.difference ? row_a.size() : std::min(row_a.size(), row_b.size()));
        if (most > room) {
          room = std::max(most, 2 * room);
          places.reset(new I[size_t(2 * room)]);
        }
        Places<I> found{places.get(), places.get() + room, 0};
        const I *const cols_a = left.col(row_a), *const cols_b = right.col(row_b);
        if (a.difference) find_difference(cols_a, row_a.size(), cols_b, row_b.size(), found);
        else
          find_common(cols_a, row_a.size(), cols_b, row_b.size(), left.readable(row_a),
                      right.readable(row_b), found);
        a.count[p] = found.count;
        sum += found.count;
        if (keep && found.count) {
          auto &to = blocks_[size_t(block)].entry;
          for (int64_t k = 0; k < found.count; ++k) found.a[k] += I(row_a.begin);
          to.insert(to.end(), found.a, found.a + found.count);
        }
        if (keep_b && found.count) {
          auto &to = blocks_[size_t(block)].entry_b;
          for (int64_t k = 0; k < found.count; ++k) found.b[k] += I(row_b.begin);
          to.insert(to.end(), found.b, found.b + found.count);
        }
      }
    }
  }
  total = sum;
  this->fault = flag.result();
}

template <class I>
template <class To>
void Found<I>::copy_as(To *node, To *entry, To *entry_b) const {
  const int64_t blocks = int64_t(blocks_.size());
  std::vector<int64_t> start(size_t(blocks) + 1, 0);
  for (int64_t b = 0; b < blocks; ++b)
    start[size_t(b) + 1] = start[size_t(b)] + int64_t(blocks_[size_t(b)].entry.size());
  const int threads = threads_for(total, threads_);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16) if (threads > 1)
  for (int64_t b = 0; b < blocks; ++b) {
    const Block &block = blocks_[size_t(b)];
    const int64_t at = start[size_t(b)];
    for (size_t k = 0; k < block.entry.size(); ++k) {
      if (node) node[at + int64_t(k)] = To(col_[block.entry[k]]);
      if (entry) entry[at + int64_t(k)] = To(block.entry[k]);
    }
    for (size_t k = 0; entry_b && k < block.entry_b.size(); ++k)
      entry_b[at + int64_t(k)] = To(block.entry_b[k]);
  }
}

}  // namespace
}  // namespace graphkit
