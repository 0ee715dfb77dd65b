"""A small graph of two noisy communities, and its split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.models import Stable


def communities(n: int = 120, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Binary features, edges, classes, and ids of training and validation nodes."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    chance = torch.where(y[:, None] == torch.arange(40)[None] % 2, 0.3, 0.05)
    x = (torch.rand(n, 40, generator=g) < chance).float()
    u, v = torch.triu_indices(n, n, 1)
    edge = torch.rand(u.numel(), generator=g) < torch.where(y[u] == y[v], 0.08, 0.03)
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 2) % n]).sort(0).values
    pairs = torch.cat([torch.stack([u[edge], v[edge]]), ring], 1).unique(dim=1)
    edge_index = torch.cat([pairs, pairs.flip(0)], 1)
    order = torch.randperm(n, generator=g)
    return x, edge_index, y, order[:30], order[30:60]


SMALL: dict[str, Any] = {
    "embedding_channels": 16, "contrast_epochs": 40, "contrast_lr": 0.01, "epochs": 40, "k": 3,
    "jt": 0.05,
}  # fmt: skip


def small(**options: Any) -> Stable:
    return Stable(40, 2, **{**SMALL, **options})
