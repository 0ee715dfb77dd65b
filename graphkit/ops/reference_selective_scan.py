"""The selective scan in plain torch ops: a loop over time, all sequences at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """Torch's own switches to ``x`` at 20, which float64 can tell from softplus."""
    return F.softplus(x, threshold=40.0)


_NEAR = 0.02  # where the difference of exp and 1 is a series
_TERMS = 9


def hold(step: Tensor, A: Tensor) -> Tensor:
    """``(exp(step A) - 1) / A``, by its series where it or its gradient would cancel."""
    x = step * A
    near = x.abs() < _NEAR
    small = x.masked_fill(~near, 0.0)
    series = torch.full_like(small, 1 / math.factorial(_TERMS))
    for k in range(_TERMS - 1, 0, -1):
        series = series * small + 1 / math.factorial(k)
    return torch.where(near, step * series, torch.expm1(x) / A.masked_fill(near, -1.0))


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    seq_ptr: Tensor | None,
    *,
    reverse: bool,
    delta_softplus: bool,
    zoh: bool = False,
) -> tuple[Tensor, Tensor]:
    """Outputs, in the dtype of ``u``, and last states; ``A`` and its kin in the computing type."""
    steps, channels = u.shape
    dtype = u.dtype
    u, delta, B, C = (t.to(A.dtype) for t in (u, delta, B, C))
    if seq_ptr is None:
        seq_ptr = torch.tensor([0, steps], device=u.device)
    lengths = seq_ptr.diff().long()
    order = lengths.argsort(descending=True, stable=True)
    # Sequences by falling length: those that are still running are always the first ones.
    first = (seq_ptr[1:] - 1 if reverse else seq_ptr[:-1]).long()[order]
    count = lengths.numel()
    longest = int(lengths.max()) if count else 0
    running = (lengths[:, None] > torch.arange(longest, device=u.device)).sum(0).tolist()
    delta = delta if delta_bias is None else delta + delta_bias
    delta = softplus(delta) if delta_softplus else delta
    if initial is None:
        h = u.new_zeros(count, channels, A.size(1))
    else:
        h = initial[order]
    rows, outputs, ended = [], [], []
    for i, alive in enumerate(running):
        ended.append(h[alive:])
        row = first[:alive] - i if reverse else first[:alive] + i
        step = delta[row].unsqueeze(-1)
        enters = hold(step, A) if zoh else step
        h = (step * A).exp() * h[:alive] + enters * B[row].unsqueeze(1) * u[row].unsqueeze(-1)
        outputs.append((h * C[row].unsqueeze(1)).sum(-1))
        rows.append(row)
    ended.append(h)
    last = torch.cat(ended[::-1])[order.argsort()]
    if rows:
        y = torch.cat(outputs)[torch.cat(rows).argsort()]
    else:
        y = u * 0
    y = y if D is None else y + D * u
    y = y if z is None else y * F.silu(z.to(y.dtype))
    return y.to(dtype), last
