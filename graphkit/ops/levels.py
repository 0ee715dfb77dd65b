"""Topological levels of a directed acyclic graph: the order in which its nodes can be computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import backends, cpu
from graphkit.ops.csr import CSR
from graphkit.ops.eager import is_eager

_KEY = "levels"


@dataclass(frozen=True)
class Levels:
    """The levels of a graph's nodes, and for each level the edges that lead into it.

    For models with cells of their own, which must finish a level before they begin the next.
    Get it from :meth:`of`.

    Attributes:
        level: ``[N]`` int64 level of each node.
        order: ``[N]`` int64 nodes by level, then by id.
        ptr: ``[L + 1]`` int64: level ``l`` owns ``order[ptr[l]:ptr[l+1]]``.
        edge_order: ``[E]`` int64 edges by the level, then by the id of their destination.
        edge_ptr: ``[L + 1]`` the same for edges.

    Example:
        >>> edge_index = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 3]])
        >>> levels = Levels.of(CSR.from_edge_index(edge_index, num_nodes=4))
        >>> x = torch.tensor([1.0, 0.0, 0.0, 0.0])
        >>> state = x.clone()
        >>> for nodes, edges in levels:  # a cell that adds 1 to what comes in
        ...     source, target = edge_index[:, edges]
        ...     state = state.index_add(0, target, state[source] + 1)
        >>> state.tolist()
        [1.0, 2.0, 5.0, 6.0]
    """

    level: Tensor
    order: Tensor
    ptr: Tensor
    edge_order: Tensor
    edge_ptr: Tensor

    @staticmethod
    def of(csr: CSR) -> Levels:
        """The levels of a graph; remembered with the CSR.

        Raises:
            InputError: the graph is bipartite or has a cycle (one of its nodes is named).
        """
        kept = csr.derived.get(_KEY)
        if isinstance(kept, Levels):
            return kept
        level, order, padded = level_arrays(csr)
        count = int(level.max()) + 1 if level.numel() else 0
        ptr = padded[: count + 1].clone()
        degree = csr.degree.long()[order]
        first = torch.cumsum(degree, 0) - degree
        owner = torch.arange(order.numel(), device=order.device).repeat_interleave(degree)
        entry = torch.arange(owner.numel(), device=order.device)
        entry += (csr.rowptr[:-1].long()[order] - first)[owner]
        edge_order = entry if csr.eid is None else csr.eid.long()[entry]
        edge_ptr = torch.cat([first, first.new_tensor([owner.numel()])])[ptr]
        found = Levels(level, order, ptr, edge_order, edge_ptr)
        csr.derived[_KEY] = found
        return found

    @property
    def num_levels(self) -> int:
        """``L``, 1 more than the longest path has edges; 0 without nodes."""
        return self.ptr.numel() - 1

    def nodes(self, level: int) -> Tensor:
        """Ids of the nodes of a level, ascending."""
        return self.order[int(self.ptr[level]) : int(self.ptr[level + 1])]

    def edges(self, level: int) -> Tensor:
        """Edges (columns of ``edge_index``) that lead into a level, by destination."""
        return self.edge_order[int(self.edge_ptr[level]) : int(self.edge_ptr[level + 1])]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Nodes and incoming edges of one level after the other; the roots have no edges."""
        nodes, edges = self.ptr.tolist(), self.edge_ptr.tolist()
        for level in range(self.num_levels):
            yield (
                self.order[nodes[level] : nodes[level + 1]],
                self.edge_order[edges[level] : edges[level + 1]],
            )

    def __len__(self) -> int:
        return self.num_levels


def topological_levels(graph: CSR | Tensor, num_nodes: int | None = None) -> Tensor:
    r"""The level of each node of a directed acyclic graph (Kahn, CACM 5(11), 1962).

    .. math::
        level_i = \begin{cases} 0 & \text{without incoming edges} \\
        1 + \max_{j \to i} level_j & \text{else} \end{cases}

    the number of edges of the longest path that ends in the node.

    Args:
        graph: a CSR, or ``[2, E]`` an edge_index from source to destination.
        num_nodes: number of nodes, for an edge_index.

    Shapes:
        - **out:** ``[N]`` int64

    Raises:
        InputError: the graph is bipartite or has a cycle; a node on one is named.

    Example:
        >>> topological_levels(torch.tensor([[0, 0, 1, 2], [1, 2, 2, 3]]), 5).tolist()
        [0, 1, 2, 3, 0]
    """
    csr = graph if isinstance(graph, CSR) else CSR.from_edge_index(graph, num_nodes)
    return level_arrays(csr)[0]


