// Compiled once per ISA: GRAPHKIT_ISA names the table that module.cpp chooses from at run time.
#include "attention_backward.h"
#include "attention_forward.h"
#include "batch_norm.h"
#include "intersect_find.h"
#include "isa_name.h"
#include "layer_norm.h"
#include "linear.h"
#include "sampled_logistic_sweep.h"
#include "selective_scan_backward.h"

namespace graphkit {

// neighbour_kernels.cpp
Fault GRAPHKIT_NAME(run_aggregate_forward)(const AggregateForward &);
void GRAPHKIT_NAME(run_aggregate_moments)(const AggregateMoments &);
Fault GRAPHKIT_NAME(run_aggregate_backward)(const AggregateBackward &);
Fault GRAPHKIT_NAME(run_aggregate_winners)(const AggregateWinners &);
Fault GRAPHKIT_NAME(run_gated_forward)(const GatedForward &);
Fault GRAPHKIT_NAME(run_gated_backward_destination)(const GatedBackward &);
Fault GRAPHKIT_NAME(run_gated_backward_source)(const GatedBackward &);

namespace {

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

void run_layer_norm_forward(const LayerNormForward &a) {
  with_compute(a.dtype, [&](auto c) { LayerNormForwardKernel<decltype(c)>(a).run(); });
}

void run_layer_norm_backward(const LayerNormBackward &a) {
  with_compute(a.dtype, [&](auto c) { LayerNormBackwardKernel<decltype(c)>(a).run(); });
}

void run_drop_forward(const Drop &a) {
  with_compute(a.dtype, [&](auto c) { DropKernel<decltype(c)>(a).forward(); });
}

void run_drop_backward(const Drop &a) {
  with_compute(a.dtype, [&](auto c) { DropKernel<decltype(c)>(a).backward(); });
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

extern const Kernels GRAPHKIT_NAME(kernels);
const Kernels GRAPHKIT_NAME(kernels) = {
    GRAPHKIT_TEXT(GRAPHKIT_ISA),
    GRAPHKIT_NAME(run_aggregate_forward),
    GRAPHKIT_NAME(run_aggregate_moments),
    GRAPHKIT_NAME(run_aggregate_backward),
    GRAPHKIT_NAME(run_aggregate_winners),
    GRAPHKIT_NAME(run_gated_forward),
    GRAPHKIT_NAME(run_gated_backward_destination),
    GRAPHKIT_NAME(run_gated_backward_source),
    run_attention_forward,
    run_attention_backward_destination,
    run_attention_backward_source,
    run_batch_norm_forward,
    run_batch_norm_backward,
    run_layer_norm_forward,
    run_layer_norm_backward,
    run_drop_forward,
    run_drop_backward,
    panel_width<float>,
    run_dense_map,
    run_dense_gradient,
    run_selective_scan_forward,
    run_selective_scan_backward,
    run_sampled_logistic,
    run_intersect_rows,
};

}  // namespace graphkit
