// Dense maps of many rows by small weights, y = x W^T + b, and their gradients. For matrices this
// tall and thin the BLAS that torch brings reaches half of the arithmetic of some processors
// (graphkit/ops/cpu/module.cpp says of which); here a tile of the output stays in registers.
#pragma once
#include <cstdlib>

#include "lanes.h"

namespace graphkit {
namespace {

// A product is `product_rows` rows by `product_registers` registers: with the row of weights and one value
// of x they fill the registers of the instruction set.
constexpr int product_rows = 6;
constexpr int product_registers = register_bytes == 64 ? 4 : 2;

template <class C>
constexpr int64_t panel_width = product_registers * Register<C>::size;

// Sums of products over k; the order of each value does not depend on the size of the tile.
template <class C, int Rows>
struct Product {
  using V = typename Register<C>::values;
  V sums[product_registers][Rows];

  GRAPHKIT_INLINE void zero() {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < product_registers; ++v) sums[v][r] = V{};
  }
  GRAPHKIT_INLINE void load(const C *from, int64_t ld) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < product_registers; ++v) sums[v][r] = at(from + r * ld, v);
  }
  GRAPHKIT_INLINE void store(C *to, int64_t ld) const {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < product_registers; ++v)
        *reinterpret_cast<V *>(to + r * ld + v * Register<C>::size) = sums[v][r];
  }
  // values[r * across + k * along] times the row of the panel at k.
  GRAPHKIT_INLINE void add(const C *__restrict values, int64_t across, int64_t along,
                           const C *__restrict panel, int64_t ldp, int64_t count) {
    for (int64_t k = 0; k < count; ++k) {
      V row[product_registers];
      for (int v = 0; v < product_registers; ++v) row[v] = at(panel + k * ldp, v);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const C value = values[r * across + k * along];
        for (int v = 0; v < product_registers; ++v) sums[v][r] += value * row[v];
      }
    }
  }

 private:
  GRAPHKIT_INLINE static const V &at(const C *from, int v) {
    return *reinterpret_cast<const V *>(from + v * Register<C>::size);
  }
};

// Panels of the weights: of each input one row of `panel_width` outputs, zeros past the last.
template <class C>
class Panels {
 public:
  explicit Panels(const DenseMap &a)
      : count_((a.out + panel_width<C> - 1) / panel_width<C>), in_(a.in),
        values_(size_t(count_ * a.in * panel_width<C>)) {
    const C *w = static_cast<const C *>(a.weight);
    for (int64_t n = 0; n < a.out; ++n)
      for (int64_t k = 0; k < a.in; ++k)
        values_[size_t((n / panel_width<C> * in_ + k) * panel_width<C> + n % panel_width<C>)] =
            a.transposed ? w[n * a.ldw + k] : w[k * a.ldw + n];
  }
  int64_t count() const { return count_; }
  const C *at(int64_t panel) const { return values_.data() + panel * in_ * panel_width<C>; }

 private:
  int64_t count_, in_;
  std::vector<C> values_;
};

template <class C>
class DenseMapKernel {
 public:
  explicit DenseMapKernel(const DenseMap &a)
      : a_(a), panels_(a), x_(static_cast<const C *>(a.x)), y_(static_cast<C *>(a.y)),
        bias_(size_t(panels_.count() * panel_width<C>), C(0)),
        streamed_(register_bytes == 64 && a.rows * a.ldy * int64_t(sizeof(C)) >= streamed_bytes &&
                  a.ldy * sizeof(C) % 64 == 0 && reinterpret_cast<uintptr_t>(a.y) % 64 == 0) {
    if (a.bias) std::copy_n(static_cast<const C *>(a.bias), a.out, bias_.begin());
  }

  void run() {
    const int threads = threads_for(a_.rows * a_.in * a_.out / 64, a_.threads);
    const int64_t blocks = (a_.rows + block_rows - 1) / block_rows;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(dynamic, 8)
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t end = std::min((b + 1) * block_rows, a_.rows);
        for (int64_t p = 0; p < panels_.count(); ++p) {
          int64_t i = b * block_rows;
          for (; i + product_rows <= end; i += product_rows) tile<product_rows>(i, p);
          for (; i < end; ++i) tile<1>(i, p);
        }
      }
      stream_fence();
    }
  }

 private:
  static constexpr int64_t block_rows = 8 * product_rows;  // of x, which stay in the caches for all panels

  template <int Rows>
  GRAPHKIT_INLINE void tile(int64_t i, int64_t p) const {
    constexpr int64_t width = panel_width<C>;
    Product<C, Rows> t;
    t.zero();
    t.add(x_ + i * a_.ldx, a_.ldx, 1, panels_.at(p), width, a_.in);
    using V = typename Register<C>::values;
    for (int v = 0; v < product_registers; ++v) {
      const V bias = *reinterpret_cast<const V *>(bias_.data() + p * width + v * Register<C>::size);
      for (int r = 0; r < Rows; ++r) t.sums[v][r] += bias;
    }
    C *to = y_ + i * a_.ldy + p * width;
    const int64_t columns = std::min(width, a_.out - p * width);
    if (columns < width) {
      C rows[Rows * width];
      t.store(rows, width);
      for (int r = 0; r < Rows; ++r) std::copy_n(rows + r * width, columns, to + r * a_.ldy);
      return;
    }
#if defined(__AVX512F__)
    if (streamed_) {
      for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < product_registers; ++v)
          _mm512_stream_si512(
              reinterpret_cast<__m512i *>(to + r * a_.ldy + v * Register<C>::size),
              __m512i(t.sums[v][r]));
      return;
    }
