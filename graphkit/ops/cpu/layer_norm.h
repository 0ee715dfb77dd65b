// LayerNorm over the columns of each row, dropout and ReLU, each of them where it is asked for:
// y = relu?(m ((x - mean) inverse weight + bias)) with m = 0 where an element is dropped, else
// 1 / (1 - p). Backward reads x, two numbers a row and one byte per element, which says whether the
// gradient passes.
#pragma once
#include <cmath>

#include "lanes.h"

namespace graphkit {
namespace {

constexpr int64_t layer_norm_rows = 64;    // of one chunk: its sums do not depend on the threads
constexpr int64_t dropped_at_once = 4096;  // elements, where rows do not matter

// The factor of each element from sixteen random bits.
template <class C>
GRAPHKIT_INLINE void factors_of(const int16_t *__restrict words, int threshold, C scale,
                                int64_t count, C *__restrict factors) {
  const int16_t least = int16_t(threshold);
#pragma GCC ivdep
  for (int64_t f = 0; f < count; ++f) factors[f] = words[f] >= least ? scale : C(0);
}

// A product, so that infinities and NaN are not hidden by what is dropped; a NaN passes ReLU.
template <class C, bool drop, bool relu>
GRAPHKIT_INLINE void drop_and_rectify(const C *__restrict z, const C *__restrict factors,
                                      int64_t count, C *__restrict y, uint8_t *__restrict passes) {
#pragma GCC ivdep
  for (int64_t f = 0; f < count; ++f) {
    const C value = drop ? z[f] * factors[f] : z[f];
    y[f] = relu && value <= C(0) ? C(0) : value;
  }
  if (!passes) return;
#pragma GCC ivdep
  for (int64_t f = 0; f < count; ++f)
    passes[f] = uint8_t(!(relu && z[f] <= C(0))) & uint8_t(!drop || factors[f] != C(0));
}

// As in torch, what ReLU stops is zero whatever the gradient is; what dropout stops is a product.
template <class C>
GRAPHKIT_INLINE void pass_gradient(const C *__restrict grad, const uint8_t *__restrict passes,
                                   C scale, bool relu, int64_t count, C *__restrict to) {
  if (relu) {
#pragma GCC ivdep
    for (int64_t f = 0; f < count; ++f) to[f] = passes[f] ? grad[f] * scale : C(0);
  } else {
#pragma GCC ivdep
    for (int64_t f = 0; f < count; ++f) to[f] = grad[f] * (passes[f] ? scale : C(0));
  }
}

template <class C>
GRAPHKIT_INLINE C sum_of_lanes(const Vec<C> &v) {
  C total = C(0);
  for (int64_t l = 0; l < vec_lanes<C>; ++l) total += v[l];
  return total;
}

// Sums over a row of what `term(several, f)` gives: registers first, then what is left over.
template <class C, class Term>
GRAPHKIT_INLINE C row_sum(int64_t width, Term term) {
  Vec<C> sums = Vec<C>{};
  C rest = C(0);
  over_features<C>(width, [&](auto several, int64_t f) GRAPHKIT_LAMBDA_INLINE {
    if constexpr (decltype(several)::size == 1) rest += term(several, f);
    else sums += term(several, f);
  });
  return sum_of_lanes<C>(sums) + rest;
}

template <class C>
class LayerNormForwardKernel {
 public:
  explicit LayerNormForwardKernel(const LayerNormForward &a)
      : a_(a), x_(static_cast<const C *>(a.x)), weight_(static_cast<const C *>(a.weight)),
        bias_(static_cast<const C *>(a.bias)), out_(static_cast<C *>(a.out)),
        stats_(static_cast<C *>(a.stats)), words_(static_cast<const int16_t *>(a.words)),
        passes_(static_cast<uint8_t *>(a.passes)) {}

  void run() {
    if (words_) a_.relu ? rows<true, true>() : rows<true, false>();
    else a_.relu ? rows<false, true>() : rows<false, false>();
  }

