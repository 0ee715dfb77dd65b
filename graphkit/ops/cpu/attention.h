// Attention of each row over its entries, several heads at once, by the online softmax: entries come
// in small groups, and what was summed is rescaled when a group raises the maximum. Backward
// recomputes the scores from lse = log(sum exp(score)), so nothing has a row per entry.
#pragma once
#include <cmath>

#include "exponential.h"
#include "lanes.h"
#include "sweep.h"

namespace graphkit {
namespace {

constexpr int64_t attention_group = 16;  // entries between two looks at the maximum

// Dropout by counter: whether weight (edge, head) stays depends on the seed and on them only.
class KeepMask {
 public:
  KeepMask(double dropout, uint64_t seed)
      : seed_(seed), threshold_(dropout > 0 ? uint32_t(std::min(dropout * 0x1p32, 0x1p32 - 1)) : 0),
        factor_(dropout >= 1 ? 0 : 1 / (1 - dropout)) {}
  template <class C>
  C factor(int64_t e, int64_t h) const {
    if (!threshold_) return C(1);
    uint32_t x = mix(uint32_t(e) ^ uint32_t(seed_));
    x = mix(x ^ uint32_t(uint64_t(e) >> 32) ^ uint32_t(seed_ >> 32));
    x = mix(x ^ uint32_t(h));
    return x < threshold_ ? C(0) : C(factor_);
  }

 private:
  static uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
  }
  uint64_t seed_;
  uint32_t threshold_;
  double factor_;
};

template <class C>
inline C sum_lanes(const Lanes<C> &v) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<C, float>) return _mm512_reduce_add_ps(__m512(v));
#endif
  C part[4] = {};
  for (int l = 0; l < lanes; ++l) part[l % 4] += v[l];
  return (part[0] + part[1]) + (part[2] + part[3]);
}

template <class C>
inline C dot(const C *a, const C *b, int64_t n) {
  Lanes<C> sum{};
  int64_t f = 0;
  for (; f + lanes <= n; f += lanes) sum += lanes_at(a + f) * lanes_at(b + f);
  C total = f ? sum_lanes<C>(sum) : C(0);
  for (; f < n; ++f) total += a[f] * b[f];
  return total;
}

template <class C>
inline void add_scaled(C *to, C factor, const C *from, int64_t n) {
  int64_t f = 0;
  for (; f + lanes <= n; f += lanes) lanes_at(to + f) += factor * lanes_at(from + f);
  for (; f < n; ++f) to[f] += factor * from[f];
}

template <class C>
inline C softmax_exp(C x) {  // x <= 0; -inf gives an exact zero, a NaN stays one
  if (x != x) return x;
  return x < C(-87) ? C(0) : exponential(x);
}

// Scores of entries, and what they read. Rows that no score needs stay null.
template <class C, Score S>
class Scores {
 public:
  explicit Scores(const Attention &a)
      : heads(a.heads), per_head(a.width), width(a.heads * a.width),
        narrow(S == Score::additive ? a.heads : width), value(a.value, a.dtype, a.ldv, width),
        dst(a.dst, a.dtype, a.ldd, narrow), src(a.src, a.dtype, a.lds, narrow),
        edge(a.edge, a.dtype, a.lde, narrow), bias(a.bias, a.dtype, a.heads, a.heads),
        slope_(C(a.slope)), scale_(C(a.scale)), att_(static_cast<const C *>(a.att)) {}

  // s[h] for one entry. `e` may be null.
  GRAPHKIT_INLINE void operator()(const C *i, const C *j, const C *e, const C *b, C *s) const {
    for (int64_t h = 0; h < heads; ++h) {
      if constexpr (S == Score::additive) s[h] = leaky(i[h] + j[h] + (e ? e[h] : C(0)));
      else s[h] = of_head(i, j, e, h * per_head);
      if (b) s[h] += b[h];
    }
  }

  // The value that entry contributes: scaled dot-product attention adds the edge to it.
  static constexpr bool edge_in_value = S == Score::dot;

  C leaky(C z) const { return z > C(0) ? z : slope_ * z; }
  C leaky_slope(C z) const { return z > C(0) ? C(1) : slope_; }
  C slope() const { return slope_; }
  C scale() const { return scale_; }
  const C *att() const { return att_; }

  const int64_t heads, per_head, width, narrow;
  const Features<C> value, dst, src, edge, bias;

 private:
  C of_head(const C *i, const C *j, const C *e, int64_t at) const {
    Lanes<C> sum{};
    C total = 0;
    int64_t f = at;
    const int64_t end = at + per_head;
    for (; f + lanes <= end; f += lanes) {
      Lanes<C> u = lanes_at(j + f);
      if (e) u += lanes_at(e + f);
      if constexpr (S == Score::gatv2) {
        u += lanes_at(i + f);
        sum += lanes_at(att_ + f) * (u > Lanes<C>{} ? u : slope_ * u);
      } else {
        sum += lanes_at(i + f) * u;
      }
    }
    if (f > at) total = sum_lanes<C>(sum);
    for (; f < end; ++f) {
      const C u = e ? j[f] + e[f] : j[f];
      if constexpr (S == Score::gatv2) total += att_[f] * leaky(i[f] + u);
      else total += i[f] * u;
    }
    return S == Score::dot ? total * scale_ : total;
  }

  C slope_, scale_;
  const C *att_;
};

// What every pass does with an entry before anything else.
template <class C, Score S>
class AttentionPass {
 protected:
  explicit AttentionPass(const Attention &a)
      : a_(a), scores_(a), keep_(a.dropout, a.seed), col_(a.graph.col, a.graph.index_bits),
        eid_(a.graph.eid, a.graph.index_bits), stride_((scores_.width + lanes - 1) / lanes * lanes),
        heads_((a.heads + lanes - 1) / lanes * lanes) {}

  bool find(int64_t k, int64_t &j, int64_t &e) {
    j = col_.checked(k, a_.graph.num_cols, Fault::col, fault_);
    e = eid_.checked(k, a_.graph.num_edge_rows, Fault::eid, fault_);
    return j >= 0 && e >= 0;
  }

  const Attention &a_;
  Scores<C, S> scores_;
  KeepMask keep_;
  Index col_, eid_;
  int64_t stride_, heads_;  // sizes of scratch rows
  FaultFlag fault_;
};

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
        const C *weight = scores_.att();
#pragma GCC ivdep
        for (int64_t f = begin; f < end; ++f) {
          const C u = dst[f] + src[f] + (edge ? edge[f] : C(0));
          to[f] = d * weight[f] * scores_.leaky_slope(u);
          sums[f] += to[f];
        }
        if (att)
          for (int64_t f = begin; f < end; ++f)
            att[f] += d * scores_.leaky(dst[f] + src[f] + (edge ? edge[f] : C(0)));
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
          const C *weight = scores_.att();
          const C d = ds[h];
#pragma GCC ivdep
          for (int64_t f = begin; f < end; ++f)
            to_src[f] += d * weight[f] *
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

template <class F>
inline auto with_score(Score score, F f) {
  switch (score) {
    case Score::gatv2: return f(std::integral_constant<Score, Score::gatv2>{});
    case Score::dot: return f(std::integral_constant<Score, Score::dot>{});
    default: return f(std::integral_constant<Score, Score::additive>{});
  }
}

}  // namespace
}  // namespace graphkit