#endif
    t.store(to, a_.ldy);
  }

  const DenseMap &a_;
  Panels<C> panels_;
  const C *x_;
  C *y_;
  std::vector<C> bias_;
  bool streamed_;
};

// grad_weight[o, i] = sum_r grad[r, o] x[r, i], grad_bias[o] = sum_r grad[r, o]: partial sums of
// blocks of rows, which the sizes alone determine, are added up in order.
template <class C>
class DenseGradientKernel {
 public:
  explicit DenseGradientKernel(const DenseGradient &a)
      : a_(a), x_(static_cast<const C *>(a.x)), grad_(static_cast<const C *>(a.grad)),
        padded_((a.in + panel_width<C> - 1) / panel_width<C> * panel_width<C>) {}

  void run() {
    const int threads = threads_for(a_.rows * a_.in * a_.out / 64, a_.threads);
    const int64_t blocks = std::clamp<int64_t>(a_.rows / 512, 1, 64), size = a_.out * (padded_ + 1);
    std::vector<C> parts(size_t(blocks * size), C(0));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int64_t b = 0; b < blocks; ++b)
      accumulate(a_.rows * b / blocks, a_.rows * (b + 1) / blocks, parts.data() + b * size);
    C *const weight = static_cast<C *>(a_.grad_weight), *const bias = static_cast<C *>(a_.grad_bias);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t o = 0; o < a_.out; ++o) {
      C *total = parts.data() + o * padded_;
      for (int64_t b = 1; b < blocks; ++b)
        for (int64_t i = 0; i < a_.in; ++i) total[i] += parts[size_t(b * size + o * padded_ + i)];
      std::copy_n(total, a_.in, weight + o * a_.in);
      if (!bias) continue;
      bias[o] = 0;
      for (int64_t b = 0; b < blocks; ++b) bias[o] += parts[size_t(b * size + a_.out * padded_ + o)];
    }
  }

 private:
  static constexpr int64_t group_rows = 128;  // whose columns stay in the first-level cache

  void accumulate(int64_t begin, int64_t end, C *part) const {
    C *__restrict bias = part + a_.out * padded_;
    std::vector<C> copied;
    const int64_t whole = a_.in / panel_width<C> * panel_width<C>;
    for (int64_t r = begin; r < end; r += group_rows) {
      const int64_t count = std::min(group_rows, end - r);
      for (int64_t i = 0; i < whole; i += panel_width<C>)
        columns(r, count, x_ + r * a_.ldx + i, a_.ldx, part + i);
      if (whole < a_.in) {  // the last columns, with zeros behind them
        copied.assign(size_t(group_rows * panel_width<C>), C(0));
        for (int64_t n = 0; n < count; ++n)
          std::copy_n(x_ + (r + n) * a_.ldx + whole, a_.in - whole,
                      copied.data() + n * panel_width<C>);
        columns(r, count, copied.data(), panel_width<C>, part + whole);
      }
      if (!a_.grad_bias) continue;
      for (int64_t n = r; n < r + count; ++n)
        for (int64_t o = 0; o < a_.out; ++o) bias[o] += grad_[n * a_.ldg + o];
    }
  }

  void columns(int64_t r, int64_t count, const C *panel, int64_t ldp, C *part) const {
    int64_t o = 0;
    for (; o + product_rows <= a_.out; o += product_rows) tile<product_rows>(r, o, count, panel, ldp, part);
    for (; o + 2 <= a_.out; o += 2) tile<2>(r, o, count, panel, ldp, part);
    for (; o < a_.out; ++o) tile<1>(r, o, count, panel, ldp, part);
  }

  template <int Rows>
  GRAPHKIT_INLINE void tile(int64_t r, int64_t o, int64_t count, const C *panel, int64_t ldp,
                            C *part) const {
    Product<C, Rows> t;
    t.load(part + o * padded_, padded_);
    t.add(grad_ + r * a_.ldg + o, 1, a_.ldg, panel, ldp, count);
    t.store(part + o * padded_, padded_);
  }

  const DenseGradient &a_;
  const C *x_, *grad_;
  int64_t padded_;
};

}  // namespace
}  // namespace graphkit
