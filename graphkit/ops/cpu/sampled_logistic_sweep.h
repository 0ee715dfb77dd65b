// What the pairs meet is sorted by tiles of the item table that fit a second-level cache, and each
// tile is done with at once: scores, loss, gradients of the users and of its own items, so that the
// table is read once and not one random row after the other. Entries of a tile keep the order of the
// pairs, and what its users get is added up by groups of tiles, which the sizes alone determine: no
// sum depends on the number of threads.
#pragma once
#include <memory>

#include "sampled_logistic.h"
#include "scan_lanes.h"

namespace graphkit {
namespace {

constexpr int64_t tile_bytes = int64_t(256) << 10;   // of an item table: a part of a second-level cache
constexpr int64_t tile_run = 32;                     // items of a tile that a pair should meet
constexpr int64_t most_shift = 15;                   // an entry names its row in so many bits
constexpr uint16_t rising = 1 << 15;                 // and says in the next whether its score should rise
constexpr int64_t wave_pairs = int64_t(1) << 16;     // and its pair in 16
constexpr int64_t wave_entries = int64_t(1) << 20;   // items met by the pairs of one wave
constexpr int64_t wave_bytes = int64_t(1) << 20;     // of the rows of their users
constexpr int64_t most_groups = 16;                  // of tiles: each has gradients of all the users
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
        whole_(a.width / vec_lanes<C> * vec_lanes<C>),
        each_(1 + a.num_negatives + a.num_neighbours) {
    const int64_t row_bytes = std::max<int64_t>(a.width * int64_t(sizeof(C)), 1);
    while (shift_ < most_shift && (row_bytes << (shift_ + 1)) <= tile_bytes) ++shift_;
    while (shift_ < most_shift && tiles_of(shift_) > std::max<int64_t>(each_ / tile_run, 1)) ++shift_;
    tiles_ = tiles_of(shift_);
    groups_ = std::min(tiles_, most_groups);
    const int64_t most = std::min({wave_pairs, wave_entries / each_, wave_bytes / row_bytes});
    most_pairs_ = std::clamp<int64_t>(most, 1, std::max<int64_t>(a.pairs, 1));
  }

  Fault run() {
    threads_ = threads_for(a_.pairs * each_ * (a_.width + 1), a_.threads);
    double total = 0;
    if (grad_item_ || a_.decay != 0)
      total += a_.decay / 2 * (begin(user_, a_.num_users, a_.ldu, grad_user_) +
                               begin(item_, a_.num_items, a_.ldi, grad_item_));
    for (int64_t first = 0; first < a_.pairs; first += most_pairs_) {
      wave_ = {first, std::min(first + most_pairs_, a_.pairs)};
      total += grad_item_ ? wave<true>() : wave<false>();
      if (fault_.result().kind != Fault::none) return fault_.result();
    }
    *a_.loss = total;
    return {};
  }

 private:
  static constexpr int64_t together = vec_lanes<C> < 8 ? vec_lanes<C> : 8;  // rows read together

  // Room for the entries of a wave, tile after tile: pair within the wave, row within the tile, and
  // the weight.
  struct Entries {
    std::unique_ptr<uint16_t[]> pairs, rows;
    std::unique_ptr<C[]> weights;
    void make(int64_t count) {
      pairs.reset(new uint16_t[size_t(count)]);
      rows.reset(new uint16_t[size_t(count)]);
      weights.reset(new C[size_t(count)]);
    }
  };

  int64_t tiles_of(int64_t shift) const { return (a_.num_items + (int64_t(1) << shift) - 1) >> shift; }

  static int64_t row_of(uint16_t entry) { return entry & (rising - 1); }

  template <class F>
  GRAPHKIT_INLINE void over(int64_t count, const F &f) const {
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1) if (threads_ > 1)
    for (int64_t n = 0; n < count; ++n) f(n);
  }

  static double sum_of(const Vec<C> &v) {
    double total = 0;
    for (int64_t l = 0; l < vec_lanes<C>; ++l) total += double(v[l]);
    return total;
  }

