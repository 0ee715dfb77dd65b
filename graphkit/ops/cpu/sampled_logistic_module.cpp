// The Python face of the sampled logistic loss. Tensors arrive as addresses, as in module.cpp; ids
// are checked by the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <string>
#include <tuple>

#include "binding.h"
#include "sampled_logistic.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

// dtype, widths of ids and of neighbours; users, items, width; pairs, negatives, neighbours
using Sizes = std::tuple<int, int, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
// user, item and the distances between their rows; users, items, negatives, ldn; the two betas;
// neighbours and their weights
using Inputs = std::tuple<Address, Address, int64_t, int64_t, Address, Address, Address, int64_t,
                          Address, Address, Address, Address>;

void check(const Fault &fault, const SampledLogistic &a) {
  if (fault.kind == Fault::none) return;
  const char *const names[] = {"users", "items", "negatives", "neighbours"};
  const int64_t limit = fault.kind == Fault::user ? a.num_users : a.num_items;
  throw std::out_of_range(std::string(names[fault.kind - Fault::user]) + ": id " +
                          std::to_string(fault.value) + " at position " +
                          std::to_string(fault.position) + ", wanted 0.." +
                          std::to_string(limit - 1));
}

double sampled_logistic(Sizes sizes, Inputs in, std::array<double, 7> factors, Address grad_user,
                        Address grad_item, int threads) {
  SampledLogistic a{};
  a.dtype = Dtype(std::get<0>(sizes));
  std::tie(std::ignore, a.id_bits, a.neighbour_bits, a.num_users, a.num_items, a.width, a.pairs,
           a.num_negatives, a.num_neighbours) = sizes;
  a.user = at(std::get<0>(in));
  a.item = at(std::get<1>(in));
  a.ldu = std::get<2>(in);
  a.ldi = std::get<3>(in);
  a.users = at(std::get<4>(in));
  a.items = at(std::get<5>(in));
  a.negatives = at(std::get<6>(in));
  a.ldn = std::get<7>(in);
  a.beta_user = at(std::get<8>(in));
  a.beta_item = at(std::get<9>(in));
  a.neighbours = at(std::get<10>(in));
  a.neighbour_weights = at(std::get<11>(in));
  for (int i = 0; i < 4; ++i) a.weights[i] = factors[size_t(i)];
  a.negative_weight = factors[4];
  a.neighbour_scale = factors[5];
  a.decay = factors[6];
  double loss = 0;
  a.loss = &loss;
  a.grad_user = at(grad_user);
  a.grad_item = at(grad_item);
  a.threads = threads;
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active_kernels().sampled_logistic(a);
  }
  check(fault, a);
  return loss;
}

}  // namespace

void bind_sampled_logistic(nb::module_ &m) { m.def("sampled_logistic", &sampled_logistic); }

}  // namespace graphkit
