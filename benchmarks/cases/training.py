"""Whole training steps, against the same model in PyG."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import peers
from benchmarks.cases.registry import Pair, Step, register
from benchmarks.graphs import molecule_batch
from graphkit.models import create_model


@register("mpnn_vn_step", "MPNN+VN training step, 100 molecules of 25 nodes, F=64, 5 layers",
          memory=False, step=1.5)  # fmt: skip
def _step(scale: float) -> dict[str, Callable[[], Pair]]:
    width, layers = 64, 5
    batches = [molecule_batch(seed=seed) for seed in range(8)]  # small at any scale
    ours = create_model(
        "mpnn_vn", in_channels="atom", out_channels=1, edge_dim="bond", hidden_channels=width,
        num_layers=layers, conv="ogb_gin", virtual_node="ogb", dropout=0.0,
    )  # fmt: skip
    peer = peers.MPNNVN(width, layers)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, peer)]
    if sizes[0] != sizes[1]:
        raise RuntimeError(f"mpnn_vn_step: {sizes[0]} parameters against the peer's {sizes[1]}")
    current: dict[str, Any] = {"turn": 0}

    def prepare() -> None:
        # New tensors, so that nothing remembered for a batch seen before helps either side.
        current["turn"] += 1
        current["batch"] = copy.deepcopy(batches[current["turn"] // 2 % len(batches)])

    def trained(model: nn.Module) -> Step:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loss_of = nn.BCEWithLogitsLoss()

        def step() -> float:
            batch = current["batch"]
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(batch), batch.y)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step

    return {"step": lambda: Pair(trained(ours), trained(peer), prepare, tolerance=None)}
