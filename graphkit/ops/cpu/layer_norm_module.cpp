// The Python face of LayerNorm, dropout and ReLU. Tensors arrive as addresses, as in module.cpp.
#include "binding.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

void check_real(int dtype) {
  if (Dtype(dtype) != Dtype::f32 && Dtype(dtype) != Dtype::f64)
    throw nb::value_error("dtype: wanted float32 or float64");
}

void layer_norm_forward(int dtype, bool relu, double eps, int64_t rows, int64_t width, Address x,
                        int64_t ldx, Address weight, Address bias, Address words, int threshold,
                        double scale, Address out, Address stats, Address passes, int threads) {
  check_real(dtype);
  const LayerNormForward a{Dtype(dtype), relu, eps, rows, width, at(x), ldx, at(weight), at(bias),
                           at(words), threshold, scale, at(out), at(stats), at(passes), threads};
  nb::gil_scoped_release release;
  active_kernels().layer_norm_forward(a);
}

void layer_norm_backward(int dtype, bool relu, int64_t rows, int64_t width, Address x, int64_t ldx,
                         Address weight, Address stats, Address passes, double scale, Address grad,
                         int64_t ldg, Address grad_x, Address grad_weight, Address grad_bias,
                         int threads) {
  check_real(dtype);
  const LayerNormBackward a{Dtype(dtype), relu, rows, width, at(x), ldx, at(weight), at(stats),
                            at(passes), scale, at(grad), ldg, at(grad_x), at(grad_weight),
                            at(grad_bias), threads};
  nb::gil_scoped_release release;
  active_kernels().layer_norm_backward(a);
}

void drop_forward(int dtype, bool relu, int64_t count, Address x, Address words, int threshold,
                  double scale, Address out, Address passes, int threads) {
  check_real(dtype);
  const Drop a{Dtype(dtype), relu, count, at(x), at(words), threshold, scale, at(out), at(passes),
               threads};
  nb::gil_scoped_release release;
  active_kernels().drop_forward(a);
}

void drop_backward(int dtype, bool relu, int64_t count, Address grad, Address passes, double scale,
                   Address grad_x, int threads) {
  check_real(dtype);
  const Drop a{Dtype(dtype), relu, count, at(grad), nullptr, 0, scale, at(grad_x), at(passes),
               threads};
  nb::gil_scoped_release release;
  active_kernels().drop_backward(a);
}

}  // namespace

void bind_layer_norm(nb::module_ &m) {
  m.def("layer_norm_forward", &layer_norm_forward);
  m.def("layer_norm_backward", &layer_norm_backward);
  m.def("drop_forward", &drop_forward);
  m.def("drop_backward", &drop_backward);
}

}  // namespace graphkit
