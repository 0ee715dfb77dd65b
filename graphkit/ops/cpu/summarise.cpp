// Summaries: how the state begins, which supernodes may meet, when it ends and what is left.
#include "summarise.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

#include "draws.h"

namespace graphkit {

BlockBits::BlockBits() : table_(size_t(table_size), 0.0) {
  for (int64_t x = 1; x < table_size; ++x) table_[size_t(x)] = double(x) * std::log2(double(x));
}

double BlockBits::wide_entropy(double pairs, double weight) {
  const double log2_e = 1.4426950408889634;
  return weight * std::log2(pairs / weight) -
         (pairs - weight) * std::log1p(-weight / pairs) * log2_e;
}

void WeightCounts::add(int64_t weight) {
  if (weight >= table_size) {
    ++large_[weight];
    return;
  }
  ++small_[size_t(weight)];
  largest_ = std::max(largest_, weight);
}

void WeightCounts::remove(int64_t weight) {
  if (weight >= table_size) {
    const auto place = large_.find(weight);
    if (--place->second == 0) large_.erase(place);
    return;
  }
  --small_[size_t(weight)];
  while (largest_ > 0 && small_[size_t(largest_)] == 0) --largest_;
}

Summariser::Summariser(const int64_t *rowptr, const int32_t *col, int64_t num_nodes,
                       int64_t num_entries, const SummariseOptions &options)
    : options_(options), num_nodes_(num_nodes), num_entries_(num_entries),
      rowptr_(rowptr, rowptr + num_nodes + 1), col_(col, col + num_entries),
      log_nodes_(std::log2(double(num_nodes))), edge_bits_(2 * log_nodes_),
      supernodes_(num_nodes), superedges_(num_entries / 2), bare_(0) {
  const auto refuse = [](int64_t node) {
    throw std::invalid_argument("graph: row " + std::to_string(node) +
                                ", wanted a symmetric graph without loops, rows ascending");
  };
  if (rowptr_.front() != 0 || rowptr_.back() != num_entries) refuse(0);
  first_.resize(size_t(num_entries));
  list_.resize(size_t(num_nodes));
  node_.assign(size_t(num_nodes), Node{0, 0, 1, 0});
  cost_.assign(size_t(num_nodes), Cost{0.0, 0.0, 0});
  parent_.resize(size_t(num_nodes));
  std::iota(parent_.begin(), parent_.end(), 0);
  for (int64_t u = 0; u < num_nodes; ++u) {
    const int64_t begin = rowptr_[size_t(u)], end = rowptr_[size_t(u) + 1];
    if (begin < 0 || end < begin || end > num_entries) refuse(u);
    list_[size_t(u)] = {first_.data() + begin, int32_t(end - begin), int32_t(end - begin)};
    cost_[size_t(u)].supers = end - begin;
    bare_ += end == begin;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t v = col_[size_t(k)];
      if (v < 0 || v >= num_nodes || v == u || (k > begin && v <= col_[size_t(k) - 1])) refuse(u);
    }
  }
  // Rows ascend and are visited in ascending order: u is the next unseen entry of row v.
  std::vector<int32_t> seen(size_t(num_nodes), 0);
  for (int64_t u = 0; u < num_nodes; ++u) {
    for (int64_t k = rowptr_[size_t(u)]; k < rowptr_[size_t(u) + 1]; ++k) {
      const int32_t v = col_[size_t(k)], twin = seen[size_t(v)]++;
      const int64_t there = rowptr_[size_t(v)] + twin;
      if (there >= rowptr_[size_t(v) + 1] || col_[size_t(there)] != u) refuse(u);
      first_[size_t(k)] = {v, twin, 1u << 1 | 1u};
    }
  }
  for (int64_t e = 0; e < num_entries / 2; ++e) counts_.add(1);
  set_base();
  refresh_low();
  if (fits()) done_ = true;
}

Summariser::~Summariser() {
  for (List &list : list_) release(list);
}

void Summariser::release(List &list) {
  // An empty list has no capacity, wherever it points.
  const bool own = list.capacity && (list.data < first_.data() ||
                                     list.data >= first_.data() + first_.size());
  if (own) std::free(list.data);
  list = {nullptr, 0, 0};
}

double Summariser::size_of(int64_t supernodes, int64_t superedges, int64_t largest) const {
  const double log_s = std::log2(double(std::max<int64_t>(supernodes, 1)));
  const double log_w = std::log2(double(std::max<int64_t>(largest, 1)));
  return double(superedges) * (2 * log_s + log_w) + double(num_nodes_) * log_s;
}

int64_t Summariser::pooled_supernodes() const {
  return pooled_ ? supernodes_ : supernodes_ - bare_ + (bare_ > 0);
}

double Summariser::bits() const {
  return size_of(supernodes_, superedges_, counts_.largest());
}

