// Gradients of the selective scan. States are recomputed chunk by chunk from those that forward
// kept; with g_t = dL/dy_t behind the gate and q_t = dL/dh_t, from the last step to the first
//   q_t = C_t g_t + a_{t+1} q_{t+1}.
// Sums over channels (dB, dC) run block after block, sums over steps (dA, dD, dbias) chunk after
// chunk inside a unit and then unit after unit, whoever computes them.
#pragma once
#include "selective_scan.h"

namespace graphkit {
namespace {

constexpr int64_t slab_chunks = 32;  // of a long sequence whose blocks of channels work apart

template <class C>
class SelectiveScanBackwardKernel {
 public:
  explicit SelectiveScanBackwardKernel(const SelectiveScanBackward &b)
      : b_(b), a_(b.scan), x_(b.scan), grad_(b.grad, b.scan.dtype, b.ldg),
        grad_u_(b.grad_u, b.scan.dtype, b.scan.channels),
        grad_delta_(b.grad_delta, b.scan.dtype, b.scan.channels),
        grad_z_(b.grad_z, b.scan.dtype, b.scan.channels),
        grad_in_(static_cast<C *>(b.grad_B)), grad_out_(static_cast<C *>(b.grad_C)),
        row_((x_.states + vec_lanes<C> - 1) / vec_lanes<C> * vec_lanes<C>) {}

  Fault run() {
    const Fault fault = x_.segments.check();
    if (fault.kind != Fault::none) return fault;
    units_ = units_of(x_.segments);
    const int threads = threads_for(a_.steps * a_.channels * a_.states, a_.threads);
    together_ = threads == 1 || enough_units(threads);
    const int64_t width = x_.blocks * vec_lanes<C>;
    partial_.assign(units_.size() * size_t((x_.states + 2) * width), 0.0);
    bool slabs = false;
    if (!together_)
      for (const Unit &unit : units_) slabs |= unit.alone;
    VecPool<C> shared(slabs ? x_.blocks * row_ : 0);
    carries_ = shared.take(0);
    if (slabs)
      slab_.reset(new C[size_t(2 * x_.blocks * slab_chunks * scan_chunk * x_.states)]);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Work work(row_);
#pragma omp for schedule(dynamic, 1)
      for (int64_t n = 0; n < int64_t(units_.size()); ++n)
        if (together_ || !units_[size_t(n)].alone) whole_unit(n, work);
      if (!together_)
        for (int64_t n = 0; n < int64_t(units_.size()); ++n)
          if (units_[size_t(n)].alone) long_unit(n, work);
#pragma omp for schedule(static)
      for (int64_t c = 0; c < a_.channels; ++c) combine(c, width);
    }
    return {};
  }

 private:
  // States per pass along a chunk: what a pass carries from step to step stays in registers.
  static constexpr int64_t group = vec_lanes<C> < 4 ? vec_lanes<C> : 4;

  // Rows of states are as long as whole registers; what lies behind the last state is zero.
  struct Work {
    explicit Work(int64_t row)
        : vectors(5 * row + (2 * scan_chunk + 1) * group + 2 * scan_chunk * (row / group) +
                  10 * scan_chunk),
          pool(vectors), rows(size_t(2 * scan_chunk * row)) {
      Vec<C> *const all = pool.take(vectors);
      std::fill(all, all + vectors, Vec<C>{});
      Vec<C> *next = all;
      const auto take = [&next](int64_t count) { return std::exchange(next, next + count); };
      block.decay = take(row);
      block.inverse = take(row);
      // Behind the last state: finite whatever the step, as zero times infinity is a NaN.
      std::fill(block.decay, block.decay + row, Vec<C>{} - C(1));
      std::fill(block.inverse, block.inverse + row, Vec<C>{} - C(1));
      carry = take(row);
      grad_decay = take(row);
      state = take(row);
      h = take((scan_chunk + 1) * group);
      decays = take(scan_chunk * group);
      in = take(scan_chunk * (row / group));
      out = take(scan_chunk * (row / group));
      for (Vec<C> **each :
           {&u, &delta, &input, &slope, &grad, &y, &of_gate, &of_input, &of_step, &of_decay})
        *each = take(scan_chunk);
      b = rows.data();
      c = b + scan_chunk * row;
    }
    int64_t vectors;
    VecPool<C> pool;
    ScanBlock<C> block{};
    Vec<C> *carry;         // [row]: a_{t+1} q_{t+1}
    Vec<C> *grad_decay;    // [row]: dA of a chunk
    Vec<C> *state;         // [row]
    Vec<C> *h, *decays;    // [steps of a chunk, group]: before each step, and of it
    Vec<C> *in, *out;      // [steps of a chunk, row / group]: terms of dB and dC, sums begun
    Vec<C> *u, *delta, *input, *slope, *grad;  // [steps of a chunk]; slope of softplus
    Vec<C> *y, *of_gate;   // [steps of a chunk]: with a gate, y before it and the gradient over y
    Vec<C> *of_input, *of_step, *of_decay;     // [steps of a chunk]: sums over states
    std::vector<C> rows;
    C *b, *c;              // [steps of a chunk, row]: rows of B and C
  };

