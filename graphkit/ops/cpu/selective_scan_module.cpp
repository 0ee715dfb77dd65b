// The Python face of the selective scan. Tensors arrive as addresses, as in module.cpp; the offsets
// of the sequences are checked by the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>

#include "binding.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

// dtype, width of ptr, steps, sequences, channels, states, reverse, softplus, zero-order hold
using Options = std::tuple<int, int, int64_t, int64_t, int64_t, int64_t, bool, bool, bool>;
// u, delta, B, C, z with the distances between their rows; A, D, bias, initial, ptr
using Inputs = std::tuple<Address, Address, Address, Address, Address, int64_t, int64_t, int64_t,
                          int64_t, int64_t, Address, Address, Address, Address, Address>;

SelectiveScan scan_of(const Options &o, const Inputs &in, Address out, Address last,
                      Address starts, int threads) {
  SelectiveScan a{};
  std::tie(std::ignore, a.ptr_bits, a.steps, a.sequences, a.channels, a.states, a.reverse,
           a.softplus, a.zoh) = o;
  a.dtype = Dtype(std::get<0>(o));
  a.u = at(std::get<0>(in));
  a.delta = at(std::get<1>(in));
  a.B = at(std::get<2>(in));
  a.C = at(std::get<3>(in));
  a.z = at(std::get<4>(in));
  a.ldu = std::get<5>(in);
  a.ldd = std::get<6>(in);
  a.ldb = std::get<7>(in);
  a.ldc = std::get<8>(in);
  a.ldz = std::get<9>(in);
  a.A = at(std::get<10>(in));
  a.D = at(std::get<11>(in));
  a.bias = at(std::get<12>(in));
  a.initial = at(std::get<13>(in));
  a.ptr = at(std::get<14>(in));
  a.out = at(out);
  a.last = at(last);
  a.starts = at(starts);
  a.threads = threads;
  return a;
}

void check(const Fault &fault, const SelectiveScan &a) {
  if (fault.kind == Fault::none) return;
  throw nb::value_error(("seq_ptr: offset " + std::to_string(fault.value) + " at position " +
                         std::to_string(fault.position) + ", wanted offsets that start at 0, do "
                         "not decrease and end at " + std::to_string(a.steps)).c_str());
}

void forward(Options options, Inputs inputs, Address out, Address last, Address starts,
             int threads) {
  const SelectiveScan a = scan_of(options, inputs, out, last, starts, threads);
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active_kernels().selective_scan_forward(a);
  }
  check(fault, a);
}

// Of u, delta, z, A, B, C, D, bias, initial.
using Gradients = std::tuple<Address, Address, Address, Address, Address, Address, Address, Address,
                             Address>;

void backward(Options options, Inputs inputs, Address starts, Address grad, int64_t ldg,
              Address grad_last, Gradients grads, int threads) {
  const SelectiveScanBackward b{
      scan_of(options, inputs, 0, 0, starts, threads), at(grad), ldg, at(grad_last),
      at(std::get<0>(grads)), at(std::get<1>(grads)), at(std::get<2>(grads)),
      at(std::get<3>(grads)), at(std::get<4>(grads)), at(std::get<5>(grads)),
      at(std::get<6>(grads)), at(std::get<7>(grads)), at(std::get<8>(grads))};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active_kernels().selective_scan_backward(b);
  }
  check(fault, b.scan);
}

}  // namespace

void bind_selective_scan(nb::module_ &m) {
  m.attr("SCAN_CHUNK") = scan_chunk;
  m.def("selective_scan_forward", &forward);
  m.def("selective_scan_backward", &backward);
}

}  // namespace graphkit
