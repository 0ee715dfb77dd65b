#include "levels.h"

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace graphkit {
namespace {

constexpr int64_t chunk = 32;  // rows that a thread takes at a time

bool in_range(int64_t value, int64_t limit, Fault::Kind kind, int64_t place, FaultFlag &fault) {
  if (__builtin_expect(uint64_t(value) < uint64_t(limit), 1)) return true;
  fault.raise(kind, place, value);
  return false;
}

template <class I>
Fault levels_as(const TopologicalLevels &a, Cycle &cycle) {
  const int64_t n = a.graph.num_rows;
  const Rows rows(a.graph), rows_t(a.transposed);
  const I *col = static_cast<const I *>(a.graph.col);
  const I *col_t = static_cast<const I *>(a.transposed.col);
  FaultFlag fault;
  std::vector<int64_t> pending(static_cast<size_t>(n)), queue;
  queue.reserve(size_t(n));
  for (int64_t i = 0; i < n; ++i) {
    a.level[i] = 0;
    pending[size_t(i)] = rows.entries(i, fault).size();
    if (!pending[size_t(i)]) queue.push_back(i);
  }
  for (size_t head = 0; head < queue.size(); ++head) {
    const int64_t j = queue[head];
    const Range r = rows_t.entries(j, fault);
    for (int64_t k = r.begin; k < r.end; ++k) {
      const int64_t i = int64_t(col_t[k]);
      if (!in_range(i, n, Fault::col, k, fault)) continue;
      a.level[i] = std::max(a.level[i], a.level[j] + 1);
      if (pending[size_t(i)] > 0 && --pending[size_t(i)] == 0) queue.push_back(i);
    }
  }
  if (fault.result().kind != Fault::none) return fault.result();
  cycle.count = n - int64_t(queue.size());
  if (cycle.count) {
    // A node without a level receives from another one without: backward there is always a next.
    int64_t v = std::find_if(pending.begin(), pending.end(), [](int64_t p) { return p > 0; }) -
                pending.begin();
    while (pending[size_t(v)] > 0) {
      pending[size_t(v)] = -1;  // been here
      const Range r = rows.entries(v, fault);
      int64_t next = -1;
      for (int64_t k = r.begin; k < r.end && next < 0; ++k) {
        const int64_t j = int64_t(col[k]);
        if (in_range(j, n, Fault::col, k, fault) && pending[size_t(j)] != 0) next = j;
      }
      if (next < 0) break;
      v = next;
    }
    cycle.node = v;
    return fault.result();
  }
  // Counting sort by level: nodes of a level stay in their order.
  std::fill(a.ptr, a.ptr + n + 2, 0);
  for (int64_t i = 0; i < n; ++i) ++a.ptr[a.level[i] + 1];
  for (int64_t l = 0; l <= n; ++l) a.ptr[l + 1] += a.ptr[l];
  std::vector<int64_t> next(a.ptr, a.ptr + n + 1);
  for (int64_t i = 0; i < n; ++i) a.order[next[size_t(a.level[i])]++] = i;
  return {};
}

// Calls row(i) for the nodes of each level, one level after the other.
template <class Row>
void each_level(const Graph &g, int64_t width, const int64_t *order, const int64_t *ptr,
                bool reversed, int threads, FaultFlag &fault, Row row) {
  const int64_t n = g.num_rows;
  int64_t levels = 0;
  while (levels <= n && ptr[levels] < n) ++levels;
  const double work = double(width) * (1 + double(g.num_entries) / double(std::max<int64_t>(n, 1)));
  for (int64_t step = 0; step < levels; ++step) {
    const int64_t l = reversed ? levels - 1 - step : step;
    const int64_t begin = std::clamp<int64_t>(ptr[l], 0, n);
    const int64_t end = std::clamp<int64_t>(ptr[l + 1], begin, n);
    const int team = threads_for(int64_t(double(end - begin) * work), threads);
#pragma omp parallel for num_threads(team) schedule(dynamic, chunk) if (team > 1)
    for (int64_t k = begin; k < end; ++k)
      if (in_range(order[k], n, Fault::key, n, fault)) row(order[k]);
  }
}

// The value of a message, and what its gradient becomes; Wide: one edge value per feature.
template <class C, Message message, bool Wide>
struct LevelMessage {
  static C value(C h, const C *e, int64_t f) {
    if constexpr (message == Message::scale) return h * e[Wide ? f : 0];
    else if constexpr (message == Message::add) return h + e[Wide ? f : 0];
    else return h;
  }
  static C to_node(C g, const C *e, int64_t f) {
    if constexpr (message == Message::scale) return g * e[Wide ? f : 0];
    else return g;
  }
  static C to_edge(C g, C h) { return message == Message::scale ? g * h : g; }
};

template <class C, class I, class M, bool Extremum>
Fault forward_as(const LevelForward &a, int64_t edge_width) {
  const Graph &g = a.graph;
  const Rows rows(g);
  const I *col = static_cast<const I *>(g.col), *eid = static_cast<const I *>(g.eid);
  const C *x = static_cast<const C *>(a.x), *edge = static_cast<const C *>(a.edge);
  C *out = static_cast<C *>(a.out);
  I *winner = static_cast<I *>(a.winner);
  const int64_t width = a.width;
  const bool largest = a.reduce == Reduce::max;
  FaultFlag fault;
  each_level(g, width, a.order, a.ptr, false, a.threads, fault, [&](int64_t i) {
    const C *__restrict from = x + i * width;
    C *__restrict to = out + i * width;
    I *won = winner ? winner + i * width : nullptr;
    const Range r = rows.entries(i, fault);
    if (!r.size()) {
      std::copy(from, from + width, to);
      if (won) std::fill(won, won + width, I(-1));
      return;
    }
    if (!Extremum) std::fill(to, to + width, C(0));
    for (int64_t k = r.begin; k < r.end; ++k) {
      const int64_t j = int64_t(col[k]), e = eid ? int64_t(eid[k]) : k;
      if (!in_range(j, g.num_cols, Fault::col, k, fault)) continue;
      if (!in_range(e, g.num_edge_rows, Fault::eid, k, fault)) continue;
      const C *__restrict h = out + j * width;
      const C *__restrict w = edge + e * edge_width;
      if constexpr (!Extremum) {
        for (int64_t f = 0; f < width; ++f) to[f] += M::value(h[f], w, f);
      } else {
        const bool first = k == r.begin;
        for (int64_t f = 0; f < width; ++f) {
          const C m = M::value(h[f], w, f);
          // A NaN wins and stays; among equals the first stays.
          const bool beats = first | ((largest ? !(m <= to[f]) : !(m >= to[f])) & (to[f] == to[f]));
          to[f] = beats ? m : to[f];
          if (won) won[f] = beats ? I(e) : won[f];
        }
      }
    }
    if (a.reduce == Reduce::mean) {
      const C degree = C(r.size());
      for (int64_t f = 0; f < width; ++f) to[f] = from[f] + to[f] / degree;
    } else {
      for (int64_t f = 0; f < width; ++f) to[f] += from[f];
    }
  });
  return fault.result();
}

template <class C, class I, class M, bool Extremum>
Fault backward_as(const LevelBackward &a, int64_t edge_width) {
  const Graph &g = a.transposed;
  const Rows rows(g);
  const I *col = static_cast<const I *>(g.col), *eid = static_cast<const I *>(g.eid);
  const I *rowptr = static_cast<const I *>(a.rowptr), *winner = static_cast<const I *>(a.winner);
  const C *edge = static_cast<const C *>(a.edge), *out = static_cast<const C *>(a.out);
  const C *grad = static_cast<const C *>(a.grad);
  C *grad_x = static_cast<C *>(a.grad_x), *grad_edge = static_cast<C *>(a.grad_edge);
  const int64_t width = a.width;
  const bool mean = a.reduce == Reduce::mean;
  FaultFlag fault;
  each_level(g, width, a.order, a.ptr, true, a.threads, fault, [&](int64_t j) {
    const C *__restrict h = out + j * width;
    C *__restrict to = grad_x + j * width;
    std::copy(grad + j * width, grad + (j + 1) * width, to);
    const Range r = rows.entries(j, fault);
    for (int64_t k = r.begin; k < r.end; ++k) {
      const int64_t i = int64_t(col[k]), e = eid ? int64_t(eid[k]) : k;
      if (!in_range(i, g.num_cols, Fault::col, k, fault)) continue;
      if (!in_range(e, g.num_edge_rows, Fault::eid, k, fault)) continue;
      const C *__restrict of = grad_x + i * width;
      const C *__restrict w = edge + e * edge_width;
      const I *won = Extremum ? winner + i * width : nullptr;
      const C degree = mean ? C(rowptr[i + 1] - rowptr[i]) : C(1);
      const auto share = [&](int64_t f) {
        if constexpr (Extremum) return won[f] == I(e) ? of[f] : C(0);
        else return mean ? of[f] / degree : of[f];
      };
      for (int64_t f = 0; f < width; ++f) to[f] += M::to_node(share(f), w, f);
      if (!grad_edge) continue;
      C *__restrict to_edge = grad_edge + e * edge_width;
      if (edge_width == 1) {
        C sum = 0;
        for (int64_t f = 0; f < width; ++f) sum += M::to_edge(share(f), h[f]);
        *to_edge = sum;
      } else {
        for (int64_t f = 0; f < width; ++f) to_edge[f] = M::to_edge(share(f), h[f]);
      }
    }
  });
  return fault.result();
}

// Names the types of a call; `run` has run(edge_width) for each of them.
template <class C, class I, template <class, class, class, bool> class Run, class A>
Fault by_message(const A &a) {
  const auto go = [&](auto m, int64_t edge_width) {
    using M = decltype(m);
    const bool extremum = a.reduce == Reduce::min || a.reduce == Reduce::max;
    return extremum ? Run<C, I, M, true>::run(a, edge_width)
                    : Run<C, I, M, false>::run(a, edge_width);
  };
  switch (a.message) {
    case Message::scale:
      return a.wide ? go(LevelMessage<C, Message::scale, true>(), a.width)
                    : go(LevelMessage<C, Message::scale, false>(), 1);
    case Message::add:
      return a.wide ? go(LevelMessage<C, Message::add, true>(), a.width)
                    : go(LevelMessage<C, Message::add, false>(), 1);
    default:
      return go(LevelMessage<C, Message::copy, false>(), 0);
  }
}

template <template <class, class, class, bool> class Run, class A>
Fault by_type(const A &a, int bits) {
  if (a.dtype == Dtype::f32)
    return bits == 32 ? by_message<float, int32_t, Run>(a) : by_message<float, int64_t, Run>(a);
  return bits == 32 ? by_message<double, int32_t, Run>(a) : by_message<double, int64_t, Run>(a);
}

template <class C, class I, class M, bool Extremum>
struct Forward {
  static Fault run(const LevelForward &a, int64_t w) { return forward_as<C, I, M, Extremum>(a, w); }
};
template <class C, class I, class M, bool Extremum>
struct Backward {
  static Fault run(const LevelBackward &a, int64_t w) {
    return backward_as<C, I, M, Extremum>(a, w);
  }
};

}  // namespace

Fault topological_levels(const TopologicalLevels &a, Cycle &cycle) {
  return a.graph.index_bits == 32 ? levels_as<int32_t>(a, cycle) : levels_as<int64_t>(a, cycle);
}

Fault level_forward(const LevelForward &a) { return by_type<Forward>(a, a.graph.index_bits); }

Fault level_backward(const LevelBackward &a) {
  return by_type<Backward>(a, a.transposed.index_bits);
}

}  // namespace graphkit
