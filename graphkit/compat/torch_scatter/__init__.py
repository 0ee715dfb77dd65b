"""The functions of torch_scatter 2.1, with its signatures, on graphkit's kernels.

Where these functions differ from the package (https://github.com/rusty1s/pytorch_scatter):

- An index out of range, a pointer that decreases and a shape that does not fit raise
  :class:`graphkit.errors.InputError`, on every device (torch.compile leaves out the check of the
  index's range).
- ``min`` and ``max`` treat NaN and infinities as torch does: a NaN wins, and an infinity is a value
  like any other. There they count as absent on the CPU.
- Of equal values the first wins, on every device. There it does on the CPU.
- Sums are the same from run to run and for any number of threads, on a GPU too.
- Second derivatives exist of all reductions; an ``out`` that is part of a graph gets its gradient
  (but in segment_csr and gather_csr, which overwrite it). Products have the right gradient where a
  factor is zero, and standard deviations of zero have a gradient of zero.
- Products of an empty ``src`` are 1, as those of any empty group; there they are 0.
- int32 indices are accepted.
- TorchScript cannot compile these functions, and ``torch.ops.torch_scatter`` does not exist.
"""

from __future__ import annotations

from graphkit.compat.torch_scatter import broadcast as utils
from graphkit.compat.torch_scatter import composite
from graphkit.compat.torch_scatter.composite import (
    scatter_log_softmax,
    scatter_logsumexp,
    scatter_softmax,
    scatter_std,
)
from graphkit.compat.torch_scatter.scatter import (
    scatter,
    scatter_add,
    scatter_max,
    scatter_mean,
    scatter_min,
    scatter_mul,
    scatter_sum,
)
from graphkit.compat.torch_scatter.segment import (
    gather_coo,
    gather_csr,
    segment_add_coo,
    segment_add_csr,
    segment_coo,
    segment_csr,
    segment_max_coo,
    segment_max_csr,
    segment_mean_coo,
    segment_mean_csr,
    segment_min_coo,
    segment_min_csr,
    segment_sum_coo,
    segment_sum_csr,
)

__version__ = "2.1.2"  # the version whose interface this is; code that asks compares numbers

__all__ = [
    "composite",
    "gather_coo",
    "gather_csr",
    "scatter",
    "scatter_add",
    "scatter_log_softmax",
    "scatter_logsumexp",
    "scatter_max",
    "scatter_mean",
    "scatter_min",
    "scatter_mul",
    "scatter_softmax",
    "scatter_std",
    "scatter_sum",
    "segment_add_coo",
    "segment_add_csr",
    "segment_coo",
    "segment_csr",
    "segment_max_coo",
    "segment_max_csr",
    "segment_mean_coo",
    "segment_mean_csr",
    "segment_min_coo",
    "segment_min_csr",
    "segment_sum_coo",
    "segment_sum_csr",
    "utils",
]
