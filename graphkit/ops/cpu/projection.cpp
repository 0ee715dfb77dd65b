#include "projection.h"

#include "draws.h"

namespace graphkit {

void sign_block(const SignBlock &a) {
  const int64_t width = a.last - a.first;
  const int threads = threads_for(a.num_ids * width, a.threads);
  const uint64_t half = a.threshold / 2;
  (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < a.num_ids; ++i) {
    const uint64_t key = after(a.seed, a.ids[i]);
    float *row = a.out + i * width;
    int64_t c = a.first;
    const auto entry = [&](uint64_t bits) {
      return bits < half ? 1.0f : bits < 2 * half ? -1.0f : 0.0f;
    };
    if (c < a.last && (c & 1)) *row++ = entry(after(key, c++ >> 1) >> 32);
    for (; c + 1 < a.last; c += 2) {
      const uint64_t bits = after(key, c >> 1);  // one hash for two columns
      *row++ = entry(bits & 0xFFFFFFFFu);
      *row++ = entry(bits >> 32);
    }
    if (c < a.last) *row = entry(after(key, c >> 1) & 0xFFFFFFFFu);
  }
}

}  // namespace graphkit
