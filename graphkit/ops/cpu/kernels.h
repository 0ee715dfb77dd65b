// What the Python module may call: plain argument structs and one table of functions per ISA.
// Every pointer refers to memory owned by the caller; rows are contiguous, `ld*` is the distance
// between rows in elements. `rowptr`, `col`, `eid` share one index type.
#pragma once
#include <cstdint>
#include <memory>

namespace graphkit {

enum class Dtype : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };
enum class Message : int { copy = 0, scale = 1, mul = 2, add = 3, add_relu = 4 };
enum class Reduce : int { sum = 0, mean = 1, min = 2, max = 3, var = 4, std = 5 };

constexpr int max_reduces = 6;

// A corrupt index met on the way: the kernel stops touching memory for it and reports it.
struct Fault {
  enum Kind : int {
    none = 0, rowptr = 1, col = 2, eid = 3, key = 4, user = 5, item = 6, negative = 7, neighbour = 8
  };
  int kind = none;
  int64_t position = 0;
  int64_t value = 0;
};

struct Graph {
  int index_bits;        // 32 or 64
  int64_t num_rows;      // rows that are reduced into
  int64_t num_cols;      // valid range of col
  int64_t num_entries;   // length of col
  int64_t num_edge_rows; // valid range of eid
  const void *rowptr;
  const void *col;       // null: entry k reads row k
  const void *eid;       // null: entry k belongs to edge row k
};

// out[i, r, :] = REDUCE_r over entries k of row i of MESSAGE(x[col[k]], edge[eid[k]])
struct AggregateForward {
  Graph graph;
  Dtype dtype;
  Message message;
  int num_reduces;
  Reduce reduces[max_reduces];
  int64_t width, heads;
  const void *x;
  int64_t ldx;
  const void *edge;      // [edge rows, width], or [edge rows, heads] for `scale`
  int64_t lde;
  void *out;             // [rows, num_reduces, width]
  void *mean;            // [rows, width] or null: kept for the backward of var and std
  int32_t *argmin;       // [rows, width] or null: winning entry counted from rowptr[i], -1 if none
  int32_t *argmax;
  uint16_t *positive;    // [edge rows, words of 16 features] or null: where x + edge > 0
  int threads;
};

// From the gradients of the outputs to dm = shift + slope * m (+ the winners of min and max).
struct AggregateMoments {
  int index_bits;
  Dtype dtype;
  int num_reduces;
  Reduce reduces[max_reduces];
  int64_t num_rows, width;
  const void *rowptr;
  const void *grad;      // [rows, num_reduces, width]
  const void *out;       // [rows, num_reduces, width]
  const void *mean;      // [rows, width] or null
  void *shift;           // [rows, width]
  void *slope;           // [rows, width] or null
  int threads;
};

// Pull over the transposed graph: row j owns source j, col[k] is the destination.
struct AggregateBackward {
  Graph graph;           // transposed
  Dtype dtype;
  Message message;
  bool by_degree;        // divide by the destination's degree (reduce = mean)
  int64_t width, heads;
  const void *x;
  int64_t ldx;
  const void *edge;
  int64_t lde;
  const void *shift;     // [destinations, width]
  int64_t lds;
  const void *slope;     // null unless var or std is among the reduces
  const void *forward_rowptr;  // degrees, for by_degree
  const uint16_t *positive;    // as the forward pass left it: x and edge are then not read
  void *grad_x;          // [rows, width] or null
  void *grad_edge;       // as edge, or null; written once per entry, or summed if edge_is_table
  bool edge_is_table;    // several entries share an edge row
  int threads;
};

// Gradients of min and max: each output pushes to its one winner. Threads own column ranges.
struct AggregateWinners {
  Graph graph;           // forward
  Dtype dtype;
  Message message;
  int64_t width, heads;
  const void *x;
  int64_t ldx;
  const void *edge;
  int64_t lde;
  const void *grad[2];   // of min and of max: [rows, ., width], row distance ldg
  int64_t ldg;
  const int32_t *winner[2];  // [rows, width], or null where that reduce is not among them
  void *grad_x;          // added to
  void *grad_edge;       // added to
  int threads;
};

// e_k = dst_i + src_j + edge_k;  out_i = sum_k s(e_k) value_j  [/ (sum_k s(e_k) + eps)]
struct GatedForward {
  Graph graph;
  Dtype dtype;
  bool normalize;
  double eps;
  int64_t width;
  const void *gate_dst;  // [rows, width]
  const void *gate_src;  // [cols, width]
  const void *value;     // [cols, width]
  const void *edge;      // [entries, width] or null
  int64_t ldd, lds, ldv;
  void *out;             // [rows, width]
  void *denominator;     // [rows, width] or null
  void *edge_out;        // [entries, width] or null: e_k in the order of the edges
  int threads;
};

