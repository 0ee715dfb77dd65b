"""Inputs of the sampled logistic loss, and the loss and gradients of one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.ops import sampled_logistic

TABLES = ("user", "item")


def make(
    users: int = 7,
    items: int = 9,
    width: int = 5,
    pairs: int = 11,
    num_negatives: int = 6,
    num_neighbours: int = 3,
    dtype: torch.dtype = torch.float64,
    ids: torch.dtype = torch.int64,
    shared: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Few ids, so that pairs share users and meet an item often, also within one row."""
    g = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    def drawn(limit: int, *shape: int) -> Tensor:
        return torch.randint(max(limit, 1), shape, generator=g).to(ids)

    return {
        "user": values(users, width),
        "item": values(items, width),
        "users": drawn(users, pairs),
        "items": drawn(items, pairs),
        "negatives": drawn(items, *([num_negatives] if shared else [pairs, num_negatives])),
        "beta_user": values(users).abs(),
        "beta_item": values(items).abs(),
        "weights": (0.3, 1.1, 0.2, 0.9),
        "negative_weight": 4.0,
        "neighbours": drawn(items, items, num_neighbours),
        "neighbour_weights": values(items, num_neighbours).abs(),
        "neighbour_scale": 0.7,
        "decay": 0.05,
    }


def run(given: dict[str, Any], function: Any = sampled_logistic) -> list[Tensor]:
    """The loss and its gradients by both tables."""
    leaves = {k: given[k].detach().clone().requires_grad_() for k in TABLES}
    loss = function(**(given | leaves))
    return [loss.detach(), *torch.autograd.grad(loss, [leaves[k] for k in TABLES])]


def assert_near(ours: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, wanted, strict=True):
        size = max(float(b.abs().max()) if b.numel() else 0.0, 1e-30)
        assert a.shape == b.shape
        assert a.numel() == 0 or float((a.double() - b.double()).abs().max()) <= tolerance * size
