// out_i = REDUCE_{k in row i} MESSAGE(x_col[k], edge_eid[k]): any reduces, in one pass over the row.
// A single sum or mean has a kernel of its own in aggregate_sum.h.
#pragma once
#include <cmath>

#include "message.h"

namespace graphkit {
namespace {

// Running values of one row. `sum` and `square` are taken around `origin`, the row's first message,
// so that the variance does not cancel.
template <class C>
struct RowState {
  C *sum, *square, *origin, *low, *high, *message, *scratch;
  int32_t *arg_low, *arg_high;
};

template <class C>
class StateBuffer {
 public:
  StateBuffer(int64_t width, int64_t count)
      : stride_((width + 15) / 16 * 16), reals_(size_t(stride_ * reals * count)),
        ints_(size_t(stride_ * 2 * count)) {}
  RowState<C> at(int64_t index) {
    C *r = reals_.data() + index * reals * stride_;
    int32_t *n = ints_.data() + index * 2 * stride_;
    const auto row = [&](int64_t i) { return r + i * stride_; };
    return {row(0), row(1), row(2), row(3), row(4), row(5), row(9), n, n + stride_};
  }

 private:
  static constexpr int64_t reals = 5 + 4 + 8;  // four messages, and two scratch rows for each
  int64_t stride_;
  std::vector<C> reals_;
  std::vector<int32_t> ints_;
};

template <class C>
class AggregateForwardKernel {
 public:
  explicit AggregateForwardKernel(const AggregateForward &a)
      : a_(a), rows_(a.graph), messages_(a), width_(a.width), stride_((a.width + 15) / 16 * 16) {
    for (int r = 0; r < a.num_reduces; ++r) {
      moments_ |= a.reduces[r] == Reduce::var || a.reduces[r] == Reduce::std;
      extrema_ |= a.reduces[r] == Reduce::min || a.reduces[r] == Reduce::max;
      sums_ |= a.reduces[r] == Reduce::sum || a.reduces[r] == Reduce::mean;
    }
  }

  Fault run() {
    const Graph &g = a_.graph;
    const int threads = threads_for(g.num_entries * width_ + g.num_rows, a_.threads);
    const int64_t blocks = threads == 1 ? 1 : int64_t(threads) * 32;
    const std::vector<int64_t> hubs = rows_.hubs();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      StateBuffer<C> buffer(width_, 1);
      const RowState<C> state = buffer.at(0);
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < blocks; ++b) {
        const Range block = rows_.block(b, blocks);
        for (int64_t i = block.begin; i < block.end; ++i) {
          const Range entries = rows_.entries(i, fault_);
          if (entries.size() > hub_degree) continue;
          reduce(state, entries, entries);
          finish(i, state, entries.size());
        }
      }
      stream_fence();
    }
    for (int64_t i : hubs) hub(i, threads);
    return fault_.result();
  }

 private:
  void reduce(const RowState<C> &s, Range entries, Range row) {
    if (row.begin == row.end) return;
    Entry<C> entry{};
    if (!messages_.fetch(row.begin, entry, s.scratch, fault_)) return;
    write_message(entry, s.origin);
    std::fill(s.sum, s.sum + width_, C(0));
    std::fill(s.square, s.square + width_, C(0));
    std::fill(s.low, s.low + width_, std::numeric_limits<C>::infinity());
    std::fill(s.high, s.high + width_, -std::numeric_limits<C>::infinity());
    std::fill(s.arg_low, s.arg_low + width_, -1);
    std::fill(s.arg_high, s.arg_high + width_, -1);
    int64_t k = entries.begin;
    for (; k + 4 <= entries.end; k += 4)
      if (!update<4>(s, k, row)) return;
    for (; k < entries.end; ++k)
      if (!update<1>(s, k, row)) return;
  }

  // Fetch `Count` entries and fold them in together: less traffic to the running values.
  template <int Count>
  bool update(const RowState<C> &s, int64_t k, Range row) {
    const C *messages[Count];
    for (int n = 0; n < Count; ++n) messages_.prefetch(k + prefetch_distance + n);
    for (int n = 0; n < Count; ++n) {
      Entry<C> entry{};
      if (!messages_.fetch(k + n, entry, s.scratch + 2 * n * stride_, fault_)) return false;
      messages[n] = entry.x;
      if (messages_.kind == Message::copy) continue;
      write_message(entry, s.message + n * stride_);
      messages[n] = s.message + n * stride_;
    }
    const int32_t position = int32_t(k - row.begin);
    if ((moments_ || sums_) && extrema_) fold<Count, true, true>(s, messages, position);
    else if (extrema_) fold<Count, false, true>(s, messages, position);
    else fold<Count, true, false>(s, messages, position);
    return true;
  }

  void write_message(const Entry<C> &entry, C *__restrict to) {
    with_message(messages_.kind, [&](auto tag) {
#pragma GCC ivdep
      for (int64_t f = 0; f < width_; ++f) to[f] = message_value<tag()>(entry, f);
    });
  }

