// The Python face of the CPU kernels. Tensors arrive as addresses: the caller (graphkit/ops/cpu)
// has checked dtype, contiguity and sizes, and a DLPack exchange per tensor would cost more than a
// small batch's whole reduction. Indices are checked here, entry by entry, while they are used.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "binding.h"
#include "blocks.h"

namespace nb = nanobind;
using namespace graphkit;

namespace graphkit {
void bind_sampling(nb::module_ &m);  // sampling_module.cpp
void bind_cooccurrence(nb::module_ &m);  // cooccurrence.cpp
void bind_intersect(nb::module_ &m);  // intersect_module.cpp
void bind_layer_norm(nb::module_ &m);
void bind_levels(nb::module_ &m);
void bind_projection(nb::module_ &m);  // projection_module.cpp
void bind_linear(nb::module_ &m);  // linear_module.cpp
void bind_sampled_logistic(nb::module_ &m);  // sampled_logistic_module.cpp
void bind_selective_scan(nb::module_ &m);  // selective_scan_module.cpp
void bind_summarise(nb::module_ &m);  // summarise_module.cpp
}

namespace {

std::vector<const Kernels *> supported() {
  std::vector<const Kernels *> found{&kernels_baseline};
#ifdef GRAPHKIT_X86
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return found;
#ifdef GRAPHKIT_AVX2
  found.push_back(&kernels_avx2);
#endif
#ifdef GRAPHKIT_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back(&kernels_avx512);
#endif
#endif
  return found;
}

const Kernels *active = supported().back();

void use_isa(const std::string &name) {
  std::string known;
  for (const Kernels *k : supported()) {
    if (name == k->isa) {
      active = k;
      return;
    }
    known += std::string(known.empty() ? "" : ", ") + k->isa;
  }
  throw nb::value_error(("isa: '" + name + "' is not one of " + known).c_str());
}

}  // namespace

const Kernels &graphkit::active_kernels() { return *active; }

namespace {

void check(const Fault &fault, const Graph &g) {
  if (fault.kind == Fault::none) return;
  const std::string at_entry = " at entry " + std::to_string(fault.position) + " is " +
                               std::to_string(fault.value) + ", wanted ";
  if (fault.kind == Fault::key)
    throw nb::index_error(("key" + at_entry + "0.." + std::to_string(g.num_rows - 1)).c_str());
  if (fault.kind == Fault::col)
    throw nb::index_error(("col" + at_entry + "0.." + std::to_string(g.num_cols - 1)).c_str());
  if (fault.kind == Fault::eid)
    throw nb::index_error(("eid" + at_entry + "0.." + std::to_string(g.num_edge_rows - 1)).c_str());
  throw nb::index_error(("rowptr: row " + std::to_string(fault.position) + " reaches " +
                         std::to_string(fault.value) + ", wanted non-decreasing values in 0.." +
                         std::to_string(g.num_entries)).c_str());
}

template <class Arguments>
void set_reduces(Arguments &a, const std::vector<int> &reduces) {
  if (reduces.empty() || reduces.size() > size_t(max_reduces))
    throw nb::value_error("reduces: wanted one to six of them");
  a.num_reduces = int(reduces.size());
  for (size_t r = 0; r < reduces.size(); ++r) a.reduces[r] = Reduce(reduces[r]);
}

void aggregate_forward(GraphTuple graph, int dtype, int message, std::vector<int> reduces,
                       int64_t width, int64_t heads, Address x, int64_t ldx, Address edge,
                       int64_t lde, Address out, Address mean, Address argmin, Address argmax,
                       Address positive, int threads) {
  AggregateForward a{};
  a.graph = graph_of(graph);
  a.dtype = Dtype(dtype);
  a.message = Message(message);
  set_reduces(a, reduces);
  a.width = width;
  a.heads = heads;
  a.x = at(x);
  a.ldx = ldx;
  a.edge = at(edge);
  a.lde = lde;
  a.out = at(out);
  a.mean = at(mean);
  a.argmin = at<int32_t>(argmin);
  a.argmax = at<int32_t>(argmax);
  a.positive = at<uint16_t>(positive);
  a.threads = threads;
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active->aggregate_forward(a);
  }
  check(fault, a.graph);
}

void aggregate_moments(int index_bits, int dtype, std::vector<int> reduces, int64_t rows,
                       int64_t width, Address rowptr, Address grad, Address out, Address mean,
                       Address shift, Address slope, int threads) {
  AggregateMoments a{};
  a.index_bits = index_bits;
  a.dtype = Dtype(dtype);
  set_reduces(a, reduces);
  a.num_rows = rows;
  a.width = width;
  a.rowptr = at(rowptr);
  a.grad = at(grad);
  a.out = at(out);
  a.mean = at(mean);
  a.shift = at(shift);
  a.slope = at(slope);
  a.threads = threads;
  nb::gil_scoped_release release;
  active->aggregate_moments(a);
}

