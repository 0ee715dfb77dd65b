// The selective scan of Mamba over packed sequences:
//   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,   y_t = (C_t . h_t + D u_t) silu(z_t)
// or, with a zero-order hold, (exp(delta_t A) - 1) / A in the place of delta_t before B_t u_t.
// A register holds one state of neighbouring channels, so a step needs no sums over lanes. Work is
// shared out by (unit of whole sequences, block of channels); neither depends on the threads.
#pragma once
#include <algorithm>
#include <vector>

#include "scan_lanes.h"

namespace graphkit {
namespace {

constexpr int64_t scan_units = 64;   // about: what sums over sequences keep a partial sum for
constexpr int64_t long_steps = 256;  // longer sequences may be units of their own

class Segments {
 public:
  explicit Segments(const SelectiveScan &a)
      : count(a.sequences), steps(a.steps), ptr_(a.ptr), wide_(a.ptr_bits == 64) {}

  int64_t start(int64_t s) const {
    if (!ptr_) return s ? steps : 0;
    return wide_ ? static_cast<const int64_t *>(ptr_)[s] : static_cast<const int32_t *>(ptr_)[s];
  }

  // Everything below trusts the offsets: they must cover all steps in order.
  Fault check() const {
    int64_t before = 0;
    for (int64_t s = 0; s <= count; ++s) {
      const int64_t at = start(s);
      if (at < before || at > steps || (s == 0 && at != 0) || (s == count && at != steps))
        return {Fault::rowptr, s, at};
      before = at;
    }
    return {};
  }

  const int64_t count, steps;

 private:
  const void *ptr_;
  bool wide_;
};

struct Unit {
  Range sequences;
  bool alone;  // one long sequence
};

inline std::vector<Unit> units_of(const Segments &segments) {
  const int64_t share = (segments.steps + segments.count + scan_units - 1) / scan_units;
  const int64_t limit = std::max(share, long_steps);
  std::vector<Unit> units;
  int64_t first = 0, work = 0;
  const auto close = [&](int64_t end) {
    if (end > first) units.push_back({{first, end}, false});
    first = end;
    work = 0;
  };
  for (int64_t s = 0; s < segments.count; ++s) {
    const int64_t size = segments.start(s + 1) - segments.start(s);
    if (size >= limit) {
      close(s);
      units.push_back({{s, s + 1}, true});
      first = s + 1;
      continue;
    }
    work += size + 1;
    if (work >= share) close(s + 1);
  }
  close(segments.count);
  return units;
}

// The chunk c > 0 of a sequence from `begin` keeps its first state in a slot of its own: slots of
// different sequences differ, and there are steps / scan_chunk of them.
inline int64_t slot_of(int64_t begin, int64_t c) { return begin / scan_chunk + c - 1; }

// [steps, channels] in any storage type, read and written a block of channels at a time.
template <class C>
class Columns {
 public:
  Columns(const void *base, Dtype dtype, int64_t ld)
      : base_(static_cast<char *>(const_cast<void *>(base))), dtype_(dtype), ld_(ld) {}
  explicit operator bool() const { return base_ != nullptr; }

  Vec<C> read(int64_t row, Range channels) const {
    const char *at = base_ + (row * ld_ + channels.begin) * size_of(dtype_);
    if (channels.size() == vec_lanes<C> && direct())
      return *reinterpret_cast<const Vec<C> *>(at);
    alignas(64) C lane[vec_lanes<C>] = {};
    if constexpr (sizeof(C) == 4) {
      if (dtype_ == Dtype::bf16) copy(reinterpret_cast<const BFloat16 *>(at), channels.size(), lane);
      else if (dtype_ == Dtype::f16) copy(reinterpret_cast<const Float16 *>(at), channels.size(), lane);
      else copy(reinterpret_cast<const C *>(at), channels.size(), lane);
    } else {
      copy(reinterpret_cast<const C *>(at), channels.size(), lane);
    }
    return *reinterpret_cast<const Vec<C> *>(lane);
  }

