// The Python face of the dense maps. Tensors arrive as addresses, as in module.cpp.
#include <string>

#include "binding.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

void dense_map(int dtype, bool transposed, int64_t rows, int64_t in, int64_t out, Address x,
               int64_t ldx, Address weight, int64_t ldw, Address bias, Address y, int64_t ldy,
               int threads) {
  const DenseMap a{Dtype(dtype), transposed, rows, in, out, at(x), ldx, at(weight), ldw, at(bias),
                   at(y), ldy, threads};
  nb::gil_scoped_release release;
  active_kernels().dense_map(a);
}

void dense_gradient(int dtype, int64_t rows, int64_t in, int64_t out, Address x, int64_t ldx,
                    Address grad, int64_t ldg, Address grad_weight, Address grad_bias,
                    int threads) {
  const DenseGradient a{Dtype(dtype), rows, in, out, at(x), ldx, at(grad), ldg, at(grad_weight),
                        at(grad_bias), threads};
  nb::gil_scoped_release release;
  active_kernels().dense_gradient(a);
}

// Intel's library, which torch brings, is quick on Intel's processors; on AMD's it reaches half of
// what they can do with matrices of this form (measured on Zen 4: 100 against 185 GFLOP/s).
bool dense_is_faster() {
#if defined(__x86_64__) || defined(__i386__)
  return std::string(active_kernels().isa) != "baseline" && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

// Outputs that are computed together.
int64_t dense_panel(int dtype) { return active_kernels().dense_panel / (Dtype(dtype) == Dtype::f64 ? 2 : 1); }

}  // namespace

void bind_linear(nb::module_ &m) {
  m.def("dense_map", &dense_map);
  m.def("dense_gradient", &dense_gradient);
  m.def("dense_panel", &dense_panel);
  m.def("dense_is_faster", &dense_is_faster);
}

}  // namespace graphkit
