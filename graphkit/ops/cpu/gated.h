// GatedGCN's sweep: e_k = dst_i + src_j + edge_k, s_k = sigmoid(e_k),
// out_i = sum_k s_k value_j [/ (sum_k s_k + eps)]; e_k is written out for the next layer.
#pragma once
#include <cmath>

#include "exponential.h"
#include "sweep.h"

namespace graphkit {
namespace {

template <class C>
inline C sigmoid(C x) {
  // A NaN must stay a NaN: the clamp inside exponential would hide it.
  const C s = C(1) / (C(1) + exponential(-x));
  return x == x ? s : x;
}

// The same in the shape of a Register or of a Single.
template <class Several, class C>
GRAPHKIT_INLINE typename Several::values sigmoid_as(const typename Several::values &x) {
  if constexpr (Several::size == 1) return sigmoid<C>(x);
  else return sigmoid_of<C>(x);
}

// A whole cache line may be written past the caches.
template <class Several, class C>
GRAPHKIT_INLINE void write_past(C *to, const typename Several::values &v, bool past_caches) {
#if defined(__AVX512F__)
  if constexpr (Several::size > 1)
    if (past_caches) return _mm512_stream_si512(reinterpret_cast<__m512i *>(to), __m512i(v));
#endif
  (void)past_caches;
  values_at<Several>(to) = v;
}

// Entries whose sums stay in registers together.
constexpr int gated_group = 32;

template <class C>
Fault gated_forward(const GatedForward &a) {
  const Index col(a.graph.col, a.graph.index_bits), eid(a.graph.eid, a.graph.index_bits);
  const int64_t width = a.width;
  const auto table = [&](const void *base, int64_t ld, int64_t rows = 0) {
    return Features<C>(base, a.dtype, ld, width, rows);
  };
  const Features<C> gate_dst = table(a.gate_dst, a.ldd), gate_src = table(a.gate_src, a.lds);
  const Features<C> values = table(a.value, a.ldv), edges = table(a.edge, width);
  // Written over the rows just read, they are in the cache: past it is for other memory only.
  const bool over = a.edge_out == a.edge;
  const Features<C> edge_out = table(a.edge_out, width, over ? 0 : a.graph.num_entries);
  const Features<C> out = table(a.out, width);
  const Features<C> denominators = table(a.denominator, width);
  FaultFlag fault;
  const auto entries = [&](int64_t i, Range range, C *sums, C *scratch, int64_t) {
    const C *__restrict dst = gate_dst.read(i, scratch);
    C *__restrict numerator = sums;
    C *__restrict denominator = sums + width;
    const auto prefetch = [&](int64_t k) GRAPHKIT_LAMBDA_INLINE {
      if (k >= a.graph.num_entries) return;
      gate_src.prefetch(col[k]);
      values.prefetch(col[k]);
      if (edges) edges.prefetch(eid[k]);
    };
    if (values.direct()) {
      for (int64_t k = range.begin; k < range.end; k += gated_group) {
        const C *src[gated_group], *value[gated_group], *edge[gated_group];
        C *to[gated_group];
        const int count = int(std::min<int64_t>(gated_group, range.end - k));
        for (int n = 0; n < count; ++n) {
          prefetch(k + prefetch_distance + n);
          const int64_t j = col.checked(k + n, a.graph.num_cols, Fault::col, fault);
          const int64_t e = eid.checked(k + n, a.graph.num_edge_rows, Fault::eid, fault);
          if (j < 0 || e < 0) return;
          src[n] = gate_src.direct_row(j);
          value[n] = values.direct_row(j);
          edge[n] = edges ? edges.direct_row(e) : nullptr;
          to[n] = edges ? const_cast<C *>(edge_out.direct_row(e)) : nullptr;
        }
        const bool past_caches = edge_out.streamed();
        over_features<C>(width, [&](auto several, int64_t f) GRAPHKIT_LAMBDA_INLINE {
          using S = decltype(several);
          const auto at_dst = values_at<S>(dst + f);
          auto top = values_at<S>(numerator + f), bottom = values_at<S>(denominator + f);
          for (int n = 0; n < count; ++n) {
            auto gate = at_dst + values_at<S>(src[n] + f);
            if (edges) {
              gate += values_at<S>(edge[n] + f);
              write_past<S>(to[n] + f, gate, past_caches);
            }
            const auto s = sigmoid_as<S, C>(gate);
            top += s * values_at<S>(value[n] + f);
            bottom += s;
          }
          values_at<S>(numerator + f) = top;
          values_at<S>(denominator + f) = bottom;
        });
      }
      return;
    }
    for (int64_t k = range.begin; k < range.end; ++k) {
      prefetch(k + prefetch_distance);
      const int64_t j = col.checked(k, a.graph.num_cols, Fault::col, fault);
      const int64_t e = eid.checked(k, a.graph.num_edge_rows, Fault::eid, fault);
      if (j < 0 || e < 0) return;
      const C *__restrict src = gate_src.read(j, scratch + width);
      const C *__restrict value = values.read(j, scratch + 2 * width);
      if (edges) {
        const C *edge = edges.read(e, scratch + 3 * width);  // may be the same row as `to`
        C *to = edge_out.begin_write(e, scratch + 4 * width);
#pragma GCC ivdep
        for (int64_t f = 0; f < width; ++f) {
          const C gate = dst[f] + src[f] + edge[f];
          to[f] = gate;
          const C s = sigmoid(gate);
          numerator[f] += s * value[f];
          denominator[f] += s;
        }
        edge_out.commit(e, to);
      } else {
#pragma GCC ivdep
        for (int64_t f = 0; f < width; ++f) {
          const C s = sigmoid(dst[f] + src[f]);
          numerator[f] += s * value[f];
          denominator[f] += s;
        }
      }
    }
  };
  const auto finish = [&](int64_t i, const C *sums, C *scratch) {
    C *to = out.begin_write(i, scratch);
    for (int64_t f = 0; f < width; ++f)
      to[f] = a.normalize ? sums[f] / (sums[width + f] + C(a.eps)) : sums[f];
    out.commit(i, to);
    if (!denominators) return;
    to = denominators.begin_write(i, scratch);
    std::copy(sums + width, sums + 2 * width, to);
    denominators.commit(i, to);
  };
  return sweep<C>(a.graph, 4 * width, 2 * width, 10 * width, a.threads, fault, entries,
                  Added<C>{2 * width}, finish);
}

// With n_i = g_i / (den_i + eps) and d_i = -n_i out_i:  ds_k = n_i value_j + d_i,
// de_k = ge_k + ds_k s_k (1 - s_k). Without normalisation n_i = g_i and d_i = 0.
template <class C>
class GatedBackwardKernel {
 public:
  explicit GatedBackwardKernel(const GatedBackward &a)
      : a_(a), width_(a.width), col_(a.graph.col, a.graph.index_bits),
        eid_(a.graph.eid, a.graph.index_bits), gate_dst_(table(a.gate_dst, a.ldd)),
        gate_src_(table(a.gate_src, a.lds)), values_(table(a.value, a.ldv)),
        gates_(table(a.edge_out, width_)), outs_(table(a.out, width_)),
        denominators_(table(a.denominator, width_)), grads_(table(a.grad_out, width_)),
        outer_(table(a.grad_edge_out, width_)),
        grad_edge_(table(a.grad_edge, width_, a.graph.num_entries)),
        scaled_(table(a.scaled_grad, width_)) {}

