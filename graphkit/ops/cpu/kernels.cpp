// Compiled once per ISA: GRAPHKIT_ISA names the table that module.cpp chooses from at run time.
#include "aggregate_backward.h"
#include "aggregate_forward.h"
#include "aggregate_sum.h"
#include "attention_backward.h"
#include "attention_forward.h"
#include "batch_norm.h"
#include "gated.h"
#include "intersect_find.h"
#include "linear.h"
#include "sampled_logistic_sweep.h"
#include "selective_scan_backward.h"

namespace graphkit {
namespace {

// Half types compute in float; features.h widens their rows.
template <class F>
auto with_compute(Dtype dtype, F f) {
  return dtype == Dtype::f64 ? f(double{}) : f(float{});
}

Fault run_aggregate_forward(const AggregateForward &a) {
  return with_compute(a.dtype, [&](auto c) {
    using C = decltype(c);
    return SumKernel<C>::serves(a) ? SumKernel<C>(a).run() : AggregateForwardKernel<C>(a).run();
  });
}

void run_aggregate_moments(const AggregateMoments &a) {
  with_compute(a.dtype, [&](auto c) { aggregate_moments<decltype(c)>(a); });
}

Fault run_aggregate_backward(const AggregateBackward &a) {
  return with_compute(a.dtype, [&](auto c) { return AggregateBackwardKernel<decltype(c)>(a).run(); });
}

Fault run_aggregate_winners(const AggregateWinners &a) {
  return with_compute(a.dtype, [&](auto c) { return AggregateWinnersKernel<decltype(c)>(a).run(); });
}

Fault run_gated_forward(const GatedForward &a) {
  return with_compute(a.dtype, [&](auto c) { return gated_forward<decltype(c)>(a); });
}

Fault run_gated_backward_destination(const GatedBackward &a) {
  return with_compute(a.dtype, [&](auto c) { return GatedBackwardKernel<decltype(c)>(a).destination(); });
}

Fault run_gated_backward_source(const GatedBackward &a) {
  return with_compute(a.dtype, [&](auto c) { return GatedBackwardKernel<decltype(c)>(a).source(); });
}

Fault run_attention_forward(const Attention &a) {
  return with_compute(a.dtype, [&](auto c) {
    return with_score(a.score, [&](auto s) {
      return AttentionForwardKernel<decltype(c), s()>(a).run();
    });
  });
}

Fault run_attention_backward_destination(const AttentionBackward &b) {
  return with_compute(b.attention.dtype, [&](auto c) {
    return with_score(b.attention.score, [&](auto s) {
      return AttentionBackwardKernel<decltype(c), s()>(b).destination();
    });
  });
}

Fault run_attention_backward_source(const AttentionBackward &b) {
  return with_compute(b.attention.dtype, [&](auto c) {
    return with_score(b.attention.score, [&](auto s) {
      return AttentionBackwardKernel<decltype(c), s()>(b).source();
    });
  });
}

void run_batch_norm_forward(const BatchNormForward &a) {
  with_compute(a.dtype, [&](auto c) { BatchNormForwardKernel<decltype(c)>(a).run(); });
}

void run_batch_norm_backward(const BatchNormBackward &a) {
  with_compute(a.dtype, [&](auto c) { BatchNormBackwardKernel<decltype(c)>(a).run(); });
}

void run_dense_map(const DenseMap &a) {
  with_compute(a.dtype, [&](auto c) { DenseMapKernel<decltype(c)>(a).run(); });
}

void run_dense_gradient(const DenseGradient &a) {
  with_compute(a.dtype, [&](auto c) { DenseGradientKernel<decltype(c)>(a).run(); });
}

Fault run_selective_scan_forward(const SelectiveScan &a) {
  return with_compute(a.dtype, [&](auto c) { return SelectiveScanForwardKernel<decltype(c)>(a).run(); });
}

Fault run_selective_scan_backward(const SelectiveScanBackward &b) {
  return with_compute(b.scan.dtype, [&](auto c) {
    return SelectiveScanBackwardKernel<decltype(c)>(b).run();
  });
}

Fault run_sampled_logistic(const SampledLogistic &a) {
  return with_compute(a.dtype, [&](auto c) {
    using C = decltype(c);
    return a.id_bits == 32 ? SampledLogisticKernel<C, int32_t>(a).run()
                           : SampledLogisticKernel<C, int64_t>(a).run();
  });
}

std::unique_ptr<FoundEntries> run_intersect_rows(const IntersectRows &a, bool keep, bool keep_b) {
  if (a.a.index_bits == 32) return std::make_unique<Found<int32_t>>(a, keep, keep_b);
  return std::make_unique<Found<int64_t>>(a, keep, keep_b);
}

}  // namespace

#define GRAPHKIT_JOIN_(a, b) a##b
#define GRAPHKIT_JOIN(a, b) GRAPHKIT_JOIN_(a, b)
#define GRAPHKIT_TEXT_(a) #a
#define GRAPHKIT_TEXT(a) GRAPHKIT_TEXT_(a)

extern const Kernels GRAPHKIT_JOIN(kernels_, GRAPHKIT_ISA);
const Kernels GRAPHKIT_JOIN(kernels_, GRAPHKIT_ISA) = {
    GRAPHKIT_TEXT(GRAPHKIT_ISA),
    run_aggregate_forward,
    run_aggregate_moments,
    run_aggregate_backward,
    run_aggregate_winners,
    run_gated_forward,
    run_gated_backward_destination,
    run_gated_backward_source,
    run_attention_forward,
    run_attention_backward_destination,
    run_attention_backward_source,
    run_batch_norm_forward,
    run_batch_norm_backward,
    panel_width<float>,
    run_dense_map,
    run_dense_gradient,
    run_selective_scan_forward,
    run_selective_scan_backward,
    run_sampled_logistic,
    run_intersect_rows,
};

}  // namespace graphkit
