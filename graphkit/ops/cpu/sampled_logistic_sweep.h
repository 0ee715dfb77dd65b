// One sweep over the pairs gives the loss, the gradients of their users and a coefficient for each
// item that they meet; the coefficients are sorted by tiles of the item table, and each tile, which
// fits a cache, adds up its own. Entries of a tile keep the order of the pairs, so the sums do not
// depend on the number of threads.
#pragma once
#include <memory>

#include "sampled_logistic.h"
#include "scan_lanes.h"

namespace graphkit {
namespace {

constexpr int64_t tile_bytes = int64_t(32) << 10;    // of an item table: a first-level cache
constexpr int64_t most_tiles = 2048;                 // lines that are written to at a time
constexpr int64_t wave_entries = int64_t(1) << 20;   // items met by the pairs of one wave
constexpr int64_t wave_bytes = int64_t(4) << 20;     // of the rows of their users
constexpr int64_t wave_pairs = int64_t(1) << 16;     // an entry names its pair in 16 bits
constexpr int64_t table_chunk = 512;                 // rows whose squares are summed together

template <class C, class Id>
class SampledLogisticKernel {
 public:
  explicit SampledLogisticKernel(const SampledLogistic &a)
      : a_(a), user_(static_cast<const C *>(a.user)), item_(static_cast<const C *>(a.item)),
        users_(static_cast<const Id *>(a.users)), items_(static_cast<const Id *>(a.items)),
        negatives_(static_cast<const Id *>(a.negatives)),
        neighbours_(a.neighbours, a.neighbour_bits),
        neighbour_weights_(static_cast<const C *>(a.neighbour_weights)),
        beta_user_(static_cast<const C *>(a.beta_user)),
        beta_item_(static_cast<const C *>(a.beta_item)),
        grad_user_(static_cast<C *>(a.grad_user)), grad_item_(static_cast<C *>(a.grad_item)),
        whole_(a.width / group * group),
        each_(1 + a.num_negatives + a.num_neighbours),
        prefetched_(a.num_items * a.ldi * int64_t(sizeof(C)) > cached_bytes) {
    const int64_t row_bytes = std::max<int64_t>(a.width * int64_t(sizeof(C)), 1);
    while (shift_ < 15 && (row_bytes << (shift_ + 1)) <= tile_bytes) ++shift_;
    while (shift_ < 16 && tiles() > most_tiles) ++shift_;
    most_pairs_ = std::min({wave_pairs, wave_entries / each_, wave_bytes / row_bytes});
    most_pairs_ = std::clamp<int64_t>(most_pairs_, 1, std::max<int64_t>(a.pairs, 1));
  }

  Fault run() {
    double total = 0;
    threads_ = threads_for(a_.pairs * each_ * (a_.width + 1), a_.threads);
    if (grad_item_) begin_gradients();
    if (a_.decay != 0) total += a_.decay / 2 * (squares(user_, a_.num_users, a_.ldu) +
                                                squares(item_, a_.num_items, a_.ldi));
    for (int64_t first = 0; first < a_.pairs; first += most_pairs_) {
      wave_ = {first, std::min(first + most_pairs_, a_.pairs)};
      total += grad_item_ ? wave<true>() : wave<false>();
      if (fault_.result().kind != Fault::none) return fault_.result();
    }
    *a_.loss = total;
    return {};
  }

 private:
  static constexpr int64_t group = vec_lanes<C>;       // items whose scores fill a register
  static constexpr int64_t together = group < 8 ? group : 8;  // rows that are read together

  struct Entry {
    uint16_t pair, row;  // within the wave and the tile
    C coefficient;
  };

  // Where a part of a wave leaves its entries, and room for one pair.
  struct Part {
    C *e, *grad;         // the user's row, and its gradient
    int64_t *cursors;    // [tiles]
    int64_t pair;
    Vec<C> loss;
  };

  // Up to `group` items of a pair.
  struct Group {
    const C *rows[group];
    int64_t ids[group];
    C weights[group];
    int64_t count;
  };

  int64_t tiles() const { return (a_.num_items + (int64_t(1) << shift_) - 1) >> shift_; }
  const C *item_row(int64_t id) const { return item_ + id * a_.ldi; }
  const Id *negatives_of(int64_t b) const { return negatives_ + b * a_.ldn; }

