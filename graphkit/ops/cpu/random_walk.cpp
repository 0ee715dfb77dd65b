#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "draws.h"
#include "sampling.h"

namespace graphkit {
namespace {

constexpr int walk_block = 64;  // uniform walks that wait for memory together
constexpr int node2vec_tries = 32, repelled_tries = 16;  // rejections before the exact draw

// Visits of one walk: a table that is emptied by undoing the walk.
class Visits {
 public:
  explicit Visits(int64_t most_nodes) {
    size_t size = 16;
    while (size < size_t(most_nodes) * 2) size *= 2;
    slots_.assign(size, {-1, 0});
  }
  void add(int64_t node) {
    auto &slot = slots_[find(node)];
    if (slot.first < 0) used_.push_back(size_t(&slot - slots_.data()));
    slot.first = node;
    ++slot.second;
  }
  int64_t of(int64_t node) const { return slots_[find(node)].second; }
  void clear() {
    for (size_t s : used_) slots_[s] = {-1, 0};
    used_.clear();
  }

 private:
  size_t find(int64_t node) const {
    const size_t mask = slots_.size() - 1;
    size_t s = size_t(mix(uint64_t(node))) & mask;
    while (slots_[s].first >= 0 && slots_[s].first != node) s = (s + 1) & mask;
    return s;
  }
  std::vector<std::pair<int64_t, int64_t>> slots_;
  std::vector<size_t> used_;
};

template <class I>
class Walker {
 public:
  Walker(const RandomWalks &a, FaultFlag &fault)
      : a_(a), g_(a.graph), fault_(fault), key_(mix(a.seed + golden)),
        back_(1 / a.p), away_(1 / a.q), bound_(std::max({1.0, back_, away_})) {}

  // Walks that know only where they are: a block of them advances together, step by step.
  bool uniform(int64_t first, int64_t last) const {
    Range rows[walk_block];
    int64_t entry[walk_block];
    for (int64_t w = first; w < last; ++w) a_.nodes[w * (a_.length + 1)] = a_.start[w];
    for (int64_t t = 0; t < a_.length; ++t) {
      for (int64_t w = first; w < last; ++w) {
        const Draws draws(after(key_, w), t);
        int64_t &k = entry[w - first];
        k = restarts(draws) ? -2 : -1;
        if (!g_.row(at(w, t), rows[w - first], fault_)) return false;
        const Range r = rows[w - first];
        if (k == -1 && r.size() > 0) {
          k = r.begin + draws.below(1, r.size());
          __builtin_prefetch(g_.col + k);
        }
      }
      for (int64_t w = first; w < last; ++w) {
        if (!go(w, t, entry[w - first])) return false;
        __builtin_prefetch(g_.rowptr + at(w, t + 1));
      }
    }
    return true;
  }

  bool second_order(int64_t w) const {
    a_.nodes[w * (a_.length + 1)] = a_.start[w];
    int64_t previous = -1;
    for (int64_t t = 0; t < a_.length; ++t) {
      const Draws draws(after(key_, w), t);
      const int64_t here = at(w, t);
      Range r;
      if (!g_.row(here, r, fault_)) return false;
      int64_t k = -1;
      if (restarts(draws)) k = -2;
      else if (r.size() > 0 && !choose_second_order(draws, r, previous, k)) return false;
      if (!go(w, t, k)) return false;
      previous = k >= 0 ? here : -1;
    }
    return true;
  }

  bool repelled(int64_t w, Visits &visits) const {
    a_.nodes[w * (a_.length + 1)] = a_.start[w];
    visits.clear();
    visits.add(a_.start[w]);
    for (int64_t t = 0; t < a_.length; ++t) {
      const Draws draws(after(key_, w), t);
      Range r;
      if (!g_.row(at(w, t), r, fault_)) return false;
      int64_t k = -1;
      if (restarts(draws)) k = -2;
      else if (r.size() > 0 && !choose_repelled(draws, r, visits, k)) return false;
      if (!go(w, t, k)) return false;
      visits.add(at(w, t + 1));
    }
    return true;
  }

 private:
  int64_t at(int64_t w, int64_t t) const { return a_.nodes[w * (a_.length + 1) + t]; }
  bool restarts(const Draws &draws) const { return a_.restart > 0 && draws.unit(0) < a_.restart; }

