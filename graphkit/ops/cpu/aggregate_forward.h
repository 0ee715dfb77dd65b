// out_i = REDUCE_{k in row i} MESSAGE(x_col[k], edge_eid[k]): any reduces, in one pass over the row.
// A single sum or mean has a kernel of its own in aggregate_sum.h.
#pragma once
#include <cmath>

#include "lanes.h"
#include "message.h"

namespace graphkit {
namespace {

// Running values of one row. `sum` and `square` are taken around `origin`, the row's first message,
// so that the variance does not cancel.
template <class C>
struct RowState {
  using Position = typename Register<C>::Integer;  // as wide as a value
  C *origin, *sum, *square, *low, *high, *scratch;
  Position *at_low, *at_high;
};

// Entries that are folded in together: their running values stay in registers, a few features at a
// time, and are stored once.
constexpr int group = 32;

template <class C>
class StateBuffer {
 public:
  StateBuffer(int64_t width, int64_t count)
      : stride_((width + 15) / 16 * 16), reals_(size_t(stride_ * reals * count)),
        positions_(size_t(stride_ * 2 * count)) {}
  RowState<C> at(int64_t index) {
    C *r = reals_.data() + index * reals * stride_;
    auto *n = positions_.data() + index * 2 * stride_;
    const auto row = [&](int64_t i) { return r + i * stride_; };
    return {row(0), row(1), row(2), row(3), row(4), row(5), n, n + stride_};
  }

 private:
  static constexpr int64_t reals = 5 + group + 2;  // messages of a group, and one entry's x and edge
  int64_t stride_;
  std::vector<C> reals_;
  std::vector<typename RowState<C>::Position> positions_;
};

template <class C>
class AggregateForwardKernel {
  using Position = typename RowState<C>::Position;

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
    const bool winners = a_.argmin || a_.argmax;
    if (entries.begin > row.begin) {  // a later piece of a hub: the row's first message is elsewhere
      const C *origin = message(row.begin, s.scratch, s.scratch + group * stride_);
      if (!origin) return;
      std::copy(origin, origin + width_, s.origin);
    }
    for (int64_t k = entries.begin; k < entries.end; k += group) {
      const C *messages[group];
      const int count = int(std::min<int64_t>(group, entries.end - k));
      for (int n = 0; n < count; ++n) {
        messages_.prefetch(k + prefetch_distance + n);
        if (!(messages[n] = message(k + n, s.scratch + n * stride_, s.scratch + group * stride_)))
          return;
      }
      const Group g{messages, count, int32_t(k - row.begin), k == entries.begin};
      if (!extrema_) fold<true, false, false>(s, g);
      else if (moments_ || sums_) winners ? fold<true, true, true>(s, g) : fold<true, true, false>(s, g);
      else winners ? fold<false, true, true>(s, g) : fold<false, true, false>(s, g);
    }
  }

  // The message of entry k: x's own row, or one that was written to `to`; null after a fault.
  const C *message(int64_t k, C *__restrict to, C *scratch) {
    Entry<C> entry{};
    C *const x_scratch = messages_.kind == Message::copy ? to : scratch;
    if (!messages_.fetch(k, entry, x_scratch, fault_)) return nullptr;
    if (messages_.kind == Message::copy) return entry.x;
    with_message(messages_.kind, [&](auto tag) {
#pragma GCC ivdep
      for (int64_t f = 0; f < width_; ++f) to[f] = message_value<tag()>(entry, f);
    });
    return to;
  }

  struct Group {
    const C *const *messages;
    int count;
    int32_t position;  // of the first one in its row
    bool first;        // of its piece: nothing has been folded into the state yet
  };

  template <bool Moments, bool Extrema, bool Winners>
  void fold(const RowState<C> &s, const Group &g) {
    int64_t f = 0;
    for (; f + Register<C>::size <= width_; f += Register<C>::size)
      fold_at<Register<C>, Moments, Extrema, Winners>(s, g, f);
    for (; f < width_; ++f) fold_at<Single<C>, Moments, Extrema, Winners>(s, g, f);
  }

