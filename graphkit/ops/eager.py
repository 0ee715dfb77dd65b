"""Call a kernel directly where nobody traces.

A custom op costs about a tenth of a millisecond per call in eager mode, more than a small batch's
reduction. The same function behind a ``torch.autograd.Function`` costs a fraction of that, so eager
CPU code takes it; ``torch.compile``, fake tensors and dispatch modes see the registered op.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary tensors outside any tracing or functional transform."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None  # torch.jit.trace
        and all(t is None or type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0  # the kernels have no forward-mode derivative
        and not any(
            t is not None and torch._C._functorch.is_legacy_batchedtensor(t)  # many
            for t in tensors
        )  # gradients at once: `is_grads_batched`
    )


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether these are, beyond :func:`is_eager`, on the CPU."""
    return is_eager(*tensors) and all(t is None or t.device.type == "cpu" for t in tensors)
