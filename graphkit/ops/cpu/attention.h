// What both passes of attention share: the scores, dropout by counter, sums of products.
#pragma once
#include <cmath>

#include "exponential.h"
#include "lanes.h"
#include "sweep.h"

namespace graphkit {
namespace {

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