  Fault destination() {
    const auto entries = [&](int64_t i, Range range, C *sums, C *scratch, int64_t) {
      if (range.begin == range.end) return;
      const C *__restrict dst = gate_dst_.read(i, scratch);
      C *__restrict n = row(scratch, 1);
      C *__restrict d = row(scratch, 2);
      factors(i, n, d, row(scratch, 3));
      if (values_.direct()) return destination_groups(range, dst, n, d, sums);
      for (int64_t k = range.begin; k < range.end; ++k) {
        prefetch(k + prefetch_distance);
        const int64_t j = col_.checked(k, a_.graph.num_cols, Fault::col, fault_);
        const int64_t e = eid_.checked(k, a_.graph.num_edge_rows, Fault::eid, fault_);
        if (j < 0 || e < 0) return;
        const C *__restrict value = values_.read(j, row(scratch, 3));
        if (!gates_) {
          const C *__restrict src = gate_src_.read(j, row(scratch, 4));
#pragma GCC ivdep
          for (int64_t f = 0; f < width_; ++f)
            sums[f] += through_gate(n[f] * value[f] + d[f], sigmoid(dst[f] + src[f]));
          continue;
        }
        const C *__restrict gate = gates_.read(e, row(scratch, 4));
        C *__restrict to = grad_edge_.begin_write(e, row(scratch, 6));
        if (outer_) {
          const C *__restrict outer = outer_.read(e, row(scratch, 5));
#pragma GCC ivdep
          for (int64_t f = 0; f < width_; ++f) {
            const C g = through_gate(n[f] * value[f] + d[f], sigmoid(gate[f])) + outer[f];
            to[f] = g;
            sums[f] += g;
          }
        } else {
#pragma GCC ivdep
          for (int64_t f = 0; f < width_; ++f) {
            const C g = through_gate(n[f] * value[f] + d[f], sigmoid(gate[f]));
            to[f] = g;
            sums[f] += g;
          }
        }
        grad_edge_.commit(e, to);
      }
    };
    const auto finish = [&](int64_t i, const C *sums, C *scratch) {
      write(a_.grad_dst, i, sums, scratch);
      if (!scaled_) return;
      C *n = scaled_.begin_write(i, row(scratch, 1));
      factors(i, n, nullptr, row(scratch, 3));
      scaled_.commit(i, n);
    };
    return sweep<C>(a_.graph, 4 * width_, width_, 10 * width_, a_.threads, fault_, entries,
                    Added<C>{width_}, finish);
  }