  template <int Count, bool Moments, bool Extrema>
  void fold(const RowState<C> &s, const C *const *messages, int32_t position) {
    const C *m0 = messages[0], *m1 = messages[Count > 1 ? 1 : 0];
    const C *m2 = messages[Count > 2 ? 2 : 0], *m3 = messages[Count > 3 ? 3 : 0];
    C *__restrict sum = s.sum;
    C *__restrict square = s.square;
    const C *__restrict origin = s.origin;
    C *__restrict low = s.low;
    C *__restrict high = s.high;
    int32_t *__restrict arg_low = s.arg_low;
    int32_t *__restrict arg_high = s.arg_high;
#pragma GCC ivdep
    for (int64_t f = 0; f < width_; ++f) {
      const C a = m0[f], b = m1[f], c = m2[f], d = m3[f];
      if constexpr (Moments) {
        const C da = a - origin[f], db = b - origin[f], dc = c - origin[f], dd = d - origin[f];
        sum[f] += Count == 4 ? (da + db) + (dc + dd) : da;
        square[f] += Count == 4 ? (da * da + db * db) + (dc * dc + dd * dd) : da * da;
      }
      if constexpr (Extrema) {
        C least = low[f], most = high[f];
        int32_t at_least = arg_low[f], at_most = arg_high[f];
        // Written out: an inner loop keeps the outer one from being vectorised.
        offer(a, position, least, at_least, most, at_most);
        if constexpr (Count == 4) {
          offer(b, position + 1, least, at_least, most, at_most);
          offer(c, position + 2, least, at_least, most, at_most);
          offer(d, position + 3, least, at_least, most, at_most);
        }
        low[f] = least;
        arg_low[f] = at_least;
        high[f] = most;
        arg_high[f] = at_most;
      }
    }
  }

  // Strict, so ties keep the first entry; a NaN wins once and stays, as in torch.
  static void offer(C m, int32_t at, C &least, int32_t &at_least, C &most, int32_t &at_most) {
    const bool lower = beats(m < least, m, least) | (at_least < 0);
    const bool higher = beats(m > most, m, most) | (at_most < 0);
    least = lower ? m : least;
    at_least = lower ? at : at_least;
    most = higher ? m : most;
    at_most = higher ? at : at_most;
  }

  static bool beats(bool strictly, C challenger, C holder) {
    return strictly | ((challenger != challenger) & (holder == holder));
  }

  // Fold a later piece of the same row into an earlier one.
  void combine(const RowState<C> &s, const RowState<C> &later) {
    for (int64_t f = 0; f < width_; ++f) {
      s.sum[f] += later.sum[f];
      s.square[f] += later.square[f];
      if (later.arg_low[f] >= 0 && beats(later.low[f] < s.low[f], later.low[f], s.low[f])) {
        s.low[f] = later.low[f];
        s.arg_low[f] = later.arg_low[f];
      }
      if (later.arg_high[f] >= 0 && beats(later.high[f] > s.high[f], later.high[f], s.high[f])) {
        s.high[f] = later.high[f];
        s.arg_high[f] = later.arg_high[f];
      }
    }
  }

  static C mean(const RowState<C> &s, int64_t f, C inverse) {
    return s.sum[f] * inverse + s.origin[f];
  }

  static C variance(const RowState<C> &s, int64_t f, C inverse) {
    const C d = s.sum[f] * inverse;
    const C v = s.square[f] * inverse - d * d;
    return v < C(0) ? C(0) : v;
  }

  void finish(int64_t i, const RowState<C> &s, int64_t degree) {
    const Features<C> outs(a_.out, a_.dtype, width_, width_, a_.graph.num_rows * a_.num_reduces);
    const C inverse = degree ? C(1) / C(degree) : C(0);
    for (int r = 0; r < a_.num_reduces; ++r) {
      const int64_t row = i * a_.num_reduces + r;
      C *out = outs.begin_write(row, s.message);
      if (degree == 0) std::fill(out, out + width_, C(0));
      else result(a_.reduces[r], s, degree, inverse, out);
      outs.commit(row, out);
    }
    if (a_.mean) {
      const Features<C> means(a_.mean, a_.dtype, width_, width_);
      C *to = means.begin_write(i, s.message);
      for (int64_t f = 0; f < width_; ++f) to[f] = degree ? mean(s, f, inverse) : C(0);
      means.commit(i, to);
    }
    winners(a_.argmin, s.arg_low, i, degree);
    winners(a_.argmax, s.arg_high, i, degree);
  }

  void result(Reduce reduce, const RowState<C> &s, int64_t degree, C inverse, C *out) const {
    switch (reduce) {
      case Reduce::sum:
        for (int64_t f = 0; f < width_; ++f)
          out[f] = s.sum[f] + C(degree) * s.origin[f];
        break;
      case Reduce::mean:
        for (int64_t f = 0; f < width_; ++f) out[f] = mean(s, f, inverse);
        break;
      case Reduce::min:
        std::copy(s.low, s.low + width_, out);
        break;
      case Reduce::max:
        std::copy(s.high, s.high + width_, out);
        break;
      case Reduce::var:
        for (int64_t f = 0; f < width_; ++f) out[f] = variance(s, f, inverse);
        break;
      case Reduce::std:  // as PyG's StdAggregation: variances of at most 1e-5 count as zero
        for (int64_t f = 0; f < width_; ++f) {
          const C v = variance(s, f, inverse);
          out[f] = v > C(1e-5) ? std::sqrt(v) : C(0);
        }
        break;
    }
  }

  void winners(int32_t *to, const int32_t *from, int64_t i, int64_t degree) {
    if (!to) return;
    to += i * width_;
    if (degree == 0) std::fill(to, to + width_, -1);
    else std::copy(from, from + width_, to);
  }

  void hub(int64_t i, int threads) {
    const Range row = rows_.entries(i, fault_);
    const int64_t pieces = num_pieces(row);
    if (!pieces) return;
    StateBuffer<C> buffer(width_, pieces);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int64_t p = 0; p < pieces; ++p) reduce(buffer.at(p), piece(row, p), row);
    const RowState<C> first = buffer.at(0);
    for (int64_t p = 1; p < pieces; ++p) combine(first, buffer.at(p));
    finish(i, first, row.size());
    stream_fence();
  }

  const AggregateForward &a_;
  Rows rows_;
  Messages<C> messages_;
  int64_t width_, stride_;
  bool moments_ = false, extrema_ = false, sums_ = false;
  FaultFlag fault_;
};

}  // namespace
}  // namespace graphkit
