// The Python face of sorted-row intersection. Tensors arrive as addresses, as in module.cpp.
#include <nanobind/stl/unique_ptr.h>

#include <memory>

#include "binding.h"
#include "intersect.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

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
    found = active_kernels().intersect_rows(rows, keep, keep_b);
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
