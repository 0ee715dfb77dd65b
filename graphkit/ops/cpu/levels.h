// Directed acyclic graphs: their topological levels, and sums and extrema that run along them.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace graphkit {

struct TopologicalLevels {
  Graph graph, transposed;
  int64_t *level;  // [nodes] longest path from a node without incoming entries
  int64_t *order;  // [nodes] by level, then by node
  int64_t *ptr;    // [nodes + 2] where the levels begin in order; the rest holds the end
};
// A node on a cycle, and how many nodes have no level because of cycles.
struct Cycle {
  int64_t node = -1, count = 0;
};
Fault topological_levels(const TopologicalLevels &a, Cycle &cycle);

// out_i = x_i + REDUCE over entries k of row i of MESSAGE(out[col[k]], edge[eid[k]])
struct LevelForward {
  Graph graph;
  Dtype dtype;          // f32 or f64
  Message message;      // copy, scale or add
  Reduce reduce;        // sum, mean, min or max
  int64_t width;
  bool wide;            // edge is [edge rows, width], not [edge rows]
  const void *x, *edge; // rows without gaps
  const int64_t *order, *ptr;
  void *out;            // [rows, width]
  void *winner;         // [rows, width] of the index type or null: edge row of the extremum, or -1
  int threads;
};
Fault level_forward(const LevelForward &a);

// Pull over the transposed graph from the last level to the first.
struct LevelBackward {
  Graph transposed;
  Dtype dtype;
  Message message;
  Reduce reduce;
  int64_t width;
  bool wide;
  const void *edge, *out, *grad, *winner;
  const void *rowptr;   // of the forward graph: degrees, for the mean
  const int64_t *order, *ptr;
  void *grad_x;         // [rows, width]
  void *grad_edge;      // as edge, or null
  int threads;
};
Fault level_backward(const LevelBackward &a);

}  // namespace graphkit
