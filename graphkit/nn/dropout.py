"""Dropout that draws sixteen bits per element instead of one number of torch's generator each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.ops.eager import is_plain

_LEAST = 1 << 12  # elements; below, torch's own is as quick
_STEPS = 1 << 16


class Dropout(nn.Dropout):
    r"""Set each element to zero with probability ``p`` in training and scale the rest.

    .. math:: y = \frac{b}{1 - p} x, \qquad b \sim \mathrm{Bernoulli}(1 - p)

    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15,
    2014. torch's generator on the CPU takes longer per number than everything else in a small
    network; four elements share one of its 64-bit numbers here. ``p`` is rounded to a multiple of
    1/65536 and the scale follows. Elsewhere than on the CPU this is :class:`torch.nn.Dropout`.

    Args:
        p: probability of zero.
        inplace: only honoured where torch's own dropout runs.

    Shapes:
        - **x** and **out:** any, floating point

    Example:
        >>> Dropout(0.5).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        steps = round(self.p * _STEPS)
        if not self.training or x.numel() < _LEAST or not 0 < steps < _STEPS or not is_plain(x):
            return super().forward(x)
        out: Tensor = _Drop.apply(x, steps)  # type: ignore[no-untyped-call]
        return out


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        # From the smallest number and without an end: all 64 bits are drawn.
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = (words.view(torch.int16)[: x.numel()] >= steps - _STEPS // 2).view(x.shape)
        ctx.save_for_backward(keep)
        ctx.scale = _STEPS / (_STEPS - steps)
        # A product: torch.where takes five times as long on the CPU.
        return (x * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None