struct GatedBackward {
  Graph graph;           // forward for the destination pass, transposed for the source pass
  Dtype dtype;
  bool normalize;
  double eps;
  int64_t width;
  const void *gate_dst;
  const void *gate_src;
  const void *value;
  int64_t ldd, lds, ldv;
  const void *edge_out;  // e_k, or null: recomputed from the two gates
  const void *out;
  const void *denominator;
  const void *grad_out;  // [rows, width]
  const void *grad_edge_out;  // or null
  void *grad_edge;       // [entries, width] or null
  void *scaled_grad;     // [rows, width] n_i: left by the destination pass for the source pass
  void *grad_dst;        // written by the destination pass
  void *grad_src;        // written by the source pass
  void *grad_value;
  int threads;
};

enum class Score : int { additive = 0, gatv2 = 1, dot = 2 };

// out[i, h, :] = sum_k softmax_k(score_h(dst[i], src[col[k]], edge[eid[k]]) + bias) value
struct Attention {
  Graph graph;           // transposed in the source pass of backward
  Dtype dtype;
  Score score;
  int64_t heads, width;  // width of one head
  double slope, scale;   // of leaky ReLU; of the dot product
  double dropout;
  uint64_t seed;
  const void *value;     // [cols, heads * width]
  const void *dst, *src; // per row and per column: heads (additive) or heads * width values
  const void *edge;      // the same per edge, or null
  const void *bias;      // [edge rows, heads] added to the score, or null
  const void *att;       // [heads * width], computing type: gatv2 only
  int64_t ldv, ldd, lds, lde;
  void *out;             // [rows, heads * width]; the input of backward
  void *lse;             // [rows, heads], computing type; null: not kept
  int threads;
};

struct AttentionBackward {
  Attention attention;
  const void *grad;      // [destinations, heads * width]
  void *delta;           // [destinations, heads], computing type: left by the destination pass
  void *grad_dst, *grad_edge, *grad_bias;  // written by the destination pass; edge, bias may be null
  void *grad_att;        // [heads * width], computing type, or null: by the destination pass
  void *grad_src, *grad_value;             // written by the source pass
};

// y = relu?((x - mean) / sqrt(var + eps) * weight + bias) with the mean and variance of the columns;
// float32 and float64 only. Two rows at least.
struct BatchNormForward {
  Dtype dtype;
  bool relu;
  double eps;
  int64_t num_rows, width;
  const void *x;
  int64_t ldx;
  const void *weight;    // [width] or null: ones
  const void *bias;      // [width] or null: zeros
  void *out;             // [rows, width]
  void *stats;           // [4, width]: mean, its rounding error, 1 / std, unbiased variance
  int threads;
};

struct BatchNormBackward {
  Dtype dtype;
  bool relu;
  int64_t num_rows, width;
  const void *x;
  int64_t ldx;
  const void *weight;    // [width] or null
  const void *bias;      // [width] or null
  const void *stats;     // as the forward pass left them
  const void *grad;      // [rows, width]
  int64_t ldg;
  void *grad_x;          // [rows, width] or null
  void *grad_weight;     // [width]
  void *grad_bias;       // [width]
  int threads;
};

// y = relu?(m ((x - mean) / sqrt(var + eps) * weight + bias)) with the mean and variance of each row
// and m = 0 where a word is below the threshold, else `scale`; float32 and float64 only.
struct LayerNormForward {
  Dtype dtype;
  bool relu;
  double eps;
  int64_t num_rows, width;
  const void *x;
  int64_t ldx;
  const void *weight;    // [width] or null: ones
  const void *bias;      // [width] or null: zeros
  const void *words;     // int16 [rows, width] or null: nothing is dropped
  int threshold;
  double scale;
  void *out;             // [rows, width]
  void *stats;           // [rows, 2]: mean, 1 / std
  void *passes;          // uint8 [rows, width] or null: whether the gradient passes
  int threads;
};

struct LayerNormBackward {
  Dtype dtype;
  bool relu;
  int64_t num_rows, width;
  const void *x;
  int64_t ldx;
  const void *weight;    // [width] or null
  const void *stats, *passes;  // as the forward pass left them
  double scale;
  const void *grad;      // [rows, width]
  int64_t ldg;
  void *grad_x;          // [rows, width] or null
  void *grad_weight, *grad_bias;  // [width]
  int threads;
};

// The same of `count` elements without the norm; backward, x is the gradient.
struct Drop {
  Dtype dtype;
  bool relu;
  int64_t count;
  const void *x, *words;
  int threshold;
  double scale;
  void *out, *passes;
  int threads;
};

constexpr int64_t scan_chunk = 32;  // steps between the states that forward keeps for backward

