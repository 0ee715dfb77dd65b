// Gradients of aggregate: a pull over the transposed graph, and a push for min and max.
#pragma once
#include <cmath>

#include "lanes.h"
#include "message.h"

namespace graphkit {
namespace {

// Row j owns source j: grad_x[j] = sum_k dm_k * dMESSAGE/dx, with dm_k = shift_i + slope_i * m_k for
// the destination i of entry k. Entries that share an edge row add into a table per block; the
// blocks depend on the graph only, so their order of combination does not change with threads.
template <class C>
class AggregateBackwardKernel {
 public:
  explicit AggregateBackwardKernel(const AggregateBackward &a)
      : a_(a), rows_(a.graph), degrees_(Graph{a.graph.index_bits, a.graph.num_cols, 0,
                                              a.graph.num_entries, 0, a.forward_rowptr, nullptr,
                                              nullptr}),
        messages_(a), shift_(a.shift, a.dtype, a.lds, a.width),
        slope_(a.slope, a.dtype, a.width, a.width),
        grad_x_(a.grad_x, a.dtype, a.width, a.width, a.graph.num_rows),
        grad_edge_(a.grad_edge, a.dtype, messages_.edge_width, messages_.edge_width,
                   a.graph.num_edge_rows),
        positive_(const_cast<uint16_t *>(a.positive), a.width), width_(a.width),
        stride_((a.width + 15) / 16 * 16) {}

  Fault run() {
    with_message(messages_.kind, [&](auto tag) {
      if (slope_) run_as<tag(), true>();
      else run_as<tag(), false>();
    });
    return fault_.result();
  }

 private:
  template <Message M, bool HasSlope>
  void run_as() {
    const Graph &g = a_.graph;
    const int threads = threads_for(g.num_entries * width_ + g.num_rows, a_.threads);
    const bool tables = grad_edge_ && a_.edge_is_table;
    const int64_t table_size = g.num_edge_rows * messages_.edge_width;
    int64_t blocks = threads == 1 ? 1 : int64_t(threads) * 32;
    if (tables) {
      const int64_t budget = int64_t(1) << 22, work = g.num_entries * width_ / (4 * serial_work);
      blocks = std::clamp<int64_t>(
          std::min(work, budget / std::max<int64_t>(table_size, 1)), 1, 64);
    }
    const std::vector<int64_t> hubs = rows_.hubs();
    std::vector<C> table(tables ? size_t(table_size * (blocks + int64_t(hubs.size()))) : 0);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<C> scratch(size_t(stride_ * scratch_rows));
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < blocks; ++b) {
        C *own_table = tables ? table.data() + b * table_size : nullptr;
        const Range block = rows_.block(b, blocks);
        for (int64_t j = block.begin; j < block.end; ++j) {
          const Range entries = rows_.entries(j, fault_);
          if (entries.size() > hub_degree) continue;
          C *sum = grad_x_ ? grad_x_.begin_write(j, scratch.data()) : scratch.data();
          accumulate<M, HasSlope>(j, entries, sum, scratch.data(), own_table);
          if (grad_x_) grad_x_.commit(j, sum);
        }
      }
      stream_fence();
    }
    for (size_t h = 0; h < hubs.size(); ++h)
      hub<M, HasSlope>(
          hubs[h], tables ? 1 : threads,
          tables ? table.data() + (blocks + int64_t(h)) * table_size : nullptr);
    if (tables) combine(table, table_size, blocks + int64_t(hubs.size()));
  }

  static constexpr int64_t scratch_rows = 7;