  Fault source() {
    const auto entries = [&](int64_t j, Range range, C *sums, C *scratch, int64_t) {
      if (range.begin == range.end) return;
      C *__restrict to_src = sums;
      C *__restrict to_value = sums + width_;
      const C *__restrict src = gate_src_.read(j, scratch);
      const C *__restrict value = values_.read(j, row(scratch, 1));
      C *__restrict n = row(scratch, 2);
      C *__restrict d = row(scratch, 3);
      if (values_.direct() && gates_) return source_groups(range, to_src, to_value);
      if (values_.direct() && !a_.normalize)
        return source_groups_without_edges(range, src, value, to_src, to_value);
      for (int64_t k = range.begin; k < range.end; ++k) {
        prefetch_of_source(k + prefetch_distance);
        const int64_t i = col_.checked(k, a_.graph.num_cols, Fault::col, fault_);
        const int64_t e = eid_.checked(k, a_.graph.num_edge_rows, Fault::eid, fault_);
        if (i < 0 || e < 0) return;
        if (gates_) {
          const C *__restrict scaled = (scaled_ ? scaled_ : grads_).read(i, n);
          const C *__restrict gate = gates_.read(e, row(scratch, 5));
          const C *__restrict de = grad_edge_.read(e, row(scratch, 6));
#pragma GCC ivdep
          for (int64_t f = 0; f < width_; ++f) {
            to_src[f] += de[f];
            to_value[f] += scaled[f] * sigmoid(gate[f]);
          }
        } else {
          factors(i, n, d, row(scratch, 4));
          const C *__restrict dst = gate_dst_.read(i, row(scratch, 5));
#pragma GCC ivdep
          for (int64_t f = 0; f < width_; ++f) {
            const C s = sigmoid(dst[f] + src[f]);
            to_src[f] += through_gate(n[f] * value[f] + d[f], s);
            to_value[f] += n[f] * s;
          }
        }
      }
    };
    const auto finish = [&](int64_t j, const C *sums, C *scratch) {
      write(a_.grad_src, j, sums, scratch);
      write(a_.grad_value, j, sums + width_, scratch);
    };
    return sweep<C>(a_.graph, 4 * width_, 2 * width_, 10 * width_, a_.threads, fault_, entries,
                    Added<C>{2 * width_}, finish);
  }

