// What both passes of attention share: a few entries that are taken together, their scores, dropout
// by counter, sums of products per head.
#pragma once
#include <cmath>

#include "exponential.h"
#include "lanes.h"
#include "sweep.h"

namespace graphkit {
namespace {

constexpr int attention_group = 16;  // entries that are taken together

// Dropout by counter: whether weight (edge, head) stays depends on the seed and on them only.
class KeepMask {
 public:
  KeepMask(double dropout, uint64_t seed)
      : seed_(seed), threshold_(dropout > 0 ? uint32_t(std::min(dropout * 0x1p32, 0x1p32 - 1)) : 0),
        factor_(dropout >= 1 ? 0 : 1 / (1 - dropout)) {}
  explicit operator bool() const { return threshold_ != 0; }
  // The factors of an edge, one per head.
  template <class C>
  void factors(int64_t e, int64_t heads, C *to) const {
    uint32_t x = mix(uint32_t(e) ^ uint32_t(seed_));
    x = mix(x ^ uint32_t(uint64_t(e) >> 32) ^ uint32_t(seed_ >> 32));
    for (int64_t h = 0; h < heads; ++h)
      to[h] = mix(x ^ uint32_t(h)) < threshold_ ? C(0) : C(factor_);
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
inline C softmax_exp(C x) {  // x <= 0; -inf gives an exact zero, a NaN stays one
  if (x != x) return x;
  return x < C(-87) ? C(0) : exponential(x);
}

// The same for x[0, n), in whole registers: may write up to a register behind them.
template <class C>
inline void softmax_exp_each(C *x, int64_t n) {
  using Register = Register<C>;
  for (int64_t k = 0; k < n; k += Register::size) {
    auto &at = values_at<Register>(x + k);
    const Vec<C> v = at;
    Vec<C> y = v * C(log2_of_e);
    y = y < Constants<C>::lowest ? Vec<C>{} + Constants<C>::lowest : y;
    y = exp2_of<C>(y);
    at = v < C(-87) ? Vec<C>{} : y;
  }
}

// A part of a register: heads are few, and may be narrow.
template <class C, int64_t n>
struct Pack {
  typedef C values __attribute__((vector_size(n * sizeof(C)), aligned(sizeof(C)), may_alias));
  static constexpr int64_t size = n;
};

// `fold(several, h)` for all heads.
template <class C, class Fold>
GRAPHKIT_INLINE void over_heads(int64_t heads, Fold fold) {
  int64_t h = 0;
  for (; h + 8 <= heads; h += 8) fold(Pack<C, 8>{}, h);
  for (; h < heads; ++h) fold(Single<C>{}, h);
}

// `fold(several, h, f)` for all features f of each head h.
template <class C, class Fold>
GRAPHKIT_INLINE void over_head_features(int64_t heads, int64_t per_head, Fold fold) {
  int64_t f = 0;
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t end = f + per_head;
    for (; f + Register<C>::size <= end; f += Register<C>::size) fold(Register<C>{}, h, f);
    if constexpr (Register<C>::size > 4)
      for (; f + 4 <= end; f += 4) fold(Pack<C, 4>{}, h, f);
    for (; f < end; ++f) fold(Single<C>{}, h, f);
  }
}

// to[n * heads + h] = sum over the features f of head h of product(several, n, f).
template <class C, class Product>
GRAPHKIT_INLINE void sum_heads(int64_t count, int64_t heads, int64_t per_head, C *to,
                               Product product) {
  using Register = Register<C>;
  if (per_head % Register::size) {
    for (int64_t n = 0; n < count; ++n)
      for (int64_t h = 0; h < heads; ++h) to[n * heads + h] = C(0);
    over_head_features<C>(heads, per_head, [&](auto several, int64_t h, int64_t f)
                                               GRAPHKIT_LAMBDA_INLINE {
      using S = decltype(several);
      for (int64_t n = 0; n < count; ++n) {
        const auto v = product(several, n, f);
        C &sum = to[n * heads + h];
        if constexpr (S::size == 1) sum += v;
        else
          for (int64_t l = 0; l < S::size; ++l) sum += v[l];
      }
    });
    return;
  }
  // As many sums at a time as a register has lanes; they go into it in one order of additions.
  constexpr int64_t group = Register::size < 4 ? Register::size : 4;
  int64_t n = 0, h = 0;
  for (int64_t k = 0; k < count * heads; k += Register::size) {
    Vec<C> part[Register::size / group];
    for (int64_t g = 0; g < Register::size / group; ++g) {
      Vec<C> v[group];
#pragma GCC unroll 4
      for (int64_t l = 0; l < group; ++l) {
        v[l] = Vec<C>{};
        if (n == count) continue;  // behind the last
        for (int64_t f = h * per_head; f < (h + 1) * per_head; f += Register::size)
          v[l] += product(Register{}, n, f);
        h = h + 1 == heads ? (++n, 0) : h + 1;
      }
      part[g] = merged<C, 1, group>(v);
    }
    values_at<Register>(to + k) = merged<C, group, Register::size / group>(part);
  }
}

template <class C>
struct EntryGroup {
  int count;
  int64_t id[attention_group];  // of the edges
  // Rows; those that no entry has are null.
  const C *dst[attention_group], *src[attention_group], *edge[attention_group],
      *bias[attention_group], *value[attention_group];
};

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

