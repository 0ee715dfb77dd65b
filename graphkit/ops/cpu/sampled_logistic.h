// The logistic loss of pairs of table rows against sampled negatives, with its gradients.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace graphkit {

// With s(u, i) = user[u] . item[i], beta(u, i) = beta_user[u] beta_item[i], sp = softplus and a pair
// (u, i) with negatives n_1..n_N and the neighbours j_1..j_K of item i, the loss is the sum over pairs of
//   (w0 + w1 beta(u, i)) sp(-s(u, i)) + negative_weight / N sum_k (w2 + w3 beta(u, n_k)) sp(s(u, n_k))
//   + neighbour_scale sum_k neighbour_weights[i, k] sp(-s(u, j_k))
// plus decay / 2 times the squares of both tables. Float or double only; betas are rows of one value.
struct SampledLogistic {
  Dtype dtype;
  int id_bits;             // 32 or 64: type of users, items and negatives
  int neighbour_bits;      // the same of neighbours
  int64_t num_users, num_items, width, pairs, num_negatives, num_neighbours;
  const void *user, *item; // [users, width], [items, width]
  int64_t ldu, ldi;
  const void *users, *items;             // [pairs]
  const void *negatives;                 // row b begins at b * ldn: 0 where all pairs share one row
  int64_t ldn;
  const void *beta_user, *beta_item;     // [users] and [items], or both null: zero
  double weights[4], negative_weight;
  const void *neighbours, *neighbour_weights;  // [items, num_neighbours], or null
  double neighbour_scale, decay;
  double *loss;
  void *grad_user, *grad_item;           // [users, width], [items, width], or both null: not wanted
  int threads;
};

}  // namespace graphkit
