"""Labels of neighbours as features, without the node's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.rphgnn.relations import Graph, Relation
from graphkit.ops import CSR, aggregate

_COLUMNS = 64
_ALONE = 1 - 1e-6  # a share of the node itself from which nothing else is left


def flat_labels(y: Any) -> Tensor:
    """``[N]`` from ``[N, 1]``; labels of other shapes as they are.

    Raises:
        InputError: no tensor.
    """
    if not isinstance(y, Tensor):
        raise InputError(f"labels: {type(y).__name__}, wanted a tensor, int64 [N]")
    return y[:, 0] if y.dim() == 2 and y.size(1) == 1 else y


def check_labels(y: Tensor, train: Any, num_nodes: int, num_classes: int) -> Tensor:
    """Positions of the training nodes, if labels may be propagated.

    Args:
        y: int64 ``[N]`` classes.
        train: bool ``[N]`` or positions: whose labels may be seen.
        num_nodes: ``N``.
        num_classes: ``C``.

    Raises:
        InputError: several labels per node, classes out of range, or positions that are none.
    """
    if not isinstance(train, Tensor):
        raise InputError(f"train: {type(train).__name__}, wanted a mask or positions as a tensor")
    y = flat_labels(y)
    if y.dim() != 1 or y.is_floating_point():
        raise InputError(
            f"labels: {y.dtype} {list(y.shape)}; labels are propagated for one class per node, "
            "int64 [N], only"
        )
    if y.numel() != num_nodes:
        raise InputError(f"labels: {y.numel()} for {num_nodes} nodes of the target type")
    if train.dtype == torch.bool and train.shape != (num_nodes,):
        raise InputError(f"train: mask {list(train.shape)}, wanted [{num_nodes}]")
    if train.dtype not in (torch.bool, torch.int32, torch.int64) or train.dim() != 1:
        raise InputError(
            f"train: {train.dtype} {list(train.shape)}, wanted bool [{num_nodes}] or int64 ids"
        )
    ids = train.nonzero()[:, 0] if train.dtype == torch.bool else train.long()
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < num_nodes:
        raise InputError(f"train: positions outside 0..{num_nodes - 1}")
    seen = y[ids]
    if seen.numel() and not 0 <= int(seen.min()) <= int(seen.max()) < num_classes:
        raise InputError(
            f"labels: training classes from {int(seen.min())} to {int(seen.max())}, wanted "
            f"0 to {num_classes - 1}"
        )
    return ids


def label_keys(graph: Graph, target: str) -> list[tuple[Relation, str]]:
    """What is kept: even keys, and odd ones of relations inside the target type."""
    keys = []
    for relation in graph.around(target):
        if relation.symmetric:
            keys.append((relation, "odd"))
        keys.append((relation, "even"))
    return keys


def own_share(into: CSR, back: CSR) -> Tensor:
    r"""How much of a node's even key is the node itself.

    .. math:: q_i = \sum_j M_{ij} M'_{ji}

    with parallel edges counted as often as they are there.

    Args:
        into: rows are the nodes asked about.
        back: the opposite direction.

    Shapes:
        - **out:** float64 ``[N]``

    Example:
        >>> writes = CSR.from_edge_index(torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]]), size=(2, 3))
        >>> own_share(writes.transpose(), writes).tolist()
        [0.75, 0.75]
    """
    row, col = into.row().long(), into.col.long()
    pairs, count = torch.unique(row * max(into.num_cols, 1) + col, return_counts=True)
    node = torch.div(pairs, max(into.num_cols, 1), rounding_mode="floor")
    middle = pairs % max(into.num_cols, 1)
    degrees = into.degree[node].double() * back.degree[middle].double()
    share = torch.zeros(into.num_rows, dtype=torch.float64)
    return share.index_add_(0, node, count.double().square() / degrees)


def own_edges(csr: CSR) -> Tensor:
    """Share of a node's neighbours that is the node itself, by edges to itself. float64 ``[N]``."""
    row, col = csr.row().long(), csr.col.long()
    loops = torch.bincount(row[row == col], minlength=csr.num_rows).double()
    return loops / csr.degree.double().clamp(min=1)


def label_group(
    relation: Relation, target: str, step: str, y: Tensor, train: Tensor, out: Tensor
) -> None:
    r"""Write one group of label features.

    Training nodes start with their class, all other nodes, also of other types, with the uniform
    distribution :math:`1/C`. What a node sent to itself is taken out again,

    .. math:: h_i \leftarrow \frac{h_i - q_i x_i}{1 - q_i}

    and nodes to which nothing else comes get the uniform distribution.

    Args:
        relation: at the target type.
        target: the type.
        step: ``odd`` or ``even``.
        y: int64 ``[N]`` classes.
        train: int64 positions.
        out: ``[N, C]``, filled.
    """
    into, back = relation.into(target), relation.into(relation.other(target))
    # In float64: 1 - q of a node with one neighbour is what rounding leaves of it.
    share = own_share(into, back) if step == "even" else own_edges(into)
    alone = (share > _ALONE) | (into.degree == 0)
    left = (1.0 - share).masked_fill_(alone, 1.0)[:, None]
    classes = out.size(1)
    for first in range(0, classes, _COLUMNS):
        last = min(first + _COLUMNS, classes)
        x = torch.full((out.size(0), last - first), 1.0 / classes, dtype=torch.float64)
        x[train] = 0.0
        here = train[(y[train] >= first) & (y[train] < last)]
        x[here, y[here] - first] = 1.0
        h = x
        for csr in (into,) if step == "odd" else (back, into):
            h = aggregate(csr, h, reduce="mean")
        h = (h - share[:, None] * x).div_(left)
        h[alone] = 1.0 / classes
        out[:, first:last] = h