  // Take entry k; -1 stays, -2 goes back to the start.
  bool go(int64_t w, int64_t t, int64_t k) const {
    int64_t next = k == -2 ? a_.start[w] : at(w, t);
    if (k >= 0 && !g_.source(k, next, fault_)) return false;
    a_.nodes[w * (a_.length + 1) + t + 1] = next;
    if (a_.edges) a_.edges[w * a_.length + t] = k >= 0 ? g_.edge(k) : -1;
    return true;
  }

  bool choose_second_order(const Draws &draws, Range r, int64_t previous, int64_t &k) const {
    k = r.begin + draws.below(1, r.size());
    if (previous < 0) return true;
    Range around;
    if (!g_.row(previous, around, fault_)) return false;
    const I *low = g_.col + around.begin, *high = g_.col + around.end;
    const auto weight = [&](int64_t node) {
      if (node == previous) return back_;
      return std::binary_search(low, high, I(node)) ? 1.0 : away_;
    };
    for (int trial = 0; trial < node2vec_tries; ++trial) {
      if (trial > 0) k = r.begin + draws.below(1 + 2 * trial, r.size());
      if (draws.unit(2 + 2 * trial) * bound_ < weight(int64_t(g_.col[k]))) return true;
    }
    double total = 0;
    for (int64_t j = r.begin; j < r.end; ++j) total += weight(int64_t(g_.col[j]));
    const double target = draws.unit(1 + 2 * node2vec_tries) * total;
    double sum = 0;
    for (k = r.begin; k < r.end - 1; ++k) {
      sum += weight(int64_t(g_.col[k]));
      if (sum > target) break;
    }
    return true;
  }

  // Visits over expected visits, of an entry's node; the walk starts with x = mu.
  bool ratio(int64_t k, const Visits &visits, double &out) const {
    int64_t node;
    Range r;
    if (!g_.source(k, node, fault_) || !g_.row(node, r, fault_)) return false;
    out = 1 + double(visits.of(node)) / double(std::max<int64_t>(r.size(), 1));
    return true;
  }

  bool choose_repelled(const Draws &draws, Range r, const Visits &visits, int64_t &k) const {
    double ratio_k = 1;
    for (int trial = 0; trial < repelled_tries; ++trial) {
      k = r.begin + draws.below(1 + 2 * trial, r.size());
      if (!ratio(k, visits, ratio_k)) return false;
      if (draws.unit(2 + 2 * trial) < std::pow(ratio_k, -a_.alpha)) return true;
    }
    double least = 0, total = 0;  // relative to the least visited: nothing underflows to zero
    for (int64_t j = r.begin; j < r.end; ++j) {
      if (!ratio(j, visits, ratio_k)) return false;
      least = j == r.begin ? ratio_k : std::min(least, ratio_k);
    }
    for (int64_t j = r.begin; j < r.end; ++j) {
      ratio(j, visits, ratio_k);
      total += std::pow(ratio_k / least, -a_.alpha);
    }
    const double target = draws.unit(1 + 2 * repelled_tries) * total;
    double sum = 0;
    for (k = r.begin; k < r.end - 1; ++k) {
      ratio(k, visits, ratio_k);
      sum += std::pow(ratio_k / least, -a_.alpha);
      if (sum > target) break;
    }
    return true;
  }

  const RandomWalks &a_;
  View<I> g_;
  FaultFlag &fault_;
  uint64_t key_;
  double back_, away_, bound_;
};

template <class I>
Fault walk_as(const RandomWalks &a) {
  FaultFlag fault;
  const Walker<I> walker(a, fault);
  const bool second_order = a.p != 1 || a.q != 1;
  const int64_t blocks = (a.num_walks + walk_block - 1) / walk_block;
  const int threads = threads_for(a.num_walks * a.length * 8, a.threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Visits visits(a.alpha != 0 ? std::min(a.length + 1, a.graph.num_rows) : 0);
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * walk_block, last = std::min(first + walk_block, a.num_walks);
      bool fine = true;
      if (!second_order && a.alpha == 0) walker.uniform(first, last);
      else
        for (int64_t w = first; fine && w < last; ++w)
          fine = second_order ? walker.second_order(w) : walker.repelled(w, visits);
    }
  }
  return fault.result();
}

}  // namespace

Fault random_walks(const RandomWalks &a) {
  return a.graph.index_bits == 32 ? walk_as<int32_t>(a) : walk_as<int64_t>(a);
}

}  // namespace graphkit