void aggregate_backward(GraphTuple graph, int dtype, int message, bool by_degree, int64_t width,
                        int64_t heads, Address x, int64_t ldx, Address edge, int64_t lde,
                        Address shift, int64_t lds, Address slope, Address forward_rowptr,
                        Address positive, Address grad_x, Address grad_edge, bool edge_is_table, int threads) {
  AggregateBackward a{graph_of(graph), Dtype(dtype), Message(message), by_degree, width, heads,
                      at(x), ldx, at(edge), lde, at(shift), lds, at(slope), at(forward_rowptr),
                      at<uint16_t>(positive), at(grad_x), at(grad_edge), edge_is_table, threads};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active->aggregate_backward(a);
  }
  check(fault, a.graph);
}

void aggregate_winners(GraphTuple graph, int dtype, int message, int64_t width, int64_t heads,
                       Address x, int64_t ldx, Address edge, int64_t lde, Address grad_min,
                       Address grad_max, int64_t ldg, Address argmin, Address argmax,
                       Address grad_x, Address grad_edge, int threads) {
  AggregateWinners a{graph_of(graph), Dtype(dtype), Message(message), width, heads, at(x), ldx,
                     at(edge), lde, {at(grad_min), at(grad_max)}, ldg,
                     {at<int32_t>(argmin), at<int32_t>(argmax)}, at(grad_x), at(grad_edge),
                     threads};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active->aggregate_winners(a);
  }
  check(fault, a.graph);
}

void gated_forward(GraphTuple graph, int dtype, bool normalize, double eps, int64_t width,
                   Address gate_dst, Address gate_src, Address value, Address edge, int64_t ldd,
                   int64_t lds, int64_t ldv, Address out, Address denominator, Address edge_out,
                   int threads) {
  GatedForward a{graph_of(graph), Dtype(dtype), normalize, eps, width, at(gate_dst), at(gate_src),
                 at(value), at(edge), ldd, lds, ldv, at(out), at(denominator), at(edge_out),
                 threads};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active->gated_forward(a);
  }
  check(fault, a.graph);
}

void gated_backward(GraphTuple forward, GraphTuple transposed, int dtype, bool normalize,
                    double eps, int64_t width, Address gate_dst, Address gate_src, Address value,
                    int64_t ldd, int64_t lds, int64_t ldv, Address edge_out, Address out,
                    Address denominator, Address grad_out, Address grad_edge_out,
                    Address grad_edge, Address scaled_grad, Address grad_dst, Address grad_src,
                    Address grad_value, int threads) {
  GatedBackward a{graph_of(forward), Dtype(dtype), normalize, eps, width, at(gate_dst),
                  at(gate_src), at(value), ldd, lds, ldv, at(edge_out), at(out), at(denominator),
                  at(grad_out), at(grad_edge_out), at(grad_edge), at(scaled_grad), at(grad_dst),
                  at(grad_src), at(grad_value), threads};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active->gated_backward_destination(a);
    if (fault.kind == Fault::none) {
      a.graph = graph_of(transposed);
      fault = active->gated_backward_source(a);
    }
  }
  check(fault, a.graph);
}

// score, heads, width of a head, slope, scale, dropout, seed
using AttentionOptions = std::tuple<int, int64_t, int64_t, double, double, double, uint64_t>;
// value, dst, src, edge, bias, att and the distances between rows of the first four
using AttentionInputs = std::tuple<Address, Address, Address, Address, Address, Address, int64_t,
                                   int64_t, int64_t, int64_t>;

Attention attention_of(const GraphTuple &graph, int dtype, const AttentionOptions &o,
                       const AttentionInputs &in, Address out, Address lse, int threads) {
  return {graph_of(graph), Dtype(dtype), Score(std::get<0>(o)), std::get<1>(o), std::get<2>(o),
          std::get<3>(o), std::get<4>(o), std::get<5>(o), std::get<6>(o), at(std::get<0>(in)),
          at(std::get<1>(in)), at(std::get<2>(in)), at(std::get<3>(in)), at(std::get<4>(in)),
          at(std::get<5>(in)), std::get<6>(in), std::get<7>(in), std::get<8>(in), std::get<9>(in),
          at(out), at(lse), threads};
}

void attention_forward(GraphTuple graph, int dtype, AttentionOptions options,
                       AttentionInputs inputs, Address out, Address lse, int threads) {
  const Attention a = attention_of(graph, dtype, options, inputs, out, lse, threads);
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active->attention_forward(a);
  }
  check(fault, a.graph);
}

void attention_backward(GraphTuple forward, GraphTuple transposed, int dtype,
                        AttentionOptions options, AttentionInputs inputs, Address out, Address lse,
                        Address grad, Address delta, Address grad_dst, Address grad_edge,
                        Address grad_bias, Address grad_att, Address grad_src, Address grad_value,
                        int threads) {
  AttentionBackward b{attention_of(forward, dtype, options, inputs, out, lse, threads), at(grad),
                      at(delta), at(grad_dst), at(grad_edge), at(grad_bias), at(grad_att),
                      at(grad_src), at(grad_value)};
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = active->attention_backward_destination(b);
    if (fault.kind == Fault::none) {
      b.attention.graph = graph_of(transposed);
      fault = active->attention_backward_source(b);
    }
  }
  check(fault, b.attention.graph);
}