// The summary that finish() would make is what has to fit, so merging stops as early as it can.
bool Summariser::fits() const {
  const int64_t supernodes = options_.compat ? supernodes_ : pooled_supernodes();
  return size_of(supernodes, superedges_, counts_.largest()) <= options_.budget;
}

double Summariser::progress() const {
  if (done_) return 1.0;
  if (iteration_ == 0) return 0.0;
  const double part = groups_.empty() ? 1.0 : double(next_group_) / double(groups_.size());
  return (double(iteration_ - 1) + part) / double(options_.iterations);
}

int32_t Summariser::find(int32_t node) {
  while (parent_[node] != node) {
    parent_[node] = parent_[parent_[node]];
    node = parent_[node];
  }
  return node;
}

void Summariser::flatten() {
  for (int32_t v = 0; v < num_nodes_; ++v) parent_[v] = find(v);
}

// hash_[v]: the least f(u) over v and its neighbours; best_[A]: the least over members of A.
void Summariser::shingles(int level, const std::vector<char> *wanted) {
  const uint64_t key = after(after(options_.seed, 2 * iteration_), level);
  const int threads = threads_for(num_nodes_ + num_entries_, options_.threads);
  (void)threads;
  best_.assign(size_t(num_nodes_), ~uint64_t(0));
  hash_.resize(size_t(2 * num_nodes_));
  uint64_t *f = hash_.data(), *least = hash_.data() + num_nodes_;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t v = 0; v < num_nodes_; ++v) f[v] = after(key, v);
#pragma omp for schedule(dynamic, 1024)
    for (int64_t v = 0; v < num_nodes_; ++v) {
      if (wanted && !(*wanted)[size_t(parent_[v])]) continue;
      uint64_t smallest = f[v];
      for (int64_t k = rowptr_[v]; k < rowptr_[v + 1]; ++k)
        smallest = std::min(smallest, f[col_[k]]);
      least[v] = smallest;
    }
  }
  for (int64_t v = 0; v < num_nodes_; ++v) {
    const int32_t a = parent_[v];
    if (!wanted || (*wanted)[size_t(a)]) best_[a] = std::min(best_[a], least[v]);
  }
}

void Summariser::find_groups() {
  flatten();
  order_.clear();
  for (int32_t v = 0; v < num_nodes_; ++v)
    if (parent_[v] == v) order_.push_back(v);
  key_.resize(order_.size());
  groups_.clear();
  std::vector<Group> open{{0, int64_t(order_.size())}}, longer;
  std::vector<std::pair<uint64_t, int32_t>> sorted;
  std::vector<char> wanted;
  for (int level = 0; level < options_.num_hashes && !open.empty(); ++level) {
    if (level) {  // only what is still too long is looked at again
      wanted.assign(size_t(num_nodes_), 0);
      for (const Group &g : open)
        for (int64_t i = g.begin; i < g.end; ++i) wanted[size_t(order_[i])] = 1;
    }
    shingles(level, level ? &wanted : nullptr);
    longer.clear();
    for (const Group &g : open) {
      sorted.clear();
      for (int64_t i = g.begin; i < g.end; ++i) sorted.push_back({best_[order_[i]], order_[i]});
      std::sort(sorted.begin(), sorted.end());
      int64_t start = g.begin;
      for (int64_t i = g.begin; i < g.end; ++i) {
        order_[i] = sorted[size_t(i - g.begin)].second;
        key_[i] = sorted[size_t(i - g.begin)].first;
        if (key_[i] == key_[start]) continue;
        (i - start > options_.max_group ? longer : groups_).push_back({start, i});
        start = i;
      }
      (g.end - start > options_.max_group ? longer : groups_).push_back({start, g.end});
    }
    open = longer;
  }
  for (const Group &g : open)
    for (int64_t i = g.begin; i < g.end; i += options_.max_group)
      groups_.push_back({i, std::min(i + options_.max_group, g.end)});
  groups_.erase(std::remove_if(groups_.begin(), groups_.end(),
                               [](const Group &g) { return g.end - g.begin < 2; }),
                groups_.end());
  std::sort(groups_.begin(), groups_.end(),
            [](const Group &a, const Group &b) { return a.begin < b.begin; });
  work_ += num_nodes_ + num_entries_;
}

int64_t Summariser::skip_limit(int64_t size) const {
  const auto log_up = [](int64_t x) {
    int64_t power = 0;
    while ((int64_t(1) << power) < x) ++power;
    return power;
  };
  const int64_t limit = log_up(log_up(size));
  return options_.compat ? limit : std::max<int64_t>(limit, 1);
}

bool Summariser::start_iteration() {
  if (iteration_ == options_.iterations) return false;
  ++iteration_;
  threshold_ = iteration_ < options_.iterations ? 1.0 / double(1 + iteration_) : 0.0;
  find_groups();
  next_group_ = 0;
  trials_ = merges_ = 0;
  members_.clear();
  if (base_ - low_base_ > 1.0) refresh_low();
  return true;
}