// h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = (C_t . h_t + D u_t) silu(z_t) over packed
// sequences. A, D, bias, initial, last and starts are in the computing type.
struct SelectiveScan {
  Dtype dtype;
  int ptr_bits;          // 32 or 64
  int64_t steps, sequences, channels, states;
  const void *ptr;       // [sequences + 1], or null: one sequence
  bool reverse;          // from the last step of a sequence to its first
  bool softplus;         // delta is softplus(delta + bias)
  bool zoh;              // inputs enter by an exact zero-order hold
  const void *u, *delta; // [steps, channels]
  const void *B, *C;     // [steps, states]
  const void *z;         // [steps, channels] or null
  int64_t ldu, ldd, ldb, ldc, ldz;
  const void *A;         // [channels, states]
  const void *D, *bias;  // [channels] or null
  const void *initial;   // [sequences, channels, states] or null: zeros
  void *out;             // [steps, channels]; unused in backward
  void *last;            // [sequences, channels, states] or null
  void *starts;          // [steps / scan_chunk, states, channels] or null: not kept
  int threads;
};

struct SelectiveScanBackward {
  SelectiveScan scan;
  const void *grad;      // [steps, channels]
  int64_t ldg;
  const void *grad_last; // as last, or null
  void *grad_u, *grad_delta;
  void *grad_z;          // null without z
  void *grad_A, *grad_B, *grad_C;            // these and the next: computing type
  void *grad_D, *grad_bias, *grad_initial;   // each may be null
};

// y = x W^T + b, or y = x W: float or double only.
struct DenseMap {
  Dtype dtype;
  bool transposed;       // the weight is [out, in]; else [in, out]
  int64_t rows, in, out;
  const void *x;         // [rows, in]
  int64_t ldx;
  const void *weight;
  int64_t ldw;
  const void *bias;      // [out] or null
  void *y;               // [rows, out]
  int64_t ldy;
  int threads;
};

struct DenseGradient {
  Dtype dtype;
  int64_t rows, in, out;
  const void *x;         // [rows, in]
  int64_t ldx;
  const void *grad;      // [rows, out]
  int64_t ldg;
  void *grad_weight;     // [out, in]
  void *grad_bias;       // [out] or null
  int threads;
};

struct SortEdges {
  int in_bits;           // 32 or 64: type of key and other
  int out_bits;          // 32 or 64: type of rowptr, col, perm
  int64_t num_entries, num_rows, num_cols;
  const void *key;       // [entries], in [0, num_rows)
  const void *other;     // [entries], in [0, num_cols)
  void *rowptr;          // [num_rows + 1]
  void *col;             // [entries]
  void *perm;            // [entries]
  int threads;
};

struct TransposeCSR {
  int index_bits;
  int64_t num_rows, num_cols, num_entries;
  const void *rowptr, *col, *eid;  // eid may be null (identity)
  void *rowptr_t, *col_t, *eid_t;
  int threads;
};

struct IndexRange {
  int64_t min, max, argmin, argmax;
  bool sorted;
};

struct IntersectRows;  // intersect.h
class FoundEntries;
struct SampledLogistic;  // sampled_logistic.h

struct Kernels {
  const char *isa;
  Fault (*aggregate_forward)(const AggregateForward &);
  void (*aggregate_moments)(const AggregateMoments &);
  Fault (*aggregate_backward)(const AggregateBackward &);
  Fault (*aggregate_winners)(const AggregateWinners &);
  Fault (*gated_forward)(const GatedForward &);
  Fault (*gated_backward_destination)(const GatedBackward &);
  Fault (*gated_backward_source)(const GatedBackward &);
  Fault (*attention_forward)(const Attention &);
  Fault (*attention_backward_destination)(const AttentionBackward &);
  Fault (*attention_backward_source)(const AttentionBackward &);
  void (*batch_norm_forward)(const BatchNormForward &);
  void (*batch_norm_backward)(const BatchNormBackward &);
  void (*layer_norm_forward)(const LayerNormForward &);
  void (*layer_norm_backward)(const LayerNormBackward &);
  void (*drop_forward)(const Drop &);
  void (*drop_backward)(const Drop &);
  int64_t dense_panel;   // floats
  void (*dense_map)(const DenseMap &);
  void (*dense_gradient)(const DenseGradient &);
  Fault (*selective_scan_forward)(const SelectiveScan &);
  Fault (*selective_scan_backward)(const SelectiveScanBackward &);
  Fault (*sampled_logistic)(const SampledLogistic &);
  // Counts what there is and, with `keep`, remembers where (in b too with `keep_b`).
  std::unique_ptr<FoundEntries> (*intersect_rows)(const IntersectRows &, bool keep, bool keep_b);
};

extern const Kernels kernels_baseline;
extern const Kernels kernels_avx2, kernels_avx512;  // where they were compiled

const Kernels &active_kernels();  // module.cpp: the table in use

IndexRange index_range(const void *index, int bits, int64_t n, int threads);
Fault sort_edges(const SortEdges &);
Fault transpose_csr(const TransposeCSR &);

}  // namespace graphkit
