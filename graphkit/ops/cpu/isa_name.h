// What every file that is compiled once per ISA needs: names that differ, and the type to compute in.
#pragma once
#include "kernels.h"

#define GRAPHKIT_JOIN_(a, b) a##_##b
#define GRAPHKIT_JOIN(a, b) GRAPHKIT_JOIN_(a, b)
#define GRAPHKIT_NAME(name) GRAPHKIT_JOIN(name, GRAPHKIT_ISA)
#define GRAPHKIT_TEXT_(a) #a
#define GRAPHKIT_TEXT(a) GRAPHKIT_TEXT_(a)

namespace graphkit {
namespace {

// Half types compute in float; features.h widens their rows.
template <class F>
auto with_compute(Dtype dtype, F f) {
  return dtype == Dtype::f64 ? f(double{}) : f(float{});
}

}  // namespace
}  // namespace graphkit
