// Gradients of attention: one pass over the destinations, one over the sources. The scores are
// computed again from lse = log(sum exp(score)), so nothing has a row per entry.
#pragma once
#include "attention.h"

namespace graphkit {
namespace {

// With P = exp(s - lse), m the dropout factor and delta_i = g_i . out_i:
//   dL/dv_j = sum_i P m g_i,   dL/ds_ij = P (m g_i . v_ij - delta_i).
template <class C, Score S>
class AttentionBackwardKernel : AttentionPass<C, S> {
  using Base = AttentionPass<C, S>;
  using Base::a_, Base::scores_, Base::keep_, Base::col_, Base::eid_, Base::stride_, Base::heads_;
  using Base::fault_, Base::flat_;

 public:
  explicit AttentionBackwardKernel(const AttentionBackward &b)
      : Base(b.attention), b_(b), out_(a_.out, a_.dtype, scores_.width, scores_.width),
        grad_(b.grad, a_.dtype, scores_.width, scores_.width),
        grad_edge_(b.grad_edge, a_.dtype, scores_.narrow, scores_.narrow, a_.graph.num_edge_rows),
        grad_bias_(b.grad_bias, a_.dtype, scores_.heads, scores_.heads),
        grad_value_(b.grad_value, a_.dtype, scores_.width, scores_.width, a_.graph.num_rows),
        lse_(static_cast<const C *>(a_.lse)), delta_(static_cast<C *>(b.delta)) {}

  // Rows are destinations: gradients of dst, edge, bias and att; leaves delta.
  Fault destination() {
    // Summed per unit of the sweep and then in their order, whichever thread a unit went to.
    tables_.assign(b_.grad_att ? size_t(sweep_units(a_.graph) * scores_.width) : 0, C(0));
    const Fault fault = sweep<C>(
        a_.graph, scores_.width * 4, stride_, scratch_size(), a_.threads, fault_,
        [&](int64_t i, Range range, C *sums, C *scratch, int64_t unit) {
          to_destination(i, range, sums, scratch, unit);
        },
        Added<C>{stride_}, [&](int64_t i, C *sums, C *scratch) {
          write(b_.grad_dst, scores_.narrow, i, sums, scratch);
        });
    if (b_.grad_att) {
      C *to = static_cast<C *>(b_.grad_att);
      std::fill(to, to + scores_.width, C(0));
      for (size_t n = 0; n < tables_.size(); ++n) to[n % size_t(scores_.width)] += tables_[n];
    }
    return fault;
  }

  // Rows are sources (the transposed graph): gradients of src and value.
  Fault source() {
    return sweep<C>(
        a_.graph, scores_.width * 4, 2 * stride_, scratch_size(), a_.threads, fault_,
        [&](int64_t j, Range range, C *sums, C *scratch, int64_t) { to_source(j, range, sums, scratch); },
        Added<C>{2 * stride_}, [&](int64_t j, C *sums, C *scratch) {
          write(b_.grad_src, scores_.narrow, j, sums + stride_, scratch);
          C *to = grad_value_.begin_write(j, scratch);
          std::copy(sums, sums + scores_.width, to);
          grad_value_.commit(j, to);
        });
  }

 private:
  struct Group : EntryGroup<C> {
    const C *grad[attention_group], *lse[attention_group], *delta[attention_group];
    C *to_edge[attention_group];
  };

  // The row of the sweep, what a group computes, and rows that are widened or gathered to be
  // streamed: five for each entry of a group, where there are such.
  int64_t scratch_size() const {
    const bool rows = !scores_.value.direct() || grad_edge_;
    return 3 * stride_ + 2 * flat_ + heads_ + (rows ? 5 * attention_group * stride_ : 0);
  }