  void write(int64_t row, Range channels, Vec<C> value) const {
    char *at = base_ + (row * ld_ + channels.begin) * size_of(dtype_);
    if (channels.size() == vec_lanes<C> && direct()) {
      *reinterpret_cast<Vec<C> *>(at) = value;
      return;
    }
    const int64_t n = channels.size();
    if constexpr (sizeof(C) == 4) {
      if (dtype_ == Dtype::bf16)
        return narrow(value, n, reinterpret_cast<BFloat16 *>(at));
      if (dtype_ == Dtype::f16) return narrow(value, n, reinterpret_cast<Float16 *>(at));
    }
    narrow(value, n, reinterpret_cast<C *>(at));
  }

 private:
  bool direct() const { return size_of(dtype_) == int64_t(sizeof(C)); }
  template <class S>
  static void copy(const S *from, int64_t n, C *to) {
    for (int64_t l = 0; l < n; ++l) to[l] = C(load(from[l]));
  }
  template <class S>
  static void narrow(Vec<C> value, int64_t n, S *to) {
    alignas(64) C lane[vec_lanes<C>];
    *reinterpret_cast<Vec<C> *>(lane) = value;
    for (int64_t l = 0; l < n; ++l) store(to[l], lane[l]);
  }

  char *base_;
  Dtype dtype_;
  int64_t ld_;
};

// What forward and backward share: inputs, the parameters of a block of channels, one sequence.
template <class C>
class ScanInputs {
 public:
  explicit ScanInputs(const SelectiveScan &a)
      : a(a), segments(a), states(a.states), blocks((a.channels + vec_lanes<C> - 1) / vec_lanes<C>),
        u(a.u, a.dtype, a.ldu), delta(a.delta, a.dtype, a.ldd), z(a.z, a.dtype, a.ldz),
        in(a.B, a.dtype, a.ldb, a.states), out(a.C, a.dtype, a.ldc, a.states) {}

  Range channels(int64_t block) const {
    const int64_t begin = block * vec_lanes<C>;
    return {begin, std::min(begin + vec_lanes<C>, a.channels)};
  }
  int64_t step(int64_t s, int64_t i) const {  // the step that is i-th in the order of the scan
    return a.reverse ? segments.start(s + 1) - 1 - i : segments.start(s) + i;
  }
  // Row s of [sequences, channels, states], or of one such row: vectors over the channels.
  void gather(const void *from, int64_t s, Range of, C scale, Vec<C> *to) const {
    const C *base = static_cast<const C *>(from) + s * a.channels * states;
    C *lane = reinterpret_cast<C *>(to);
    for (int64_t l = 0; l < vec_lanes<C>; ++l)
      for (int64_t n = 0; n < states; ++n)
        lane[n * vec_lanes<C> + l] =
            l < of.size() ? base[(of.begin + l) * states + n] * scale : C(0);
  }
  void scatter(const Vec<C> *from, int64_t s, Range of, void *to) const {
    C *base = static_cast<C *>(to) + s * a.channels * states;
    const C *lane = reinterpret_cast<const C *>(from);
    for (int64_t l = 0; l < of.size(); ++l)
      for (int64_t n = 0; n < states; ++n)
        base[(of.begin + l) * states + n] = lane[n * vec_lanes<C> + l];
  }
  void copy_row(const Features<C> &rows, int64_t t, C *to) const {
    const C *from = rows.read(t, to);  // half types are widened into place
    if (from != to) std::copy(from, from + states, to);
  }
  Columns<C> chunk_starts(int64_t slot) const {
    C *base = static_cast<C *>(a.starts) + slot * states * a.channels;
    return {base, sizeof(C) == 8 ? Dtype::f64 : Dtype::f32, a.channels};
  }