  template <class F>
  GRAPHKIT_INLINE void over(int64_t count, const F &f) const {
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1) if (threads_ > 1)
    for (int64_t n = 0; n < count; ++n) f(n);
  }

  int threads_of(int64_t rows) const { return threads_for(rows * a_.width, a_.threads); }

  double squares(const C *table, int64_t rows, int64_t ld) const {
    const int64_t chunks = (rows + table_chunk - 1) / table_chunk;
    std::vector<double> sums(size_t(chunks), 0.0);
#pragma omp parallel for num_threads(threads_of(rows)) schedule(static)
    for (int64_t k = 0; k < chunks; ++k) {
      Vec<C> several{};
      C rest{};
      for (int64_t r = k * table_chunk; r < std::min((k + 1) * table_chunk, rows); ++r) {
        const C *const row = table + r * ld;
        for (int64_t f = 0; f < whole_; f += group) {
          const Vec<C> v = values_at<Register<C>>(row + f);
          several += v * v;
        }
        for (int64_t f = whole_; f < a_.width; ++f) rest += row[f] * row[f];
      }
      sums[size_t(k)] = double(rest) + sum_of(several);
    }
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
  }

  static double sum_of(const Vec<C> &v) {
    double total = 0;
    for (int64_t l = 0; l < group; ++l) total += double(v[l]);
    return total;
  }

  // Gradients begin as those of the squares.
  void begin_gradients() const {
    begin_gradient(user_, a_.ldu, a_.num_users, grad_user_);
    begin_gradient(item_, a_.ldi, a_.num_items, grad_item_);
  }

  void begin_gradient(const C *table, int64_t ld, int64_t rows, C *grad) const {
    const C decay = C(a_.decay);
#pragma omp parallel for num_threads(threads_of(rows)) schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      C *const to = grad + r * a_.width;
      const C *const from = table + r * ld;
      if (decay == C(0)) std::fill_n(to, a_.width, C(0));
      else
        for (int64_t f = 0; f < a_.width; ++f) to[f] = decay * from[f];
    }
  }

  template <bool gradients>
  double wave() {
    const int64_t count = wave_.size();
    const int64_t parts = threads_ > 1 ? std::min<int64_t>(count, 4 * threads_) : 1;
    const auto part_of = [&](int64_t p) { return Range{count * p / parts, count * (p + 1) / parts}; };
    std::vector<int64_t> cursors(size_t(parts * tiles()), 0);
    over(parts, [&](int64_t p) { this->template count_entries<gradients>(part_of(p), cursors.data() + p * tiles()); });
    if (fault_.result().kind != Fault::none) return 0;

    std::vector<int64_t> starts(size_t(tiles() + 1), 0);
    std::unique_ptr<C[]> rows, grads;  // [count, width] of the users
    if constexpr (gradients) {
      int64_t position = 0;
      for (int64_t t = 0; t < tiles(); ++t) {
        starts[size_t(t)] = position;
        for (int64_t p = 0; p < parts; ++p) {
          const int64_t here = cursors[size_t(p * tiles() + t)];
          cursors[size_t(p * tiles() + t)] = position;
          position += here;
        }
      }
      starts[size_t(tiles())] = position;
      entries_.reset(new Entry[size_t(count * each_)]);
      rows.reset(new C[size_t(count * a_.width)]);
      grads.reset(new C[size_t(count * a_.width)]);
    }
    std::vector<double> losses(size_t(count), 0.0);
    const std::vector<C> none(size_t(a_.width), C(0));
    over(parts, [&](int64_t p) {
      std::vector<C> room(gradients ? 0 : size_t(a_.width));
      for (int64_t b = part_of(p).begin; b < part_of(p).end; ++b) {
        C *const e = gradients ? rows.get() + b * a_.width : room.data();
        Part part{e, gradients ? grads.get() + b * a_.width : nullptr,
                  cursors.data() + p * tiles(), b, {}};
        this->template pair<gradients>(part, none.data());
        losses[size_t(b)] = sum_of(part.loss);
      }
    });
    if constexpr (gradients) {
      add_users(grads.get());
      over(tiles(), [&](int64_t t) { add_items(t, starts[size_t(t)], starts[size_t(t + 1)], rows.get()); });
    }
    double total = 0;
    for (const double loss : losses) total += loss;
    return total;
  }