 private:
  template <bool drop, bool relu>
  void rows() {
    const int threads = threads_for(a_.num_rows * a_.width, a_.threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<C> z(size_t(a_.width)), factors(size_t(a_.width));
#pragma omp for schedule(static)
      for (int64_t i = 0; i < a_.num_rows; ++i) {
        const int64_t at = i * a_.width;
        normalise(x_ + i * a_.ldx, stats_ + 2 * i, z.data());
        if (drop) factors_of(words_ + at, a_.threshold, C(a_.scale), a_.width, factors.data());
        drop_and_rectify<C, drop, relu>(z.data(), factors.data(), a_.width, out_ + at,
                                        passes_ ? passes_ + at : nullptr);
      }
    }
  }

  GRAPHKIT_INLINE void normalise(const C *x, C *stats, C *__restrict z) const {
    const int64_t n = a_.width;
    const C first = row_sum<C>(n, [&](auto s, int64_t f) GRAPHKIT_LAMBDA_INLINE {
      return values_at<decltype(s)>(x + f);
    }) / C(n);
    // Around a mean that is a little off; what it is off by is known afterwards.
    const C off = row_sum<C>(n, [&](auto s, int64_t f) GRAPHKIT_LAMBDA_INLINE {
      return values_at<decltype(s)>(x + f) - first;
    }) / C(n);
    const C mean = first + off;
    const C squares = row_sum<C>(n, [&](auto s, int64_t f) GRAPHKIT_LAMBDA_INLINE {
      const auto d = values_at<decltype(s)>(x + f) - mean;
      return d * d;
    });
    const C inverse = C(1.0 / std::sqrt(double(squares) / double(n) + a_.eps));
    stats[0] = mean;
    stats[1] = inverse;
    const C *__restrict from = x;
    const C *__restrict weight = weight_;
    const C *__restrict bias = bias_;
    if (weight && bias) {
#pragma GCC ivdep
      for (int64_t f = 0; f < n; ++f) z[f] = (from[f] - mean) * inverse * weight[f] + bias[f];
      return;
    }
    for (int64_t f = 0; f < n; ++f)
      z[f] = (from[f] - mean) * inverse * (weight ? weight[f] : C(1)) + (bias ? bias[f] : C(0));
  }

  const LayerNormForward &a_;
  const C *x_, *weight_, *bias_;
  C *out_, *stats_;
  const int16_t *words_;
  uint8_t *passes_;
};

// With h = weight g' of the gradient that passes: grad_x = inverse (h - mean(h) - xhat mean(h xhat)).
template <class C>
class LayerNormBackwardKernel {
 public:
  explicit LayerNormBackwardKernel(const LayerNormBackward &a)
      : a_(a), x_(static_cast<const C *>(a.x)), weight_(static_cast<const C *>(a.weight)),
        stats_(static_cast<const C *>(a.stats)), grad_(static_cast<const C *>(a.grad)),
        passes_(static_cast<const uint8_t *>(a.passes)), grad_x_(static_cast<C *>(a.grad_x)),
        chunks_((a.num_rows + layer_norm_rows - 1) / layer_norm_rows) {}

  void run() {
    const int threads = threads_for(a_.num_rows * a_.width * 2, a_.threads);
    const int64_t n = a_.width;
    std::vector<C> sums(size_t(2 * chunks_ * n), C(0));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<C> passed(static_cast<size_t>(n)), xhat(static_cast<size_t>(n));
#pragma omp for schedule(static)
      for (int64_t c = 0; c < chunks_; ++c)
        for (int64_t i = c * layer_norm_rows; i < std::min((c + 1) * layer_norm_rows, a_.num_rows); ++i)
          row(i, passed.data(), xhat.data(), sums.data() + 2 * c * n);
    }
    C *const to_weight = static_cast<C *>(a_.grad_weight), *const to_bias = static_cast<C *>(a_.grad_bias);
    std::vector<double> totals(size_t(2 * n), 0.0);
    for (int64_t c = 0; c < chunks_; ++c)
      for (int64_t f = 0; f < 2 * n; ++f) totals[size_t(f)] += double(sums[size_t(2 * c * n + f)]);
    for (int64_t f = 0; f < n; ++f) {
      to_weight[f] = C(totals[size_t(f)]);
      to_bias[f] = C(totals[size_t(n + f)]);
    }
  }