  // scratch: a sum, then room for x, edge, shift, slope, dm and an edge row to be narrowed.
  template <Message M, bool HasSlope>
  void accumulate(int64_t j, Range entries, C *total, C *scratch, C *table) {
    C *__restrict sum = total;
    std::fill(sum, sum + width_, C(0));
    if constexpr (M == Message::add_relu && !HasSlope)
      if (positive_) return accumulate_recorded(entries, sum, scratch);
    Entry<C> entry{};
    if (messages_.x) entry.x = messages_.x.read(j, scratch + stride_);
    C *__restrict dm = scratch + 5 * stride_;
    constexpr bool wide = M != Message::copy && M != Message::scale;
    for (int64_t k = entries.begin; k < entries.end; ++k) {
      if (k + prefetch_distance < a_.graph.num_entries) {
        shift_.prefetch(messages_.col[k + prefetch_distance]);
        if (slope_) slope_.prefetch(messages_.col[k + prefetch_distance]);
        messages_.prefetch_edge(k + prefetch_distance);
      }
      const int64_t i = messages_.col.checked(k, a_.graph.num_cols, Fault::col, fault_);
      const int64_t e = messages_.fetch_edge(k, entry, scratch + 2 * stride_, fault_);
      if (i < 0 || e < 0) return;
      const C factor = a_.by_degree ? C(1) / C(degrees_.start(i + 1) - degrees_.start(i)) : C(1);
      const C *shift = shift_.read(i, scratch + 3 * stride_);
      if (!HasSlope && !grad_edge_) {  // the common case needs no row of dm
#pragma GCC ivdep
        for (int64_t f = 0; f < width_; ++f) sum[f] += shift[f] * factor * slope_of_x<M>(entry, f);
        continue;
      }
      const C *slope = HasSlope ? slope_.read(i, scratch + 4 * stride_) : nullptr;
      if (HasSlope && !grad_edge_) {
#pragma GCC ivdep
        for (int64_t f = 0; f < width_; ++f) {
          const C g = shift[f] * factor + slope[f] * message_value<M>(entry, f);
          sum[f] += g * slope_of_x<M>(entry, f);
        }
        continue;
      }
      if (wide && !messages_.narrow_edge && grad_edge_) {
        C *to = table ? table + e * width_ : grad_edge_.begin_write(e, scratch + 6 * stride_);
        if (table) {
#pragma GCC ivdep
          for (int64_t f = 0; f < width_; ++f) {
            C g = shift[f] * factor;
            if constexpr (HasSlope) g += slope[f] * message_value<M>(entry, f);
            sum[f] += g * slope_of_x<M>(entry, f);
            to[f] += g * slope_of_edge<M>(entry, f);
          }
        } else {
#pragma GCC ivdep
          for (int64_t f = 0; f < width_; ++f) {
            C g = shift[f] * factor;
            if constexpr (HasSlope) g += slope[f] * message_value<M>(entry, f);
            sum[f] += g * slope_of_x<M>(entry, f);
            to[f] = g * slope_of_edge<M>(entry, f);
          }
          grad_edge_.commit(e, to);
        }
        continue;
      }
#pragma GCC ivdep
      for (int64_t f = 0; f < width_; ++f) {
        C g = shift[f] * factor;
        if constexpr (HasSlope) g += slope[f] * message_value<M>(entry, f);
        dm[f] = g;
        sum[f] += g * slope_of_x<M>(entry, f);
      }
      if (messages_.narrow_edge && grad_edge_)
        weight_gradient(entry, dm, e, table ? table + e * messages_.edge_width : nullptr,
                        scratch + 6 * stride_);
    }
  }

  // add_relu with the signs that the forward pass left: neither x nor the edge rows are read.
  void accumulate_recorded(Range entries, C *__restrict sum, C *scratch) {
    for (int64_t k = entries.begin; k < entries.end; ++k) {
      if (k + prefetch_distance < a_.graph.num_entries) {
        shift_.prefetch(messages_.col[k + prefetch_distance]);
        positive_.prefetch(messages_.eid[k + prefetch_distance]);
      }
      const int64_t i = messages_.col.checked(k, a_.graph.num_cols, Fault::col, fault_);
      const int64_t e = messages_.eid.checked(k, a_.graph.num_edge_rows, Fault::eid, fault_);
      if (i < 0 || e < 0) return;
      const C factor = a_.by_degree ? C(1) / C(degrees_.start(i + 1) - degrees_.start(i)) : C(1);
      const C *shift = shift_.read(i, scratch + 3 * stride_);
      const uint16_t *words = positive_.row(e);
      C *to = grad_edge_ ? grad_edge_.begin_write(e, scratch + 6 * stride_) : scratch + 6 * stride_;
      int64_t f = 0;
      for (; f + lanes <= width_; f += lanes) {
        const Lanes<C> g = where<C>(words[f / lanes], lanes_at(shift + f) * factor);
        lanes_at(sum + f) += g;
        lanes_at(to + f) = g;
      }
      for (; f < width_; ++f) {
        const C g = words[f / lanes] >> f % lanes & 1 ? shift[f] * factor : C(0);
        sum[f] += g;
        to[f] = g;
      }
      if (grad_edge_) grad_edge_.commit(e, to);
    }
  }

