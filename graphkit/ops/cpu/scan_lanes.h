// What the selective scan computes with: softplus, as many channels at a time as one register holds,
// and memory for them.
#pragma once
#include <cstdint>
#include <memory>
#include <utility>

#include "exponential.h"

namespace graphkit {
namespace {

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

constexpr double reciprocal_factorial(int n) {
  double product = 1;
  for (int i = 2; i <= n; ++i) product *= i;
  return 1 / product;
}

// What a zero-order hold multiplies B u by, (a - 1) / A with a = exp(delta A), and its derivative by
// A, (delta a - hold) / A: by their series where the differences would cancel, or A is zero. Decay is
// A log2(e), inverse 1 / A.
template <class C>
struct Hold {
  Vec<C> value, by_A;
  GRAPHKIT_INLINE Hold(Vec<C> delta, Vec<C> decay, Vec<C> inverse, Vec<C> a) {
    constexpr int terms = sizeof(C) == 8 ? 15 : 9;
    const Vec<C> x = delta * decay * C(log_of_2);
    Vec<C> series = Vec<C>{} + C(reciprocal_factorial(terms)), slope{};
#pragma GCC unroll 16
    for (int k = terms - 1; k >= 1; --k) {
      slope = slope * x + series;
      series = series * x + C(reciprocal_factorial(k));
    }
    const auto near = x * x < C(0.25);
    value = near ? delta * series : (a - C(1)) * inverse;
    by_A = near ? delta * delta * slope : (delta * a - value) * inverse;
  }
};

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
