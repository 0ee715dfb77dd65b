// Many values at a time, for what loops over single values do not vectorise into: packing the signs
// of values into bits, running values that stay in registers, sums over lanes. The rest is left to
// the compiler.
#pragma once
#include <utility>

#include "features.h"

namespace graphkit {
namespace {

constexpr int64_t lanes = 16;

// May lie at any address that suits one value.
template <class C>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int32_t bits __attribute__((vector_size(64), aligned(4), may_alias));
};
template <>
struct LanesOf<double> {
  typedef double type __attribute__((vector_size(128), aligned(8), may_alias));
  typedef int64_t bits __attribute__((vector_size(128), aligned(8), may_alias));
};
template <class C>
using Lanes = typename LanesOf<C>::type;

template <class C>
inline const Lanes<C> &lanes_at(const C *p) {
  return *reinterpret_cast<const Lanes<C> *>(p);
}
template <class C>
inline Lanes<C> &lanes_at(C *p) {
  return *reinterpret_cast<Lanes<C> *>(p);
}

// As many values as one register of this instruction set holds; at any address, too.
#if defined(__AVX512F__)
constexpr int64_t register_bytes = 64;
#elif defined(__AVX__)
constexpr int64_t register_bytes = 32;
#else
constexpr int64_t register_bytes = 16;
#endif
template <class C>
struct Register {
  using Integer = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  typedef C values __attribute__((vector_size(register_bytes), aligned(sizeof(C)), may_alias));
  typedef Integer positions __attribute__((vector_size(register_bytes), aligned(sizeof(C)), may_alias));
  static constexpr int64_t size = register_bytes / int64_t(sizeof(C));
};
// The same for the values that are left over. Templates take one or the other of these two, for
// a vector type loses its alignment where it is a template's argument.
template <class C>
struct Single {
  using values = C;
  using positions = typename Register<C>::Integer;
  static constexpr int64_t size = 1;
};

template <class C>
using Vec = typename Register<C>::values;
template <class C>
constexpr int64_t vec_lanes = Register<C>::size;

// `fold(several, f)` for all features: registers first, then the features that are left over.
template <class C, class Fold>
GRAPHKIT_INLINE void over_features(int64_t width, Fold fold) {
  int64_t f = 0;
  for (; f + Register<C>::size <= width; f += Register<C>::size) fold(Register<C>{}, f);
  for (; f < width; ++f) fold(Single<C>{}, f);
}

template <class Several, class C>
GRAPHKIT_INLINE auto &values_at(C *p) {
  return *reinterpret_cast<typename Several::values *>(const_cast<std::remove_const_t<C> *>(p));
}

// Two vectors whose groups of w lanes hold parts of w sums each become one with groups of 2 w.
template <class C, int64_t w, size_t... lane>
GRAPHKIT_INLINE Vec<C> merge_sums(Vec<C> x, Vec<C> y, std::index_sequence<lane...>) {
  constexpr int64_t n = vec_lanes<C>;
  const Vec<C> low = __builtin_shufflevector(
      x, y, int(lane / (2 * w) * (2 * w) + lane % w + (lane % (2 * w) < w ? 0 : n))...);
  const Vec<C> high = __builtin_shufflevector(
      x, y, int(lane / (2 * w) * (2 * w) + w + lane % w + (lane % (2 * w) < w ? 0 : n))...);
  return low + high;
}

// Vectors whose groups of `width` lanes hold parts of sums become one with groups of width * count;
// from width 1 to as many vectors as there are lanes, lane l is the sum over the lanes of v[l].
template <class C, int64_t width, int64_t count>
GRAPHKIT_INLINE Vec<C> merged(const Vec<C> *v) {
  if constexpr (count == 1) {
    return v[0];
  } else {
    return merge_sums<C, width * count / 2>(merged<C, width, count / 2>(v),
                                            merged<C, width, count / 2>(v + count / 2),
                                            std::make_index_sequence<size_t(vec_lanes<C>)>());
  }
}

// Whether a comparison holds anywhere; of single values it is a truth value.
template <class Mask>
inline bool any_of(const Mask &mask) {
  if constexpr (std::is_same_v<Mask, bool>) {
    return mask;
  } else {
    static_assert(sizeof(Mask) == register_bytes);
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask(__m512i(mask), __m512i(mask)) != 0;
#elif defined(__AVX__)
    return !_mm256_testz_si256(__m256i(mask), __m256i(mask));
#elif defined(__SSE2__)
    return _mm_movemask_epi8(__m128i(mask)) != 0;
#else
    bool any = false;
    for (size_t l = 0; l < sizeof(Mask) / sizeof(mask[0]); ++l) any |= mask[l] != 0;
    return any;
#endif
  }
}

// Bit l is set where lane l is above zero.
inline uint16_t above_zero(const float *v) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(v), _mm512_setzero_ps(), _CMP_GT_OQ);
#elif defined(__AVX__)
  const __m256 zero = _mm256_setzero_ps();
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v), zero, _CMP_GT_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v + 8), zero, _CMP_GT_OQ));
  return uint16_t(low | high << 8);
#else
  unsigned all = 0;
  for (int l = 0; l < lanes; ++l) all |= unsigned(v[l] > 0.0f) << l;
  return uint16_t(all);
#endif
}

inline uint16_t above_zero(const double *v) {
#if defined(__AVX512F__)
  const __m512d zero = _mm512_setzero_pd();
  const unsigned low = _mm512_cmp_pd_mask(_mm512_loadu_pd(v), zero, _CMP_GT_OQ);
  const unsigned high = _mm512_cmp_pd_mask(_mm512_loadu_pd(v + 8), zero, _CMP_GT_OQ);
  return uint16_t(low | high << 8);
#else
  unsigned all = 0;
  for (int l = 0; l < lanes; ++l) all |= unsigned(v[l] > 0.0) << l;
  return uint16_t(all);
#endif
}

// The lanes whose bits are set; zero elsewhere.
template <class C>
inline Lanes<C> where(uint16_t set, const Lanes<C> &v) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<C, float>)
    return Lanes<C>(_mm512_maskz_mov_ps(set, __m512(v)));
#endif
  using Bits = typename LanesOf<C>::bits;
  using Int = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  const Bits each = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  const Bits chosen = (each & Int(set)) != 0;
  return Lanes<C>(chosen & Bits(v));
}

// One bit per entry and feature, a row of 16-bit words per edge.
class SignBits {
 public:
  SignBits(uint16_t *base, int64_t width) : base_(base), words_((width + lanes - 1) / lanes) {}
  explicit operator bool() const { return base_ != nullptr; }
  uint16_t *row(int64_t e) const { return base_ + e * words_; }
  GRAPHKIT_INLINE void prefetch(int64_t e) const {
    prefetch_line(reinterpret_cast<uintptr_t>(base_) + uintptr_t(e * words_ * 2));
  }

 private:
  uint16_t *base_;
  int64_t words_;
};

}  // namespace
}  // namespace graphkit