  const SelectiveScan &a;
  const Segments segments;
  const int64_t states, blocks;
  const Columns<C> u, delta, z;
  const Features<C> in, out;  // rows of B and C
};

template <class C>
struct ScanBlock {
  Range channels;
  Vec<C> skip, bias;
  Vec<C> *decay;    // [states]: A log2(e)
  Vec<C> *inverse;  // [states]: 1 / A, for a zero-order hold

  void set(const ScanInputs<C> &x, int64_t block) {
    constexpr Dtype dtype = sizeof(C) == 8 ? Dtype::f64 : Dtype::f32;
    channels = x.channels(block);
    x.gather(x.a.A, 0, channels, C(log2_of_e), decay);
    x.gather(x.a.A, 0, channels, C(1), inverse);
    for (int64_t n = 0; n < x.states; ++n) inverse[n] = C(1) / inverse[n];
    skip = x.a.D ? Columns<C>(x.a.D, dtype, 0).read(0, channels) : Vec<C>{};
    bias = x.a.bias ? Columns<C>(x.a.bias, dtype, 0).read(0, channels) : Vec<C>{};
  }
};

// What the steps of a chunk are for all states of a block. The input is delta u, or u where a
// zero-order hold takes it.
template <class C>
struct ScanSteps {
  int64_t count, row;            // steps; values from one row of b and c to the next
  const Vec<C> *delta, *input;   // [count]
  const C *b, *c;                // [count, row]
  Vec<C> *y;                     // [count]: gets C . h added; or null
};

// Some states go through a chunk and stay in registers: h = a h + input B. Where `before` and
// `decays` are given, [count, some], they get h before each step and its a.
template <class C, int some, bool zoh>
inline void advance(const ScanBlock<C> &block, const ScanSteps<C> &steps, int64_t n,
                    Vec<C> *__restrict state, Vec<C> *__restrict before,
                    Vec<C> *__restrict decays) {
  Vec<C> h[some], decay[some];
  for (int v = 0; v < some; ++v) {
    h[v] = state[n + v];
    decay[v] = block.decay[n + v];
  }
  for (int64_t j = 0; j < steps.count; ++j) {
    const Vec<C> delta = steps.delta[j], input = steps.input[j];
    const C *const b = steps.b + j * steps.row + n, *const c = steps.c + j * steps.row + n;
    Vec<C> a[some];
    for (int v = 0; v < some; ++v) a[v] = delta * decay[v];
    exp2_each<C, some>(a);
    if (before)
      for (int v = 0; v < some; ++v) {
        before[j * some + v] = h[v];
        decays[j * some + v] = a[v];
      }
    for (int v = 0; v < some; ++v) {
      if constexpr (zoh) {
        const Hold<C> hold(delta, decay[v], block.inverse[n + v], a[v]);
        h[v] = a[v] * h[v] + input * hold.value * b[v];
      } else {
        h[v] = a[v] * h[v] + input * b[v];
      }
    }
    if (!steps.y) continue;
    Vec<C> sum[2] = {steps.y[j], Vec<C>{}};
    for (int v = 0; v < some; ++v) sum[v % 2] += h[v] * c[v];
    steps.y[j] = sum[0] + sum[1];
  }
  for (int v = 0; v < some; ++v) state[n + v] = h[v];
}

template <class C>
class SelectiveScanForwardKernel {
 public:
  explicit SelectiveScanForwardKernel(const SelectiveScan &a)
      : a_(a), x_(a), y_(a.out, a.dtype, a.channels) {}

  Fault run() {
    const Fault fault = x_.segments.check();
    if (fault.kind != Fault::none) return fault;
    const std::vector<Unit> units = units_of(x_.segments);
    const int64_t tasks = int64_t(units.size()) * x_.blocks;
    const int threads = threads_for(a_.steps * a_.channels * a_.states, a_.threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Work work(x_.states);
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < tasks; ++task) {
        work.block.set(x_, task % x_.blocks);
        const Range sequences = units[size_t(task / x_.blocks)].sequences;
        for (int64_t s = sequences.begin; s < sequences.end; ++s)
          if (a_.zoh) sequence<true>(s, work);
          else sequence<false>(s, work);
      }
    }
    return {};
  }