 private:
  Features<C> table(const void *base, int64_t ld, int64_t rows = 0) const {
    return Features<C>(base, a_.dtype, ld, a_.width, rows);
  }
  C *row(C *scratch, int64_t index) const { return scratch + index * width_; }
  static C through_gate(C ds, C s) { return ds * s * (C(1) - s); }

  GRAPHKIT_INLINE void prefetch(int64_t k) const {
    if (k >= a_.graph.num_entries) return;
    values_.prefetch(col_[k]);
    if (gates_) gates_.prefetch(eid_[k]);
    if (outer_) outer_.prefetch(eid_[k]);
  }

  GRAPHKIT_INLINE void prefetch_of_source(int64_t k) const {
    if (k >= a_.graph.num_entries) return;
    (scaled_ ? scaled_ : grads_).prefetch(col_[k]);
    if (gates_) gates_.prefetch(eid_[k]);
    else gate_dst_.prefetch(col_[k]);
    if (grad_edge_) grad_edge_.prefetch(eid_[k]);
  }

  // Entries of one row together, their sums in registers.
  void destination_groups(Range range, const C *dst, const C *scale, const C *shift, C *sums) {
    const bool past_caches = grad_edge_.streamed();
    for (int64_t k = range.begin; k < range.end; k += gated_group) {
      const C *value[gated_group], *gate[gated_group], *outer[gated_group];
      C *to[gated_group];
      const int count = int(std::min<int64_t>(gated_group, range.end - k));
      for (int n = 0; n < count; ++n) {
        prefetch(k + prefetch_distance + n);
        const int64_t j = col_.checked(k + n, a_.graph.num_cols, Fault::col, fault_);
        const int64_t e = eid_.checked(k + n, a_.graph.num_edge_rows, Fault::eid, fault_);
        if (j < 0 || e < 0) return;
        value[n] = values_.direct_row(j);
        gate[n] = gates_ ? gates_.direct_row(e) : gate_src_.direct_row(j);
        outer[n] = outer_ ? outer_.direct_row(e) : nullptr;
        to[n] = grad_edge_ ? const_cast<C *>(grad_edge_.direct_row(e)) : nullptr;
      }
      over_features<C>(width_, [&](auto several, int64_t f) GRAPHKIT_LAMBDA_INLINE {
        using S = decltype(several);
        const auto at_dst = values_at<S>(dst + f), at_scale = values_at<S>(scale + f);
        const auto at_shift = values_at<S>(shift + f);
        auto sum = values_at<S>(sums + f);
        for (int n = 0; n < count; ++n) {
          auto at_gate = values_at<S>(gate[n] + f);
          if (!gates_) at_gate += at_dst;
          const auto s = sigmoid_as<S, C>(at_gate);
          auto g = (at_scale * values_at<S>(value[n] + f) + at_shift) * s * (C(1) - s);
          if (outer_) g += values_at<S>(outer[n] + f);
          if (grad_edge_) write_past<S>(to[n] + f, g, past_caches);
          sum += g;
        }
        values_at<S>(sums + f) = sum;
      });
    }
  }