  // Where the rows of dB and dC for the i-th step of a sequence go.
  struct Target {
    C *in, *out;
    int64_t first, stride;
    bool add;
  };

  bool enough_units(int threads) const {
    int64_t largest = 0;
    for (const Unit &unit : units_)
      largest = std::max(largest, x_.segments.start(unit.sequences.end) -
                                      x_.segments.start(unit.sequences.begin));
    return int64_t(units_.size()) >= 4 * threads && largest * 2 * threads <= a_.steps;
  }

  double *partial(int64_t unit, int64_t row) {
    return partial_.data() + (unit * (x_.states + 2) + row) * x_.blocks * vec_lanes<C>;
  }

  void whole_unit(int64_t unit, Work &work) {
    const Range sequences = units_[size_t(unit)].sequences;
    for (int64_t block = 0; block < x_.blocks; ++block) {
      work.block.set(x_, block);
      for (int64_t s = sequences.begin; s < sequences.end; ++s) {
        const int64_t length = x_.segments.start(s + 1) - x_.segments.start(s);
        const int64_t origin = length ? x_.step(s, 0) * x_.states : 0;
        const Target target{grad_in_ + origin, grad_out_ + origin, 0,
                            a_.reverse ? -x_.states : x_.states, block > 0};
        start(s, work.block.channels, work.carry);
        for (int64_t c = (length + scan_chunk - 1) / scan_chunk - 1; c >= 0; --c)
          chunk(unit, s, c, work, work.carry, target);
        finish(s, work.block.channels, work.carry);
      }
    }
  }

  // All threads on one sequence, each with blocks of channels, slab after slab of steps.
  void long_unit(int64_t unit, Work &work) {
    const int64_t s = units_[size_t(unit)].sequences.begin;
    const int64_t length = x_.segments.start(s + 1) - x_.segments.start(s);
    const int64_t chunks = (length + scan_chunk - 1) / scan_chunk;
    const int64_t rows = slab_chunks * scan_chunk, size = rows * x_.states;
    for (int64_t slab = (chunks - 1) / slab_chunks; slab >= 0; --slab) {
      const int64_t first = slab * slab_chunks, last = std::min(first + slab_chunks, chunks);
#pragma omp for schedule(dynamic, 1)
      for (int64_t block = 0; block < x_.blocks; ++block) {
        work.block.set(x_, block);
        Vec<C> *const carry = carries_ + block * row_;
        C *const base = slab_.get() + 2 * block * size;
        const Target target{base, base + size, slab * rows, x_.states, false};
        if (last == chunks) start(s, work.block.channels, carry);
        for (int64_t c = last - 1; c >= first; --c) chunk(unit, s, c, work, carry, target);
        if (first == 0) finish(s, work.block.channels, carry);
      }
#pragma omp for schedule(static)
      for (int64_t i = slab * rows; i < std::min((slab + 1) * rows, length); ++i) {
        const int64_t to = x_.step(s, i) * x_.states, from = (i - slab * rows) * x_.states;
        for (int64_t block = 0; block < x_.blocks; ++block) {
          const C *in = slab_.get() + 2 * block * size + from;
          for (int64_t n = 0; n < x_.states; ++n) {
            grad_in_[to + n] = block ? grad_in_[to + n] + in[n] : in[n];
            grad_out_[to + n] = block ? grad_out_[to + n] + in[size + n] : in[size + n];
          }
        }
      }
    }
  }

  void start(int64_t s, Range channels, Vec<C> *carry) const {
    std::fill(carry, carry + row_, Vec<C>{});  // a NaN would stay behind the last state
    if (b_.grad_last) x_.gather(b_.grad_last, s, channels, C(1), carry);
  }
  void finish(int64_t s, Range channels, const Vec<C> *carry) const {
    if (b_.grad_initial) x_.scatter(carry, s, channels, b_.grad_initial);
  }

