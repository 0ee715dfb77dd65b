// Stable parallel counting sort: the result is the one stable order, whatever the thread count.
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace graphkit {
namespace {

constexpr int64_t serial_entries = 1 << 15;
constexpr int max_chunks = 16;  // each chunk keeps a count per row

int chunks_for(int64_t entries, int threads) {
  return entries < serial_entries ? 1 : std::clamp(threads, 1, max_chunks);
}

// Sort entries 0..n-1 by key(k): rowptr gets the row starts, and place(k, slot) is called for each.
// A key outside 0..rows-1 is reported, and nothing is placed.
template <class I, class Key, class Place>
Fault counting_sort(int64_t n, int64_t rows, I *rowptr, int threads, Key key, Place place) {
  const int chunks = chunks_for(n, threads);
  std::vector<int64_t> next(size_t(rows) * size_t(chunks), 0);
  const auto begin = [&](int c) { return n * c / chunks; };
  FaultFlag fault;
#pragma omp parallel for num_threads(chunks) schedule(static, 1) if (chunks > 1)
  for (int c = 0; c < chunks; ++c) {
    int64_t *count = next.data() + int64_t(c) * rows;
    for (int64_t k = begin(c); k < begin(c + 1); ++k) {
      const int64_t row = key(k);
      if (__builtin_expect(uint64_t(row) >= uint64_t(rows), 0)) fault.raise(Fault::key, k, row);
      else ++count[row];
    }
  }
  if (fault.result().kind != Fault::none) return fault.result();
  int64_t total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    rowptr[r] = I(total);
    for (int c = 0; c < chunks; ++c) {
      int64_t &slot = next[size_t(int64_t(c) * rows + r)];
      const int64_t count = slot;
      slot = total;
      total += count;
    }
  }
  rowptr[rows] = I(total);
#pragma omp parallel for num_threads(chunks) schedule(static, 1) if (chunks > 1)
  for (int c = 0; c < chunks; ++c) {
    int64_t *slot = next.data() + int64_t(c) * rows;
    for (int64_t k = begin(c); k < begin(c + 1); ++k) place(k, slot[key(k)]++);
  }
  return {};
}

template <class In, class Out>
Fault sort_edges_as(const SortEdges &a) {
  const In *key = static_cast<const In *>(a.key), *other = static_cast<const In *>(a.other);
  Out *col = static_cast<Out *>(a.col), *perm = static_cast<Out *>(a.perm);
  FaultFlag narrowed;  // a source that does not fit must not be cut down to one that does
  const Fault fault = counting_sort(
      a.num_entries, a.num_rows, static_cast<Out *>(a.rowptr), a.threads,
      [=](int64_t k) { return int64_t(key[k]); },
      [=, &narrowed](int64_t k, int64_t slot) {
        const int64_t source = int64_t(other[k]);
        if (__builtin_expect(uint64_t(source) >= uint64_t(a.num_cols), 0))
          narrowed.raise(Fault::col, k, source);
        col[slot] = Out(source);
        perm[slot] = Out(k);
      });
  return fault.kind != Fault::none ? fault : narrowed.result();
}

template <class I>
Fault transpose_as(const TransposeCSR &a) {
  const I *rowptr = static_cast<const I *>(a.rowptr), *col = static_cast<const I *>(a.col);
  const I *eid = static_cast<const I *>(a.eid);
  FaultFlag fault;
  if (rowptr[0] != 0 || int64_t(rowptr[a.num_rows]) != a.num_entries)
    return {Fault::rowptr, a.num_rows, int64_t(rowptr[a.num_rows])};
  const Rows rows(Graph{int(sizeof(I)) * 8, a.num_rows, a.num_cols, a.num_entries, 0, a.rowptr,
                        a.col, a.eid});
  std::vector<I> row_of(size_t(a.num_entries));
  for (int64_t i = 0; i < a.num_rows; ++i) {
    const Range r = rows.entries(i, fault);
    for (int64_t k = r.begin; k < r.end; ++k) row_of[size_t(k)] = I(i);
  }
  for (int64_t k = 0; k < a.num_entries; ++k)
    if (col[k] < 0 || int64_t(col[k]) >= a.num_cols) {
      fault.raise(Fault::col, k, int64_t(col[k]));
      break;
    }
  if (fault.result().kind != Fault::none) return fault.result();
  I *col_t = static_cast<I *>(a.col_t), *eid_t = static_cast<I *>(a.eid_t);
  return counting_sort(
      a.num_entries, a.num_cols, static_cast<I *>(a.rowptr_t), a.threads,
      [=](int64_t k) { return int64_t(col[k]); },
      [&](int64_t k, int64_t slot) {
        col_t[slot] = row_of[size_t(k)];
        eid_t[slot] = eid ? eid[k] : I(k);
      });
}

template <class I>
IndexRange range_of(const I *index, int64_t n, int threads) {
  const int chunks = chunks_for(n, threads);
  std::vector<IndexRange> parts(static_cast<size_t>(chunks));
#pragma omp parallel for num_threads(chunks) schedule(static, 1) if (chunks > 1)
  for (int c = 0; c < chunks; ++c) {
    const int64_t begin = n * c / chunks, end = n * (c + 1) / chunks;
    I low = index[begin], high = index[begin];
    bool sorted = true;
    for (int64_t k = begin; k < end; ++k) {
      low = std::min(low, index[k]);
      high = std::max(high, index[k]);
      sorted &= index[k > 0 ? k - 1 : 0] <= index[k];
    }
    parts[size_t(c)] = {int64_t(low), int64_t(high), 0, 0, sorted};
  }
  IndexRange all = parts[0];
  for (const IndexRange &p : parts)
    all = {std::min(all.min, p.min), std::max(all.max, p.max), 0, 0, all.sorted && p.sorted};
  const auto find = [&](int64_t value) {
    return int64_t(std::find(index, index + n, I(value)) - index);
  };
  all.argmin = all.min < 0 ? find(all.min) : 0;  // only a bad value's place is ever asked for
  all.argmax = all.max > 0 ? find(all.max) : 0;
  return all;
}

}  // namespace

IndexRange index_range(const void *index, int bits, int64_t n, int threads) {
  if (n == 0) return {0, -1, 0, 0, true};
  return bits == 32 ? range_of(static_cast<const int32_t *>(index), n, threads)
                    : range_of(static_cast<const int64_t *>(index), n, threads);
}

Fault sort_edges(const SortEdges &a) {
  if (a.in_bits == 32)
    return a.out_bits == 32 ? sort_edges_as<int32_t, int32_t>(a) : sort_edges_as<int32_t, int64_t>(a);
  return a.out_bits == 32 ? sort_edges_as<int64_t, int32_t>(a) : sort_edges_as<int64_t, int64_t>(a);
}

Fault transpose_csr(const TransposeCSR &a) {
  return a.index_bits == 32 ? transpose_as<int32_t>(a) : transpose_as<int64_t>(a);
}

}  // namespace graphkit
