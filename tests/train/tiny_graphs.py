"""A tiny graph data set and models for tests of the training layer."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from graphkit.data.loader import GraphLoader
from graphkit.data.packed import PackedGraphs
from graphkit.tasks import create_task
from graphkit.tasks.base import Task


class TinyDataset:
    """``size`` graphs of 3 to 6 nodes; the label says whether the features sum above zero."""

    level, task_type, num_tasks, metric, maximize = "graph", "binary", 1, "rocauc", True
    name, sha256 = "tiny", "0" * 64

    def __init__(self, size: int = 40, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts = torch.randint(3, 7, (size,), generator=generator)
        ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        x = torch.randn(int(ptr[-1]), 4, generator=generator)
        edges = []
        for count in counts.tolist():
            ring = torch.arange(count)
            edges.append(torch.stack([ring, ring.roll(1)]))
        owner = torch.repeat_interleave(counts)
        sums = torch.zeros(size).index_add(0, owner, x[:, 0])
        self.graphs = PackedGraphs(
            ptr, ptr, torch.cat(edges, 1), node={"x": x}, graph={"y": (sums > 0).float()[:, None]}
        )
        ids = torch.arange(size)
        half = size // 2
        middle = half + (size - half) // 2
        self.splits = {"train": ids[:half], "valid": ids[half:middle], "test": ids[middle:]}

    def loader(self, split: str, batch_size: int = 32, **options: Any) -> GraphLoader:
        return GraphLoader(self.graphs, self.splits[split], batch_size, **options)

    def evaluate(self, y_true: Tensor, y_pred: Tensor) -> dict[str, float]:
        return {"rocauc": float(roc_auc_score(y_true.numpy(), y_pred.numpy()))}


class TinyModel(nn.Module):
    """Linear, sum over neighbours and graph, optional BatchNorm and dropout, Linear."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.config = {"dropout": dropout, "norm": norm}
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(8, 1)
        self.calls = 0
        self.crash_at = -1

    def forward(self, batch: Any) -> Tensor:
        if self.training:
            self.calls += 1
            if self.calls == self.crash_at:
                raise PowerCut
        h = self.first(batch.x)
        h = h.index_add(0, batch.edge_index[1], h[batch.edge_index[0]]).tanh()
        pooled = torch.zeros(batch.num_graphs, 8, dtype=h.dtype).index_add(0, batch.batch, h)
        return self.last(self.dropout(self.norm(pooled)))


class PowerCut(Exception):
    """Ends a training run without any clean-up of its own."""


def tiny_task(size: int = 40, **options: Any) -> Task:
    return create_task(TinyDataset(size), **options)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bitwise equality."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
