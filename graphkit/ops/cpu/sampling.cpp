#include "sampling.h"

#include <algorithm>
#include <stdexcept>

#include "draws.h"

namespace graphkit {
namespace {

// k of 0..n-1 without repetition, by Floyd's algorithm (Bentley and Floyd, CACM 30(9), 1987).
class Floyd {
 public:
  void draw(const Draws &draws, int64_t n, int64_t k, int64_t *out) {
    const bool few = k <= 48;  // a scan of what is drawn beats a table
    if (!few) {
      size_t size = 128;
      while (size < size_t(k) * 2) size *= 2;
      table_.assign(size, -1);
    }
    for (int64_t i = 0; i < k; ++i) {
      const int64_t top = n - k + i;
      int64_t pick = draws.below(i, top + 1);
      if (few ? std::find(out, out + i, pick) != out + i : !add(pick)) {
        pick = top;
        if (!few) add(pick);
      }
      out[i] = pick;
    }
  }

 private:
  bool add(int64_t value) {
    const size_t mask = table_.size() - 1;
    size_t s = size_t(mix(uint64_t(value))) & mask;
    for (; table_[s] >= 0; s = (s + 1) & mask)
      if (table_[s] == value) return false;
    table_[s] = value;
    return true;
  }
  std::vector<int64_t> table_;
};

template <class I>
Fault sample_as(const SampleRows &a, SampledEntries &out) {
  const View<I> g(a.graph);
  FaultFlag fault;
  std::vector<int64_t> offset(size_t(a.num_picked) + 1, 0);
  for (int64_t i = 0; i < a.num_picked; ++i) {
    Range r;
    if (!g.row(a.picked[i], r, fault)) return {fault.result().kind, i, fault.result().value};
    const int64_t n = r.size();
    const bool whole = a.fanout < 0 || n == 0 || (!a.replace && n <= a.fanout);
    offset[size_t(i) + 1] = offset[size_t(i)] + (whole ? n : a.fanout);
  }
  const size_t total = size_t(offset.back());
  out.source.resize(total);
  out.edge.resize(total);
  out.at.resize(total);
  const int threads = threads_for(int64_t(total) * 8, a.threads);
  const uint64_t key = mix(a.seed + golden);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Floyd floyd;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a.num_picked; ++i) {
      const int64_t node = a.picked[i], begin = offset[size_t(i)];
      const int64_t count = offset[size_t(i) + 1] - begin;
      const int64_t first = int64_t(g.rowptr[node]), n = int64_t(g.rowptr[node + 1]) - first;
      int64_t *entry = out.source.data() + begin;  // places in the row first, then nodes
      const Draws draws(after(a.tree ? after(key, a.tree[i]) : key, node), a.hop);
      if (a.fanout >= 0 && a.replace) {
        for (int64_t j = 0; j < count; ++j) entry[j] = draws.below(j, n);
      } else if (count < n) {
        floyd.draw(draws, n, count, entry);
      } else {
        for (int64_t j = 0; j < count; ++j) entry[j] = j;
      }
      for (int64_t j = 0; j < count; ++j) {
        const int64_t k = first + entry[j];
        out.edge[size_t(begin + j)] = g.edge(k);
        out.at[size_t(begin + j)] = i;
        if (!g.source(k, entry[j], fault)) entry[j] = 0;
      }
    }
  }
  return fault.result();
}

template <class I>
Fault ego_as(const Graph &graph, int64_t count, const int64_t *centre, int64_t hops, int threads,
             EgoSubgraphs &out) {
  const View<I> g(graph);
  FaultFlag fault;
  constexpr int64_t block = 16;
  const int64_t blocks = (count + block - 1) / block;
  std::vector<EgoSubgraphs> parts(static_cast<size_t>(blocks));  // ptr, edge_ptr: sizes here
#pragma omp parallel num_threads(threads) if (threads > 1 && blocks > 1)
  {
    Relabel table;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      EgoSubgraphs &part = parts[size_t(b)];
      for (int64_t c = b * block; c < std::min((b + 1) * block, count); ++c) {
        table.clear();
        table.insert(1, centre + c, nullptr, false, nullptr);
        const std::vector<int64_t> &nodes = table.nodes();
        Range r;
        size_t done = 0;
        for (int64_t hop = 0; hop < hops; ++hop) {
          const size_t end = nodes.size();
          for (; done < end; ++done) {
            if (!g.row(nodes[done], r, fault)) break;
            for (int64_t k = r.begin; k < r.end; ++k) {
              int64_t node;
              if (g.source(k, node, fault)) table.insert(1, &node, nullptr, false, nullptr);
            }
          }
        }
        const int64_t before = int64_t(part.node.size()), edges = int64_t(part.edge.size());
        for (size_t i = 0; i < nodes.size(); ++i) {
          if (!g.row(nodes[i], r, fault)) break;
          for (int64_t k = r.begin; k < r.end; ++k) {
            int64_t node, local = -1;
            if (g.source(k, node, fault)) table.find(1, &node, nullptr, &local);
            if (local < 0) continue;
            part.row.push_back(before + local);
            part.col.push_back(before + int64_t(i));
            part.edge.push_back(g.edge(k));
          }
        }
        part.node.insert(part.node.end(), nodes.begin(), nodes.end());
        part.ptr.push_back(int64_t(nodes.size()));
        part.edge_ptr.push_back(int64_t(part.edge.size()) - edges);
      }
    }
  }
  if (fault.result().kind != Fault::none) return fault.result();
  out.ptr.push_back(0);
  out.edge_ptr.push_back(0);
  for (EgoSubgraphs &part : parts) {
    const int64_t before = int64_t(out.node.size());
    for (int64_t n : part.ptr) out.ptr.push_back(out.ptr.back() + n);
    for (int64_t n : part.edge_ptr) out.edge_ptr.push_back(out.edge_ptr.back() + n);
    for (int64_t i : part.row) out.row.push_back(before + i);
    for (int64_t i : part.col) out.col.push_back(before + i);
    out.node.insert(out.node.end(), part.node.begin(), part.node.end());
    out.edge.insert(out.edge.end(), part.edge.begin(), part.edge.end());
    part = {};
  }
  return {};
}

