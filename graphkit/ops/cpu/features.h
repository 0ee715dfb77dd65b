// Rows of a feature matrix, whatever they are stored in. Loops see float or double only: half types
// are widened row by row into a scratch row, so kernels need not be compiled for them.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "number.h"
#include "parallel.h"

namespace graphkit {
namespace {

// A function that only prefetches must be inlined: called, GCC takes it for one without effect and
// drops the call.
#define GRAPHKIT_INLINE inline __attribute__((always_inline))
#define GRAPHKIT_LAMBDA_INLINE __attribute__((always_inline))

// Into the second-level cache: the first has too few line buffers to keep enough rows in flight
// (random rows of 512 bytes come two to three times as fast). A bad address is harmless.
GRAPHKIT_INLINE void prefetch_line(uintptr_t address) {
  __builtin_prefetch(reinterpret_cast<const void *>(address), 0, 2);
}

// A value per entry of an index: 32 or 64 bits, or the identity when there is no array.
class Index {
 public:
  Index(const void *base, int bits) : base_(base), wide_(bits == 64) {}
  int64_t operator[](int64_t k) const {
    if (!base_) return k;
    return wide_ ? static_cast<const int64_t *>(base_)[k] : static_cast<const int32_t *>(base_)[k];
  }
  // The value if it lies in [0, limit), else -1 and a fault: one unsigned comparison.
  int64_t checked(int64_t k, int64_t limit, Fault::Kind kind, FaultFlag &fault) const {
    const int64_t value = (*this)[k];
    if (__builtin_expect(uint64_t(value) >= uint64_t(limit), 0)) {
      fault.raise(kind, k, value);
      return -1;
    }
    return value;
  }

 private:
  const void *base_;
  bool wide_;
};

inline int64_t size_of(Dtype dtype) {
  return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2;
}

// A row that goes past the caches: an output far larger than they are would be read only to be
// overwritten, and would push out the rows that are gathered again.
constexpr int64_t streamed_bytes = int64_t(64) << 20;
// What the second-level cache holds needs no prefetch.
constexpr int64_t cached_bytes = int64_t(512) << 10;

inline void stream_row(void *to, const void *from, int64_t bytes) {
#if defined(__AVX512F__)
  for (int64_t n = 0; n < bytes; n += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i *>(static_cast<char *>(to) + n),
                        _mm512_loadu_si512(static_cast<const char *>(from) + n));
#elif defined(__SSE2__)
  for (int64_t n = 0; n < bytes; n += 16)
    _mm_stream_si128(
        reinterpret_cast<__m128i *>(static_cast<char *>(to) + n),
        _mm_loadu_si128(reinterpret_cast<const __m128i *>(static_cast<const char *>(from) + n)));
#else
  std::memcpy(to, from, size_t(bytes));
#endif
}

// Streamed rows become visible to other threads at the fence.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class C>
class Features {
 public:
  // `rows` is given for outputs: large ones with whole cache lines per row are streamed.
  Features(const void *base, Dtype dtype, int64_t ld, int64_t width, int64_t rows = 0)
      : base_(static_cast<char *>(const_cast<void *>(base))), dtype_(dtype),
        stride_(ld * size_of(dtype)), width_(width),
        prefetched_(uintptr_t(std::min<int64_t>(width * size_of(dtype), 1024))),
        streamed_(base && rows * stride_ >= streamed_bytes && stride_ % 64 == 0 &&
                  stride_ == width * size_of(dtype) && reinterpret_cast<uintptr_t>(base) % 64 == 0 &&
                  (dtype == Dtype::f32 || dtype == Dtype::f64)) {}

  explicit operator bool() const { return base_ != nullptr; }
  bool direct() const { return dtype_ == Dtype::f32 || dtype_ == Dtype::f64; }
  bool streamed() const { return streamed_; }
  int64_t row_bytes() const { return stride_; }
  const C *direct_row(int64_t row) const { return reinterpret_cast<const C *>(base_ + row * stride_); }

  const C *read(int64_t row, C *scratch) const {
    const char *at = base_ + row * stride_;
    if constexpr (std::is_same_v<C, float>) {
      if (dtype_ == Dtype::bf16) return widen(reinterpret_cast<const BFloat16 *>(at), scratch);
      if (dtype_ == Dtype::f16) return widen(reinterpret_cast<const Float16 *>(at), scratch);
    }
    return reinterpret_cast<const C *>(at);
  }

  // Where to write a row: the row itself, or scratch that `commit` narrows or streams into it.
  C *begin_write(int64_t row, C *scratch) const {
    return direct() && !streamed_ ? reinterpret_cast<C *>(base_ + row * stride_) : scratch;
  }
  void commit(int64_t row, const C *scratch) const {
    char *at = base_ + row * stride_;
    if (streamed_) return stream_row(at, scratch, stride_);
    if (direct()) return;
    if (dtype_ == Dtype::bf16) narrow(scratch, reinterpret_cast<BFloat16 *>(at));
    else narrow(scratch, reinterpret_cast<Float16 *>(at));
  }

  GRAPHKIT_INLINE void prefetch(int64_t row) const {
    const uintptr_t at = reinterpret_cast<uintptr_t>(base_) + uintptr_t(row * stride_);
#pragma GCC unroll 1
    for (uintptr_t offset = 0; offset < prefetched_; offset += 64) prefetch_line(at + offset);
  }

 private:
  template <class S>
  const C *widen(const S *from, C *to) const {
    for (int64_t f = 0; f < width_; ++f) to[f] = load(from[f]);
    return to;
  }
  template <class S>
  void narrow(const C *from, S *to) const {
    for (int64_t f = 0; f < width_; ++f) store(to[f], float(from[f]));
  }

  char *base_;
  Dtype dtype_;
  int64_t stride_, width_;
  uintptr_t prefetched_;  // bytes of a row
  bool streamed_;
};

}  // namespace
}  // namespace graphkit
