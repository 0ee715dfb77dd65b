// What the selective scan computes with: as many channels at a time as one register holds, and
// exponential, softplus and sums over lanes in that form.
#pragma once
#include <cstdint>
#include <memory>
#include <utility>

#include "lanes.h"

namespace graphkit {
namespace {

// Numbers by which powers and logarithms of a type are computed.
template <class C>
struct Constants;
template <>
struct Constants<float> {
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int exponent_at = 23;
  static constexpr float lowest = -126.0f, highest = 127.0f;
  // 2^r = 1 + r * (polynomial), |r| <= 1/2: relative error below 2e-7, and none at r = 0, where a
  // state is kept for many steps.
  static constexpr float power[] = {0.6931470036506653f, 0.24022242426872253f,
                                    0.05550733581185341f, 0.009671512991189957f,
                                    0.001326472731307149f};
  static constexpr int logarithm_terms = 6;
};
template <>
struct Constants<double> {
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int exponent_at = 52;
  static constexpr double lowest = -1022.0, highest = 1023.0;
  static constexpr double power[] = {  // ln(2)^k / k!
      0.6931471805599453,     0.2402265069591007,     0.055504108664821576, 0.009618129107628477,
      0.0013333558146428441,  0.00015403530393381606, 1.5252733804059838e-05,
      1.3215486790144305e-06, 1.0178086009239696e-07, 7.054911620801121e-09,
      4.44553827187081e-10,   2.5678435993488196e-11, 1.3691488853904124e-12};
  static constexpr int logarithm_terms = 15;
};

template <class C>
using Vec = typename Register<C>::values;
template <class C>
constexpr int64_t vec_lanes = Register<C>::size;

constexpr double log2_of_e = 1.4426950408889634, log_of_2 = 0.6931471805599453;

// The vectors take each step together: a chain of multiply-adds alone leaves most units idle, and
// the processor looks ahead over too few chains that come one after the other.
template <class C, int count>
GRAPHKIT_INLINE void power_near_one(const Vec<C> *r, Vec<C> *p) {
  using R = Constants<C>;
  constexpr int terms = int(sizeof(R::power) / sizeof(C));
  for (int v = 0; v < count; ++v) p[v] = Vec<C>{} + R::power[terms - 1];
#pragma GCC unroll 16
  for (int k = terms - 2; k >= 0; --k)
    for (int v = 0; v < count; ++v) p[v] = p[v] * r[v] + R::power[k];
  for (int v = 0; v < count; ++v) p[v] = p[v] * r[v] + C(1);
}

// x becomes 2^x.
template <class C, int count>
GRAPHKIT_INLINE void exp2_each(Vec<C> *x) {
  Vec<C> n[count], p[count];
#if defined(__AVX512F__)
  for (int v = 0; v < count; ++v) {
    if constexpr (sizeof(C) == 4) n[v] = Vec<C>(_mm512_roundscale_ps(__m512(x[v]), 8));
    else n[v] = Vec<C>(_mm512_roundscale_pd(__m512d(x[v]), 8));
  }
  for (int v = 0; v < count; ++v) x[v] -= n[v];
  power_near_one<C, count>(x, p);
  for (int v = 0; v < count; ++v) {
    if constexpr (sizeof(C) == 4) x[v] = Vec<C>(_mm512_scalef_ps(__m512(p[v]), __m512(n[v])));
    else x[v] = Vec<C>(_mm512_scalef_pd(__m512d(p[v]), __m512d(n[v])));
  }
#else
  using R = Constants<C>;
  using Bits = typename Register<C>::positions;
  for (int v = 0; v < count; ++v) {
    x[v] = x[v] < R::lowest ? Vec<C>{} + R::lowest : x[v];
    x[v] = x[v] > R::highest ? Vec<C>{} + R::highest : x[v];
    n[v] = x[v] + R::round;
    x[v] -= n[v] - R::round;
  }
  power_near_one<C, count>(x, p);
  // The last bits of n hold the integer: adding it to the exponent multiplies by 2^n.
  for (int v = 0; v < count; ++v) x[v] = Vec<C>(Bits(p[v]) + (Bits(n[v]) << R::exponent_at));
#endif
}

template <class C>
GRAPHKIT_INLINE Vec<C> exp2_of(Vec<C> x) {
  exp2_each<C, 1>(&x);
  return x;
}

// softplus and its derivative, the sigmoid, without overflow and exact for small results.
template <class C>
struct SoftPlus {
  Vec<C> value, slope;
  explicit SoftPlus(Vec<C> x) {
    const Vec<C> zero{}, size = x < C(0) ? x : -x;
    const Vec<C> e = exp2_of<C>(size * C(log2_of_e));
    // log(1 + e) = 2 artanh(s) with s = e / (2 + e) in [0, 1/3]
    const Vec<C> s = e / (e + C(2)), square = s * s;
    constexpr int terms = Constants<C>::logarithm_terms;
    Vec<C> p = zero + C(1) / C(2 * terms + 1);
#pragma GCC unroll 20
    for (int k = terms - 1; k >= 0; --k) p = p * square + C(1) / C(2 * k + 1);
    value = C(2) * s * p + (x > C(0) ? x : zero);
    slope = (x < C(0) ? e : zero + C(1)) / (e + C(1));
    // Comparisons above are false for NaN.
    value = x == x ? value : x;
    slope = x == x ? slope : x;
  }
};

template <class C>
GRAPHKIT_INLINE Vec<C> sigmoid_of(Vec<C> x) {
  const Vec<C> size = x < C(0) ? x : -x;
  const Vec<C> e = exp2_of<C>(size * C(log2_of_e));
  return (x < C(0) ? e : Vec<C>{} + C(1)) / (e + C(1));
}

// Two vectors whose groups of w lanes hold parts of w sums each become one with groups of 2 w.
template <class C, int64_t w, size_t... lane>
GRAPHKIT_INLINE Vec<C> merge_sums(Vec<C> x, Vec<C> y, std::index_sequence<lane...>) {
  constexpr int64_t n = vec_lanes<C>;
  const Vec<C> low = __builtin_shufflevector(
      x, y, int(lane / (2 * w) * (2 * w) + lane % w + (lane % (2 * w) < w ? 0 : n))...);
  const Vec<C> high = __builtin_shufflevector(
      x, y, int(lane / (2 * w) * (2 * w) + w + lane % w + (lane % (2 * w) < w ? 0 : n))...);
  return low + high;
}

// Vectors whose groups of `width` lanes hold parts of sums become one with groups of width * count;
// from width 1 to as many vectors as there are lanes, lane l is the sum over the lanes of v[l].
template <class C, int64_t width, int64_t count>
GRAPHKIT_INLINE Vec<C> merged(const Vec<C> *v) {
  if constexpr (count == 1) {
    return v[0];
  } else {
    return merge_sums<C, width * count / 2>(merged<C, width, count / 2>(v),
                                            merged<C, width, count / 2>(v + count / 2),
                                            std::make_index_sequence<size_t(vec_lanes<C>)>());
  }
}

// Memory for vectors, aligned to cache lines, that is handed out piece by piece.
template <class C>
class VecPool {
 public:
  explicit VecPool(int64_t vectors)
      : memory_(new char[size_t(vectors) * sizeof(Vec<C>) + 64]),
        next_(reinterpret_cast<Vec<C> *>((reinterpret_cast<uintptr_t>(memory_.get()) + 63) / 64 *
                                         64)) {}
  Vec<C> *take(int64_t vectors) {
    Vec<C> *const taken = next_;
    next_ += vectors;
    return taken;
  }

 private:
  std::unique_ptr<char[]> memory_;
  Vec<C> *next_;
};

}  // namespace
}  // namespace graphkit