  // ds and P m for every head of the entries: [count, heads].
  GRAPHKIT_INLINE void differentiate(const Group &g, C *ds, C *kept, C *spare) const {
    const int64_t heads = scores_.heads;
    scores_(g, kept);
    over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      for (int n = 0; n < g.count; ++n)
        values_at<Q>(kept + n * heads + h) -= values_at<Q>(g.lse[n] + h);
    });
    softmax_exp_each<C>(kept, g.count * heads);
    sum_heads<C>(g.count, heads, scores_.per_head, ds, [&](auto several, int64_t n, int64_t f)
                                                           GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      return values_at<Q>(g.grad[n] + f) * scores_.template value_at<Q>(g, int(n), f);
    });
    if (keep_) this->drop(g, ds, spare);
    over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      for (int n = 0; n < g.count; ++n) {
        auto &at = values_at<Q>(ds + n * heads + h);
        at = values_at<Q>(kept + n * heads + h) * (at - values_at<Q>(g.delta[n] + h));
      }
    });
    if (keep_) this->drop(g, kept, spare);
  }

  void to_destination(int64_t i, Range range, C *sums, C *scratch, int64_t unit) {
    const C *grad = grad_.read(i, scratch);
    const C *dst = scores_.dst.read(i, scratch + stride_);
    C *const delta = delta_ + i * scores_.heads;
    C *const ds = scratch + 3 * stride_, *const kept = ds + flat_, *const spare = kept + flat_;
    C *const wide = spare + heads_;
    {  // every piece of a hub writes the same values
      const C *out = out_.read(i, scratch + 2 * stride_);
      sum_heads<C>(1, scores_.heads, scores_.per_head, ds, [&](auto several, int64_t, int64_t f)
                                                               GRAPHKIT_LAMBDA_INLINE {
        using Q = decltype(several);
        return typename Q::values(values_at<Q>(grad + f) * values_at<Q>(out + f));
      });
      std::copy(ds, ds + scores_.heads, delta);
    }
    C *const att = b_.grad_att ? tables_.data() + unit * scores_.width : nullptr;
    Group g;
    for (int64_t k = range.begin; k < range.end; k += attention_group) {
      g.count = int(std::min<int64_t>(attention_group, range.end - k));
      for (int n = 0; n < g.count; ++n) {
        prefetch_sources(k + n + prefetch_distance);
        int64_t j;
        if (!this->find(k + n, j, g.id[n])) return;
        C *const rows = wide + 5 * n * stride_;
        g.dst[n] = dst;
        g.grad[n] = grad;
        g.lse[n] = lse_ + i * scores_.heads;
        g.delta[n] = delta;
        g.src[n] = scores_.src.read(j, rows);
        g.value[n] = scores_.value.read(j, rows + stride_);
        read_edge(g, n, rows);
        g.to_edge[n] = grad_edge_ ? grad_edge_.begin_write(g.id[n], rows + 4 * stride_) : nullptr;
      }
      differentiate(g, ds, kept, spare);
      if (grad_bias_)
        for (int n = 0; n < g.count; ++n) {
          C *to = grad_bias_.begin_write(g.id[n], spare);
          std::copy(ds + n * scores_.heads, ds + (n + 1) * scores_.heads, to);
          grad_bias_.commit(g.id[n], to);
        }
      push_destination(g, grad, ds, kept, sums, att);
      if (grad_edge_)
        for (int n = 0; n < g.count; ++n) grad_edge_.commit(g.id[n], g.to_edge[n]);
    }
  }

  void read_edge(Group &g, int n, C *rows) const {
    g.edge[n] = scores_.edge ? scores_.edge.read(g.id[n], rows + 2 * stride_) : nullptr;
    g.bias[n] = scores_.bias ? scores_.bias.read(g.id[n], rows + 3 * stride_) : nullptr;
  }

  GRAPHKIT_INLINE void prefetch_sources(int64_t k) const {
    if (k >= a_.graph.num_entries) return;
    scores_.value.prefetch(col_[k]);
    if (a_.value != a_.src) scores_.src.prefetch(col_[k]);
    if (scores_.edge) scores_.edge.prefetch(eid_[k]);
  }

  void push_destination(const Group &g, const C *grad, const C *ds, const C *kept, C *sums,
                        C *att) const {
    const int64_t heads = scores_.heads;
    if constexpr (S == Score::additive) {
      over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
        using Q = decltype(several);
        auto sum = values_at<Q>(sums + h);
        for (int n = 0; n < g.count; ++n) {
          const auto d = through<Q>(g, n, h, ds);
          if (grad_edge_) values_at<Q>(g.to_edge[n] + h) = d;
          sum += d;
        }
        values_at<Q>(sums + h) = sum;
      });
      return;
    }
    over_head_features<C>(heads, scores_.per_head, [&](auto several, int64_t h, int64_t f)
                                                       GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      auto sum = values_at<Q>(sums + f);
      if constexpr (S == Score::gatv2) {
        const auto weight = values_at<Q>(scores_.att() + f);
        typename Q::values of_att{};
        for (int n = 0; n < g.count; ++n) {
          const auto z = scores_.template joined<Q>(g, n, f);
          const auto d = ds[n * heads + h] * scores_.template slope_at<Q>(z);
          of_att += d * z;
          const auto to = d * weight;
          if (grad_edge_) values_at<Q>(g.to_edge[n] + f) = to;
          sum += to;
        }
        if (att) values_at<Q>(att + f) += of_att;
      } else {
        const auto at_dst = values_at<Q>(g.dst[0] + f), at_grad = values_at<Q>(grad + f);
        for (int n = 0; n < g.count; ++n) {
          const C t = ds[n * heads + h] * scores_.scale();
          sum += t * scores_.template with_edge<Q>(g, n, g.src, f);
          if (grad_edge_)
            values_at<Q>(g.to_edge[n] + f) = t * at_dst + kept[n * heads + h] * at_grad;
        }
      }
      values_at<Q>(sums + f) = sum;
    });
  }

  // ds behind LeakyReLU, for additive scores.
  template <class Q>
  GRAPHKIT_INLINE auto through(const Group &g, int n, int64_t h, const C *ds) const {
    using V = typename Q::values;
    const auto z = scores_.template joined<Q>(g, n, h);
    return V(values_at<Q>(ds + n * scores_.heads + h) * scores_.template slope_at<Q>(z));
  }

  void to_source(int64_t j, Range range, C *sums, C *scratch) {
    if (range.begin == range.end) return;
    const C *src = scores_.src.read(j, scratch);
    const C *value = scores_.value.read(j, scratch + stride_);
    C *const ds = scratch + 3 * stride_, *const kept = ds + flat_, *const spare = kept + flat_;
    C *const wide = spare + heads_;
    Group g;
    for (int64_t k = range.begin; k < range.end; k += attention_group) {
      g.count = int(std::min<int64_t>(attention_group, range.end - k));
      for (int n = 0; n < g.count; ++n) {
        prefetch_destinations(k + n + prefetch_distance);
        int64_t i;
        if (!this->find(k + n, i, g.id[n])) return;
        C *const rows = wide + 5 * n * stride_;
        g.src[n] = src;
        g.value[n] = value;
        g.grad[n] = grad_.read(i, rows);
        g.dst[n] = scores_.dst.read(i, rows + stride_);
        g.lse[n] = lse_ + i * scores_.heads;
        g.delta[n] = delta_ + i * scores_.heads;
        read_edge(g, n, rows);
      }
      differentiate(g, ds, kept, spare);
      push_source(g, ds, kept, sums, sums + stride_);
    }
  }

  GRAPHKIT_INLINE void prefetch_destinations(int64_t k) const {
    if (k >= a_.graph.num_entries) return;
    grad_.prefetch(col_[k]);
    scores_.dst.prefetch(col_[k]);
    if (scores_.edge) scores_.edge.prefetch(eid_[k]);
    const uintptr_t at = uintptr_t(col_[k] * scores_.heads) * sizeof(C);
    prefetch_line(reinterpret_cast<uintptr_t>(lse_) + at);
    prefetch_line(reinterpret_cast<uintptr_t>(delta_) + at);
  }

  void push_source(const Group &g, const C *ds, const C *kept, C *to_value, C *to_src) const {
    const int64_t heads = scores_.heads;
    if constexpr (S == Score::additive)
      over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
        using Q = decltype(several);
        auto sum = values_at<Q>(to_src + h);
        for (int n = 0; n < g.count; ++n) sum += through<Q>(g, n, h, ds);
        values_at<Q>(to_src + h) = sum;
      });
    over_head_features<C>(heads, scores_.per_head, [&](auto several, int64_t h, int64_t f)
                                                       GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      auto sum = values_at<Q>(to_value + f);
      if constexpr (S == Score::additive) {
        for (int n = 0; n < g.count; ++n)
          sum += kept[n * heads + h] * values_at<Q>(g.grad[n] + f);
      } else {
        auto of_src = values_at<Q>(to_src + f);
        for (int n = 0; n < g.count; ++n) {
          const C d = ds[n * heads + h];
          sum += kept[n * heads + h] * values_at<Q>(g.grad[n] + f);
          if constexpr (S == Score::gatv2) {
            const auto z = scores_.template joined<Q>(g, n, f);
            of_src += d * scores_.template slope_at<Q>(z) * values_at<Q>(scores_.att() + f);
          } else {
            of_src += d * scores_.scale() * values_at<Q>(g.dst[n] + f);
          }
        }
        values_at<Q>(to_src + f) = of_src;
      }
      values_at<Q>(to_value + f) = sum;
    });
  }

  void write(void *base, int64_t width, int64_t row, const C *from, C *scratch) const {
    const Features<C> to(base, a_.dtype, width, width, a_.graph.num_rows);
    C *at = to.begin_write(row, scratch);
    std::copy(from, from + width, at);
    to.commit(row, at);
  }

  const AttentionBackward &b_;
  Features<C> out_, grad_, grad_edge_, grad_bias_, grad_value_;
  const C *lse_;
  C *delta_;
  std::vector<C> tables_;
};

}  // namespace
}  // namespace graphkit
