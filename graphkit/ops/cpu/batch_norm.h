// BatchNorm over the rows of a matrix in training, with the ReLU that usually follows it.
// Forward: y = relu?((x - mean) * (inverse * weight) + bias). Backward recomputes xhat and the sign
// of y from x and the statistics, so nothing of x's size is kept between the two.
//
// The matrix is cut into tiles whose shape does not depend on the number of threads. Each leaves
// sums per column in the type of x; they are combined tile after tile in double.
#pragma once
#include <cmath>

#include "parallel.h"

namespace graphkit {
namespace {

constexpr int64_t tile_rows = 256;
constexpr int64_t tile_cols = 512;  // at most, where rows alone are too few to share out
constexpr int64_t enough_chunks = 16;

struct Tile {
  Range rows, cols;
  int64_t chunk;
};

class Tiles {
 public:
  Tiles(int64_t rows, int64_t width)
      : chunks((rows + tile_rows - 1) / tile_rows), blocks((width + tile_cols - 1) / tile_cols),
        rows_(rows), width_(width), block_width_(((width + blocks - 1) / blocks + 15) / 16 * 16),
        across_(chunks < enough_chunks ? blocks : 1) {}

  int64_t count() const { return chunks * across_; }
  // Whole rows are read faster than parts of rows. The second sweep goes backwards: what the
  // first one read last is still in the cache.
  Tile operator[](int64_t t) const {
    const int64_t chunk = t / across_;
    return {rows(chunk), across_ == 1 ? Range{0, width_} : cols(t % across_), chunk};
  }
  Tile from_end(int64_t t) const { return (*this)[across_ == 1 ? count() - 1 - t : t]; }

  Range rows(int64_t chunk) const {
    return {chunk * tile_rows, std::min((chunk + 1) * tile_rows, rows_)};
  }
  Range cols(int64_t block) const {
    return {std::min(block * block_width_, width_), std::min((block + 1) * block_width_, width_)};
  }

  const int64_t chunks, blocks;

 private:
  const int64_t rows_, width_, block_width_, across_;
};

// The comparison lets a NaN through, as torch's relu and its gradient do.
template <class C>
inline C zero_below(C z, C value) {
  return z <= C(0) ? C(0) : value;
}

// A float mean can be off by half a unit of its last place, which is many standard deviations of a
// column far from zero: `low` is what the rounding took away.
template <class C>
inline C centred(C x, C mean, C low) {
  if constexpr (sizeof(C) == 4) return (x - mean) - low;
  else return x - mean;
}

// Sums of d and d^2 with d the distance from the tile's first row. As that row is one of the n, the
// squares are at most n + 1 times those around the mean: their difference keeps its digits.
template <class C>
void tile_moments(const C *x, int64_t ld, int64_t rows, int64_t cols, C *__restrict sum,
                  C *__restrict square) {
  const C *__restrict first = x;
  std::fill(sum, sum + cols, C(0));
  std::fill(square, square + cols, C(0));
  int64_t i = 1;
  for (; i + 4 <= rows; i += 4) {
    const C *__restrict x0 = x + i * ld;
    const C *__restrict x1 = x0 + ld;
    const C *__restrict x2 = x1 + ld;
    const C *__restrict x3 = x2 + ld;
#pragma GCC ivdep
    for (int64_t f = 0; f < cols; ++f) {
      const C d0 = x0[f] - first[f], d1 = x1[f] - first[f];
      const C d2 = x2[f] - first[f], d3 = x3[f] - first[f];
      sum[f] += (d0 + d1) + (d2 + d3);
      square[f] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
    }
  }
  for (; i < rows; ++i) {
    const C *__restrict x0 = x + i * ld;
#pragma GCC ivdep
    for (int64_t f = 0; f < cols; ++f) {
      const C d = x0[f] - first[f];
      sum[f] += d;
      square[f] += d * d;
    }
  }
}

template <class C>
class BatchNormForwardKernel {
 public:
  explicit BatchNormForwardKernel(const BatchNormForward &a)
      : a_(a), n_(a.num_rows), width_(a.width), tiles_(n_, width_),
        x_(static_cast<const C *>(a.x)), weight_(static_cast<const C *>(a.weight)),
        bias_(static_cast<const C *>(a.bias)), out_(static_cast<C *>(a.out)),
        mean_(static_cast<C *>(a.stats)), low_(mean_ + width_), inverse_(low_ + width_),
        variance_(inverse_ + width_), sums_(size_t(2 * tiles_.chunks * width_)),
        factors_(size_t(2 * width_)) {}