  // s[n * heads + h] for the entries of a group; may write up to a register behind them.
  GRAPHKIT_INLINE void operator()(const EntryGroup<C> &g, C *s) const {
    if constexpr (S == Score::additive) {
      over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
        using Q = decltype(several);
        for (int n = 0; n < g.count; ++n) {
          const auto z = joined<Q>(g, n, h);
          values_at<Q>(s + n * heads + h) = z * slope_at<Q>(z);
        }
      });
    } else {
      sum_heads<C>(g.count, heads, per_head, s, [&](auto several, int64_t n, int64_t f)
                                                    GRAPHKIT_LAMBDA_INLINE {
        using Q = decltype(several);
        if constexpr (S == Score::gatv2) {
          const auto z = joined<Q>(g, int(n), f);
          return values_at<Q>(att_ + f) * (z * slope_at<Q>(z));
        } else {
          return values_at<Q>(g.dst[n] + f) * with_edge<Q>(g, int(n), g.src, f);
        }
      });
    }
    if (S != Score::dot && !bias) return;
    const C scale = S == Score::dot ? scale_ : C(1);
    over_heads<C>(heads, [&](auto several, int64_t h) GRAPHKIT_LAMBDA_INLINE {
      using Q = decltype(several);
      for (int n = 0; n < g.count; ++n) {
        auto &at = values_at<Q>(s + n * heads + h);
        at = bias ? at * scale + values_at<Q>(g.bias[n] + h) : at * scale;
      }
    });
  }

  // The value that entry contributes: scaled dot-product attention adds the edge to it.
  static constexpr bool edge_in_value = S == Score::dot;
  template <class Q>
  GRAPHKIT_INLINE auto value_at(const EntryGroup<C> &g, int n, int64_t f) const {
    if constexpr (edge_in_value) return with_edge<Q>(g, n, g.value, f);
    else return typename Q::values(values_at<Q>(g.value[n] + f));
  }

  // What LeakyReLU is taken of: the sum of an entry's rows.
  template <class Q>
  GRAPHKIT_INLINE auto joined(const EntryGroup<C> &g, int n, int64_t f) const {
    return typename Q::values(values_at<Q>(g.dst[n] + f) + with_edge<Q>(g, n, g.src, f));
  }
  template <class Q>
  GRAPHKIT_INLINE auto with_edge(const EntryGroup<C> &g, int n, const C *const *row,
                                 int64_t f) const {
    typename Q::values v = values_at<Q>(row[n] + f);
    if (edge) v += values_at<Q>(g.edge[n] + f);
    return v;
  }
  template <class Q>
  GRAPHKIT_INLINE auto slope_at(const typename Q::values &z) const {
    using V = typename Q::values;
    return z > V{} ? V{} + C(1) : V{} + slope_;
  }

  C scale() const { return scale_; }
  const C *att() const { return att_; }

  const int64_t heads, per_head, width, narrow;
  const Features<C> value, dst, src, edge, bias;

 private:
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
        heads_((a.heads + lanes - 1) / lanes * lanes),
        flat_(attention_group * a.heads + lanes) {}

  bool find(int64_t k, int64_t &j, int64_t &e) {
    j = col_.checked(k, a_.graph.num_cols, Fault::col, fault_);
    e = eid_.checked(k, a_.graph.num_edge_rows, Fault::eid, fault_);
    return j >= 0 && e >= 0;
  }

  // The weights that dropout leaves: w[n * heads + h] times their factors.
  void drop(const EntryGroup<C> &g, C *w, C *factors) const {
    for (int n = 0; n < g.count; ++n) {
      keep_.factors(g.id[n], scores_.heads, factors);
      for (int64_t h = 0; h < scores_.heads; ++h) w[n * scores_.heads + h] *= factors[h];
    }
  }

  const Attention &a_;
  Scores<C, S> scores_;
  KeepMask keep_;
  Index col_, eid_;
  int64_t stride_, heads_, flat_;  // sizes of scratch rows: features, heads, heads of a group
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