  // How many entries of the pairs fall into each tile; every id is checked here.
  template <bool gradients>
  void count_entries(Range pairs, int64_t *counts) {
    const auto take = [&](int64_t id, Fault::Kind kind, int64_t position) {
      if (__builtin_expect(uint64_t(id) >= uint64_t(a_.num_items), 0)) {
        fault_.raise(kind, position, id);
        return false;
      }
      if constexpr (gradients) ++counts[id >> shift_];
      return true;
    };
    for (int64_t b = wave_.begin + pairs.begin; b < wave_.begin + pairs.end; ++b) {
      if (uint64_t(users_[b]) >= uint64_t(a_.num_users))
        return fault_.raise(Fault::user, b, int64_t(users_[b]));
      const int64_t item = int64_t(items_[b]);
      if (!take(item, Fault::item, b)) return;
      const Id *const negatives = negatives_of(b);
      for (int64_t k = 0; k < a_.num_negatives; ++k)
        if (!take(int64_t(negatives[k]), Fault::negative, b * a_.ldn + k)) return;
      for (int64_t k = 0; k < a_.num_neighbours; ++k) {
        const int64_t at = item * a_.num_neighbours + k;
        if (!take(neighbours_[at], Fault::neighbour, at)) return;
      }
    }
  }

  template <bool gradients>
  void pair(Part &part, const C *none) {
    const int64_t b = wave_.begin + part.pair, user = int64_t(users_[b]), item = int64_t(items_[b]);
    std::copy_n(user_ + user * a_.ldu, a_.width, part.e);
    if constexpr (gradients) std::fill_n(part.grad, a_.width, C(0));
    const C beta = beta_user_ ? beta_user_[user] : C(0);
    const auto beta_of = [&](int64_t id) { return beta_item_ ? beta * beta_item_[id] : C(0); };

    Group g;
    g.count = 0;
    const auto put = [&](int64_t id, C weight) GRAPHKIT_LAMBDA_INLINE {
      g.ids[g.count] = id;
      g.rows[g.count] = item_row(id);
      g.weights[g.count++] = weight;
    };
    const C w0 = C(a_.weights[0]), w1 = C(a_.weights[1]), scale = C(a_.neighbour_scale);
    put(item, w0 + w1 * beta_of(item));
    for (int64_t k = 0; k < a_.num_neighbours; ++k) {
      if (g.count == group) {
        add<gradients>(part, g, C(-1), none);
        g.count = 0;
      }
      const int64_t at = item * a_.num_neighbours + k;
      put(neighbours_[at], scale * neighbour_weights_[at]);
    }
    add<gradients>(part, g, C(-1), none);

    const double share = a_.num_negatives ? a_.negative_weight / double(a_.num_negatives) : 0;
    const C w2 = C(share * a_.weights[2]), w3 = C(share * a_.weights[3]);
    const Id *const negatives = negatives_of(b);
    for (int64_t k = 0; k < a_.num_negatives; k += group) {
      if (prefetched_)
        for (int64_t ahead = k + 2 * group; ahead < std::min(k + 3 * group, a_.num_negatives); ++ahead)
          prefetch(int64_t(negatives[ahead]));
      g.count = 0;
      for (int64_t n = k; n < std::min(k + group, a_.num_negatives); ++n) {
        const int64_t id = int64_t(negatives[n]);
        put(id, w2 + w3 * beta_of(id));
      }
      add<gradients>(part, g, C(1), none);
    }
  }

  GRAPHKIT_INLINE void prefetch(int64_t id) const {
    const uintptr_t at = reinterpret_cast<uintptr_t>(item_row(id));
    for (int64_t f = 0; f < a_.width; f += 64 / int64_t(sizeof(C)))
      prefetch_line(at + uintptr_t(f) * sizeof(C));
  }

