// Lossy summaries of a graph by merging nodes (SSumM, KDD 2020): the state and its operations.
#pragma once
#include <stdlib.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace graphkit {

struct SummariseOptions {
  double budget;  // bits
  int p;          // which error the summary favours: 1 or 2
  int iterations, num_hashes;
  int64_t max_group, effort;  // pairs drawn in a round, per member of the group
  uint64_t seed;
  bool compat;  // the published code's limit on fruitless rounds and its test of the budget
  int threads;
};

// x log2 x and the bits of a block, without cancellation where N is large.
class BlockBits {
 public:
  BlockBits();
  double xlogx(int64_t x) const { return table_[size_t(x)]; }
  // N H(w / N) for 0 < w <= N.
  double entropy(int64_t pairs, int64_t weight) const {
    if (weight == pairs) return 0.0;
    if (pairs < table_size) return xlogx(pairs) - xlogx(weight) - xlogx(pairs - weight);
    return wide_entropy(double(pairs), double(weight));
  }

 private:
  static constexpr int64_t table_size = 1 << 16;
  static double wide_entropy(double pairs, double weight);
  std::vector<double> table_;
};

// How many superedges have which weight: the largest weight is always exact.
class WeightCounts {
 public:
  WeightCounts() : small_(table_size, 0) {}
  void add(int64_t weight);
  void remove(int64_t weight);
  int64_t largest() const { return large_.empty() ? largest_ : large_.rbegin()->first; }

 private:
  static constexpr int64_t table_size = 1 << 12;
  std::vector<int64_t> small_;
  std::map<int64_t, int64_t> large_;
  int64_t largest_ = 0;  // of the small ones
};

struct SummariseRound {
  int64_t iteration, groups, merges, trials, supernodes, superedges, largest;
  double bits;
};

class Summariser {
 public:
  // A symmetric graph without loops whose rows ascend; throws std::invalid_argument otherwise.
  Summariser(const int64_t *rowptr, const int32_t *col, int64_t num_nodes, int64_t num_entries,
             const SummariseOptions &options);
  ~Summariser();
  Summariser(const Summariser &) = delete;
  Summariser &operator=(const Summariser &) = delete;

  // Goes on until about `work` list entries were read or `merges` merges made; true at the end.
  bool advance(int64_t work, int64_t merges);
  // Leaves superedges only, pools supernodes that have none, drops superedges down to the budget.
  void finish();

  int64_t num_nodes() const { return num_nodes_; }
  int64_t num_supernodes() const { return supernodes_; }
  int64_t num_superedges() const { return superedges_; }
  int64_t largest_weight() const { return counts_.largest(); }
  double bits() const;
  double progress() const;  // 0..1, of the iterations
  const std::vector<SummariseRound> &rounds() const { return rounds_; }

  void owners(int64_t *owner);  // the supernode of each node, by the id of one of its members
  double cost(int64_t supernode) const;
  struct Block {
    int64_t a, b, weight;  // a >= b
    bool superedge;
  };
  std::vector<Block> blocks() const;

 private:
  struct Entry {
    int32_t node;
    int32_t twin;    // where the list of `node` holds the same block
    uint32_t block;  // weight << 1 | superedge
  };
  struct List {
    Entry *data;
    int32_t size, capacity;
    Entry *begin() const { return data; }
    Entry *end() const { return data + size; }
  };
  struct Node {  // what a trial reads of each neighbour, in one place
    uint32_t stamp, weight;  // of the list that a trial compares with
    int32_t size;
    uint32_t loop;  // block
  };
  struct Cost {
    double data;  // entropy of superedges and plain edges of the others
    double low;   // the same with `low_base_` and the better choice in each block
    int64_t supers;
  };
  struct Group {
    int64_t begin, end;
  };
  struct Glance {  // what most trials need to know of a member: a group of them fits into the L1
    int32_t node, size;
    double cost, low;
  };

  // -- summarise.cpp
  bool start_iteration();
  void find_groups();
  void shingles(int level, const std::vector<char> *wanted);
  bool start_group();
  int64_t skip_limit(int64_t size) const;
  bool fits() const;
  double size_of(int64_t supernodes, int64_t superedges, int64_t largest) const;
  int64_t pooled_supernodes() const;
  void end_iteration();
  int32_t find(int32_t node);
  void flatten();
  void drop_superedges(std::vector<Block> &kept, std::vector<int64_t> &supers);

  // -- summarise_merge.cpp
  bool round();  // one round of draws; true if it merged
  bool hopeless(const Glance &a, const Glance &b, double reach) const;
  double reduction(int32_t a, int32_t b, double reach);
  void merge(int32_t a, int32_t b);
  void set_base();
  void refresh_low();
  void unaccount(int32_t node, const Entry &e);
  void remove_entry(List &list, int32_t at);
  void append(List &list, const Entry &e);
  void release(List &list);
  static int64_t pairs_within(int64_t size) { return size * (size - 1) / 2; }
  bool joins(int64_t pairs, int64_t weight) const;
  double price(int64_t pairs, int64_t weight) const;      // the better choice, under the p rule
  double low_price(int64_t pairs, int64_t weight) const;  // a bound on every later price
  double data_bits(int64_t pairs, uint32_t block) const;  // of a stored block, without the base
  double stored_price(int64_t pairs, uint32_t block) const {
    return data_bits(pairs, block) + ((block & 1) ? base_ : 0.0);
  }
  double cost_of(int32_t node) const {
    return cost_[node].data + base_ * double(cost_[node].supers);
  }
  void count_supers(int64_t before, int64_t after) { bare_ += (after == 0) - (before == 0); }

  const SummariseOptions options_;
  const int64_t num_nodes_, num_entries_;
  std::vector<int64_t> rowptr_;
  std::vector<int32_t> col_;
  const BlockBits table_;
  const double log_nodes_, edge_bits_;  // log2 |V|, 2 log2 |V|
  double base_ = 0.0, low_base_ = 0.0;  // 2 log2 |S| + log2 omega, and a bound below it

  std::vector<Entry> first_;  // all lists as they begin
  std::vector<List> list_;
  std::vector<Node> node_;
  std::vector<Cost> cost_;
  std::vector<int32_t> parent_;  // union-find; roots are the supernodes
  WeightCounts counts_;
  int64_t supernodes_, superedges_, bare_;  // bare: supernodes without any superedge
  bool pooled_ = false;                     // bare ones have been pooled
  uint32_t stamp_ = 0;

  int64_t iteration_ = 0;
  double threshold_ = 0.0;
  std::vector<int32_t> order_;
  std::vector<uint64_t> key_, hash_, best_;
  std::vector<Group> groups_;
  int64_t next_group_ = 0, draw_round_ = 0, skips_ = 0, limit_ = 0;
  uint64_t group_key_ = 0;
  std::vector<int32_t> members_;
  std::vector<Glance> glance_;
  int64_t work_ = 0, trials_ = 0, merges_ = 0;
  bool done_ = false, finished_ = false;
  std::vector<SummariseRound> rounds_;
  std::vector<Block> kept_;
};

}  // namespace graphkit