  void chunk(int64_t unit, int64_t s, int64_t c, Work &w, Vec<C> *__restrict carry,
             const Target &target) {
    const int64_t begin = x_.segments.start(s), length = x_.segments.start(s + 1) - begin;
    const int64_t first = c * scan_chunk, steps = std::min(scan_chunk, length - first);
    const int64_t states = x_.states;
    const Range channels = w.block.channels;
    std::fill(w.state, w.state + row_, Vec<C>{});  // a NaN would stay behind the last state
    if (c > 0) {
      const Columns<C> from = x_.chunk_starts(slot_of(begin, c));
      for (int64_t n = 0; n < states; ++n) w.state[n] = from.read(n, channels);
    } else if (a_.initial) {
      x_.gather(a_.initial, s, channels, C(1), w.state);
    }
    Vec<C> grad_skip{}, grad_bias{};
    for (int64_t j = 0; j < steps; ++j) prepare(s, first + j, j, w);
    const ScanSteps<C> all{steps, row_, w.delta, w.input, w.b, w.c, x_.z ? w.y : nullptr};
    for (int64_t n = 0; n < states; n += group) {
      if (a_.zoh) through<true>(n, all, w, carry);
      else through<false>(n, all, w, carry);
    }
    for (int64_t j = 0; j < steps; ++j) {
      const int64_t t = x_.step(s, first + j);
      const Vec<C> u = w.u[j], grad = w.grad[j], of_input = w.of_input[j];
      const Vec<C> of_u = a_.zoh ? of_input : of_input * w.delta[j];
      const Vec<C> of_step = a_.zoh ? w.of_step[j] : of_input;
      grad_u_.write(t, channels, of_u + w.block.skip * grad);
      const Vec<C> of_delta = (w.of_decay[j] * C(log_of_2) + of_step * u) * w.slope[j];
      grad_delta_.write(t, channels, of_delta);
      if (x_.z) grad_z_.write(t, channels, w.of_gate[j] * w.y[j]);
      grad_bias += of_delta;
      grad_skip += grad * u;
      const int64_t row = (first + j - target.first) * target.stride;
      put_sums(w.in + j * (row_ / group), target.in + row, target.add);
      put_sums(w.out + j * (row_ / group), target.out + row, target.add);
    }
    for (int64_t n = 0; n < states; ++n) add_up(w.grad_decay[n], channels, partial(unit, n));
    add_up(grad_skip, channels, partial(unit, states));
    add_up(grad_bias, channels, partial(unit, states + 1));
  }

  // The states that start at n as forward took them, then from the last step of the chunk back.
  template <bool zoh>
  void through(int64_t n, const ScanSteps<C> &steps, Work &w, Vec<C> *carries) const {
    advance<C, group, zoh>(w.block, steps, n, w.state, w.h, w.decays);
    for (int64_t v = 0; v < group; ++v) w.h[steps.count * group + v] = w.state[n + v];
    back<zoh>(n, steps.count, w, carries);
  }

  template <bool zoh>
  void back(int64_t n, int64_t steps, Work &w, Vec<C> *carries) const {
    const int64_t groups = row_ / group;
    Vec<C> carry[group], grad_decay[group], after[group];
    for (int64_t v = 0; v < group; ++v) {
      carry[v] = carries[n + v];
      grad_decay[v] = Vec<C>{};
      after[v] = w.h[steps * group + v];
    }
    for (int64_t j = steps - 1; j >= 0; --j) {
      const Vec<C> *__restrict h = w.h + j * group;
      const Vec<C> *__restrict decays = w.decays + j * group;
      const Vec<C> *__restrict decay = w.block.decay + n;
      const Vec<C> *__restrict inverse = w.block.inverse + n;
      const C *__restrict b = w.b + j * row_ + n;
      const C *__restrict c = w.c + j * row_ + n;
      const Vec<C> grad = w.grad[j], delta = w.delta[j], input = w.input[j];
      Vec<C> of_input = n ? w.of_input[j] : Vec<C>{}, of_decay = n ? w.of_decay[j] : Vec<C>{};
      Vec<C> of_step = zoh && n ? w.of_step[j] : Vec<C>{};
      Vec<C> in[group], out[group];
      for (int64_t v = 0; v < group; ++v) {
        const Vec<C> q = grad * c[v] + carry[v], before = h[v];
        out[v] = grad * after[v];
        in[v] = q * input;
        carry[v] = q * decays[v];
        const Vec<C> kept = carry[v] * before;
        grad_decay[v] += kept * delta;
        if constexpr (zoh) {
          const Hold<C> hold(delta, decay[v], inverse[v], decays[v]);
          grad_decay[v] += in[v] * b[v] * hold.by_A;
          in[v] *= hold.value;
          of_input += q * b[v] * hold.value;
          of_step += carry[v] * b[v];  // the hold's derivative by delta is a
        } else {
          of_input += q * b[v];
        }
        of_decay += kept * decay[v];
        after[v] = before;
      }
      w.of_input[j] = of_input;
      w.of_decay[j] = of_decay;
      if constexpr (zoh) w.of_step[j] = of_step;
      w.in[j * groups + n / group] = merged<C, 1, group>(in);
      w.out[j * groups + n / group] = merged<C, 1, group>(out);
    }
    for (int64_t v = 0; v < group; ++v) {
      carries[n + v] = carry[v];
      w.grad_decay[n + v] = grad_decay[v];
    }
  }