  // Adds weight * softplus(sign * score) of each item, and what follows for the gradients.
  template <bool gradients>
  GRAPHKIT_INLINE void add(Part &part, Group &g, C sign, const C *none) {
    for (int64_t j = g.count; j < group; ++j) {  // a score of zero, and no weight
      g.rows[j] = none;
      g.weights[j] = C(0);
    }
    const C *const e = part.e;
    Vec<C> sums[group];
    for (int64_t j = 0; j < group; j += together) {
      Vec<C> s[together];
      for (int64_t i = 0; i < together; ++i) s[i] = Vec<C>{};
      for (int64_t f = 0; f < whole_; f += group) {
        const Vec<C> value = values_at<Register<C>>(e + f);
#pragma GCC unroll 8
        for (int64_t i = 0; i < together; ++i) s[i] += value * values_at<Register<C>>(g.rows[j + i] + f);
      }
      for (int64_t i = 0; i < together; ++i) sums[j + i] = s[i];
    }
    Vec<C> score = merged<C, 1, group>(sums);
    if (whole_ < a_.width)
      for (int64_t j = 0; j < g.count; ++j) {
        C rest = score[j];
        for (int64_t f = whole_; f < a_.width; ++f) rest += e[f] * g.rows[j][f];
        score[j] = rest;
      }
    const SoftPlus<C> softplus(score * sign);
    const Vec<C> weight = values_at<Register<C>>(g.weights);
    // A pad has no weight but may have no score either: an infinite row times zero is not a number.
    part.loss += g.count == group ? weight * softplus.value : kept(weight * softplus.value, g.count);
    if constexpr (gradients) {
      const Vec<C> slope = weight * softplus.slope * sign;
      C coefficients[group];
      values_at<Register<C>>(coefficients) = g.count == group ? slope : kept(slope, g.count);
      for (int64_t j = 0; j < group; j += together) {
        if (j >= g.count) break;
        for (int64_t f = 0; f < whole_; f += group) {
          Vec<C> one{}, two{};
#pragma GCC unroll 8
          for (int64_t i = 0; i < together; i += 2) {
            one += coefficients[j + i] * values_at<Register<C>>(g.rows[j + i] + f);
            two += coefficients[j + i + 1] * values_at<Register<C>>(g.rows[j + i + 1] + f);
          }
          values_at<Register<C>>(part.grad + f) += one + two;
        }
      }
      for (int64_t f = whole_; f < a_.width; ++f)
        for (int64_t j = 0; j < g.count; ++j) part.grad[f] += coefficients[j] * g.rows[j][f];
      const int64_t last = (int64_t(1) << shift_) - 1;
      for (int64_t j = 0; j < g.count; ++j)
        entries_[size_t(part.cursors[g.ids[j] >> shift_]++)] = {
            uint16_t(part.pair), uint16_t(g.ids[j] & last), coefficients[j]};
    }
  }

  static Vec<C> kept(Vec<C> v, int64_t count) {
    for (int64_t l = count; l < group; ++l) v[l] = C(0);
    return v;
  }

  // A user may have several pairs: each thread adds, in their order, those of its own users.
  void add_users(const C *grads) const {
    const int64_t owners = threads_;
    over(owners, [&](int64_t owner) {
      for (int64_t b = 0; b < wave_.size(); ++b) {
        const int64_t user = int64_t(users_[wave_.begin + b]);
        if (user % owners != owner) continue;
        C *const to = grad_user_ + user * a_.width;
        const C *const from = grads + b * a_.width;
        for (int64_t f = 0; f < a_.width; ++f) to[f] += from[f];
      }
    });
  }

  void add_items(int64_t tile, int64_t begin, int64_t end, const C *rows) const {
    C *const base = grad_item_ + (tile << shift_) * a_.width;
    for (int64_t k = begin; k < end; ++k) {
      const Entry entry = entries_[size_t(k)];
      C *const to = base + int64_t(entry.row) * a_.width;
      const C *const from = rows + int64_t(entry.pair) * a_.width;
      over_features<C>(a_.width, [&](auto several, int64_t f) GRAPHKIT_LAMBDA_INLINE {
        using S = decltype(several);
        values_at<S>(to + f) += entry.coefficient * values_at<S>(from + f);
      });
    }
  }

  const SampledLogistic &a_;
  const C *const user_, *const item_;
  const Id *const users_, *const items_, *const negatives_;
  const Index neighbours_;
  const C *const neighbour_weights_, *const beta_user_, *const beta_item_;
  C *const grad_user_, *const grad_item_;
  const int64_t whole_, each_;
  const bool prefetched_;
  int shift_ = 0, threads_ = 1;
  int64_t most_pairs_;
  Range wave_{0, 0};
  std::unique_ptr<Entry[]> entries_;
  FaultFlag fault_;
};

}  // namespace
}  // namespace graphkit
