"""Look at graphs once, before work starts, and say exactly which value is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError

NAN_ALLOWED = frozenset({"y", "lap_vec", "lap_val"})
"""Keys in which NaN has a meaning: an unlabelled target, or padding of a small graph's spectrum."""

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
_CHUNK = 1 << 24


def check_pointer(name: str, ptr: Tensor) -> None:
    """Refuse a pointer that does not start at 0 or that falls.

    Raises:
        InputError: ``ptr`` is not an int ``[G + 1]`` tensor, does not start at 0, or decreases.
    """
    if not isinstance(ptr, Tensor) or ptr.dim() != 1 or ptr.dtype not in _INTEGERS or not len(ptr):
        raise InputError(
            f"{name}: expected a 1-D integer tensor of length graphs + 1, got {_describe(ptr)}"
        )
    if int(ptr[0]) != 0:
        raise InputError(f"{name}: must start at 0, got {int(ptr[0])}")
    falls = (ptr.diff() < 0).nonzero()
    if len(falls):
        graph = int(falls[0])
        raise InputError(
            f"{name}: graph {graph} would have {int(ptr[graph + 1]) - int(ptr[graph])} rows; "
            "pointers must not decrease"
        )


def check_edge_index(edge_index: Tensor, num_nodes: int, name: str = "edge_index") -> None:
    """Refuse an edge list that is not integer ``[2, E]`` with ids in ``0..num_nodes - 1``.

    Raises:
        InputError: shape, dtype or a node id is wrong; the message names the edge and the id.

    Example:
        >>> check_edge_index(torch.tensor([[0], [1]]), num_nodes=2)
    """
    _check_edge_form(edge_index, name)
    if edge_index.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(edge_index))
    if low >= 0 and high < num_nodes:
        return
    bad = ((edge_index < 0) | (edge_index >= num_nodes)).any(0).nonzero()
    edge = int(bad[0])
    source, target = edge_index[:, edge].tolist()
    raise InputError(
        f"{name}: edge {edge} is {source} -> {target}, but num_nodes is {num_nodes}: "
        f"ids must lie in 0..{num_nodes - 1} ({len(bad)} such edges)"
    )


def _check_edge_form(edge_index: Tensor, name: str) -> None:
    if not isinstance(edge_index, Tensor) or edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise InputError(
            f"{name}: expected an integer tensor of shape [2, E], got {_describe(edge_index)}"
        )
    if edge_index.dtype not in _INTEGERS:
        raise InputError(
            f"{name}: expected int64 or int32, got {edge_index.dtype}; node ids are whole numbers, "
            f"convert with {name}.long()"
        )


def check_edges(edge_index: Tensor, node_ptr: Tensor, edge_ptr: Tensor) -> None:
    """Refuse edges that leave their own graph, graphs without nodes, and wrong counts.

    Raises:
        InputError: the message names the graph, the edge within it and the node id.
    """
    if len(node_ptr) != len(edge_ptr):
        raise InputError(
            f"edge_ptr: has {len(edge_ptr) - 1} graphs, but node_ptr has {len(node_ptr) - 1}"
        )
    counts = node_ptr.diff().long()
    empty = (counts == 0).nonzero()
    if len(empty):
        raise InputError(
            f"graph {int(empty[0])} has no nodes ({len(empty)} such graphs); drop it: pooling over "
            "nothing has no value"
        )
    largest = int(counts.max()) if len(counts) else 0
    _check_edge_form(edge_index, "edge_index")
    if len(counts) == 1:
        check_edge_index(edge_index, largest)
    if edge_index.size(1) != int(edge_ptr[-1]):
        raise InputError(
            f"edge_index: has {edge_index.size(1)} edges, but edge_ptr ends at {int(edge_ptr[-1])}"
        )
    if len(counts) <= 1:
        return
    owner = torch.repeat_interleave(edge_ptr.diff())
    for start in range(0, edge_index.size(1), _CHUNK):
        part = edge_index[:, start : start + _CHUNK]
        limit = counts[owner[start : start + _CHUNK]]
        bad = ((part < 0) | (part >= limit)).any(0).nonzero()
        if len(bad):
            edge = start + int(bad[0])
            graph = int(owner[edge])
            source, target = edge_index[:, edge].tolist()
            raise InputError(
                f"edge_index: edge {edge - int(edge_ptr[graph])} of graph {graph} is "
                f"{source} -> {target}, but the graph has {int(counts[graph])} nodes: "
                f"ids must lie in 0..{int(counts[graph]) - 1}"
            )


def check_features(
    key: str, value: Tensor, kind: str, size: int, node_ptr: Tensor, edge_ptr: Tensor
) -> None:
    """Refuse an attribute with a wrong number of rows, or with NaN or infinity in it.

    Raises:
        InputError: the message names the attribute, the graph and the row.
    """
    if not isinstance(value, Tensor) or value.dim() == 0 or value.size(0) != size:
        raise InputError(
            f"{key}: expected one row per {kind} ({size} rows), got {_describe(value)}"
        )
    if key in NAN_ALLOWED or not value.is_floating_point() or value.numel() == 0:
        return
    if bool(torch.isfinite(value.sum())):
        return
    rows = (~torch.isfinite(value)).reshape(size, -1).any(1).nonzero()
    if not len(rows):
        return
    row = int(rows[0])
    where = f"row {row}"
    if kind != "graph":
        ptr = node_ptr if kind == "node" else edge_ptr
        graph = int(torch.searchsorted(ptr.long(), torch.tensor(row), right=True)) - 1
        where = f"{kind} {row - int(ptr[graph])} of graph {graph}"
    raise InputError(
        f"{key}: {where} is NaN or infinite ({len(rows)} such rows); replace or drop these values"
    )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