 private:
  struct Work {
    explicit Work(int64_t states)
        : pool(3 * states + 3 * scan_chunk), rows(size_t(2 * scan_chunk * states)) {
      block.decay = pool.take(states);
      block.inverse = pool.take(states);
      state = pool.take(states);
      delta = pool.take(scan_chunk);
      input = pool.take(scan_chunk);
      y = pool.take(scan_chunk);
      b = rows.data();
      c = b + scan_chunk * states;
    }
    VecPool<C> pool;
    ScanBlock<C> block{};
    Vec<C> *state;               // [states]
    Vec<C> *delta, *input, *y;   // [steps of a chunk]
    std::vector<C> rows;
    C *b, *c;                    // [steps of a chunk, states]
  };

  template <bool zoh>
  void sequence(int64_t s, Work &w) const {
    const int64_t begin = x_.segments.start(s), length = x_.segments.start(s + 1) - begin;
    const Range channels = w.block.channels;
    if (a_.initial) x_.gather(a_.initial, s, channels, C(1), w.state);
    else std::fill(w.state, w.state + x_.states, Vec<C>{});
    for (int64_t first = 0; first < length; first += scan_chunk) {
      if (a_.starts && first) {
        const Columns<C> to = x_.chunk_starts(slot_of(begin, first / scan_chunk));
        for (int64_t n = 0; n < x_.states; ++n) to.write(n, channels, w.state[n]);
      }
      const int64_t count = std::min(scan_chunk, length - first);
      for (int64_t j = 0; j < count; ++j) {
        const int64_t t = x_.step(s, first + j);
        const Vec<C> u = x_.u.read(t, channels);
        Vec<C> delta = x_.delta.read(t, channels) + w.block.bias;
        if (a_.softplus) delta = SoftPlus<C>(delta).value;
        w.delta[j] = delta;
        w.input[j] = zoh ? u : delta * u;
        w.y[j] = w.block.skip * u;
        x_.copy_row(x_.in, t, w.b + j * x_.states);
        x_.copy_row(x_.out, t, w.c + j * x_.states);
      }
      const ScanSteps<C> steps{count, x_.states, w.delta, w.input, w.b, w.c, w.y};
      int64_t n = 0;
      for (; n + 4 <= x_.states; n += 4)
        advance<C, 4, zoh>(w.block, steps, n, w.state, nullptr, nullptr);
      for (; n < x_.states; ++n) advance<C, 1, zoh>(w.block, steps, n, w.state, nullptr, nullptr);
      for (int64_t j = 0; j < count; ++j) {
        const int64_t t = x_.step(s, first + j);
        Vec<C> y = w.y[j];
        if (x_.z) {
          const Vec<C> z = x_.z.read(t, channels);
          y *= z * sigmoid_of<C>(z);
        }
        y_.write(t, channels, y);
      }
    }
    if (a_.starts) {  // slots that no chunk of this sequence needs: zeros, not what lay there before
      const int64_t chunks = std::max<int64_t>((length + scan_chunk - 1) / scan_chunk, 1);
      for (int64_t k = slot_of(begin, chunks); k < (begin + length) / scan_chunk; ++k) {
        const Columns<C> to = x_.chunk_starts(k);
        for (int64_t n = 0; n < x_.states; ++n) to.write(n, channels, Vec<C>{});
      }
    }
    if (a_.last) x_.scatter(w.state, s, channels, a_.last);
  }

  const SelectiveScan &a_;
  const ScanInputs<C> x_;
  const Columns<C> y_;
};

}  // namespace
}  // namespace graphkit