  void source_groups(Range range, C *to_src, C *to_value) {
    const Features<C> &grads = scaled_ ? scaled_ : grads_;
    for (int64_t k = range.begin; k < range.end; k += gated_group) {
      const C *scaled[gated_group], *gate[gated_group], *de[gated_group];
      const int count = int(std::min<int64_t>(gated_group, range.end - k));
      for (int n = 0; n < count; ++n) {
        prefetch_of_source(k + prefetch_distance + n);
        const int64_t i = col_.checked(k + n, a_.graph.num_cols, Fault::col, fault_);
        const int64_t e = eid_.checked(k + n, a_.graph.num_edge_rows, Fault::eid, fault_);
        if (i < 0 || e < 0) return;
        scaled[n] = grads.direct_row(i);
        gate[n] = gates_.direct_row(e);
        de[n] = grad_edge_.direct_row(e);
      }
      over_features<C>(width_, [&](auto several, int64_t f) GRAPHKIT_LAMBDA_INLINE {
        using S = decltype(several);
        auto src = values_at<S>(to_src + f), value = values_at<S>(to_value + f);
        for (int n = 0; n < count; ++n) {
          src += values_at<S>(de[n] + f);
          value += values_at<S>(scaled[n] + f) * sigmoid_as<S, C>(values_at<S>(gate[n] + f));
        }
        values_at<S>(to_src + f) = src;
        values_at<S>(to_value + f) = value;
      });
    }
  }

  // The same where no gate was kept; without normalisation only.
  void source_groups_without_edges(Range range, const C *src, const C *value, C *to_src,
                                   C *to_value) {
    for (int64_t k = range.begin; k < range.end; k += gated_group) {
      const C *dst[gated_group], *grad[gated_group];
      const int count = int(std::min<int64_t>(gated_group, range.end - k));
      for (int n = 0; n < count; ++n) {
        prefetch_of_source(k + prefetch_distance + n);
        const int64_t i = col_.checked(k + n, a_.graph.num_cols, Fault::col, fault_);
        if (i < 0) return;
        dst[n] = gate_dst_.direct_row(i);
        grad[n] = grads_.direct_row(i);
      }
      over_features<C>(width_, [&](auto several, int64_t f) GRAPHKIT_LAMBDA_INLINE {
        using S = decltype(several);
        const auto at_src = values_at<S>(src + f);
        auto through = values_at<S>(to_src + f), sum = values_at<S>(to_value + f);
        const auto at_value = values_at<S>(value + f);
        for (int n = 0; n < count; ++n) {
          const auto s = sigmoid_as<S, C>(values_at<S>(dst[n] + f) + at_src);
          const auto part = values_at<S>(grad[n] + f) * s;
          sum += part;
          through += part * at_value * (C(1) - s);
        }
        values_at<S>(to_src + f) = through;
        values_at<S>(to_value + f) = sum;
      });
    }
  }

  void factors(int64_t i, C *__restrict n, C *__restrict d, C *scratch) const {
    const C *g = grads_.read(i, n);
    if (!a_.normalize) {
      if (g != n) std::copy(g, g + width_, n);
      if (d) std::fill(d, d + width_, C(0));
      return;
    }
    const C *denominator = denominators_.read(i, scratch);
    const C eps = C(a_.eps);
#pragma GCC ivdep
    for (int64_t f = 0; f < width_; ++f) n[f] = g[f] / (denominator[f] + eps);
    if (!d) return;
    const C *out = outs_.read(i, scratch);
#pragma GCC ivdep
    for (int64_t f = 0; f < width_; ++f) d[f] = -n[f] * out[f];
  }

  void write(void *base, int64_t i, const C *from, C *scratch) const {
    const Features<C> to = table(base, width_);
    C *at = to.begin_write(i, scratch);
    std::copy(from, from + width_, at);
    to.commit(i, at);
  }

  const GatedBackward &a_;
  int64_t width_;
  Index col_, eid_;
  Features<C> gate_dst_, gate_src_, values_, gates_, outs_, denominators_, grads_, outer_, grad_edge_, scaled_;
  FaultFlag fault_;
};

}  // namespace
}  // namespace graphkit
