// The Python face of sorted-row intersection. Tensors arrive as addresses, as in module.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>

#include "intersect.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

using Address = uintptr_t;
using GraphTuple = std::tuple<int, int64_t, int64_t, int64_t, int64_t, Address, Address, Address>;

template <class T = void>
T *at(Address a) {
  return reinterpret_cast<T *>(a);
}

Graph graph_of(const GraphTuple &t) {
  return {std::get<0>(t), std::get<1>(t), std::get<2>(t), std::get<3>(t), std::get<4>(t),
          at(std::get<5>(t)), at(std::get<6>(t)), at(std::get<7>(t))};
}

void check(const Fault &fault) {
  if (fault.kind == Fault::none) return;
  const std::string value = std::to_string(fault.value), place = std::to_string(fault.position);
  if (fault.kind == Fault::key)  // the position is the number of rows
    throw std::out_of_range("pairs: row " + value + " of a graph of " + place + " rows");
  if (fault.kind == Fault::col)
    throw std::out_of_range("col at entry " + place + " is " + value + ", beyond the columns");
  throw std::out_of_range("rowptr: row " + place + " reaches " + value +
                          ", wanted non-decreasing values up to the number of entries");
}

std::tuple<int64_t, int64_t> disorder(GraphTuple graph, int threads) {
  const Graph g = graph_of(graph);
  Disorder found;
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = find_disorder(g, threads, found);
  }
  check(fault);
  return {found.row, found.entry};
}

std::unique_ptr<FoundEntries> find(GraphTuple a, GraphTuple b, bool difference, int64_t num_pairs,
                                   Address row_a, Address row_b, Address count, bool keep,
                                   bool keep_b, int threads) {
  const IntersectRows rows{graph_of(a), graph_of(b), difference, num_pairs, at<int64_t>(row_a),
                           at<int64_t>(row_b), at<int64_t>(count), threads};
  if (rows.a.index_bits != rows.b.index_bits)
    throw nb::value_error("csr_b: wanted the index type of csr");
  std::unique_ptr<FoundEntries> found;
  {
    nb::gil_scoped_release release;
    found = intersect_rows(rows, keep, keep_b);
  }
  check(found->fault);
  return found;
}

}  // namespace

void bind_intersect(nb::module_ &m) {
  m.def("find_disorder", &disorder);
  m.def("intersect_rows", &find);
  nb::class_<FoundEntries>(m, "FoundEntries")
      .def_ro("total", &FoundEntries::total)
      .def("copy", [](const FoundEntries &self, int bits, Address node, Address entry,
                      Address entry_b) {
        nb::gil_scoped_release release;
        self.copy(bits, at(node), at(entry), at(entry_b));
      });
}

}  // namespace graphkit