  // d scale / d weight of a head: the dot product of dm and x over its features.
  void weight_gradient(const Entry<C> &entry, const C *__restrict dm, int64_t e, C *own, C *scratch) {
    C *to = own ? own : grad_edge_.begin_write(e, scratch);
    const C *__restrict x = entry.x;
    const int64_t per_head = width_ / a_.heads;
    for (int64_t h = 0; h < a_.heads; ++h) {
      C lanes[16] = {};  // partial sums in a fixed pattern, so the compiler may vectorise
      int64_t f = h * per_head;
      const int64_t end = f + per_head;
      for (; f + 16 <= end; f += 16)
        for (int64_t l = 0; l < 16; ++l) lanes[l] += dm[f + l] * x[f + l];
      for (int64_t l = 0; f < end; ++f, ++l) lanes[l] += dm[f] * x[f];
      C total = 0;
      for (int64_t l = 0; l < 16; ++l) total += lanes[l];
      to[h] = own ? own[h] + total : total;
    }
    if (!own) grad_edge_.commit(e, to);
  }

  template <Message M, bool HasSlope>
  void hub(int64_t j, int threads, C *table) {
    const Range row = rows_.entries(j, fault_);
    const int64_t pieces = num_pieces(row), size = stride_ * scratch_rows;
    if (!pieces) return;
    std::vector<C> scratch(size_t(pieces * size));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int64_t p = 0; p < pieces; ++p) {
      C *sum = scratch.data() + p * size;
      accumulate<M, HasSlope>(j, piece(row, p), sum, sum, table);
      stream_fence();
    }
    if (!grad_x_) return;
    C *to = grad_x_.begin_write(j, scratch.data());
    if (to != scratch.data()) std::copy(scratch.data(), scratch.data() + width_, to);
    for (int64_t p = 1; p < pieces; ++p)
      for (int64_t f = 0; f < width_; ++f) to[f] += scratch[size_t(p * size + f)];
    grad_x_.commit(j, to);
    stream_fence();
  }

  void combine(const std::vector<C> &table, int64_t size, int64_t count) {
    const int64_t width = messages_.edge_width;
    std::vector<C> scratch(static_cast<size_t>(width));
    for (int64_t row = 0; row * width < size; ++row) {
      C *to = grad_edge_.begin_write(row, scratch.data());
      std::fill(to, to + width, C(0));
      for (int64_t t = 0; t < count; ++t)
        for (int64_t f = 0; f < width; ++f) to[f] += table[size_t(t * size + row * width + f)];
      grad_edge_.commit(row, to);
    }
  }

  const AggregateBackward &a_;
  Rows rows_, degrees_;
  Messages<C> messages_;
  Features<C> shift_, slope_, grad_x_, grad_edge_;
  SignBits positive_;
  int64_t width_, stride_;
  FaultFlag fault_;
};

// Every output of min or max has one winning entry; a thread owns a range of columns, so no two
// threads meet, and within a column rows add in order. float and double only.
template <class C>
class AggregateWinnersKernel {
 public:
  explicit AggregateWinnersKernel(const AggregateWinners &a) : a_(a), rows_(a.graph), messages_(a) {}

  Fault run() {
    const int threads = threads_for(a_.graph.num_rows * a_.width, a_.threads);
    // The gradient of a weight sums over the features of its head: one owner for all of them.
    const bool shared = a_.grad_edge && messages_.narrow_edge;
    const bool grad_far = a_.grad_x && a_.graph.num_cols * a_.width * int64_t(sizeof(C)) > cached_bytes;
    const int64_t slices = shared ? 1 : std::clamp<int64_t>(a_.width / 16, 1, threads);
#pragma omp parallel for num_threads(int(slices)) schedule(static, 1) if (slices > 1)
    for (int64_t s = 0; s < slices; ++s) {
      const int64_t begin = a_.width * s / slices / 16 * 16;
      const int64_t end = s + 1 == slices ? a_.width : a_.width * (s + 1) / slices / 16 * 16;
      std::vector<C> scratch(size_t(a_.width));
      with_message(messages_.kind, [&](auto tag) {
        for (int64_t i = 0; i < a_.graph.num_rows; ++i) {
          const Range entries = rows_.entries(i, fault_);
          if (grad_far && entries.size() <= 2 * (end - begin))  // else few of them win anything
            for (int64_t k = entries.begin; k < entries.end; ++k) prefetch(k, begin, end);
          // Both winners of a row in turn: they touch the same sources.
          for (int n = 0; n < 2; ++n)
            if (a_.winner[n]) push<tag()>(n, i, entries, begin, end, scratch.data());
        }
      });
    }
    return fault_.result();
  }

