// exp in a form that the compiler vectorises, and powers of two, sigmoids, a register at a time.
#pragma once
#include <cmath>
#include <cstdint>

#include "lanes.h"

namespace graphkit {
namespace {

inline double exponential(double x) { return std::exp(x); }

// exp for the vectoriser: 2^n * p(r) with |r| <= ln2 / 2; relative error below 2e-7.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 rounds
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int32_t bits = (int32_t(n) + 127) << 23;
  return p * __builtin_bit_cast(float, bits);
}

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

template <class C>
GRAPHKIT_INLINE Vec<C> reciprocal(Vec<C> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {  // one step of Newton's from 14 bits; division takes longer
    const Vec<C> r = Vec<C>(_mm512_rcp14_ps(__m512(x)));
    return r * (C(2) - x * r);
  }
#endif
  return C(1) / x;
}

// 1 / (1 + 2^y) with y = -x log2(e); y is bounded so that the sum is finite. A NaN stays a NaN.
template <class C>
GRAPHKIT_INLINE Vec<C> sigmoid_of(Vec<C> x) {
  constexpr C most = Constants<C>::highest - 1;
  Vec<C> y = x * C(-log2_of_e);
  y = y > most ? Vec<C>{} + most : y;
  return reciprocal<C>(exp2_of<C>(y) + C(1));
}

}  // namespace
}  // namespace graphkit
