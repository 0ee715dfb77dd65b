// The commonest aggregate: one sum or mean, accumulated straight into the output row.
#pragma once
#include "lanes.h"
#include "message.h"

namespace graphkit {
namespace {

template <class C>
class SumKernel {
 public:
  explicit SumKernel(const AggregateForward &a)
      : a_(a), rows_(a.graph), messages_(a),
        outs_(a.out, a.dtype, a.width, a.width, a.graph.num_rows), positive_(a.positive, a.width),
        width_(a.width),
        stride_((a.width + 15) / 16 * 16), mean_(a.reduces[0] == Reduce::mean) {}

  static bool serves(const AggregateForward &a) {
    return a.num_reduces == 1 && (a.reduces[0] == Reduce::sum || a.reduces[0] == Reduce::mean);
  }

  Fault run() {
    with_message(messages_.kind, [&](auto tag) {
      if (messages_.plain()) run_as<tag(), true>();
      else run_as<tag(), false>();
    });
    return fault_.result();
  }

 private:
  // The output row, then x and edge of four entries.
  static constexpr int64_t scratch_rows = 1 + 8;

  template <Message M, bool Plain>
  void run_as() {
    const Graph &g = a_.graph;
    const int threads = threads_for(g.num_entries * width_ + g.num_rows, a_.threads);
    const int64_t blocks = threads == 1 ? 1 : int64_t(threads) * 32;
    const std::vector<int64_t> hubs = rows_.hubs();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<C> scratch(size_t(stride_ * scratch_rows));
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < blocks; ++b) {
        const Range block = rows_.block(b, blocks);
        for (int64_t i = block.begin; i < block.end; ++i) {
          const Range entries = rows_.entries(i, fault_);
          if (entries.size() > hub_degree) continue;
          C *to = outs_.begin_write(i, scratch.data());
          accumulate<M, Plain>(entries, to, scratch.data() + stride_);
          finish(i, entries.size(), to);
        }
      }
      stream_fence();
    }
    for (int64_t i : hubs) hub<M, Plain>(i, threads);
  }

  template <Message M, bool Plain>
  void accumulate(Range entries, C *to, C *scratch) {
    int64_t k = entries.begin;
    switch (std::min<int64_t>(entries.size(), 4)) {  // the first ones write, later ones add
      case 0: std::fill(to, to + width_, C(0)); return;
      case 1: add<M, Plain, 1, true>(k, to, scratch); return;
      case 2: add<M, Plain, 2, true>(k, to, scratch); return;
      case 3: add<M, Plain, 3, true>(k, to, scratch); return;
      default: add<M, Plain, 4, true>(k, to, scratch);
    }
    for (k += 4; k + 4 <= entries.end; k += 4) add<M, Plain, 4, false>(k, to, scratch);
    switch (entries.end - k) {
      case 1: add<M, Plain, 1, false>(k, to, scratch); break;
      case 2: add<M, Plain, 2, false>(k, to, scratch); break;
      case 3: add<M, Plain, 3, false>(k, to, scratch); break;
      default: break;
    }
  }

  template <Message M, bool Plain, int Count, bool Write>
  GRAPHKIT_INLINE void add(int64_t k, C *__restrict to, C *scratch) {
    Entry<C> e[4];
    for (int n = 0; n < Count; ++n) messages_.prefetch(k + prefetch_distance + n);
    for (int n = 0; n < Count; ++n) {
      const bool found = Plain ? messages_.template locate<M>(k + n, e[n], fault_)
                               : messages_.fetch(k + n, e[n], scratch + 2 * n * stride_, fault_);
      if (!found) return;
    }
    if constexpr (M == Message::add_relu)
      if (positive_) return add_recording<Count, Write>(k, to, e);
    const Entry<C> e0 = e[0], e1 = e[Count > 1 ? 1 : 0], e2 = e[Count > 2 ? 2 : 0];
    const Entry<C> e3 = e[Count > 3 ? 3 : 0];
#pragma GCC ivdep
    for (int64_t f = 0; f < width_; ++f) {
      C total = message_value<M>(e0, f);
      if constexpr (Count == 2) total += message_value<M>(e1, f);
      if constexpr (Count == 3) total += message_value<M>(e1, f) + message_value<M>(e2, f);
      if constexpr (Count == 4)
        total = (total + message_value<M>(e1, f)) +
                (message_value<M>(e2, f) + message_value<M>(e3, f));
      to[f] = Write ? total : to[f] + total;
    }
  }