def level_arrays(csr: CSR) -> tuple[Tensor, Tensor, Tensor]:
    """Level of each node, nodes by level, and ``[N + 2]`` where levels begin, padded with N."""
    if not isinstance(csr, CSR):
        raise InputError(f"csr: {type(csr).__name__}, wanted a graphkit.ops.CSR")
    if csr.num_rows != csr.num_cols:
        raise InputError(f"csr: {csr.num_rows} x {csr.num_cols}, wanted as many rows as columns")
    key = (_KEY, "arrays")
    kept = csr.derived.get(key)
    if kept is None:
        back = csr.transpose()
        eager = is_eager(csr.col)
        run = _sort_levels if eager else _levels_op
        kept = run(csr.rowptr, csr.col, back.rowptr, back.col)
        if eager:  # nothing that is traced outlives its graph
            csr.derived[key] = kept
    assert isinstance(kept, tuple)
    return kept


def _sort_levels(
    rowptr: Tensor, col: Tensor, rowptr_t: Tensor, col_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = rowptr.numel() - 1
    if cpu.kernels is None or backends.current(col.device) != "native" or col.is_cuda:
        return _sort_levels_torch(rowptr, col, rowptr_t, col_t)
    level, order, ptr = (col.new_empty(n + more, dtype=torch.int64) for more in (0, 0, 2))
    node, count = cpu.kernels.topological_levels(
        cpu.graph(rowptr, col, None, n, col.numel()),
        cpu.graph(rowptr_t, col_t, None, n, col.numel(), n),
        level.data_ptr(), order.data_ptr(), ptr.data_ptr(),
    )  # fmt: skip
    if count:
        _refuse(node, count)
    return level, order, ptr


def _sort_levels_torch(
    rowptr: Tensor, col: Tensor, rowptr_t: Tensor, col_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step per level: take away the nodes whose sources are all gone."""
    degree, degree_t = ((p[1:] - p[:-1]).long() for p in (rowptr, rowptr_t))
    n = degree.numel()
    level, pending = torch.full_like(degree, -1), degree.clone()
    ready, depth = (pending == 0).nonzero().view(-1), 0
    while ready.numel():
        level[ready] = depth
        gone = degree_t[ready]
        first = torch.cumsum(gone, 0) - gone
        at = (rowptr_t[:-1].long()[ready] - first).repeat_interleave(gone)
        at += torch.arange(at.numel(), device=at.device)
        target = col_t[at].long()
        pending -= torch.bincount(target, minlength=n)
        ready, depth = ((pending == 0) & (level < 0)).nonzero().view(-1), depth + 1
    left = (level < 0).nonzero().view(-1)
    if left.numel():
        seen: set[int] = set()
        node = int(left[0])
        while node not in seen:
            seen.add(node)
            sources = col[int(rowptr[node]) : int(rowptr[node + 1])].long()
            node = int(sources[level[sources] < 0][0])
        _refuse(node, left.numel())
    order = torch.argsort(level, stable=True)
    steps = torch.arange(n + 2, device=level.device)
    return level, order, torch.searchsorted(level[order], steps)


def _refuse(node: int, count: int) -> None:
    raise InputError(
        f"csr: node {node} is on a cycle ({count} nodes are on cycles or behind them), "
        "wanted a directed acyclic graph"
    )


_levels_op = torch.library.custom_op("graphkit::topological_levels", _sort_levels, mutates_args=())


@_levels_op.register_fake
def _(
    rowptr: Tensor, col: Tensor, rowptr_t: Tensor, col_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = rowptr.numel() - 1
    return tuple(col.new_empty(n + more, dtype=torch.int64) for more in (0, 0, 2))  # type: ignore[return-value]
