// The Python face of topological levels and propagation along them.
#include <nanobind/nanobind.h>

#include "binding.h"
#include "levels.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

std::tuple<int64_t, int64_t> levels(GraphTuple graph, GraphTuple transposed, Address level,
                                    Address order, Address ptr) {
  const TopologicalLevels a{graph_of(graph), graph_of(transposed), at<int64_t>(level),
                            at<int64_t>(order), at<int64_t>(ptr)};
  if (a.graph.index_bits != a.transposed.index_bits || a.graph.num_rows != a.graph.num_cols ||
      a.transposed.num_rows != a.graph.num_rows)
    throw nb::value_error("wanted a square graph and its transpose");
  Cycle cycle;
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = topological_levels(a, cycle);
  }
  check(fault);
  return {cycle.node, cycle.count};
}

// dtype, message, reduce, width, wide
using Options = std::tuple<int, int, int, int64_t, bool>;

void check_options(const Options &o) {
  const Message message = Message(std::get<1>(o));
  const Reduce reduce = Reduce(std::get<2>(o));
  if (Dtype(std::get<0>(o)) != Dtype::f32 && Dtype(std::get<0>(o)) != Dtype::f64)
    throw nb::value_error("dtype: wanted float32 or float64");
  if (message != Message::copy && message != Message::scale && message != Message::add)
    throw nb::value_error("message: wanted copy, scale or add");
  if (reduce == Reduce::var || reduce == Reduce::std)
    throw nb::value_error("reduce: wanted sum, mean, min or max");
}

void forward(GraphTuple graph, Options o, Address x, Address edge, Address order, Address ptr,
             Address out, Address winner, int threads) {
  check_options(o);
  const LevelForward a{graph_of(graph), Dtype(std::get<0>(o)), Message(std::get<1>(o)),
                       Reduce(std::get<2>(o)), std::get<3>(o), std::get<4>(o), at(x), at(edge),
                       at<int64_t>(order), at<int64_t>(ptr), at(out), at(winner), threads};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = level_forward(a);
  }
  check(fault);
}

void backward(GraphTuple transposed, Options o, Address edge, Address out, Address grad,
              Address winner, Address rowptr, Address order, Address ptr, Address grad_x,
              Address grad_edge, int threads) {
  check_options(o);
  const LevelBackward a{graph_of(transposed), Dtype(std::get<0>(o)), Message(std::get<1>(o)),
                        Reduce(std::get<2>(o)), std::get<3>(o), std::get<4>(o), at(edge), at(out),
                        at(grad), at(winner), at(rowptr), at<int64_t>(order), at<int64_t>(ptr),
                        at(grad_x), at(grad_edge), threads};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = level_backward(a);
  }
  check(fault);
}

}  // namespace

void bind_levels(nb::module_ &m) {
  m.def("topological_levels", &levels);
  m.def("level_forward", &forward);
  m.def("level_backward", &backward);
}

}  // namespace graphkit