 private:
  // The columns of a source that an entry will add to, some entries ahead.
  GRAPHKIT_INLINE void prefetch(int64_t k, int64_t begin, int64_t end) const {
    k += prefetch_distance;
    if (k >= a_.graph.num_entries) return;
    const auto at = reinterpret_cast<uintptr_t>(a_.grad_x);
    const auto row = uintptr_t(messages_.col[k] * a_.width);
    for (int64_t f = begin; f < end; f += 64 / int64_t(sizeof(C)))
      prefetch_line(at + (row + uintptr_t(f)) * sizeof(C));
  }

  template <Message M>
  void push(int n, int64_t i, Range entries, int64_t begin, int64_t end, C *scratch) {
    const C *grad = static_cast<const C *>(a_.grad[n]) + i * a_.ldg;
    const int32_t *winner = a_.winner[n] + i * a_.width;
    C *grad_x = static_cast<C *>(a_.grad_x);
    C *grad_edge = static_cast<C *>(a_.grad_edge);
    for (int64_t f = begin; f < end; ++f) {
      const int64_t k = entries.begin + winner[f];
      if (winner[f] < 0 || k >= entries.end) continue;
      const int64_t j = messages_.col.checked(k, a_.graph.num_cols, Fault::col, fault_);
      if (j < 0) return;
      if constexpr (M == Message::copy) {
        grad_x[j * a_.width + f] += grad[f];
        continue;
      }
      Entry<C> entry{};
      entry.x = messages_.x.read(j, nullptr);
      const int64_t e = messages_.fetch_edge(k, entry, scratch, fault_);
      if (e < 0) return;
      if (grad_x) grad_x[j * a_.width + f] += grad[f] * slope_of_x<M>(entry, f);
      if (grad_edge) {
        if (messages_.narrow_edge)
          grad_edge[e * a_.heads + f / (a_.width / a_.heads)] += grad[f] * entry.x[f];
        else grad_edge[e * a_.width + f] += grad[f] * slope_of_edge<M>(entry, f);
      }
    }
  }

  const AggregateWinners &a_;
  Rows rows_;
  Messages<C> messages_;
  FaultFlag fault_;
};

template <class C>
void aggregate_moments(const AggregateMoments &a) {
  const Rows rows(Graph{a.index_bits, a.num_rows, 0, 0, 0, a.rowptr, nullptr, nullptr});
  const int threads = threads_for(a.num_rows * a.width * a.num_reduces, a.threads);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t i = 0; i < a.num_rows; ++i) {
    const int64_t degree = rows.start(i + 1) - rows.start(i);
    const C inverse = degree > 0 ? C(1) / C(degree) : C(0);
    C *__restrict shift = static_cast<C *>(a.shift) + i * a.width;
    C *__restrict slope = a.slope ? static_cast<C *>(a.slope) + i * a.width : nullptr;
    const C *mean = a.mean ? static_cast<const C *>(a.mean) + i * a.width : nullptr;
    std::fill(shift, shift + a.width, C(0));
    if (slope) std::fill(slope, slope + a.width, C(0));
    for (int r = 0; r < a.num_reduces; ++r) {
      const int64_t offset = (i * a.num_reduces + r) * a.width;
      const C *grad = static_cast<const C *>(a.grad) + offset;
      const C *out = static_cast<const C *>(a.out) + offset;
      const Reduce reduce = a.reduces[r];
      if (reduce == Reduce::sum || reduce == Reduce::mean) {
        const C factor = reduce == Reduce::sum ? C(1) : inverse;
        for (int64_t f = 0; f < a.width; ++f) shift[f] += grad[f] * factor;
      } else if (reduce == Reduce::var) {  // d var = 2 (m - mean) / degree
        for (int64_t f = 0; f < a.width; ++f) {
          const C g = C(2) * grad[f] * inverse;
          slope[f] += g;
          shift[f] -= g * mean[f];
        }
      } else if (reduce == Reduce::std) {  // (m - mean) / (degree std), zero where std was clamped
        for (int64_t f = 0; f < a.width; ++f) {
          const C g = out[f] > C(0) ? grad[f] * inverse / out[f] : C(0);
          slope[f] += g;
          shift[f] -= g * mean[f];
        }
      }
    }
  }
}

}  // namespace
}  // namespace graphkit
