// The Python face of graph summaries. The state lives here between calls, so that Python can show
// progress and be interrupted.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "binding.h"
#include "summarise.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

// budget, p, iterations, num_hashes, max_group, effort, seed, compat, threads
using Options = std::tuple<double, int, int, int, int64_t, int64_t, uint64_t, bool, int>;
using Row = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, double>;

void construct(Summariser *place, Address rowptr, Address col, int64_t num_nodes,
               int64_t num_entries, Options o) {
  const SummariseOptions options{std::get<0>(o), std::get<1>(o), std::get<2>(o), std::get<3>(o),
                                 std::get<4>(o), std::get<5>(o), std::get<6>(o), std::get<7>(o),
                                 std::get<8>(o)};
  if (num_nodes < 2 || num_nodes >= INT32_MAX || num_entries < 1 || num_entries >= INT32_MAX)
    throw nb::value_error("wanted 2..2^31 nodes and as many entries");
  if ((options.p != 1 && options.p != 2) || options.iterations < 1 || options.num_hashes < 1 ||
      options.max_group < 2 || options.effort < 1 || options.effort > 1000 || !(options.budget >= 0))
    throw nb::value_error("an option is out of range");
  nb::gil_scoped_release release;
  new (place) Summariser(at<int64_t>(rowptr), at<int32_t>(col), num_nodes, num_entries, options);
}

void owners(Summariser &s, Address out) {
  nb::gil_scoped_release release;
  s.owners(at<int64_t>(out));
}

// As int64 [4, blocks] behind `out`: a, b, weight, superedge.
void blocks(const Summariser &s, Address out, int64_t count) {
  const std::vector<Summariser::Block> found = s.blocks();
  if (int64_t(found.size()) != count) throw nb::value_error("count: not the number of blocks");
  int64_t *to = at<int64_t>(out);
  for (int64_t i = 0; i < count; ++i) {
    const Summariser::Block &b = found[size_t(i)];
    to[i] = b.a, to[count + i] = b.b, to[2 * count + i] = b.weight, to[3 * count + i] = b.superedge;
  }
}

std::vector<Row> rounds(const Summariser &s) {
  std::vector<Row> rows;
  for (const SummariseRound &r : s.rounds())
    rows.emplace_back(r.iteration, r.groups, r.merges, r.trials, r.supernodes, r.superedges,
                      r.largest, r.bits);
  return rows;
}

}  // namespace

void bind_summarise(nb::module_ &m) {
  nb::class_<Summariser>(m, "Summariser")
      .def("__init__", &construct)
      .def("advance", &Summariser::advance, nb::call_guard<nb::gil_scoped_release>())
      .def("finish", &Summariser::finish, nb::call_guard<nb::gil_scoped_release>())
      .def("progress", &Summariser::progress)
      .def("bits", &Summariser::bits)
      .def("num_supernodes", &Summariser::num_supernodes)
      .def("num_superedges", &Summariser::num_superedges)
      .def("largest_weight", &Summariser::largest_weight)
      .def("cost", &Summariser::cost)
      .def("owners", &owners)
      .def("num_blocks", [](const Summariser &s) { return int64_t(s.blocks().size()); })
      .def("blocks", &blocks)
      .def("rounds", &rounds);
}

}  // namespace graphkit
