"""The graph that a summary is made of: undirected, unweighted, without loops and repeats."""

from __future__ import annotations

from typing import Any

import torch

from graphkit.errors import InputError
from graphkit.models.graph_input import read_graph
from graphkit.ops import CSR


def simple_graph(
    graph: Any,
    *,
    num_nodes: int | None = None,
    symmetrise: bool = False,
    ignore_weights: bool = False,
) -> CSR:
    """Read a graph in any of the usual forms and drop loops and repeated edges.

    Args:
        graph: see :func:`~graphkit.models.graph_input.read_graph`.
        num_nodes: of an ``edge_index`` whose last nodes have no edge.
        symmetrise: take an edge in one direction for an edge.
        ignore_weights: forget edge weights.

    Raises:
        InputError: a directed or weighted graph without leave to change it, or one of fewer than
            two nodes or without an edge.

    Example:
        >>> simple_graph(torch.tensor([[0, 1, 1, 1], [1, 0, 1, 0]])).num_entries
        2
    """
    read = read_graph(graph, num_nodes=num_nodes)
    if read.weight is not None and not ignore_weights and bool((read.weight != 1).any()):
        at = int((read.weight != 1).nonzero()[0])
        raise InputError(
            f"graph: an edge of weight {float(read.weight[at]):g}, wanted an unweighted graph; "
            "ignore_weights=True forgets the weights"
        )
    n, rowptr = read.num_nodes, read.csr.rowptr.cpu().long()
    col = read.csr.col.cpu().long()
    degree = rowptr[1:] - rowptr[:-1]
    if bool((degree < 0).any()) or len(rowptr) != n + 1 or int(degree.sum()) != len(col):
        raise InputError("rowptr: wanted non-decreasing values that end with the number of entries")
    if len(col) and not 0 <= int(col.min()) <= int(col.max()) < n:
        raise InputError(f"graph: node ids {int(col.min())}..{int(col.max())}, wanted 0..{n - 1}")
    row = torch.arange(n).repeat_interleave(degree)
    loop = row == col
    key = (row * n + col)[~loop]
    if not bool((key[1:] > key[:-1]).all()):
        key = torch.unique(key)
    mirrored = (key % max(n, 1) * n + key // max(n, 1)).sort().values
    if not torch.equal(key, mirrored):
        if not symmetrise:
            alone = key[~torch.isin(key, mirrored)][0]
            raise InputError(
                f"graph: an edge {int(alone) // n} -> {int(alone) % n} without its reverse, wanted "
                "an undirected graph with both directions; symmetrise=True adds them"
            )
        key = torch.unique(torch.cat([key, mirrored]))
    if n < 2 or not len(key):
        raise InputError(
            f"graph: {n} nodes and {len(key) // 2} edges between them, wanted at least 2 and 1"
        )
    count = torch.bincount(key // n, minlength=n)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    return CSR(start, key % n, None, n, n)
