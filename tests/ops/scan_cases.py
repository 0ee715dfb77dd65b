"""Inputs of the selective scan, and what it must give: one step after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LENGTHS = [0, 1, 3, 64, 0, 65, 33, 0]
PER_STEP = ("u", "delta", "B", "C", "z")
NAMES = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial"]


def offsets(lengths: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


def make(lengths: list[int], channels: int, states: int, dtype=torch.float64) -> dict[str, Tensor]:
    steps = sum(lengths)
    given = {
        "u": torch.randn(steps, channels),
        "delta": torch.randn(steps, channels),
        "A": -torch.rand(channels, states) * states,
        "B": torch.randn(steps, states),
        "C": torch.randn(steps, states),
        "D": torch.randn(channels),
        "z": torch.randn(steps, channels),
        "delta_bias": torch.randn(channels),
        "initial": torch.randn(len(lengths), channels, states),
    }
    return {name: t.to(dtype) for name, t in given.items()}


def by_definition(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, *, seq_ptr, initial=None, reverse=False,
    delta_softplus=True, disc="euler", return_last=True,
):  # fmt: skip
    """One sequence after the other, one step after the other."""
    delta = delta if delta_bias is None else delta + delta_bias
    delta = torch.log1p(delta.exp()) if delta_softplus else delta
    rows: list[Tensor | None] = [None] * len(u)
    last = []
    for s in range(len(seq_ptr) - 1):
        h = torch.zeros_like(A) if initial is None else initial[s]
        steps = range(int(seq_ptr[s]), int(seq_ptr[s + 1]))
        for t in reversed(steps) if reverse else steps:
            x = delta[t, :, None] * A
            enters = torch.expm1(x) / A if disc == "zoh" else delta[t, :, None]
            h = x.exp() * h + enters * torch.outer(u[t], B[t])
            rows[t] = h @ C[t]
        last.append(h)
    y = torch.stack(rows) if rows else u * 0
    y = y if D is None else y + D * u
    y = y if z is None else y * F.silu(z)
    return y, torch.stack(last)


def run(function, given: dict[str, Tensor], lengths: list[int], **options) -> list[Tensor]:
    """Outputs, last states and gradients."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    y, last = function(**leaves, seq_ptr=offsets(lengths), return_last=True, **options)
    generator = torch.Generator().manual_seed(5)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)
        for t in (y, last)
    ]
    gradients = torch.autograd.grad(
        [y, last], list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True
    )
    return [y.detach(), last.detach(), *gradients]


def assert_near(ours: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
        if b.numel():
            worst = (a.double() - b.double()).abs().max()
            assert worst <= tolerance * (1 + b.abs().max().double()), (a.shape, worst)


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