  void run() {
    const int threads = threads_for(n_ * width_, a_.threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
      for (int64_t t = 0; t < tiles_.count(); ++t) {
        const Tile tile = tiles_[t];
        C *sum = sums_.data() + 2 * tile.chunk * width_ + tile.cols.begin;
        tile_moments(x_ + tile.rows.begin * a_.ldx + tile.cols.begin, a_.ldx, tile.rows.size(),
                     tile.cols.size(), sum, sum + width_);
      }
#pragma omp for schedule(static)
      for (int64_t b = 0; b < tiles_.blocks; ++b) combine(tiles_.cols(b));
#pragma omp for schedule(static)
      for (int64_t t = 0; t < tiles_.count(); ++t) {
        if (a_.relu) normalise<true>(tiles_.from_end(t));
        else normalise<false>(tiles_.from_end(t));
      }
    }
  }

 private:
  // Chan, Golub and LeVeque: mean and squares of two sets from those of each.
  void combine(Range cols) {
    double mean[tile_cols] = {}, squares[tile_cols] = {};
    const int64_t count = cols.size();
    for (int64_t c = 0; c < tiles_.chunks; ++c) {
      const Range rows = tiles_.rows(c);
      const double seen = double(rows.begin), size = double(rows.size());
      const double share = size / (seen + size), between = seen * share;
      const C *__restrict first = x_ + rows.begin * a_.ldx + cols.begin;
      const C *__restrict sum = sums_.data() + 2 * c * width_ + cols.begin;
      const C *__restrict square = sum + width_;
#pragma GCC ivdep
      for (int64_t f = 0; f < count; ++f) {
        const double centre = double(sum[f]) / size;
        const double delta = double(first[f]) + centre - mean[f];
        mean[f] += delta * share;
        squares[f] += (double(square[f]) - double(sum[f]) * centre) + delta * delta * between;
      }
    }
    for (int64_t f = 0; f < count; ++f) {
      const int64_t at = cols.begin + f;
      const double total = squares[f] < 0.0 ? 0.0 : squares[f];
      mean_[at] = C(mean[f]);
      low_[at] = C(mean[f] - double(mean_[at]));
      inverse_[at] = C(1.0 / std::sqrt(total / double(n_) + a_.eps));
      variance_[at] = C(total / double(n_ - 1));
      factors_[size_t(at)] = weight_ ? inverse_[at] * weight_[at] : inverse_[at];
      factors_[size_t(width_ + at)] = bias_ ? bias_[at] : C(0);
    }
  }

  template <bool relu>
  void normalise(const Tile &tile) {
    const int64_t begin = tile.cols.begin, count = tile.cols.size();
    const C *__restrict mean = mean_ + begin;
    const C *__restrict low = low_ + begin;
    const C *__restrict scale = factors_.data() + begin;
    const C *__restrict shift = scale + width_;
    for (int64_t i = tile.rows.begin; i < tile.rows.end; ++i) {
      const C *__restrict x = x_ + i * a_.ldx + begin;
      C *__restrict to = out_ + i * width_ + begin;
#pragma GCC ivdep
      for (int64_t f = 0; f < count; ++f) {
        const C z = centred(x[f], mean[f], low[f]) * scale[f] + shift[f];
        to[f] = relu ? zero_below(z, z) : z;
      }
    }
  }

  const BatchNormForward &a_;
  const int64_t n_, width_;
  const Tiles tiles_;
  const C *x_, *weight_, *bias_;
  C *out_, *mean_, *low_, *inverse_, *variance_;
  std::vector<C> sums_;     // [chunks, 2, width]
  std::vector<C> factors_;  // [2, width]: inverse * weight, bias
};

// With g' = g where y > 0: grad_x = weight inverse (g' - mean(g') - xhat mean(g' xhat)).
template <class C>
class BatchNormBackwardKernel {
 public:
  explicit BatchNormBackwardKernel(const BatchNormBackward &a)
      : a_(a), n_(a.num_rows), width_(a.width), tiles_(n_, width_),
        x_(static_cast<const C *>(a.x)), grad_(static_cast<const C *>(a.grad)),
        mean_(static_cast<const C *>(a.stats)), low_(mean_ + width_), inverse_(low_ + width_),
        grad_x_(static_cast<C *>(a.grad_x)), grad_weight_(static_cast<C *>(a.grad_weight)),
        grad_bias_(static_cast<C *>(a.grad_bias)), sums_(size_t(2 * tiles_.chunks * width_)),
        factors_(size_t(4 * width_)) {
    const C *weight = static_cast<const C *>(a.weight), *bias = static_cast<const C *>(a.bias);
    for (int64_t f = 0; f < width_; ++f) {
      factors_[size_t(f)] = weight ? inverse_[f] * weight[f] : inverse_[f];
      factors_[size_t(width_ + f)] = bias ? bias[f] : C(0);
    }
  }

  void run() {
    if (a_.relu) run_with<true>();
    else run_with<false>();
  }

 private:
  template <bool relu>
  void run_with() {
    const int threads = threads_for(n_ * width_ * 2, a_.threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
      for (int64_t t = 0; t < tiles_.count(); ++t) tile_sums<relu>(tiles_[t]);
#pragma omp for schedule(static)
      for (int64_t b = 0; b < tiles_.blocks; ++b) combine(tiles_.cols(b));
      if (grad_x_) {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles_.count(); ++t) gradient<relu>(tiles_.from_end(t));
      }
    }
  }

