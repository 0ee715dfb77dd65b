"""Readouts: from node states to one state per graph of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit import ops
from graphkit.errors import InputError
from graphkit.ops import CSR


def batch_segments(batch: Tensor, num_graphs: int) -> CSR:
    """The segments of a sorted ``batch`` vector, as a CSR to pool and broadcast with.

    Args:
        batch: ``[N]`` graph of each node, non-decreasing.
        num_graphs: number of graphs, the empty ones included.

    Raises:
        InputError: ``batch`` is not sorted, or names a graph beyond ``num_graphs``.

    Example:
        >>> batch_segments(torch.tensor([0, 0, 2]), 3).rowptr.tolist()
        [0, 2, 2, 3]
    """
    if batch.dim() != 1 or batch.is_floating_point():
        raise InputError(f"batch: {batch.dtype} of shape {list(batch.shape)}, wanted [N] integers")
    if not torch.compiler.is_compiling() and batch.numel():
        if bool((batch[1:] < batch[:-1]).any()):
            first = int((batch[1:] < batch[:-1]).nonzero()[0]) + 1
            raise InputError(
                f"batch: not sorted, node {first} is in graph {int(batch[first])} after graph "
                f"{int(batch[first - 1])}"
            )
        low, high = int(batch[0]), int(batch[-1])
        if low < 0 or high >= num_graphs:
            raise InputError(
                f"batch: graph {high if high >= num_graphs else low}, wanted 0..{num_graphs - 1}"
            )
    rowptr = torch.searchsorted(
        batch.contiguous(), torch.arange(num_graphs + 1, dtype=batch.dtype, device=batch.device)
    ).to(batch.dtype)
    nodes = torch.arange(batch.numel() + 1, dtype=batch.dtype, device=batch.device)
    segments = CSR(rowptr, nodes[:-1], None, num_graphs, batch.numel())
    segments._transposed = CSR(nodes, batch, None, batch.numel(), num_graphs)
    segments._transposed._transposed = segments
    return segments


def pool(x: Tensor, segments: CSR, how: str = "mean") -> Tensor:
    """Reduce node states to graph states: ``sum``, ``mean``, ``max`` or ``min``.

    Example:
        >>> pool(torch.tensor([[1.0], [3.0]]), batch_segments(torch.tensor([0, 0]), 1)).tolist()
        [[2.0]]
    """
    return ops.segment(x, segments, how)


def broadcast(state: Tensor, segments: CSR) -> Tensor:
    """Give every node its graph's state: ``state[batch]`` with a deterministic gradient."""
    return ops.aggregate(segments.transpose(), state)


def _global(x: Tensor, batch: Tensor | None, size: int | None, how: str) -> Tensor:
    if batch is None:
        batch = x.new_zeros(x.size(0), dtype=torch.int64)
        size = 1
    if size is None:
        size = int(batch[-1]) + 1 if batch.numel() else 0
    return pool(x, batch_segments(batch, size), how)


def global_add_pool(x: Tensor, batch: Tensor | None = None, size: int | None = None) -> Tensor:
    """PyG's function of this name, fused and deterministic; ``batch`` must be sorted."""
    return _global(x, batch, size, "sum")


def global_mean_pool(x: Tensor, batch: Tensor | None = None, size: int | None = None) -> Tensor:
    """PyG's function of this name, fused and deterministic; ``batch`` must be sorted."""
    return _global(x, batch, size, "mean")


def global_max_pool(x: Tensor, batch: Tensor | None = None, size: int | None = None) -> Tensor:
    """PyG's function of this name, fused and deterministic; ``batch`` must be sorted."""
    return _global(x, batch, size, "max")