  // add_relu that also leaves a bit for each sum above zero: all that backward needs to know.
  template <int Count, bool Write>
  void add_recording(int64_t k, C *__restrict to, const Entry<C> *e) {
    uint16_t *words[Count];
    for (int n = 0; n < Count; ++n) {
      if (k + prefetch_distance + n < a_.graph.num_entries)
        positive_.prefetch(messages_.eid[k + prefetch_distance + n]);
      words[n] = positive_.row(messages_.eid[k + n]);
    }
    int64_t f = 0;
    for (; f + lanes <= width_; f += lanes) {
      Lanes<C> m[4] = {};
      for (int n = 0; n < Count; ++n) {
        const Lanes<C> sum = lanes_at(e[n].x + f) + lanes_at(e[n].edge + f);
        words[n][f / lanes] = above_zero(reinterpret_cast<const C *>(&sum));
        m[n] = sum < Lanes<C>{} ? Lanes<C>{} : sum;
      }
      const Lanes<C> total = total_of<Count>(m);
      lanes_at(to + f) = Write ? total : lanes_at(to + f) + total;
    }
    for (unsigned bit = 1; f < width_; ++f, bit <<= 1) {
      C m[4] = {};
      for (int n = 0; n < Count; ++n) {
        const C sum = e[n].x[f] + e[n].edge[f];
        uint16_t &word = words[n][f / lanes];
        word = uint16_t((bit == 1 ? 0 : word) | (sum > C(0) ? bit : 0));
        m[n] = sum < C(0) ? C(0) : sum;
      }
      const C total = total_of<Count>(m);
      to[f] = Write ? total : to[f] + total;
    }
  }

  // In the order of the loop above, so that outputs do not depend on whether gradients are wanted.
  template <int Count, class V>
  static V total_of(const V *m) {
    if constexpr (Count == 4) return (m[0] + m[1]) + (m[2] + m[3]);
    if constexpr (Count == 3) return m[0] + (m[1] + m[2]);
    if constexpr (Count == 2) return m[0] + m[1];
    return m[0];
  }

  void finish(int64_t i, int64_t degree, C *to) {
    if (mean_ && degree > 1) {
      const C inverse = C(1) / C(degree);
      for (int64_t f = 0; f < width_; ++f) to[f] *= inverse;
    }
    outs_.commit(i, to);
  }

  template <Message M, bool Plain>
  void hub(int64_t i, int threads) {
    const Range row = rows_.entries(i, fault_);
    const int64_t pieces = num_pieces(row), size = stride_ * scratch_rows;
    if (!pieces) return;
    std::vector<C> scratch(size_t(pieces * size));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int64_t p = 0; p < pieces; ++p) {
      C *sum = scratch.data() + p * size;
      accumulate<M, Plain>(piece(row, p), sum, sum + stride_);
    }
    C *to = outs_.begin_write(i, scratch.data());
    if (to != scratch.data()) std::copy(scratch.data(), scratch.data() + width_, to);
    for (int64_t p = 1; p < pieces; ++p)
      for (int64_t f = 0; f < width_; ++f) to[f] += scratch[size_t(p * size + f)];
    finish(i, row.size(), to);
    stream_fence();
  }

  const AggregateForward &a_;
  Rows rows_;
  Messages<C> messages_;
  Features<C> outs_;
  SignBits positive_;
  int64_t width_, stride_;
  bool mean_;
  FaultFlag fault_;
};

}  // namespace
}  // namespace graphkit
