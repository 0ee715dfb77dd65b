// Attention of each row over its entries, several heads at once, by the online softmax: entries come
// in small groups, and what was summed is rescaled when a group raises the maximum.
#pragma once
#include "attention.h"

namespace graphkit {
namespace {

constexpr int64_t attention_group = 16;  // entries between two looks at the maximum

template <class C, Score S>
class AttentionForwardKernel : AttentionPass<C, S> {
  using Base = AttentionPass<C, S>;
  using Base::a_, Base::scores_, Base::keep_, Base::col_, Base::eid_, Base::stride_, Base::heads_;
  using Base::fault_;

 public:
  explicit AttentionForwardKernel(const Attention &a)
      : Base(a), out_(a.out, a.dtype, scores_.width, scores_.width, a.graph.num_rows) {}

  // Sums of a row: the weighted values, then per head the maximum and the sum of weights.
  Fault run() {
    const int64_t size = stride_ + 2 * heads_;
    const int64_t scratch = 4 * stride_ + heads_ * (attention_group + 1) + group_rows();
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
  // Half types: a widened row of values and edges for each entry of a group.
  int64_t group_rows() const { return scores_.value.direct() ? 0 : 2 * attention_group * stride_; }

  void entries(int64_t i, Range range, C *sums, C *scratch) {
    C *most = sums + stride_, *total = most + heads_;
    std::fill(most, most + scores_.heads, -std::numeric_limits<C>::infinity());
    if (range.begin == range.end) return;
    const C *dst = scores_.dst.read(i, scratch);
    for (int64_t k = range.begin; k < range.end; k += attention_group)
      if (!group(dst, k, std::min(range.end - k, attention_group), sums, most, total, scratch + stride_))
        return;
  }

  bool group(const C *dst, int64_t begin, int64_t count, C *sums, C *most, C *total, C *scratch) {
    const C *values[attention_group], *edges[attention_group];
    int64_t ids[attention_group];
    C *weights = scratch + 3 * stride_, *high = weights + attention_group * heads_;
    C *wide = high + heads_;
    std::copy(most, most + scores_.heads, high);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t ahead = begin + n + prefetch_distance;
      if (ahead < a_.graph.num_entries) {
        scores_.src.prefetch(col_[ahead]);
        if (a_.value != a_.src) scores_.value.prefetch(col_[ahead]);
        if (scores_.edge) scores_.edge.prefetch(eid_[ahead]);
      }
      int64_t j;
      if (!this->find(begin + n, j, ids[n])) return false;
      edges[n] = scores_.edge ? scores_.edge.read(ids[n], wide + 2 * n * stride_) : nullptr;
      values[n] = scores_.value.read(j, wide + (2 * n + 1) * stride_);
      const C *bias = scores_.bias ? scores_.bias.read(ids[n], scratch + stride_) : nullptr;
      C *s = weights + n * heads_;
      scores_(dst, scores_.src.read(j, scratch), edges[n], bias, s);
      for (int64_t h = 0; h < scores_.heads; ++h) high[h] = s[h] > high[h] ? s[h] : high[h];
    }
    for (int64_t h = 0; h < scores_.heads; ++h) {
      if (high[h] == -std::numeric_limits<C>::infinity()) high[h] = 0;  // all masked so far
      if (high[h] == most[h]) continue;
      const C factor = softmax_exp(most[h] - high[h]);
      total[h] *= factor;
      const int64_t at = h * scores_.per_head;
      for (int64_t f = at; f < at + scores_.per_head; ++f) sums[f] *= factor;
      most[h] = high[h];
    }
    for (int64_t n = 0; n < count; ++n) {
      C *s = weights + n * heads_;
      for (int64_t h = 0; h < scores_.heads; ++h) {
        s[h] = softmax_exp(s[h] - most[h]);
        total[h] += s[h];
        s[h] *= keep_.template factor<C>(ids[n], h);
      }
      for (int64_t h = 0; h < scores_.heads; ++h) {
        const int64_t at = h * scores_.per_head;
        add_scaled(sums + at, s[h], values[n] + at, scores_.per_head);
        if (scores_.edge_in_value && edges[n])
          add_scaled(sums + at, s[h], edges[n] + at, scores_.per_head);
      }
    }
    return true;
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
