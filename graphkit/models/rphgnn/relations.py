"""A heterogeneous graph as the propagation sees it: each relation once, both ways, as row means."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.ops import CSR

_HALF_MAX = 65504.0  # the largest float16


@dataclass(frozen=True)
class Relation:
    """One kind of edge, used in both directions.

    Attributes:
        name: the edge type, its parts joined by ``|``.
        src, dst: node types at its ends.
        forward: rows are nodes of ``dst``, columns of ``src``.
        backward: the other way; ``forward`` itself where both ends are of one type.
    """

    name: str
    src: str
    dst: str
    forward: CSR
    backward: CSR

    @property
    def edge_type(self) -> tuple[str, str, str]:
        """Its key in a ``HeteroData``; the parts may hold a ``|`` themselves."""
        return self.src, self.name[len(self.src) + 1 : -len(self.dst) - 1], self.dst

    @property
    def symmetric(self) -> bool:
        """Whether both ends are of one type."""
        return self.src == self.dst

    @property
    def sides(self) -> tuple[str, ...]:
        """The node types at its ends, each once."""
        return (self.src,) if self.symmetric else (self.src, self.dst)

    def other(self, kind: str) -> str:
        """The node type across from ``kind``."""
        return self.src if kind == self.dst else self.dst

    def into(self, kind: str) -> CSR:
        """The means that nodes of ``kind`` receive."""
        return self.forward if kind == self.dst else self.backward


@dataclass(frozen=True)
class Graph:
    """What is propagated over.

    Attributes:
        sizes: number of nodes of each type.
        features: float32 ``[N_t, D_t]`` of the types that have any.
        relations: sorted by name.
    """

    sizes: dict[str, int]
    features: dict[str, Tensor]
    relations: list[Relation]

    def around(self, kind: str) -> list[Relation]:
        """The relations with an end of type ``kind``."""
        return [relation for relation in self.relations if kind in relation.sides]


def read_hetero(data: Any, target: str, keep_inverse: bool = False) -> Graph:
    """Check a ``HeteroData`` and bring it into the form above.

    Of two edge types that hold the same edges in opposite directions the first is kept, since every
    relation is used in both directions anyway. Edges inside one node type become symmetric.

    Args:
        data: node types with ``num_nodes`` or ``x``, edge types with ``edge_index``.
        target: the node type that is asked about.
        keep_inverse: keep both of such a pair.

    Raises:
        InputError: no such target or no relation at it, an edge index out of range, features that
            are not finite or too large for float16.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["author"].num_nodes, data["paper"].num_nodes = 2, 3
        >>> data["author", "writes", "paper"].edge_index = torch.tensor([[0, 0, 1], [0, 1, 2]])
        >>> read_hetero(data, "author").relations[0].name
        'author|writes|paper'
    """
    kinds = [str(kind) for kind in getattr(data, "node_types", [])]
    if target not in kinds:
        raise InputError(f"target: no node type {target!r} among {kinds}{nearest(target, kinds)}")
    sizes, features = {}, {}
    for kind in kinds:
        x = data[kind].get("x")
        if x is not None:
            features[kind] = _features(x, kind)
        sizes[kind] = _size(data[kind], kind, features.get(kind))
    relations = _relations(data, sizes, keep_inverse)
    if not any(target in relation.sides for relation in relations):
        raise InputError(f"target: no relation begins or ends at {target!r}; nothing reaches it")
    return Graph(sizes, features, relations)


def _size(store: Any, kind: str, x: Tensor | None) -> int:
    given = store.get("num_nodes")
    if given is None and x is None:
        raise InputError(f"num_nodes: not given for node type {kind!r}, which has no x either")
    number = x.size(0) if given is None and x is not None else int(given)
    if x is not None and x.size(0) != number:
        raise InputError(f"x: {x.size(0)} rows for the {number} nodes of type {kind!r}")
    return number


def _features(x: Any, kind: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise InputError(f"x: {type(x).__name__} for node type {kind!r}, wanted a tensor [N, D]")
    x = x.to_dense() if x.layout != torch.strided else x
    if x.dim() != 2 or x.size(1) == 0:
        raise InputError(f"x: shape {list(x.shape)} for node type {kind!r}, wanted [N, D]")
    x = x.detach().to(torch.float32).contiguous()
    low, high = (float(v) for v in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
    if not -_HALF_MAX <= low <= high <= _HALF_MAX:
        raise InputError(
            f"x: node type {kind!r} holds values from {low} to {high}; wanted finite ones of at "
            f"most {_HALF_MAX:.0f}, which float16 can keep"
        )
    return x


def _relations(data: Any, sizes: dict[str, int], keep_inverse: bool) -> list[Relation]:
    kept: dict[tuple[str, str, str], Tensor] = {}
    for edge_type in data.edge_types:
        edges = data[edge_type].get("edge_index")
        _check(edges, edge_type, sizes)
        if keep_inverse or not any(
            _opposite(edges, edge_type, other, known, sizes) for known, other in kept.items()
        ):
            kept[edge_type] = edges
    named: dict[str, tuple[str, str, str]] = {}
    for edge_type in kept:
        first = named.setdefault("|".join(edge_type), edge_type)
        if first != edge_type:
            raise InputError(
                f"edge_types: {first} and {edge_type} are the same with | between their parts, "
                "wanted names that tell them apart"
            )
    return sorted(
        (_relation(edge_type, edges, sizes) for edge_type, edges in kept.items()),
        key=lambda relation: relation.name,
    )


def _check(edges: Any, edge_type: tuple[str, str, str], sizes: dict[str, int]) -> None:
    source, _, destination = edge_type
    good = isinstance(edges, Tensor) and edges.dim() == 2 and edges.size(0) == 2
    if not good or edges.dtype not in (torch.int32, torch.int64):
        seen = f"{edges.dtype} {list(edges.shape)}" if isinstance(edges, Tensor) else "none"
        raise InputError(f"edge_index: {seen} for {edge_type}, wanted int64 [2, E]")
    for row, kind in enumerate((source, destination)):
        if kind not in sizes:
            raise InputError(f"edge_index: {edge_type} ends at {kind!r}, which is no node type")
        if edges.numel() and not 0 <= int(edges[row].min()) <= int(edges[row].max()) < sizes[kind]:
            raise InputError(
                f"edge_index: {edge_type} names nodes {int(edges[row].min())} to "
                f"{int(edges[row].max())} of {kind!r}, wanted 0 to {sizes[kind] - 1}"
            )


def _opposite(
    edges: Tensor,
    edge_type: tuple[str, str, str],
    other: Tensor,
    other_type: tuple[str, str, str],
    sizes: dict[str, int],
) -> bool:
    """Whether two edge types hold the same edges, one the other way round."""
    source, _, destination = edge_type
    if (other_type[2], other_type[0]) != (source, destination) or edges.shape != other.shape:
        return False
    width = sizes[destination]
    one = edges[0].long() * width + edges[1]
    two = other[1].long() * width + other[0]
    return torch.equal(one.sort().values, two.sort().values)


def _relation(edge_type: tuple[str, str, str], edges: Tensor, sizes: dict[str, int]) -> Relation:
    source, _, destination = edge_type
    name = "|".join(edge_type)
    size = (sizes[source], sizes[destination])
    if source == destination:
        both = torch.cat([edges, edges.flip(0)], 1)
        csr = CSR.from_edge_index(both, size=size)
        return Relation(name, source, destination, csr, csr)
    forward = CSR.from_edge_index(edges, size=size)
    return Relation(name, source, destination, forward, forward.transpose())


def graph_hash(graph: Graph, target: str, *more: Tensor | None) -> str:
    """SHA-256 over all that the result depends on: sizes, features, edges, target, ``more``."""
    digest = hashlib.sha256(repr((target, sorted(graph.sizes.items()))).encode())

    def add(name: str, tensor: Tensor) -> None:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().numpy().data.cast("B"))

    for kind in sorted(graph.features):
        add(kind, graph.features[kind])
    for relation in graph.relations:
        # Sorted rows: the order in which edges are listed decides nothing.
        csr = relation.forward
        order = (csr.row().long() * max(csr.num_cols, 1) + csr.col.long()).sort().values
        add(relation.name, order)
    for number, tensor in enumerate(more):
        if tensor is not None:
            add(f"more {number}", tensor)
    return digest.hexdigest()
