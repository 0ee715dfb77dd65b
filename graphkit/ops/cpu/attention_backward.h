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
  using Base::fault_;

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
        a_.graph, scores_.width * 4, stride_, 10 * stride_ + 4 * heads_, a_.threads, fault_,
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
        a_.graph, scores_.width * 4, 2 * stride_, 10 * stride_ + 4 * heads_, a_.threads, fault_,
        [&](int64_t j, Range range, C *sums, C *scratch, int64_t) { to_source(j, range, sums, scratch); },
        Added<C>{2 * stride_}, [&](int64_t j, C *sums, C *scratch) {
          write(b_.grad_src, scores_.narrow, j, sums + stride_, scratch);
          C *to = grad_value_.begin_write(j, scratch);
          std::copy(sums, sums + scores_.width, to);
          grad_value_.commit(j, to);
        });
  }

 private:
  // ds and P m for every head of one entry, from its rows.
  GRAPHKIT_INLINE void differentiate(const C *dst, const C *src, const C *edge, const C *bias,
                                     const C *value, const C *grad, int64_t i, int64_t e, C *ds,
                                     C *kept) const {
    scores_(dst, src, edge, bias, ds);
    const C *lse = lse_ + i * scores_.heads, *delta = delta_ + i * scores_.heads;
    for (int64_t h = 0; h < scores_.heads; ++h) {
      const int64_t at = h * scores_.per_head;
      C towards = dot(grad + at, value + at, scores_.per_head);
      if (scores_.edge_in_value && edge) towards += dot(grad + at, edge + at, scores_.per_head);
      const C p = softmax_exp(ds[h] - lse[h]), m = keep_.template factor<C>(e, h);
      ds[h] = p * (m * towards - delta[h]);
      kept[h] = p * m;
    }
  }

  void to_destination(int64_t i, Range range, C *sums, C *scratch, int64_t unit) {
    const C *grad = grad_.read(i, scratch);
    const C *dst = scores_.dst.read(i, scratch + stride_);
    C *delta = delta_ + i * scores_.heads, *ds = scratch + 9 * stride_, *kept = ds + heads_;
    {  // every piece of a hub writes the same values
      const C *out = out_.read(i, scratch + 2 * stride_);
      C *own = kept + heads_;
      for (int64_t h = 0; h < scores_.heads; ++h)
        own[h] = dot(grad + h * scores_.per_head, out + h * scores_.per_head, scores_.per_head);
      std::copy(own, own + scores_.heads, delta);
    }
    C *att = b_.grad_att ? tables_.data() + unit * scores_.width : nullptr;
    for (int64_t k = range.begin; k < range.end; ++k) {
      const int64_t ahead = k + prefetch_distance;
      if (ahead < a_.graph.num_entries) {
        scores_.value.prefetch(col_[ahead]);
        if (a_.value != a_.src) scores_.src.prefetch(col_[ahead]);
        if (scores_.edge) scores_.edge.prefetch(eid_[ahead]);
      }
      int64_t j, e;
      if (!this->find(k, j, e)) return;
      const C *src = scores_.src.read(j, scratch + 3 * stride_);
      const C *value = scores_.value.read(j, scratch + 4 * stride_);
      const C *edge = scores_.edge ? scores_.edge.read(e, scratch + 5 * stride_) : nullptr;
      const C *bias = scores_.bias ? scores_.bias.read(e, scratch + 6 * stride_) : nullptr;
      differentiate(dst, src, edge, bias, value, grad, i, e, ds, kept);
      if (grad_bias_) {
        C *to = grad_bias_.begin_write(e, scratch + 7 * stride_);
        std::copy(ds, ds + scores_.heads, to);
        grad_bias_.commit(e, to);
      }
      C *to = grad_edge_ ? grad_edge_.begin_write(e, scratch + 8 * stride_) : scratch + 8 * stride_;
      push_destination(dst, src, edge, grad, ds, kept, sums, to, att);
      if (grad_edge_) grad_edge_.commit(e, to);
    }
  }

  void push_destination(const C *dst, const C *src, const C *edge, const C *grad, const C *ds,
                        const C *kept, C *sums, C *to, C *att) const {
    for (int64_t h = 0; h < scores_.heads; ++h) {
      if constexpr (S == Score::additive) {
        const C z = dst[h] + src[h] + (edge ? edge[h] : C(0));
        to[h] = ds[h] * scores_.leaky_slope(z);
        sums[h] += to[h];
        continue;
      }
      const int64_t begin = h * scores_.per_head, end = begin + scores_.per_head;
      const C d = ds[h];
      if constexpr (S == Score::gatv2) {
        int64_t f = begin;
        for (; f + lanes <= end; f += lanes) {
          Lanes<C> u, slope;
          joined(dst + f, src + f, edge ? edge + f : nullptr, u, slope);
          const Lanes<C> g = d * lanes_at(scores_.att() + f) * slope;
          lanes_at(to + f) = g;
          lanes_at(sums + f) += g;
          if (att) lanes_at(att + f) += d * u * slope;
        }
        for (; f < end; ++f) {
          const C u = dst[f] + src[f] + (edge ? edge[f] : C(0));
          to[f] = d * scores_.att()[f] * scores_.leaky_slope(u);
          sums[f] += to[f];
          if (att) att[f] += d * scores_.leaky(u);
        }
      } else {
        const C t = d * scores_.scale();
        const C p = kept[h];
        if (edge) {
#pragma GCC ivdep
          for (int64_t f = begin; f < end; ++f) {
            sums[f] += t * (src[f] + edge[f]);
            to[f] = t * dst[f] + p * grad[f];
          }
        } else {
          add_scaled(sums + begin, t, src + begin, scores_.per_head);
        }
      }
    }
  }

  // GATv2's sum of an entry's rows, and the slope of LeakyReLU there.
  GRAPHKIT_INLINE void joined(const C *dst, const C *src, const C *edge, Lanes<C> &u,
                              Lanes<C> &slope) const {
    u = lanes_at(dst) + lanes_at(src);
    if (edge) u += lanes_at(edge);
    slope = u > Lanes<C>{} ? Lanes<C>{} + C(1) : Lanes<C>{} + scores_.slope();
  }

  void to_source(int64_t j, Range range, C *sums, C *scratch) {
    if (range.begin == range.end) return;
    const C *src = scores_.src.read(j, scratch);
    const C *value = scores_.value.read(j, scratch + stride_);
    C *to_value = sums, *to_src = sums + stride_, *ds = scratch + 9 * stride_, *kept = ds + heads_;
    for (int64_t k = range.begin; k < range.end; ++k) {
      const int64_t ahead = k + prefetch_distance;
      if (ahead < a_.graph.num_entries) {
        grad_.prefetch(col_[ahead]);
        scores_.dst.prefetch(col_[ahead]);
        if (scores_.edge) scores_.edge.prefetch(eid_[ahead]);
        const uintptr_t at = uintptr_t(col_[ahead] * scores_.heads) * sizeof(C);
        prefetch_line(reinterpret_cast<uintptr_t>(lse_) + at);
        prefetch_line(reinterpret_cast<uintptr_t>(delta_) + at);
      }
      int64_t i, e;
      if (!this->find(k, i, e)) return;
      const C *grad = grad_.read(i, scratch + 2 * stride_);
      const C *dst = scores_.dst.read(i, scratch + 3 * stride_);
      const C *edge = scores_.edge ? scores_.edge.read(e, scratch + 4 * stride_) : nullptr;
      const C *bias = scores_.bias ? scores_.bias.read(e, scratch + 5 * stride_) : nullptr;
      differentiate(dst, src, edge, bias, value, grad, i, e, ds, kept);
      for (int64_t h = 0; h < scores_.heads; ++h) {
        const int64_t begin = h * scores_.per_head, end = begin + scores_.per_head;
        add_scaled(to_value + begin, kept[h], grad + begin, scores_.per_head);
        if constexpr (S == Score::additive) {
          to_src[h] += ds[h] * scores_.leaky_slope(dst[h] + src[h] + (edge ? edge[h] : C(0)));
        } else if constexpr (S == Score::gatv2) {
          const C d = ds[h];
          int64_t f = begin;
          for (; f + lanes <= end; f += lanes) {
            Lanes<C> u, slope;
            joined(dst + f, src + f, edge ? edge + f : nullptr, u, slope);
            lanes_at(to_src + f) += d * lanes_at(scores_.att() + f) * slope;
          }
          for (; f < end; ++f)
            to_src[f] += d * scores_.att()[f] *
                         scores_.leaky_slope(dst[f] + src[f] + (edge ? edge[f] : C(0)));
        } else {
          add_scaled(to_src + begin, ds[h] * scores_.scale(), dst + begin, scores_.per_head);
        }
      }
    }
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