void check_batch_norm(int dtype, int64_t rows, int64_t width) {
  if (Dtype(dtype) != Dtype::f32 && Dtype(dtype) != Dtype::f64)
    throw nb::value_error("dtype: wanted float32 or float64");
  if (rows < 2 || width < 1) throw nb::value_error("x: wanted two rows and one column at least");
}

void batch_norm_forward(int dtype, bool relu, double eps, int64_t rows, int64_t width, Address x,
                        int64_t ldx, Address weight, Address bias, Address out, Address stats,
                        int threads) {
  check_batch_norm(dtype, rows, width);
  const BatchNormForward a{Dtype(dtype), relu, eps, rows, width, at(x), ldx, at(weight), at(bias),
                           at(out), at(stats), threads};
  nb::gil_scoped_release release;
  active->batch_norm_forward(a);
}

void batch_norm_backward(int dtype, bool relu, int64_t rows, int64_t width, Address x, int64_t ldx,
                         Address weight, Address bias, Address stats, Address grad, int64_t ldg,
                         Address grad_x, Address grad_weight, Address grad_bias, int threads) {
  check_batch_norm(dtype, rows, width);
  const BatchNormBackward a{Dtype(dtype), relu, rows, width, at(x), ldx, at(weight), at(bias),
                            at(stats), at(grad), ldg, at(grad_x), at(grad_weight), at(grad_bias),
                            threads};
  nb::gil_scoped_release release;
  active->batch_norm_backward(a);
}

std::tuple<int64_t, int64_t, int64_t, int64_t, bool> range_of(Address index, int bits, int64_t n,
                                                              int threads) {
  nb::gil_scoped_release release;
  const IndexRange r = index_range(at(index), bits, n, threads);
  return {r.min, r.max, r.argmin, r.argmax, r.sorted};
}

void sort_edge_index(int in_bits, int out_bits, int64_t entries, int64_t rows, int64_t cols,
                     Address key, Address other, Address rowptr, Address col, Address perm,
                     int threads) {
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = sort_edges({in_bits, out_bits, entries, rows, cols, at(key), at(other), at(rowptr),
                        at(col), at(perm), threads});
  }
  Graph g{};
  g.num_rows = rows;
  g.num_cols = cols;
  check(fault, g);
}

void transpose(GraphTuple graph, Address rowptr_t, Address col_t, Address eid_t, int threads) {
  const Graph g = graph_of(graph);
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = transpose_csr({g.index_bits, g.num_rows, g.num_cols, g.num_entries, g.rowptr, g.col,
                           g.eid, at(rowptr_t), at(col_t), at(eid_t), threads});
  }
  check(fault, g);
}

// A block as a DLPack tensor of bytes; it goes back when the last tensor over it is freed.
nb::object large_block(int64_t bytes) {
  int64_t size = 0;
  void *block = take_block(bytes, size);
  if (!block) {
    PyErr_NoMemory();
    throw nb::python_error();
  }
  struct Owned {
    void *block;
    int64_t size;
  };
  const nb::capsule owner(new Owned{block, size}, [](void *p) noexcept {
    const Owned *owned = static_cast<Owned *>(p);
    give_block(owned->block, owned->size);
    delete owned;
  });
  const size_t shape[] = {size_t(bytes)};
  return nb::cast(nb::ndarray<nb::pytorch, uint8_t>(block, 1, shape, owner));
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "CPU kernels of graphkit.ops; call them through graphkit.ops.cpu only.";
  m.def("isa", [] { return std::string(active->isa); });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels *k : supported()) names.emplace_back(k->isa);
    return names;
  });
  m.def("use_isa", &use_isa);
  m.def("large_block", &large_block);
  m.def("kept_bytes", &kept_bytes);
  m.def("set_kept_limit", &set_kept_limit);
  m.def("drop_blocks", &drop_blocks);
  m.def("index_range", &range_of);
  m.def("sort_edges", &sort_edge_index);
  m.def("transpose", &transpose);
  m.def("aggregate_forward", &aggregate_forward);
  m.def("aggregate_moments", &aggregate_moments);
  m.def("aggregate_backward", &aggregate_backward);
  m.def("aggregate_winners", &aggregate_winners);
  m.def("gated_forward", &gated_forward);
  m.def("gated_backward", &gated_backward);
  m.def("attention_forward", &attention_forward);
  m.def("attention_backward", &attention_backward);
  bind_sampling(m);
  bind_cooccurrence(m);
  bind_intersect(m);
  bind_layer_norm(m);
  bind_levels(m);
  bind_projection(m);
  bind_linear(m);
  bind_sampled_logistic(m);
  bind_selective_scan(m);
  bind_summarise(m);
  m.def("batch_norm_forward", &batch_norm_forward);
  m.def("batch_norm_backward", &batch_norm_backward);
}
