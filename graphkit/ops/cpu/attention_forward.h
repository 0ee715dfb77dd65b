// Attention of each row over its entries, several heads at once, by the online softmax: entries come
// in small groups, and what was summed is rescaled when a group raises the maximum.
#pragma once
#include "attention.h"

namespace graphkit {
namespace {

template <class C, Score S>
class AttentionForwardKernel : AttentionPass<C, S> {
  using Base = AttentionPass<C, S>;
  using Base::a_, Base::scores_, Base::keep_, Base::col_, Base::eid_, Base::stride_, Base::heads_;
  using Base::fault_, Base::flat_;

 public:
  explicit AttentionForwardKernel(const Attention &a)
      : Base(a), out_(a.out, a.dtype, scores_.width, scores_.width, a.graph.num_rows) {}

  // Sums of a row: the weighted values, then per head the maximum and the sum of weights.
  Fault run() {
    const int64_t size = stride_ + 2 * heads_;
    const int64_t scratch = stride_ + flat_ + heads_ + (scores_.value.direct() ? 0 : widened());
    const auto merge = [&](C *to, const C *later) {
      for (int64_t h = 0; h < scores_.heads; ++h) {
        C &low = to[stride_ + h];
        const C most = std::max(low, later[stride_ + h]);
        if (!(later[stride_ + heads_ + h] != C(0))) continue;  // that piece weighs nothing
        const C mine = softmax_exp(low - most), other = softmax_exp(later[stride_ + h] - most);
        C &total = to[stride_ + heads_ + h];
        total = total * mine + later[stride_ + heads_ + h] * other;
        const int64_t at = h * scores_.per_head;
        for (int64_t f = at; f < at + scores_.per_head; ++f) to[f] = to[f] * mine + later[f] * other;
        low = most;
      }
    };
    return sweep<C>(
        a_.graph, scores_.width * 2, size, scratch, a_.threads, fault_,
        [&](int64_t i, Range range, C *sums, C *scratch, int64_t) { entries(i, range, sums, scratch); },
        merge, [&](int64_t i, C *sums, C *scratch) { finish(i, sums, scratch); });
  }

 private:
  // Half types: widened rows of src, value, edge and bias for each entry of a group.
  int64_t widened() const { return 4 * attention_group * stride_; }

  void entries(int64_t i, Range range, C *sums, C *scratch) {
    C *most = sums + stride_;
    std::fill(most, most + scores_.heads, -std::numeric_limits<C>::infinity());
    if (range.begin == range.end) return;
    const C *dst = scores_.dst.read(i, scratch);
    C *const wide = scratch + stride_ + flat_ + heads_;
    EntryGroup<C> g;
    for (int64_t k = range.begin; k < range.end; k += attention_group) {
      g.count = int(std::min<int64_t>(attention_group, range.end - k));
      for (int n = 0; n < g.count; ++n) {
        prefetch(k + n + prefetch_distance);
        int64_t j;
        if (!this->find(k + n, j, g.id[n])) return;
        C *const rows = wide + 4 * n * stride_;
        g.dst[n] = dst;
        g.src[n] = scores_.src.read(j, rows);
        g.value[n] = scores_.value.read(j, rows + stride_);
        g.edge[n] = scores_.edge ? scores_.edge.read(g.id[n], rows + 2 * stride_) : nullptr;
        g.bias[n] = scores_.bias ? scores_.bias.read(g.id[n], rows + 3 * stride_) : nullptr;
      }
      add(g, sums, scratch + stride_);
    }
  }

  GRAPHKIT_INLINE void prefetch(int64_t k) const {
    if (k >= a_.graph.num_entries) return;
    scores_.src.prefetch(col_[k]);
    if (a_.value != a_.src) scores_.value.prefetch(col_[k]);
    if (scores_.edge) scores_.edge.prefetch(eid_[k]);
  }

  void add(const EntryGroup<C> &g, C *sums, C *weights) {
    const int64_t heads = scores_.heads;
    C *const most = sums + stride_, *const total = most + heads_, *const spare = weights + flat_;
    scores_(g, weights);
    raise(g, sums, weights, spare);
    over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      const auto high = values_at<Q>(most + h);
      for (int n = 0; n < g.count; ++n) values_at<Q>(weights + n * heads + h) -= high;
    });
    softmax_exp_each<C>(weights, g.count * heads);
    over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      auto sum = values_at<Q>(total + h);
      for (int n = 0; n < g.count; ++n) sum += values_at<Q>(weights + n * heads + h);
      values_at<Q>(total + h) = sum;
    });
    if (keep_) this->drop(g, weights, spare);
    over_head_features<C>(heads, scores_.per_head, [&](auto several, int64_t h, int64_t f)
                                                       GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      auto sum = values_at<Q>(sums + f);
      for (int n = 0; n < g.count; ++n)
        sum += weights[n * heads + h] * scores_.template value_at<Q>(g, n, f);
      values_at<Q>(sums + f) = sum;
    });
  }

  // The maximum becomes that of these scores too; what was summed before is scaled to it.
  void raise(const EntryGroup<C> &g, C *sums, const C *scores, C *high) {
    const int64_t heads = scores_.heads;
    C *const most = sums + stride_, *const total = most + heads_;
    over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      typename Q::values top = values_at<Q>(most + h);
      for (int n = 0; n < g.count; ++n) {
        const typename Q::values s = values_at<Q>(scores + n * heads + h);
        top = s > top ? s : top;
      }
      values_at<Q>(high + h) = top;
    });
    for (int64_t h = 0; h < heads; ++h) {
      if (high[h] == -std::numeric_limits<C>::infinity()) high[h] = 0;  // all masked so far
      if (high[h] == most[h]) continue;
      if (total[h] != C(0)) {
        const C factor = softmax_exp(most[h] - high[h]);
        total[h] *= factor;
        const int64_t at = h * scores_.per_head;
        for (int64_t f = at; f < at + scores_.per_head; ++f) sums[f] *= factor;
      }
      most[h] = high[h];
    }
  }

  void finish(int64_t i, const C *sums, C *scratch) {
    const C *most = sums + stride_, *total = most + heads_;
    C *to = out_.begin_write(i, scratch);
    for (int64_t h = 0; h < scores_.heads; ++h) {
      const C inverse = total[h] != C(0) ? C(1) / total[h] : C(0);
      const int64_t at = h * scores_.per_head;
      for (int64_t f = at; f < at + scores_.per_head; ++f) to[f] = sums[f] * inverse;
    }
    out_.commit(i, to);
    if (!a_.lse) return;
    C *lse = static_cast<C *>(a_.lse) + i * scores_.heads;
    for (int64_t h = 0; h < scores_.heads; ++h)
      lse[h] = total[h] != C(0) ? most[h] + std::log(total[h]) : std::numeric_limits<C>::infinity();
  }

  Features<C> out_;
};

}  // namespace
}  // namespace graphkit