  template <class Several, bool Moments, bool Extrema, bool Winners>
  GRAPHKIT_INLINE void fold_at(const RowState<C> &s, const Group &g, int64_t f) {
    using V = typename Several::values;
    using P = typename Several::positions;
    const auto values = [f](auto *p) -> auto & { return *reinterpret_cast<V *>(const_cast<C *>(p) + f); };
    const auto positions = [f](Position *p) -> auto & { return *reinterpret_cast<P *>(p + f); };
    V origin = values(g.messages[0]), sum{}, square{}, low = origin, high = origin;
    P at_low = P{} + Position(g.position), at_high = at_low;
    if (g.position == 0) values(s.origin) = origin;
    else origin = values(s.origin);
    if (!g.first) {
      if constexpr (Moments) sum = values(s.sum), square = values(s.square);
      if constexpr (Extrema) low = values(s.low), high = values(s.high);
      if constexpr (Winners) at_low = positions(s.at_low), at_high = positions(s.at_high);
    }
    auto nan = low < low;  // false, in a comparison's type
    for (int n = 0; n < g.count; ++n) {
      const V m = values(g.messages[n]);
      if constexpr (Moments) {
        const V d = m - origin;
        sum += d;
        square += d * d;
      }
      if constexpr (Extrema) {
        const auto lower = m < low, higher = m > high;  // strict: ties keep the first entry
        low = lower ? m : low;
        high = higher ? m : high;
        nan |= m != m;
        if constexpr (Winners) {
          const P here = P{} + Position(g.position + n);
          at_low = lower ? here : at_low;
          at_high = higher ? here : at_high;
        }
      }
    }
    if constexpr (Moments) values(s.sum) = sum, values(s.square) = square;
    if constexpr (Extrema) {
      if (__builtin_expect(any_of(nan), 0)) return fold_nan(s, g, f, f + Several::size);
      values(s.low) = low, values(s.high) = high;
      if constexpr (Winners) positions(s.at_low) = at_low, positions(s.at_high) = at_high;
    }
  }

  // A NaN wins once and stays, as in torch.
  void fold_nan(const RowState<C> &s, const Group &g, int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) {
      if (g.first) {
        s.low[f] = s.high[f] = g.messages[0][f];
        s.at_low[f] = s.at_high[f] = g.position;
      }
      for (int n = 0; n < g.count; ++n) {
        const C m = g.messages[n][f];
        if (beats(m < s.low[f], m, s.low[f])) s.low[f] = m, s.at_low[f] = g.position + n;
        if (beats(m > s.high[f], m, s.high[f])) s.high[f] = m, s.at_high[f] = g.position + n;
      }
    }
  }

  static bool beats(bool strictly, C challenger, C holder) {
    return strictly | ((challenger != challenger) & (holder == holder));
  }

  // Fold a later piece of the same row into an earlier one.
  void combine(const RowState<C> &s, const RowState<C> &later) {
    for (int64_t f = 0; f < width_; ++f) {
      s.sum[f] += later.sum[f];
      s.square[f] += later.square[f];
      if (beats(later.low[f] < s.low[f], later.low[f], s.low[f])) {
        s.low[f] = later.low[f];
        s.at_low[f] = later.at_low[f];
      }
      if (beats(later.high[f] > s.high[f], later.high[f], s.high[f])) {
        s.high[f] = later.high[f];
        s.at_high[f] = later.at_high[f];
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
      C *out = outs.begin_write(row, s.scratch);
      if (degree == 0) std::fill(out, out + width_, C(0));
      else result(a_.reduces[r], s, degree, inverse, out);
      outs.commit(row, out);
    }
    if (a_.mean) {
      const Features<C> means(a_.mean, a_.dtype, width_, width_, a_.graph.num_rows);
      C *to = means.begin_write(i, s.scratch);
      for (int64_t f = 0; f < width_; ++f) to[f] = degree ? mean(s, f, inverse) : C(0);
      means.commit(i, to);
    }
    winners(a_.argmin, s.at_low, i, degree);
    winners(a_.argmax, s.at_high, i, degree);
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

  void winners(int32_t *to, const Position *from, int64_t i, int64_t degree) {
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