  // Sums of g' and g' (x - mean).
  template <bool relu>
  void tile_sums(const Tile &tile) {
    const int64_t begin = tile.cols.begin, count = tile.cols.size();
    const int64_t ldx = a_.ldx, ldg = a_.ldg;
    const C *__restrict mean = mean_ + begin;
    const C *__restrict low = low_ + begin;
    const C *__restrict scale = factors_.data() + begin;
    const C *__restrict shift = scale + width_;
    C *__restrict sum = sums_.data() + 2 * tile.chunk * width_ + begin;
    C *__restrict product = sum + width_;
    std::fill(sum, sum + count, C(0));
    std::fill(product, product + count, C(0));
    int64_t i = tile.rows.begin;
    for (; i + 2 <= tile.rows.end; i += 2) {
      const C *__restrict x0 = x_ + i * ldx + begin;
      const C *__restrict x1 = x0 + ldx;
      const C *__restrict g0 = grad_ + i * ldg + begin;
      const C *__restrict g1 = g0 + ldg;
#pragma GCC ivdep
      for (int64_t f = 0; f < count; ++f) {
        const C d0 = centred(x0[f], mean[f], low[f]), d1 = centred(x1[f], mean[f], low[f]);
        const C p0 = relu ? zero_below(d0 * scale[f] + shift[f], g0[f]) : g0[f];
        const C p1 = relu ? zero_below(d1 * scale[f] + shift[f], g1[f]) : g1[f];
        sum[f] += p0 + p1;
        product[f] += p0 * d0 + p1 * d1;
      }
    }
    for (; i < tile.rows.end; ++i) {
      const C *__restrict x0 = x_ + i * ldx + begin;
      const C *__restrict g0 = grad_ + i * ldg + begin;
#pragma GCC ivdep
      for (int64_t f = 0; f < count; ++f) {
        const C d0 = centred(x0[f], mean[f], low[f]);
        const C p0 = relu ? zero_below(d0 * scale[f] + shift[f], g0[f]) : g0[f];
        sum[f] += p0;
        product[f] += p0 * d0;
      }
    }
  }

  void combine(Range cols) {
    double sums[tile_cols] = {}, products[tile_cols] = {};
    const int64_t count = cols.size();
    for (int64_t c = 0; c < tiles_.chunks; ++c) {
      const C *__restrict sum = sums_.data() + 2 * c * width_ + cols.begin;
      const C *__restrict product = sum + width_;
#pragma GCC ivdep
      for (int64_t f = 0; f < count; ++f) {
        sums[f] += double(sum[f]);
        products[f] += double(product[f]);
      }
    }
    for (int64_t f = 0; f < count; ++f) {
      const int64_t at = cols.begin + f;
      const double inverse = double(inverse_[at]), with_xhat = products[f] * inverse;
      grad_bias_[at] = C(sums[f]);
      grad_weight_[at] = C(with_xhat);
      factors_[size_t(2 * width_ + at)] = C(sums[f] / double(n_));
      factors_[size_t(3 * width_ + at)] = C(with_xhat * inverse / double(n_));
    }
  }

  template <bool relu>
  void gradient(const Tile &tile) {
    const int64_t begin = tile.cols.begin, count = tile.cols.size();
    const C *__restrict mean = mean_ + begin;
    const C *__restrict low = low_ + begin;
    const C *__restrict scale = factors_.data() + begin;
    const C *__restrict shift = scale + width_;
    const C *__restrict mean_grad = shift + width_;
    const C *__restrict slope = mean_grad + width_;
    for (int64_t i = tile.rows.begin; i < tile.rows.end; ++i) {
      const C *__restrict x = x_ + i * a_.ldx + begin;
      const C *__restrict g = grad_ + i * a_.ldg + begin;
      C *__restrict to = grad_x_ + i * width_ + begin;
#pragma GCC ivdep
      for (int64_t f = 0; f < count; ++f) {
        const C d = centred(x[f], mean[f], low[f]);
        const C passed = relu ? zero_below(d * scale[f] + shift[f], g[f]) : g[f];
        to[f] = scale[f] * ((passed - mean_grad[f]) - d * slope[f]);
      }
    }
  }

  const BatchNormBackward &a_;
  const int64_t n_, width_;
  const Tiles tiles_;
  const C *x_, *grad_, *mean_, *low_, *inverse_;
  C *grad_x_, *grad_weight_, *grad_bias_;
  std::vector<C> sums_;     // [chunks, 2, width]
  std::vector<C> factors_;  // [4, width]: inverse * weight, bias, mean(g'), inverse mean(g' xhat)
};

}  // namespace
}  // namespace graphkit
