#include "intersect.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "features.h"

namespace graphkit {
namespace {

constexpr int64_t most_pairs = 256;  // of a block; blocks are handed out as threads get free
constexpr int64_t gallop_ratio = 32;  // lengths beyond this ratio: search instead of merging
constexpr int64_t ahead = 8;  // pairs whose rows are asked for before their turn

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

// Four values of a row at a time, so that a step compares sixteen pairs and advances by four.
typedef int32_t Four __attribute__((vector_size(16), aligned(4), may_alias));

inline bool any(Four v) {
  typedef int64_t Two __attribute__((vector_size(16), may_alias));
  const Two halves = Two(v);
  return (halves[0] | halves[1]) != 0;
}

// Values from `at` on; `absent` past the end of the row. May read, not use, what lies behind it.
inline Four four_of(const int32_t *row, int64_t at, int64_t n, int32_t absent) {
  const int32_t left = int32_t(std::min<int64_t>(n - at, 4));
  const Four values = *reinterpret_cast<const Four *>(row + at);
  const Four there = Four{0, 1, 2, 3} < left;
  return (values & there) | (~there & absent);
}

void merge_common_by_four(const int32_t *a, int64_t na, const int32_t *b, int64_t nb,
                          Places<int32_t> &out) {
  typedef int32_t Lane __attribute__((vector_size(16)));
  const int64_t most = std::min(na, nb);
  int64_t i = 0, j = 0, n = 0;
  int32_t last = -1;
  while (i < na && j < nb) {
    const Four x = four_of(a, i, na, -1), y = four_of(b, j, nb, -2);
    const Four equal = Four(x == y) | Four(x == __builtin_shuffle(y, Lane{1, 2, 3, 0})) |
                       Four(x == __builtin_shuffle(y, Lane{2, 3, 0, 1})) |
                       Four(x == __builtin_shuffle(y, Lane{3, 0, 1, 2}));
    if (any(equal))
      for (int lane = 0; lane < 4; ++lane) {
        const int32_t value = x[lane];
        if (!equal[lane] || value == last) continue;
        int64_t place = j;
        while (place < nb && b[place] != value) ++place;
        if (place == nb || i + lane >= na || n == most) continue;  // only where a row changed
        last = value;
        out.a[n] = int32_t(i + lane);
        out.b[n++] = int32_t(place);
      }
    const int32_t end_x = a[std::min(i + 3, na - 1)], end_y = b[std::min(j + 3, nb - 1)];
    i += 4 & ~above(end_x, end_y);
    j += 4 & ~above(end_y, end_x);
  }
  out.count = n;
}

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

// Each value of the short row is looked up in the long one.
template <class I>
void search_common(const I *few, int64_t n_few, const I *many, int64_t n_many, I *at_few,
                   I *at_many, int64_t &count) {
  int64_t place = 0;
  count = 0;
  for (int64_t k = 0; k < n_few; ++k) {
    if (k > 0 && few[k] == few[k - 1]) continue;
    place = seek(many, place, n_many, few[k]);
    if (place == n_many) return;
    at_few[count] = I(k);
    at_many[count] = I(place);
    count += many[place] == few[k];
  }
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
void find_places(const I *a, int64_t na, const I *b, int64_t nb, bool difference, bool readable,
                 Places<I> &out) {
  const bool search = na > gallop_ratio * nb || nb > gallop_ratio * na;
  if (difference) {
    if (search) search_difference(a, na, b, nb, out);
    else merge_difference(a, na, b, nb, out);
  } else if (!search) {
    if constexpr (sizeof(I) == 4) {
      if (readable) return merge_common_by_four(a, na, b, nb, out);
    }
    merge_common(a, na, b, nb, out);
  } else if (na < nb) {
    search_common(a, na, b, nb, out.a, out.b, out.count);
  } else {
    search_common(b, nb, a, na, out.b, out.a, out.count);
  }
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
  // Whether there are values in memory for three more places.
  bool readable(Range r) const { return r.end + 3 <= num_entries_; }
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
        find_places(left.col(row_a), row_a.size(), right.col(row_b), row_b.size(), a.difference,
                    left.readable(row_a) && right.readable(row_b), found);
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

Fault find_disorder(const Graph &graph, int threads, Disorder &out) {
  FaultFlag fault;
  threads = threads_for(graph.num_entries, threads);
  if (graph.index_bits == 32) check_order<int32_t>(graph, threads, fault, out);
  else check_order<int64_t>(graph, threads, fault, out);
  return fault.result();
}

std::unique_ptr<FoundEntries> intersect_rows(const IntersectRows &a, bool keep, bool keep_b) {
  if (a.a.index_bits == 32) return std::make_unique<Found<int32_t>>(a, keep, keep_b);
  return std::make_unique<Found<int64_t>>(a, keep, keep_b);
}

}  // namespace graphkit
