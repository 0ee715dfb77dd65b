// Summaries: what merging two supernodes would save, and merging them. Nearly all time is here.
#include "summarise.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "draws.h"

namespace graphkit {

namespace {
constexpr double rounding = 1e-12;  // equal reductions: the pair drawn first wins
}

void Summariser::set_base() {
  base_ = 2 * std::log2(double(supernodes_)) +
          std::log2(double(std::max<int64_t>(counts_.largest(), 1)));
}

bool Summariser::joins(int64_t pairs, int64_t weight) const {
  if (options_.p == 1 && 2 * weight < pairs) return false;  // it would raise the error
  const double apart = edge_bits_ * double(weight);
  return apart >= base_ && base_ + table_.entropy(pairs, weight) <= apart;
}

double Summariser::price(int64_t pairs, int64_t weight) const {
  const double apart = edge_bits_ * double(weight);
  if ((options_.p == 1 && 2 * weight < pairs) || apart < base_) return apart;
  return std::min(apart, base_ + table_.entropy(pairs, weight));
}

// Entropies only grow when blocks are joined, so this bounds what a block that contains this one
// may cost while the base is at least low_base_.
double Summariser::low_price(int64_t pairs, int64_t weight) const {
  const double apart = edge_bits_ * double(weight);
  if (apart < low_base_) return apart;
  return std::min(apart, low_base_ + table_.entropy(pairs, weight));
}

double Summariser::data_bits(int64_t pairs, uint32_t block) const {
  const int64_t weight = block >> 1;
  return (block & 1) ? table_.entropy(pairs, weight) : edge_bits_ * double(weight);
}

void Summariser::refresh_low() {
  low_base_ = base_ - 0.5;
  for (int32_t a = 0; a < num_nodes_; ++a) {
    if (parent_[a] != a) continue;
    const int64_t size = node_[a].size;
    const uint32_t loop = node_[a].loop;
    double low = loop >> 1 ? low_price(pairs_within(size), loop >> 1) : 0.0;
    for (const Entry &e : list_[a]) low += low_price(size * node_[e.node].size, e.block >> 1);
    cost_[a].low = low;
  }
}

bool Summariser::round() {
  const int64_t size = int64_t(members_.size()), drawn = size * options_.effort;
  // Where there are no more pairs than draws, each is tried once.
  const bool every = !options_.compat && size * (size - 1) / 2 <= drawn;
  const int64_t tried = every ? size * (size - 1) / 2 : drawn;
  const Draws draws(group_key_, draw_round_++);
  glance_.clear();
  for (const int32_t a : members_)
    glance_.push_back({a, node_[a].size, cost_of(a), cost_[a].low});
  double best = -1.0, reach = threshold_;
  int64_t first = 0, second = 0, made = tried;
  for (int64_t i = 0, a = 0, b = 0; i < tried; ++i) {
    if (every) {
      if (++b == size) b = ++a + 1;
    } else {
      a = draws.below(2 * i, size);
      b = draws.below(2 * i + 1, size - 1);
      b += b >= a;
    }
    const Glance &x = glance_[size_t(a)], &y = glance_[size_t(b)];
    if (hopeless(x, y, reach)) continue;
    // A repeated pair cannot beat itself. The order within a pair must not matter either.
    const double found = reduction(std::min(x.node, y.node), std::max(x.node, y.node), reach);
    if (found <= best + rounding) continue;
    best = found, first = a, second = b;
    reach = std::max(best, threshold_);
    // Merging cannot save more than the cheaper of the two costs: no pair is better than a half,
    // but for the block between the two.
    if (!options_.compat && best >= 0.5 - rounding) {
      made = i + 1;
      break;
    }
  }
  trials_ += made;
  work_ += made;
  if (best < threshold_ - rounding) {
    skips_ = every ? limit_ : skips_ + 1;
    return false;
  }
  skips_ = 0;
  // The longer list stays where it is.
  if (list_[members_[size_t(first)]].size < list_[members_[size_t(second)]].size)
    std::swap(first, second);
  merge(members_[size_t(first)], members_[size_t(second)]);
  members_[size_t(second)] = members_.back();
  members_.pop_back();
  ++merges_;
  return true;
}

// Without a look at the lists: the cost of the block between the two is unknown but limited, and
// what each pays to others it will pay as a part of the merged one.
bool Summariser::hopeless(const Glance &a, const Glance &b, double reach) const {
  const double both = a.cost + b.cost, pairs = double(a.size) * double(b.size);
  const double between =
      std::min(std::min(a.cost, b.cost), pairs * std::max(edge_bits_, base_ + 1.0));
  return std::max(a.low, b.low) - between > (1.0 - reach) * (both - between) + 1e-9 * both;
}

// rho(a, b), or -1 once it is certain to stay below `reach`.
double Summariser::reduction(int32_t a, int32_t b, double reach) {
  if (list_[a].size < list_[b].size) std::swap(a, b);
  const double cost_a = cost_of(a), cost_b = cost_of(b), both = cost_a + cost_b;
  const int64_t size_a = node_[a].size, size_b = node_[b].size, size = size_a + size_b;
  const double share = 1.0 - reach, slack = 1e-9 * both;
  if (++stamp_ == 0) {
    for (Node &node : node_) node.stamp = 0;
    stamp_ = 1;
  }
  uint32_t between = 0;
  for (const Entry &e : list_[b]) {
    if (e.node == a) {
      between = e.block;
      continue;
    }
    node_[e.node].stamp = stamp_;
    node_[e.node].weight = e.block >> 1;
  }
  work_ += list_[b].size;
  const double before =
      both - (between >> 1 ? stored_price(size_a * size_b, between) : 0.0);
  if (!(before > slack)) return -1.0;
  const double bound = share * before + slack;

  const uint32_t loop_a = node_[a].loop >> 1, loop_b = node_[b].loop >> 1;
  const int64_t loop = int64_t(loop_a) + loop_b + (between >> 1);
  double cost = loop ? price(pairs_within(size), loop) : 0.0;
  // `low` bounds the final cost from below while only a part of the lists has been read.
  double low = cost + cost_[b].low;
  if (loop_b) low -= low_price(pairs_within(size_b), loop_b);
  if (between >> 1) low -= low_price(size_a * size_b, between >> 1);
  for (const Entry &e : list_[a]) {
    if (e.node == b) continue;
    Node &other = node_[e.node];
    int64_t weight = e.block >> 1;
    const bool common = other.stamp == stamp_;
    if (common) {
      weight += other.weight;
      other.stamp = 0;
    }
    const double paid = price(size * other.size, weight);
    cost += paid;
    low += common ? std::max(0.0, paid - edge_bits_ * double(other.weight)) : paid;
    if (low > bound) {
      work_ += &e - list_[a].begin();
      return -1.0;
    }
  }
  work_ += list_[a].size;
  for (const Entry &e : list_[b]) {
    if (node_[e.node].stamp != stamp_ || e.node == a) continue;
    cost += price(size * node_[e.node].size, e.block >> 1);
    if (cost > bound) return -1.0;
  }
  return 1.0 - cost / before;
}

// Takes a block of `node` with a list's neighbour out of the neighbour's sums.
void Summariser::unaccount(int32_t node, const Entry &e) {
  const int64_t pairs = int64_t(node_[node].size) * node_[e.node].size;
  Cost &cost = cost_[e.node];
  cost.data -= data_bits(pairs, e.block);
  cost.low -= low_price(pairs, e.block >> 1);
  if (e.block & 1) {
    count_supers(cost.supers, cost.supers - 1);
    --cost.supers;
    --superedges_;
    counts_.remove(e.block >> 1);
  }
}

void Summariser::remove_entry(List &list, int32_t at) {
  const Entry last = list.data[--list.size];
  if (at == list.size) return;
  list.data[at] = last;
  list_[last.node].data[last.twin].twin = at;
}

void Summariser::append(List &list, const Entry &e) {
  if (list.size == list.capacity) {
    const int32_t capacity = list.capacity + list.capacity / 2 + 4;
    Entry *grown = static_cast<Entry *>(std::malloc(sizeof(Entry) * size_t(capacity)));
    if (!grown) throw std::bad_alloc();
    std::copy(list.begin(), list.end(), grown);
    const int32_t size = list.size;
    release(list);
    list = {grown, size, capacity};
  }
  list.data[list.size++] = e;
}

void Summariser::merge(int32_t kept, int32_t gone) {
  List &list = list_[kept], &other = list_[gone];
  const int64_t size = int64_t(node_[kept].size) + node_[gone].size;
  int64_t loop = (node_[kept].loop >> 1) + (node_[gone].loop >> 1);
  for (const int32_t end : {kept, gone})
    if (node_[end].loop & 1) --superedges_, counts_.remove(node_[end].loop >> 1);

  // The block between them becomes a part of the loop.
  for (int32_t i = 0; i < other.size; ++i) {
    if (other.data[i].node != kept) continue;
    const Entry e = other.data[i];
    loop += e.block >> 1;
    if (e.block & 1) --superedges_, counts_.remove(e.block >> 1);
    remove_entry(list, e.twin);
    remove_entry(other, i);
    break;
  }
  if (++stamp_ == 0) {
    for (Node &node : node_) node.stamp = 0;
    stamp_ = 1;
  }
  for (int32_t i = 0; i < list.size; ++i) {
    unaccount(kept, list.data[i]);
    node_[list.data[i].node].stamp = stamp_;
    node_[list.data[i].node].weight = uint32_t(i);  // here: where
  }
  for (const Entry &e : other) unaccount(gone, e);
  for (int32_t i = 0; i < other.size; ++i) {
    const Entry e = other.data[i];
    if (node_[e.node].stamp == stamp_) {
      list.data[node_[e.node].weight].block += e.block & ~1u;
      remove_entry(list_[e.node], e.twin);
    } else {
      append(list, e);
      list_[e.node].data[e.twin].node = kept;
      list_[e.node].data[e.twin].twin = list.size - 1;
    }
  }
  release(other);

  // Decided with the base that the trial used.
  count_supers(cost_[gone].supers, 1);
  cost_[gone] = {0.0, 0.0, 0};
  parent_[gone] = kept;
  node_[kept].size = int32_t(size);
  node_[gone] = {0, 0, 0, 0};
  Cost merged{0.0, 0.0, 0};
  node_[kept].loop = 0;
  if (loop) {
    const int64_t pairs = pairs_within(size);
    const uint32_t block = uint32_t(loop) << 1 | uint32_t(joins(pairs, loop));
    node_[kept].loop = block;
    merged.data = data_bits(pairs, block);
    merged.low = low_price(pairs, loop);
    if (block & 1) ++merged.supers, ++superedges_, counts_.add(loop);
  }
  for (Entry &e : list) {
    const int64_t weight = e.block >> 1, pairs = size * node_[e.node].size;
    const bool super = joins(pairs, weight);
    e.block = uint32_t(weight) << 1 | uint32_t(super);
    list_[e.node].data[e.twin].block = e.block;
    const double data = data_bits(pairs, e.block), low = low_price(pairs, weight);
    Cost &cost = cost_[e.node];
    cost.data += data;
    cost.low += low;
    merged.data += data;
    merged.low += low;
    if (super) {
      count_supers(cost.supers, cost.supers + 1);
      ++cost.supers;
      ++merged.supers;
      ++superedges_;
      counts_.add(weight);
    }
  }
  count_supers(cost_[kept].supers, merged.supers);
  cost_[kept] = merged;
  --supernodes_;
  work_ += 4 * list.size;
  set_base();
  if (base_ < low_base_) refresh_low();
}

}  // namespace graphkit
