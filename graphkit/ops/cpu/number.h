// Storage types and the type their sums are kept in: float16 and bfloat16 accumulate in float32.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace graphkit {
namespace {  // one copy per translation unit: each is compiled for its own ISA

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class S>
struct Compute {
  using type = S;
};
template <>
struct Compute<BFloat16> {
  using type = float;
};
template <>
struct Compute<Float16> {
  using type = float;
};

inline float load(float v) { return v; }
inline double load(double v) { return v; }

inline float load(BFloat16 v) {
  uint32_t bits = uint32_t(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline float load(Float16 v) {
  // Shift the half's exponent and mantissa into place and rescale by 2^112: exact for subnormals
  // too, with no branch, so the compiler can vectorise it.
  const uint32_t sign = uint32_t(v.bits & 0x8000u) << 16;
  const uint32_t rest = uint32_t(v.bits & 0x7fffu) << 13;
  float magnitude;
  std::memcpy(&magnitude, &rest, 4);
  magnitude *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &magnitude, 4);
  bits = (rest >= 0x0f800000u ? (rest | 0x7f800000u) : bits) | sign;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline void store(float &to, float v) { to = v; }
inline void store(double &to, double v) { to = v; }

inline void store(BFloat16 &to, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // nearest, ties to even
  to.bits = uint16_t(v != v ? 0x7fc0u : rounded);
}

inline void store(Float16 &to, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  uint32_t out;
  if (bits > 0x7f800000u) {
    out = 0x7e00u;  // NaN
  } else if (bits >= 0x477ff000u) {
    out = 0x7c00u;  // rounds to infinity
  } else if (bits < 0x38800000u) {
    // A subnormal half counts in units of 2^-24; adding 0.5 lets the float adder round to them.
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&out, &magnitude, 4);
    out -= 0x3f000000u;
  } else {
    out = (bits + 0xfffu + ((bits >> 13) & 1u) - 0x38000000u) >> 13;
  }
  to.bits = uint16_t(sign | out);
}

}  // namespace
}  // namespace graphkit
