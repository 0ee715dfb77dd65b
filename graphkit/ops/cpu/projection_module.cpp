// The Python face of random projections.
#include <nanobind/nanobind.h>

#include "binding.h"
#include "projection.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

void signs(Address ids, int64_t num_ids, int64_t first, int64_t last, uint64_t threshold,
           uint64_t seed, Address out, int threads) {
  if (num_ids < 0 || first < 0 || last < first || threshold > (uint64_t(1) << 32))
    throw nb::value_error("wanted columns first <= last and a threshold of at most 2^32");
  const SignBlock a{at<int64_t>(ids), num_ids, first, last, threshold, seed, at<float>(out),
                    threads};
  nb::gil_scoped_release release;
  sign_block(a);
}

}  // namespace

void bind_projection(nb::module_ &m) { m.def("sign_block", &signs); }

}  // namespace graphkit