constexpr int first_bits = 10;
constexpr size_t prefetch_ahead = 16;

}  // namespace

Relabel::Relabel() : slots_(size_t(1) << first_bits, Slot{-1, 0, 0}), shift_(64 - first_bits) {}
Relabel::~Relabel() = default;

size_t Relabel::home(int64_t node, int64_t tree) const {
  return size_t((uint64_t(node) + uint64_t(tree) * 0xD1B54A32D192ED03u) * golden >> shift_);
}

// The slot of (node, tree), or the empty one where it belongs.
size_t Relabel::probe(int64_t node, int64_t tree) const {
  const size_t mask = slots_.size() - 1;
  size_t s = home(node, tree);
  while (slots_[s].node >= 0 && (slots_[s].node != node || slots_[s].tree != tree))
    s = (s + 1) & mask;
  return s;
}

void Relabel::grow() {
  std::vector<Slot> old(slots_.size() * 4, Slot{-1, 0, 0});
  old.swap(slots_);
  shift_ -= 2;
  for (size_t &s : used_) {
    const Slot moved = old[s];
    s = probe(moved.node, moved.tree);
    slots_[s] = moved;
  }
}

void Relabel::insert(int64_t n, const int64_t *node, const int64_t *tree, bool repeat,
                     int64_t *local) {
  if (nodes_.size() + size_t(n) > size_t(INT32_MAX))
    throw std::length_error("more than 2^31 sampled nodes; use fewer seeds or smaller fan-outs");
  for (int64_t i = 0; i < n; ++i) {
    if (i + int64_t(prefetch_ahead) < n) {
      const int64_t j = i + int64_t(prefetch_ahead);
      __builtin_prefetch(&slots_[home(node[j], tree ? tree[j] : 0)]);
    }
    const int64_t t = tree ? tree[i] : 0;
    if (node[i] < 0 || t < 0 || t > INT32_MAX) throw std::out_of_range("node: a negative id");
    size_t s = probe(node[i], t);
    const bool known = slots_[s].node >= 0;
    const int64_t position = known && !repeat ? slots_[s].local : int64_t(nodes_.size());
    if (local) local[i] = position;
    if (known && !repeat) continue;
    nodes_.push_back(node[i]);
    trees_.push_back(t);
    if (known) continue;
    slots_[s] = {node[i], int32_t(t), int32_t(position)};
    used_.push_back(s);
    if (used_.size() * 2 > slots_.size()) grow();
  }
}

void Relabel::find(int64_t n, const int64_t *node, const int64_t *tree, int64_t *local) const {
  for (int64_t i = 0; i < n; ++i) {
    const Slot &slot = slots_[probe(node[i], tree ? tree[i] : 0)];
    local[i] = slot.node < 0 ? -1 : slot.local;
  }
}

void Relabel::clear() {
  for (size_t s : used_) slots_[s].node = -1;
  used_.clear();
  nodes_.clear();
  trees_.clear();
}

Fault sample_rows(const SampleRows &a, SampledEntries &out) {
  return a.graph.index_bits == 32 ? sample_as<int32_t>(a, out) : sample_as<int64_t>(a, out);
}

Fault ego_subgraphs(const Graph &graph, int64_t count, const int64_t *centre, int64_t hops,
                    int threads, EgoSubgraphs &out) {
  return graph.index_bits == 32 ? ego_as<int32_t>(graph, count, centre, hops, threads, out)
                                : ego_as<int64_t>(graph, count, centre, hops, threads, out);
}

}  // namespace graphkit
