// Sums over neighbours: compiled once per ISA beside kernels.cpp, whose table names them.
#include "aggregate_backward.h"
#include "aggregate_forward.h"
#include "aggregate_sum.h"
#include "gated.h"
#include "isa_name.h"

namespace graphkit {

Fault GRAPHKIT_NAME(run_aggregate_forward)(const AggregateForward &a) {
  return with_compute(a.dtype, [&](auto c) {
    using C = decltype(c);
    return SumKernel<C>::serves(a) ? SumKernel<C>(a).run() : AggregateForwardKernel<C>(a).run();
  });
}

void GRAPHKIT_NAME(run_aggregate_moments)(const AggregateMoments &a) {
  with_compute(a.dtype, [&](auto c) { aggregate_moments<decltype(c)>(a); });
}

Fault GRAPHKIT_NAME(run_aggregate_backward)(const AggregateBackward &a) {
  return with_compute(a.dtype, [&](auto c) { return AggregateBackwardKernel<decltype(c)>(a).run(); });
}

Fault GRAPHKIT_NAME(run_aggregate_winners)(const AggregateWinners &a) {
  return with_compute(a.dtype, [&](auto c) { return AggregateWinnersKernel<decltype(c)>(a).run(); });
}

Fault GRAPHKIT_NAME(run_gated_forward)(const GatedForward &a) {
  return with_compute(a.dtype, [&](auto c) { return gated_forward<decltype(c)>(a); });
}

Fault GRAPHKIT_NAME(run_gated_backward_destination)(const GatedBackward &a) {
  return with_compute(a.dtype, [&](auto c) { return GatedBackwardKernel<decltype(c)>(a).destination(); });
}

Fault GRAPHKIT_NAME(run_gated_backward_source)(const GatedBackward &a) {
  return with_compute(a.dtype, [&](auto c) { return GatedBackwardKernel<decltype(c)>(a).source(); });
}

}  // namespace graphkit
