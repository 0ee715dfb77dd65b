// The Python face of walks and sampling. Tensors arrive as addresses, as in module.cpp; outputs whose
// size is not known beforehand leave as tensors that own their memory.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "binding.h"
#include "sampling.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

void check(const Fault &fault, const Graph &g) {
  if (fault.kind == Fault::none) return;
  const std::string value = std::to_string(fault.value);
  if (fault.kind == Fault::key)
    throw std::out_of_range("node " + value + ", wanted 0.." + std::to_string(g.num_rows - 1));
  if (fault.kind == Fault::col)
    throw std::out_of_range("col at entry " + std::to_string(fault.position) + " is " + value +
                            ", wanted 0.." + std::to_string(g.num_cols - 1));
  throw std::out_of_range("rowptr: row " + std::to_string(fault.position) + " reaches " + value +
                          ", wanted non-decreasing values in 0.." + std::to_string(g.num_entries));
}

nb::object tensor(std::vector<int64_t> &&values) {
  auto *kept = new std::vector<int64_t>(std::move(values));
  const nb::capsule owner(kept, [](void *p) noexcept {
    delete static_cast<std::vector<int64_t> *>(p);
  });
  const size_t shape[] = {kept->size()};
  return nb::cast(nb::ndarray<nb::pytorch, int64_t>(kept->data(), 1, shape, owner));
}

void walk(GraphTuple graph, int64_t num_walks, Address start, int64_t length, double p, double q,
          double restart, double alpha, uint64_t seed, Address nodes, Address edges, int threads) {
  const RandomWalks a{graph_of(graph), num_walks, at<int64_t>(start), length, p, q, restart, alpha,
                      seed, at<int64_t>(nodes), at<int64_t>(edges), threads};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = random_walks(a);
  }
  check(fault, a.graph);
}

nb::tuple sample(GraphTuple graph, int64_t num_picked, Address picked, Address tree,
                 int64_t fanout, bool replace, uint64_t seed, int64_t hop, int threads) {
  const SampleRows a{graph_of(graph), num_picked, at<int64_t>(picked), at<int64_t>(tree), fanout,
                     replace, seed, hop, threads};
  Fault fault;
  SampledEntries out;
  {
    nb::gil_scoped_release release;
    fault = sample_rows(a, out);
  }
  check(fault, a.graph);
  return nb::make_tuple(tensor(std::move(out.source)), tensor(std::move(out.edge)),
                        tensor(std::move(out.at)));
}

nb::tuple egos(GraphTuple graph, int64_t count, Address centre, int64_t hops, int threads) {
  const Graph g = graph_of(graph);
  Fault fault;
  EgoSubgraphs out;
  {
    nb::gil_scoped_release release;
    fault = ego_subgraphs(g, count, at<int64_t>(centre), hops, threads, out);
  }
  check(fault, g);
  return nb::make_tuple(tensor(std::move(out.node)), tensor(std::move(out.ptr)),
                        tensor(std::move(out.row)), tensor(std::move(out.col)),
                        tensor(std::move(out.edge)), tensor(std::move(out.edge_ptr)));
}

nb::object tail(const std::vector<int64_t> &all, int64_t from) {
  const size_t begin = size_t(std::min<int64_t>(std::max<int64_t>(from, 0), int64_t(all.size())));
  return tensor(std::vector<int64_t>(all.begin() + int64_t(begin), all.end()));
}

}  // namespace

void bind_sampling(nb::module_ &m) {
  m.def("random_walk", &walk);
  m.def("sample_rows", &sample);
  m.def("ego_subgraphs", &egos);
  nb::class_<Relabel>(m, "Relabel")
      .def(nb::init<>())
      .def("insert",
           [](Relabel &self, int64_t n, Address node, Address tree, bool repeat, Address local) {
             self.insert(n, at<int64_t>(node), at<int64_t>(tree), repeat, at<int64_t>(local));
           })
      .def("find",
           [](const Relabel &self, int64_t n, Address node, Address tree, Address local) {
             self.find(n, at<int64_t>(node), at<int64_t>(tree), at<int64_t>(local));
           })
      .def("nodes", [](const Relabel &self, int64_t from) { return tail(self.nodes(), from); })
      .def("trees", [](const Relabel &self, int64_t from) { return tail(self.trees(), from); })
      .def("__len__", [](const Relabel &self) { return self.nodes().size(); });
}

}  // namespace graphkit