 private:
  GRAPHKIT_INLINE void row(int64_t i, C *__restrict passed, C *__restrict xhat,
                           C *__restrict sums) const {
    const int64_t n = a_.width;
    const C *__restrict x = x_ + i * a_.ldx;
    const C *__restrict g = grad_ + i * a_.ldg;
    const C mean = stats_[2 * i], inverse = stats_[2 * i + 1], scale = C(a_.scale);
    if (passes_) pass_gradient<C>(g, passes_ + i * n, scale, a_.relu, n, passed);
    else std::copy_n(g, n, passed);
    C *__restrict to_bias = sums + n;
#pragma GCC ivdep
    for (int64_t f = 0; f < n; ++f) {
      xhat[f] = (x[f] - mean) * inverse;
      sums[f] += passed[f] * xhat[f];
      to_bias[f] += passed[f];
    }
    if (!grad_x_) return;
    if (const C *__restrict weight = weight_) {
#pragma GCC ivdep
      for (int64_t f = 0; f < n; ++f) passed[f] *= weight[f];
    }
    const C sum = row_sum<C>(n, [&](auto s, int64_t f) GRAPHKIT_LAMBDA_INLINE {
      return values_at<decltype(s)>(passed + f);
    }) / C(n);
    const C slope = row_sum<C>(n, [&](auto s, int64_t f) GRAPHKIT_LAMBDA_INLINE {
      return values_at<decltype(s)>(passed + f) * values_at<decltype(s)>(xhat + f);
    }) / C(n);
    C *__restrict to = grad_x_ + i * n;
#pragma GCC ivdep
    for (int64_t f = 0; f < n; ++f) to[f] = inverse * (passed[f] - sum - xhat[f] * slope);
  }

  const LayerNormBackward &a_;
  const C *x_, *weight_, *stats_, *grad_;
  const uint8_t *passes_;
  C *grad_x_;
  int64_t chunks_;
};

// Dropout and ReLU alone: elements one after the other.
template <class C>
class DropKernel {
 public:
  explicit DropKernel(const Drop &a) : a_(a) {}

  void forward() {
    if (a_.words) a_.relu ? forward_with<true, true>() : forward_with<true, false>();
    else a_.relu ? forward_with<false, true>() : forward_with<false, false>();
  }

  void backward() {
    const C scale = C(a_.scale);
    pieces([&](int64_t begin, int64_t count) {
      pass_gradient<C>(static_cast<const C *>(a_.x) + begin,
                       static_cast<const uint8_t *>(a_.passes) + begin, scale, a_.relu, count,
                       static_cast<C *>(a_.out) + begin);
    });
  }

 private:
  template <bool drop, bool relu>
  void forward_with() {
    pieces([&](int64_t begin, int64_t count) {
      C factors[dropped_at_once];
      if (drop)
        factors_of(static_cast<const int16_t *>(a_.words) + begin, a_.threshold, C(a_.scale), count,
                   factors);
      drop_and_rectify<C, drop, relu>(
          static_cast<const C *>(a_.x) + begin, factors, count, static_cast<C *>(a_.out) + begin,
          a_.passes ? static_cast<uint8_t *>(a_.passes) + begin : nullptr);
    });
  }

  template <class Piece>
  void pieces(Piece piece) {
    const int threads = threads_for(a_.count, a_.threads);
    const int64_t count = (a_.count + dropped_at_once - 1) / dropped_at_once;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t p = 0; p < count; ++p)
      piece(p * dropped_at_once, std::min(dropped_at_once, a_.count - p * dropped_at_once));
  }

  const Drop &a_;
};

}  // namespace
}  // namespace graphkit