  // What the j-th step of a chunk is for all states; the gate is undone on the way.
  void prepare(int64_t s, int64_t i, int64_t j, Work &w) {
    const int64_t t = x_.step(s, i);
    const Range channels = w.block.channels;
    const Vec<C> u = x_.u.read(t, channels);
    Vec<C> delta = x_.delta.read(t, channels) + w.block.bias, slope = Vec<C>{} + C(1);
    if (a_.softplus) {
      const SoftPlus<C> soft(delta);
      delta = soft.value;
      slope = soft.slope;
    }
    x_.copy_row(x_.in, t, w.b + j * row_);
    x_.copy_row(x_.out, t, w.c + j * row_);
    Vec<C> grad = grad_.read(t, channels);
    if (x_.z) {
      const Vec<C> z = x_.z.read(t, channels), sigmoid = sigmoid_of<C>(z);
      w.y[j] = w.block.skip * u;
      w.of_gate[j] = grad * sigmoid * (C(1) + z * (C(1) - sigmoid));
      grad *= z * sigmoid;
    }
    w.u[j] = u;
    w.delta[j] = delta;
    w.input[j] = a_.zoh ? u : delta * u;
    w.slope[j] = slope;
    w.grad[j] = grad;
  }

  void put_sums(const Vec<C> *terms, C *to, bool add) const {
    for (int64_t n = 0; n < x_.states; n += vec_lanes<C>) {
      const Vec<C> sums = merged<C, group, vec_lanes<C> / group>(terms + n / group);
      if (n + vec_lanes<C> <= x_.states) {
        Vec<C> *const row = reinterpret_cast<Vec<C> *>(to + n);
        *row = add ? *row + sums : sums;
      } else {
        alignas(64) C lane[vec_lanes<C>];
        *reinterpret_cast<Vec<C> *>(lane) = sums;
        for (int64_t l = 0; n + l < x_.states; ++l) to[n + l] = add ? to[n + l] + lane[l] : lane[l];
      }
    }
  }

  static void add_up(Vec<C> sum, Range channels, double *row) {
    alignas(64) C lane[vec_lanes<C>];
    *reinterpret_cast<Vec<C> *>(lane) = sum;
    double *const to = row + channels.begin;
    for (int64_t l = 0; l < vec_lanes<C>; ++l) to[l] += double(lane[l]);
  }

  void combine(int64_t channel, int64_t width) {
    const size_t rows = size_t(x_.states + 2);
    for (int64_t n = 0; n < x_.states + 2; ++n) {
      double total = 0.0;
      for (size_t unit = 0; unit < units_.size(); ++unit)
        total += partial_[(unit * rows + size_t(n)) * size_t(width) + size_t(channel)];
      C *const to = n < x_.states ? static_cast<C *>(b_.grad_A) + channel * x_.states + n
                    : n == x_.states ? at(b_.grad_D, channel) : at(b_.grad_bias, channel);
      if (to) *to = C(total);
    }
  }
  static C *at(void *base, int64_t channel) {
    return base ? static_cast<C *>(base) + channel : nullptr;
  }

  const SelectiveScanBackward &b_;
  const SelectiveScan &a_;
  const ScanInputs<C> x_;
  const Columns<C> grad_, grad_u_, grad_delta_, grad_z_;
  C *const grad_in_, *const grad_out_;
  const int64_t row_;  // states, rounded up to whole registers
  std::vector<Unit> units_;
  bool together_ = true;         // units are enough to share out
  std::vector<double> partial_;  // [units, states + 2, channels]: dA, dD, dbias
  Vec<C> *carries_ = nullptr;    // [blocks, row], of a long sequence
  std::unique_ptr<C[]> slab_;    // [blocks, 2, steps of a slab, states]: dB, dC
};

}  // namespace
}  // namespace graphkit
