"""What estimators take as a graph: an edge_index, a CSR, PyG Data, networkx or scipy."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import CSR

_SPARSEST = 500  # nodes for each end of an edge, beyond which ids are taken for names


@dataclass(frozen=True)
class GraphInput:
    """A graph as estimators read it.

    Attributes:
        csr: row ``u`` holds the neighbours of ``u`` (where edges leave to, in a directed graph).
        weight: ``[E]`` float32 of the entries of ``csr``, or ``None`` where all are 1.
        nodes: the caller's names of the nodes, in their order, or ``None`` for 0..n-1.
    """

    csr: CSR
    weight: Tensor | None
    nodes: list[Any] | None

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return self.csr.num_rows


def read_graph(graph: Any, edge_weight: Any = None, num_nodes: int | None = None) -> GraphInput:
    """Bring a graph in any of the usual forms into one.

    Args:
        graph: ``edge_index`` ``[2, E]`` with both directions of undirected edges; a
            :class:`~graphkit.ops.CSR` whose rows are neighbourhoods; PyG ``Data``; a networkx graph
            (undirected ones give both directions); or a square scipy sparse matrix.
        edge_weight: ``[E]`` of an ``edge_index`` or ``CSR``; by default that of ``Data``, the
            attribute ``weight`` of networkx edges, or the values of the matrix.
        num_nodes: of an ``edge_index`` whose last nodes have no edge.

    Raises:
        InputError: not one of these, not square, ids of nodes that leave nearly all of 0..n-1
            out, or weights that are negative, not finite or not one for each edge.

    Example:
        >>> read_graph(torch.tensor([[0, 1], [1, 0]])).num_nodes
        2
    """
    nodes = None
    if isinstance(graph, CSR):
        csr = graph
    elif isinstance(graph, Tensor):
        if num_nodes is None:
            _check_ids(graph)
        csr = CSR.from_edge_index(graph, num_nodes, flow="target_to_source")
    elif hasattr(graph, "edge_index"):
        edge_weight = getattr(graph, "edge_weight", None) if edge_weight is None else edge_weight
        said = isinstance(graph, Container) and ("x" in graph or "num_nodes" in graph)
        if num_nodes is None and not said:
            _check_ids(graph.edge_index)
        count = graph.num_nodes if num_nodes is None else num_nodes
        csr = CSR.from_edge_index(graph.edge_index, count, flow="target_to_source")
    elif hasattr(graph, "tocsr"):
        csr, edge_weight = _of_scipy(_without_zeros(graph), edge_weight)
    elif hasattr(graph, "adjacency") and hasattr(graph, "nodes"):
        import networkx
        from scipy.sparse import csr_array

        nodes = list(graph.nodes)
        if nodes:
            try:
                matrix = networkx.to_scipy_sparse_array(graph, nodelist=nodes, format="csr")
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"graph: the attribute weight of its edges, wanted numbers ({error})"
                ) from None
        else:  # which networkx refuses
            matrix = csr_array((0, 0))
        csr, edge_weight = _of_scipy(matrix, edge_weight)
    else:
        raise InputError(
            f"graph: {type(graph).__name__}, wanted an edge_index, a CSR, PyG Data, a networkx "
            "graph or a scipy sparse matrix"
        )
    if csr.num_rows != csr.num_cols:
        raise InputError(
            f"graph: {csr.num_rows} x {csr.num_cols}, wanted as many rows as columns; give a "
            "bipartite graph as one graph over both kinds of nodes"
        )
    return GraphInput(csr, _weights(edge_weight, csr), nodes)


def _check_ids(edge_index: Any) -> None:
    """Refuse names that are no numbering: a row for each of 0..n-1 would not fit in memory."""
    fits = isinstance(edge_index, Tensor) and edge_index.dtype in (torch.int32, torch.int64)
    if not fits or not edge_index.numel():
        return
    largest = int(edge_index.max())
    if largest > _SPARSEST * edge_index.numel() + 10_000_000:
        raise InputError(
            f"edge_index: node ids up to {largest} in {edge_index.size(-1)} edges, wanted 0..n-1; "
            "torch.unique(edge_index, return_inverse=True) numbers them, and num_nodes says that "
            "so many nodes are meant"
        )


def _without_zeros(matrix: Any) -> Any:
    """A value that is stored, but 0, is no edge."""
    rows = matrix.tocsr()
    if not rows.data.all():
        rows = rows.copy()  # the caller's own may be in that form already
        rows.eliminate_zeros()
    return rows


def _of_scipy(matrix: Any, edge_weight: Any) -> tuple[CSR, Tensor | None]:
    if edge_weight is not None:
        raise InputError("edge_weight: the matrix has values already, wanted None")
    rows = matrix.tocsr()
    csr = CSR(
        torch.from_numpy(rows.indptr.copy()), torch.from_numpy(rows.indices.copy()), None,
        rows.shape[0], rows.shape[1],
    )  # fmt: skip
    if csr.rowptr.dtype != csr.col.dtype:
        csr = CSR(csr.rowptr.long(), csr.col.long(), None, csr.num_rows, csr.num_cols)
    weight = torch.from_numpy(rows.data.astype("float32"))
    return csr, None if bool((weight == 1).all()) else weight


def _weights(edge_weight: Any, csr: CSR) -> Tensor | None:
    if edge_weight is None:
        return None
    try:
        weight = torch.as_tensor(edge_weight).detach().to(torch.float32).view(-1)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"edge_weight: {type(edge_weight).__name__}, wanted [{csr.num_entries}] numbers"
        ) from None
    if weight.numel() != csr.num_entries:
        raise InputError(f"edge_weight: {weight.numel()} values, wanted {csr.num_entries}")
    bad = ~torch.isfinite(weight) | (weight < 0)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise InputError(
            f"edge_weight: {float(weight[at])} at edge {at}, wanted finite numbers of at least 0"
        )
    return weight if csr.eid is None else weight[csr.eid.long()]