void Summariser::end_iteration() {
  rounds_.push_back({iteration_, int64_t(groups_.size()), merges_, trials_, supernodes_,
                     superedges_, counts_.largest(), bits()});
}

bool Summariser::start_group() {
  if (next_group_ == int64_t(groups_.size())) return false;
  const Group g = groups_[size_t(next_group_)];
  members_.assign(order_.begin() + g.begin, order_.begin() + g.end);
  group_key_ = after(after(options_.seed, 2 * iteration_ + 1), next_group_++);
  draw_round_ = skips_ = 0;
  limit_ = skip_limit(g.end - g.begin);
  return true;
}

bool Summariser::advance(int64_t work, int64_t merges) {
  const int64_t enough = work_ + work;
  while (!done_ && work_ < enough && merges > 0) {
    if (members_.size() < 2 || skips_ >= limit_) {
      if (iteration_ > 0 && start_group()) continue;
      if (iteration_ > 0) end_iteration();
      if (!start_iteration()) {
        done_ = true;
        break;
      }
      members_.clear();
      continue;
    }
    if (!round()) continue;
    --merges;
    if (fits()) {
      done_ = true;
      end_iteration();
    }
  }
  return done_;
}

std::vector<Summariser::Block> Summariser::blocks() const {
  if (finished_) return kept_;
  std::vector<Block> found;
  for (int64_t a = 0; a < num_nodes_; ++a) {
    if (parent_[size_t(a)] != a) continue;
    const uint32_t loop = node_[size_t(a)].loop;
    if (loop >> 1) found.push_back({a, a, int64_t(loop >> 1), bool(loop & 1)});
    for (const Entry &e : list_[size_t(a)])
      if (e.node < a) found.push_back({a, e.node, int64_t(e.block >> 1), bool(e.block & 1)});
  }
  return found;
}

void Summariser::owners(int64_t *owner) {
  flatten();
  std::copy(parent_.begin(), parent_.end(), owner);
}

double Summariser::cost(int64_t supernode) const {
  if (supernode < 0 || supernode >= num_nodes_ || parent_[size_t(supernode)] != supernode)
    throw std::out_of_range("supernode " + std::to_string(supernode));
  return cost_of(int32_t(supernode));
}

void Summariser::finish() {
  if (finished_) return;
  flatten();
  std::vector<Block> kept = blocks();
  kept.erase(std::remove_if(kept.begin(), kept.end(), [](const Block &b) { return !b.superedge; }),
             kept.end());
  std::vector<int64_t> supers(size_t(num_nodes_), 0);
  for (int32_t a = 0; a < num_nodes_; ++a) supers[size_t(a)] = cost_[size_t(a)].supers;
  // The identity stays what it is where it fits.
  const bool untouched = supernodes_ == num_nodes_ && bits() <= options_.budget;
  if (!untouched) {
    drop_superedges(kept, supers);
    int32_t pool = -1;
    for (int32_t a = 0; a < num_nodes_; ++a) {
      if (parent_[a] != a || supers[size_t(a)]) continue;
      if (pool < 0) {
        pool = a;
        continue;
      }
      parent_[a] = pool;
      node_[pool].size += node_[a].size;
    }
    supernodes_ = pooled_supernodes();
    bare_ = pool >= 0;
    pooled_ = true;
  }
  flatten();
  kept_ = std::move(kept);
  finished_ = true;
}

void Summariser::drop_superedges(std::vector<Block> &kept, std::vector<int64_t> &supers) {
  const auto over = [&] {
    return size_of(pooled_supernodes(), superedges_, counts_.largest()) > options_.budget;
  };
  if (!over()) return;
  std::sort(kept.begin(), kept.end(), [](const Block &x, const Block &y) {
    return std::make_pair(x.a, x.b) < std::make_pair(y.a, y.b);  // among equals the first goes
  });
  std::vector<std::pair<double, int64_t>> loss(kept.size());
  for (size_t i = 0; i < kept.size(); ++i) {
    const Block &b = kept[i];
    const int64_t size = node_[size_t(b.a)].size;
    const double w = double(b.weight),
                 pairs = double(b.a == b.b ? pairs_within(size) : size * node_[size_t(b.b)].size);
    loss[i] = {options_.p == 1 ? w * (2 * w / pairs - 1) : w * w / pairs, int64_t(i)};
  }
  std::sort(loss.begin(), loss.end());
  size_t gone = 0;
  for (; gone < loss.size() && over(); ++gone) {
    Block &b = kept[size_t(loss[gone].second)];
    counts_.remove(b.weight);
    --superedges_;
    for (const int64_t end : {b.a, b.b}) {
      count_supers(supers[size_t(end)], supers[size_t(end)] - 1);
      --supers[size_t(end)];
      if (b.a == b.b) break;
    }
    b.superedge = false;
  }
  kept.erase(std::remove_if(kept.begin(), kept.end(), [](const Block &b) { return !b.superedge; }),
             kept.end());
}

}  // namespace graphkit
