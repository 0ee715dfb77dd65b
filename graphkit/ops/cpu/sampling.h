// Random walks and neighbour sampling. Every random number is a hash of (seed, item, step, draw):
// what is drawn for one walk or one node depends on nothing else, least of all on the threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace graphkit {

struct RandomWalks {
  Graph graph;  // rows by source, col = destinations; sorted rows when p or q differ from 1
  int64_t num_walks;
  const int64_t *start;
  int64_t length;
  double p, q, restart, alpha;
  uint64_t seed;
  int64_t *nodes;  // [num_walks, length + 1]
  int64_t *edges;  // [num_walks, length], or null
  int threads;
};
Fault random_walks(const RandomWalks &a);

struct SampleRows {
  Graph graph;
  int64_t num_picked;
  const int64_t *picked;  // rows to sample from
  const int64_t *tree;    // the tree that each of them belongs to, or null
  int64_t fanout;         // negative: whole rows
  bool replace;
  uint64_t seed;
  int64_t hop;
  int threads;
};
struct SampledEntries {
  std::vector<int64_t> source, edge, at;  // at: which of the picked rows
};
Fault sample_rows(const SampleRows &a, SampledEntries &out);

// Local ids in order of discovery: an open-addressing table from (node, tree) to position.
class Relabel {
 public:
  Relabel();
  ~Relabel();
  Relabel(const Relabel &) = delete;
  Relabel &operator=(const Relabel &) = delete;

  // Local ids of n nodes, new ones appended. With `repeat` every node is appended, known or not,
  // and the table keeps the first position. tree and local may be null.
  void insert(int64_t n, const int64_t *node, const int64_t *tree, bool repeat, int64_t *local);
  // Local ids, or -1.
  void find(int64_t n, const int64_t *node, const int64_t *tree, int64_t *local) const;
  void clear();
  const std::vector<int64_t> &nodes() const { return nodes_; }
  const std::vector<int64_t> &trees() const { return trees_; }

 private:
  struct Slot {
    int64_t node;
    int32_t tree, local;
  };
  std::size_t home(int64_t node, int64_t tree) const;
  std::size_t probe(int64_t node, int64_t tree) const;
  void grow();

  std::vector<Slot> slots_;
  int shift_;
  std::vector<std::size_t> used_;
  std::vector<int64_t> nodes_, trees_;
};

struct EgoSubgraphs {
  std::vector<int64_t> node, ptr, row, col, edge, edge_ptr;
};
Fault ego_subgraphs(const Graph &graph, int64_t count, const int64_t *centre, int64_t hops,
                    int threads, EgoSubgraphs &out);

}  // namespace graphkit