  // Sum of the squares of a table; its gradients begin as those of the squares.
  double begin(const C *table, int64_t rows, int64_t ld, C *grad) const {
    const int64_t chunks = (rows + table_chunk - 1) / table_chunk;
    const int threads = threads_for(rows * a_.width, a_.threads);
    const C decay = C(a_.decay);
    std::vector<double> sums(size_t(chunks), 0.0);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t k = 0; k < chunks; ++k) {
      const int64_t first = k * table_chunk, last = std::min(first + table_chunk, rows);
      if (decay == C(0)) {
        std::fill(grad + first * a_.width, grad + last * a_.width, C(0));
        continue;
      }
      Vec<C> several{};
      C rest{};
      for (int64_t r = first; r < last; ++r)
        over_features<C>(a_.width, [&](auto some, int64_t f) GRAPHKIT_LAMBDA_INLINE {
          using S = decltype(some);
          const auto v = values_at<S>(table + r * ld + f);
          if constexpr (S::size == 1) rest += v * v;
          else several += v * v;
          if (grad) values_at<S>(grad + r * a_.width + f) = decay * v;
        });
      sums[size_t(k)] = double(rest) + sum_of(several);
    }
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
  }

  template <bool gradients>
  double wave() {
    const int64_t count = wave_.size();
    const int64_t parts = threads_ > 1 ? std::min<int64_t>(count, 4 * threads_) : 1;
    const auto part_of = [&](int64_t p) { return Range{count * p / parts, count * (p + 1) / parts}; };
    std::vector<int64_t> cursors(size_t(parts * tiles_), 0);
    over(parts, [&](int64_t p) { count_entries(part_of(p), cursors.data() + p * tiles_); });
    if (fault_.result().kind != Fault::none) return 0;

    std::vector<int64_t> starts(size_t(tiles_ + 1), 0);
    int64_t position = 0;
    for (int64_t t = 0; t < tiles_; ++t) {
      starts[size_t(t)] = position;
      for (int64_t p = 0; p < parts; ++p) {
        const int64_t here = cursors[size_t(p * tiles_ + t)];
        cursors[size_t(p * tiles_ + t)] = position;
        position += here;
      }
    }
    starts[size_t(tiles_)] = position;
    if (!entries_.pairs) entries_.make(most_pairs_ * each_);
    std::unique_ptr<C[]> rows(new C[size_t(count * a_.width)]);  // of the users
    over(parts, [&](int64_t p) { write_entries(part_of(p), cursors.data() + p * tiles_, rows.get()); });

    std::unique_ptr<C[]> grads;  // [groups, count, width]
    if constexpr (gradients) grads.reset(new C[size_t(groups_ * count * a_.width)]);
    std::vector<double> losses(size_t(groups_), 0.0);
    const std::vector<C> none(size_t(a_.width), C(0));
    over(groups_, [&](int64_t g) {
      C *const grad = gradients ? grads.get() + g * count * a_.width : nullptr;
      if constexpr (gradients) std::fill_n(grad, count * a_.width, C(0));
      for (int64_t t = tiles_ * g / groups_; t < tiles_ * (g + 1) / groups_; ++t)
        losses[size_t(g)] += this->template tile<gradients>(
            t, starts[size_t(t)], starts[size_t(t + 1)], rows.get(), grad, none.data());
    });
    if constexpr (gradients) add_users(grads.get());
    double total = 0;
    for (const double loss : losses) total += loss;
    return total;
  }

  // Calls f(id, weight, kind, position) for every item that a pair meets.
  template <class F>
  GRAPHKIT_INLINE bool each_met(int64_t b, const F &f) const {
    const int64_t user = int64_t(users_[b]), item = int64_t(items_[b]);
    if (uint64_t(user) >= uint64_t(a_.num_users)) return f.refuse(Fault::user, b, user);
    if (uint64_t(item) >= uint64_t(a_.num_items)) return f.refuse(Fault::item, b, item);
    f.met(item, -1, 0);
    for (int64_t k = 0; k < a_.num_neighbours; ++k) {
      const int64_t at = item * a_.num_neighbours + k, id = neighbours_[at];
      if (uint64_t(id) >= uint64_t(a_.num_items)) return f.refuse(Fault::neighbour, at, id);
      f.met(id, at, 0);
    }
    const Id *const negatives = negatives_ + b * a_.ldn;
    for (int64_t k = 0; k < a_.num_negatives; ++k) {
      const int64_t id = int64_t(negatives[k]);
      if (__builtin_expect(uint64_t(id) >= uint64_t(a_.num_items), 0))
        return f.refuse(Fault::negative, b * a_.ldn + k, id);
      f.met(id, -1, 1);
    }
    return true;
  }

  struct Count {
    FaultFlag &fault;
    int64_t *counts;
    int shift;
    bool refuse(Fault::Kind kind, int64_t position, int64_t value) const {
      fault.raise(kind, position, value);
      return false;
    }
    GRAPHKIT_INLINE void met(int64_t id, int64_t, int) const { ++counts[id >> shift]; }
  };

  // How many entries of the pairs fall into each tile; every id is checked here.
  void count_entries(Range pairs, int64_t *counts) {
    const Count count{fault_, counts, int(shift_)};
    for (int64_t b = wave_.begin + pairs.begin; b < wave_.begin + pairs.end; ++b)
      if (!each_met(b, count)) return;
  }

  struct Write {
    const SampledLogisticKernel &of;
    int64_t *cursors;
    uint16_t pair;
    C beta, positive[2], negative[2], scale;
    bool refuse(Fault::Kind, int64_t, int64_t) const { return false; }  // counted, so checked
    GRAPHKIT_INLINE void met(int64_t id, int64_t near, int above) const {
      C weight;
      if (near >= 0) {
        weight = scale * of.neighbour_weights_[near];
      } else {
        const C b = of.beta_item_ ? beta * of.beta_item_[id] : C(0);
        weight = above ? negative[0] + negative[1] * b : positive[0] + positive[1] * b;
      }
      const int64_t at = cursors[id >> of.shift_]++;
      of.entries_.pairs[size_t(at)] = pair;
      of.entries_.rows[size_t(at)] = 
          uint16_t((id & ((int64_t(1) << of.shift_) - 1)) | (above ? 0 : rising));
      of.entries_.weights[size_t(at)] = weight;
    }
  };

  void write_entries(Range pairs, int64_t *cursors, C *rows) const {
    const double share = a_.num_negatives ? a_.negative_weight / double(a_.num_negatives) : 0;
    for (int64_t n = pairs.begin; n < pairs.end; ++n) {
      const int64_t b = wave_.begin + n, user = int64_t(users_[b]);
      std::copy_n(user_ + user * a_.ldu, a_.width, rows + n * a_.width);
      each_met(b, Write{*this, cursors, uint16_t(n), beta_user_ ? beta_user_[user] : C(0),
                        {C(a_.weights[0]), C(a_.weights[1])},
                        {C(share * a_.weights[2]), C(share * a_.weights[3])},
                        C(a_.neighbour_scale)});
    }
  }

  // All entries of a tile, those of one pair after those of another.
  template <bool gradients>
  double tile(int64_t t, int64_t begin, int64_t end, const C *users, C *grad_users,
              const C *none) const {
    const C *const base = item_ + (t << shift_) * a_.ldi;
    C *const grad_base = gradients ? grad_item_ + (t << shift_) * a_.width : nullptr;
    const uint16_t *const pairs = entries_.pairs.get(), *const rows = entries_.rows.get();
    Vec<C> loss{};
    double total = 0;
    for (int64_t k = begin, summed = 0; k < end;) {
      const int64_t pair = pairs[k];
      const C *const e = users + pair * a_.width;
      C *const grad = gradients ? grad_users + pair * a_.width : nullptr;
      int64_t last = k + 1;
      while (last < end && pairs[last] == pair) ++last;
      for (; k < last; k += vec_lanes<C>) {
        const int64_t count = std::min(vec_lanes<C>, last - k);
        loss += meet<gradients>(e, grad, base, grad_base, rows + k, entries_.weights.get() + k, count,
                                none);
      }
      k = last;
      if (++summed % 64 == 0 || k >= end) {  // in single precision over a few hundred terms
        total += sum_of(loss);
        loss = Vec<C>{};
      }
    }
    return total;
  }

  // Up to a register of items of one pair: the loss, and their part of the gradients.
  template <bool gradients>
  GRAPHKIT_INLINE Vec<C> meet(const C *e, C *grad, const C *base, C *grad_base,
                              const uint16_t *rows, const C *weights, int64_t count,
                              const C *none) const {
    constexpr int64_t lanes_here = vec_lanes<C>;
    const C *at[lanes_here];
    Vec<C> weight{};
    if (count == lanes_here) {
      for (int64_t j = 0; j < lanes_here; ++j) at[j] = base + row_of(rows[j]) * a_.ldi;
      weight = values_at<Register<C>>(weights);
    } else {  // a score of zero, and no weight
      for (int64_t j = 0; j < lanes_here; ++j) {
        at[j] = j < count ? base + row_of(rows[j]) * a_.ldi : none;
        weight[j] = j < count ? weights[j] : C(0);
      }
    }
    Vec<C> sums[lanes_here];
    for (int64_t j = 0; j < lanes_here; j += together) {
      Vec<C> s[together];
      for (int64_t i = 0; i < together; ++i) s[i] = Vec<C>{};
      if (j < count)
        for (int64_t f = 0; f < whole_; f += lanes_here) {
          const Vec<C> value = values_at<Register<C>>(e + f);
#pragma GCC unroll 8
          for (int64_t i = 0; i < together; ++i) s[i] += value * values_at<Register<C>>(at[j + i] + f);
        }
      for (int64_t i = 0; i < together; ++i) sums[j + i] = s[i];
    }
    Vec<C> score = merged<C, 1, lanes_here>(sums);
    if (whole_ < a_.width)
      for (int64_t j = 0; j < count; ++j) {
        C rest = score[j];
        for (int64_t f = whole_; f < a_.width; ++f) rest += e[f] * at[j][f];
        score[j] = rest;
      }
    C signs[lanes_here];
    for (int64_t j = 0; j < lanes_here; ++j) signs[j] = j < count && rows[j] >= rising ? C(-1) : C(1);
    const Vec<C> sign = values_at<Register<C>>(signs);
    const SoftPlus<C> softplus(score * sign);
    Vec<C> loss = weight * softplus.value, slope = weight * sign * softplus.slope;
    // A pad has no weight but may have no score either: an infinite row times zero is not a number.
    for (int64_t j = count; j < lanes_here; ++j) loss[j] = slope[j] = C(0);
    if constexpr (gradients) {
      C coefficients[lanes_here];
      values_at<Register<C>>(coefficients) = slope;
      for (int64_t j = 0; j < count; j += together)
        for (int64_t f = 0; f < whole_; f += lanes_here) {
          Vec<C> one{}, two{};
#pragma GCC unroll 8
          for (int64_t i = 0; i < together; i += 2) {
            one += coefficients[j + i] * values_at<Register<C>>(at[j + i] + f);
            two += coefficients[j + i + 1] * values_at<Register<C>>(at[j + i + 1] + f);
          }
          values_at<Register<C>>(grad + f) += one + two;
        }
      for (int64_t f = whole_; f < a_.width; ++f)
        for (int64_t j = 0; j < count; ++j) grad[f] += coefficients[j] * at[j][f];
      for (int64_t j = 0; j < count; ++j) {
        C *const to = grad_base + row_of(rows[j]) * a_.width;
        const C coefficient = coefficients[j];
        over_features<C>(a_.width, [&](auto some, int64_t f) GRAPHKIT_LAMBDA_INLINE {
          using S = decltype(some);
          values_at<S>(to + f) += coefficient * values_at<S>(e + f);
        });
      }
    }
    return loss;
  }

  // A user may have several pairs: each owner adds, in their order, those of its own users.
  void add_users(const C *grads) const {
    const int64_t owners = threads_, stride = wave_.size() * a_.width;
    over(owners, [&](int64_t owner) {
      for (int64_t n = 0; n < wave_.size(); ++n) {
        const int64_t user = int64_t(users_[wave_.begin + n]);
        if (user % owners != owner) continue;
        C *const to = grad_user_ + user * a_.width;
        for (int64_t g = 0; g < groups_; ++g) {
          const C *const from = grads + g * stride + n * a_.width;
          for (int64_t f = 0; f < a_.width; ++f) to[f] += from[f];
        }
      }
    });
  }

  const SampledLogistic &a_;
  const C *const user_, *const item_;
  const Id *const users_, *const items_, *const negatives_;
  const Index neighbours_;
  const C *const neighbour_weights_, *const beta_user_, *const beta_item_;
  C *const grad_user_, *const grad_item_;
  const int64_t whole_, each_;
  int64_t shift_ = 0, tiles_, groups_, most_pairs_;
  int threads_ = 1;
  Range wave_{0, 0};
  Entries entries_;
  FaultFlag fault_;
};

}  // namespace
}  // namespace graphkit
