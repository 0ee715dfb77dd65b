// The closed set of messages. A new message is a new `value` with its derivatives, not a new kernel.
#pragma once
#include "features.h"

namespace graphkit {
namespace {

// What an entry contributes: x of its source and, where the message has one, its edge row. Weights
// per head are spread over the features first, which turns `scale` with heads into `mul`.
template <class C>
struct Entry {
  const C *x;
  const C *edge;
  C weight;
};

template <Message M, class C>
inline C message_value(const Entry<C> &e, int64_t f) {
  if constexpr (M == Message::copy) return e.x[f];
  else if constexpr (M == Message::scale) return e.x[f] * e.weight;
  else if constexpr (M == Message::mul) return e.x[f] * e.edge[f];
  else if constexpr (M == Message::add) return e.x[f] + e.edge[f];
  else {
    const C m = e.x[f] + e.edge[f];
    return m < C(0) ? C(0) : m;  // not (m > 0 ? m : 0): a NaN stays a NaN
  }
}

template <Message M, class C>
inline C slope_of_x(const Entry<C> &e, int64_t f) {
  if constexpr (M == Message::scale) return e.weight;
  else if constexpr (M == Message::mul) return e.edge[f];
  else if constexpr (M == Message::add_relu) return e.x[f] + e.edge[f] > C(0) ? C(1) : C(0);
  else return C(1);
}

template <Message M, class C>
inline C slope_of_edge(const Entry<C> &e, int64_t f) {
  if constexpr (M == Message::add_relu) return e.x[f] + e.edge[f] > C(0) ? C(1) : C(0);
  else if constexpr (M == Message::add) return C(1);
  else return e.x[f];
}

template <Message M>
using MessageTag = std::integral_constant<Message, M>;

template <class F>
inline auto with_message(Message message, F f) {
  switch (message) {
    case Message::scale: return f(MessageTag<Message::scale>{});
    case Message::mul: return f(MessageTag<Message::mul>{});
    case Message::add: return f(MessageTag<Message::add>{});
    case Message::add_relu: return f(MessageTag<Message::add_relu>{});
    default: return f(MessageTag<Message::copy>{});
  }
}

// Reads entries; `kind` is the message after weights per head were spread.
template <class C>
class Messages {
 public:
  static constexpr int64_t scratch_rows = 2;

  template <class Arguments>
  explicit Messages(const Arguments &a)
      : kind(a.message == Message::scale && a.heads > 1 ? Message::mul : a.message),
        has_edge(a.message != Message::copy), narrow_edge(a.message == Message::scale),
        edge_width(a.message == Message::scale ? a.heads : a.width), x(a.x, a.dtype, a.ldx, a.width),
        edge(a.edge, a.dtype, a.lde, edge_width), col(a.graph.col, a.graph.index_bits),
        eid(a.graph.eid, a.graph.index_bits), graph_(a.graph), width_(a.width), heads_(a.heads),
        x_far_(a.graph.num_cols * x.row_bytes() > cached_bytes),
        edge_far_(has_edge && a.graph.num_edge_rows * edge.row_bytes() > cached_bytes) {}

  // Whether rows are stored as they are computed with, and an entry has at most one weight: then
  // `locate` serves, which only finds addresses.
  bool plain() const { return x.direct() && (!has_edge || (edge.direct() && (!narrow_edge || heads_ == 1))); }

  template <Message M>
  GRAPHKIT_INLINE bool locate(int64_t k, Entry<C> &entry, FaultFlag &fault) const {
    const int64_t j = col[k];
    if (__builtin_expect(uint64_t(j) >= uint64_t(graph_.num_cols), 0)) {
      fault.raise(Fault::col, k, j);
      return false;
    }
    entry.x = x.direct_row(j);
    if constexpr (M != Message::copy) {
      const int64_t e = eid[k];
      if (__builtin_expect(uint64_t(e) >= uint64_t(graph_.num_edge_rows), 0)) {
        fault.raise(Fault::eid, k, e);
        return false;
      }
      entry.edge = edge.direct_row(e);
      if constexpr (M == Message::scale) entry.weight = entry.edge[0];
    }
    return true;
  }

  bool fetch(int64_t k, Entry<C> &entry, C *scratch, FaultFlag &fault) const {
    const int64_t j = col.checked(k, graph_.num_cols, Fault::col, fault);
    if (j < 0) return false;
    entry.x = x.read(j, scratch);
    return fetch_edge(k, entry, scratch + width_, fault) >= 0;
  }

  // The edge row of entry k, or -1 and a fault. Backward calls it with x set to the row's own.
  int64_t fetch_edge(int64_t k, Entry<C> &entry, C *scratch, FaultFlag &fault) const {
    if (!has_edge) return 0;
    const int64_t e = eid.checked(k, graph_.num_edge_rows, Fault::eid, fault);
    if (e < 0) return -1;
    if (!narrow_edge) {
      entry.edge = edge.read(e, scratch);
    } else if (heads_ == 1) {
      entry.weight = edge.read(e, scratch)[0];
    } else {
      // Backwards, because half types keep their few weights at the front of the same scratch row.
      const C *weights = edge.read(e, scratch);
      const int64_t per_head = width_ / heads_;
      for (int64_t h = heads_ - 1; h >= 0; --h) {
        const C w = weights[h];
        for (int64_t f = (h + 1) * per_head - 1; f >= h * per_head; --f) scratch[f] = w;
      }
      entry.edge = scratch;
    }
    return e;
  }

  // Looks past the end of the row: most rows are shorter than the distance worth prefetching.
  GRAPHKIT_INLINE void prefetch(int64_t k) const {
    if (k >= graph_.num_entries) return;
    if (x_far_) x.prefetch(col[k]);
    if (edge_far_) edge.prefetch(eid[k]);
  }
  GRAPHKIT_INLINE void prefetch_edge(int64_t k) const {
    if (edge_far_ && k < graph_.num_entries) edge.prefetch(eid[k]);
  }

  const Message kind;
  const bool has_edge, narrow_edge;
  const int64_t edge_width;
  const Features<C> x, edge;
  const Index col, eid;

 private:
  const Graph graph_;
  int64_t width_, heads_;
  bool x_far_, edge_far_;  // worth a prefetch
};

}  // namespace
}  // namespace graphkit
