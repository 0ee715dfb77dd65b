"""Sample neighbourhoods: a subgraph around seed nodes in which every node keeps few neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import cpu, reference_sampling
from graphkit.ops.csr import CSR
from graphkit.ops.random_walk import SEEDS, check_graph, is_native, node_ids, seed_bits

EdgeType = tuple[str, str, str]
_ONE: EdgeType = ("", "", "")


class NeighborSample(NamedTuple):
    """A sampled subgraph, in the terms of PyG's ``SamplerOutput``.

    Attributes:
        node: ``[n]`` global ids; the seeds as given, then in order of discovery.
        row: ``[e]`` local id of each edge's source, the sampled in-neighbour.
        col: ``[e]`` local id of its destination, the node that was expanded.
        edge: ``[e]`` global edge ids.
        num_sampled_nodes: number of seeds, then of new nodes per hop.
        num_sampled_edges: number of edges per hop; ``None`` for an induced subgraph.
        batch: ``[n]`` seed that each node was reached from, when disjoint.
    """

    node: Tensor
    row: Tensor
    col: Tensor
    edge: Tensor
    num_sampled_nodes: list[int]
    num_sampled_edges: list[int] | None
    batch: Tensor | None


class HeteroNeighborSample(NamedTuple):
    """The fields of :class:`NeighborSample` by node type or by edge type."""

    node: dict[str, Tensor]
    row: dict[EdgeType, Tensor]
    col: dict[EdgeType, Tensor]
    edge: dict[EdgeType, Tensor]
    num_sampled_nodes: dict[str, list[int]]
    num_sampled_edges: dict[EdgeType, list[int]] | None
    batch: dict[str, Tensor] | None


class _Table(Protocol):
    def __len__(self) -> int: ...
    def insert(self, node: Tensor, tree: Tensor | None, repeat: bool = False) -> Tensor: ...
    def find(self, node: Tensor, tree: Tensor | None) -> Tensor: ...
    def nodes(self, begin: int = 0) -> Tensor: ...
    def trees(self, begin: int = 0) -> Tensor: ...


class _NativeTable:
    def __init__(self) -> None:
        assert cpu.kernels is not None
        self._table = cpu.kernels.Relabel()

    def __len__(self) -> int:
        return len(self._table)

    def insert(self, node: Tensor, tree: Tensor | None, repeat: bool = False) -> Tensor:
        local = torch.empty_like(node)
        self._table.insert(
            node.numel(), node.data_ptr(), cpu.address(tree), repeat, local.data_ptr()
        )
        return local

    def find(self, node: Tensor, tree: Tensor | None) -> Tensor:
        local = torch.empty_like(node)
        self._table.find(node.numel(), node.data_ptr(), cpu.address(tree), local.data_ptr())
        return local

    def nodes(self, begin: int = 0) -> Tensor:
        return self._table.nodes(begin)

    def trees(self, begin: int = 0) -> Tensor:
        return self._table.trees(begin)


def _native_rows(
    csr: CSR, picked: Tensor, tree: Tensor | None, fanout: int, replace: bool, seed: int, hop: int
) -> tuple[Tensor, Tensor, Tensor]:
    assert cpu.kernels is not None
    graph = cpu.graph(csr.rowptr, csr.col, csr.eid, csr.num_cols, csr.num_entries)
    return cpu.kernels.sample_rows(
        graph, picked.numel(), picked.data_ptr(), cpu.address(tree), fanout, replace, seed, hop,
        cpu.threads(),
    )  # fmt: skip


class _Collected:
    """Edges of one type as they are found."""

    def __init__(self) -> None:
        self.row: list[Tensor] = []
        self.col: list[Tensor] = []
        self.edge: list[Tensor] = []

    def add(self, row: Tensor, col: Tensor, edge: Tensor) -> None:
        self.row.append(row)
        self.col.append(col)
        self.edge.append(edge)

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        empty = [torch.empty(0, dtype=torch.int64, device="cpu")]
        parts = (p or empty for p in (self.row, self.col, self.edge))
        row, col, edge = (p[0] if len(p) == 1 else torch.cat(p) for p in parts)
        return row, col, edge


def _sample(
    csrs: Mapping[EdgeType, CSR],
    seeds: Mapping[str, Tensor],
    fanouts: Mapping[EdgeType, Sequence[int]],
    replace: bool,
    directed: bool,
    disjoint: bool,
    seed: int,
) -> HeteroNeighborSample:
    native = all(is_native(csr) for csr in csrs.values())
    rows = _native_rows if native else reference_sampling.sample_rows
    types = list(dict.fromkeys([*seeds, *(t for et in csrs for t in (et[2], et[0]))]))
    tables: dict[str, _Table] = {
        t: _NativeTable() if native else reference_sampling.Table() for t in types
    }
    first_tree = 0
    for t, nodes in seeds.items():
        last_tree = first_tree + nodes.numel()
        trees = torch.arange(first_tree, last_tree, device=nodes.device) if disjoint else None
        tables[t].insert(nodes, trees, repeat=True)
        first_tree = last_tree
    counts = {t: [len(table)] for t, table in tables.items()}
    edge_counts: dict[EdgeType, list[int]] = {et: [] for et in csrs}
    found = {et: _Collected() for et in csrs}
    begins = dict.fromkeys(types, 0)
    # Edge types draw from streams of their own; the first one's is that of a graph of one type.
    streams = {et: (seed + i * 0xD1B54A32D192ED03) % SEEDS for i, et in enumerate(csrs)}
    for hop in range(max((len(f) for f in fanouts.values()), default=0)):
        frontier = {t: tables[t].nodes(begins[t]) for t in types}
        trees_of = {t: tables[t].trees(begins[t]) if disjoint else None for t in types}
        before = {t: len(tables[t]) for t in types}
        for et, csr in csrs.items():
            picked, tree = frontier[et[2]], trees_of[et[2]]
            if not picked.numel() or fanouts[et][hop] == 0:
                edge_counts[et].append(0)
                continue
            source, edge, at = rows(csr, picked, tree, fanouts[et][hop], replace, streams[et], hop)
            local = tables[et[0]].insert(source, None if tree is None else tree[at])
            found[et].add(local, at + begins[et[2]] if begins[et[2]] else at, edge)
            edge_counts[et].append(edge.numel())
        begins = before
        for t in types:
            counts[t].append(len(tables[t]) - before[t])
    node = {t: tables[t].nodes() for t in types}
    batch = {t: tables[t].trees() for t in types} if disjoint else None
    if not directed:
        for et, csr in csrs.items():
            tree = None if batch is None else batch[et[2]]
            source, edge, at = rows(csr, node[et[2]], tree, -1, False, 0, 0)
            local = tables[et[0]].find(source, None if tree is None else tree[at])
            kept = local >= 0
            found[et] = _Collected()
            found[et].add(local[kept], at[kept], edge[kept])
    edges = {et: found[et].joined() for et in csrs}
    return HeteroNeighborSample(
        node,
        {et: e[0] for et, e in edges.items()},
        {et: e[1] for et, e in edges.items()},
        {et: e[2] for et, e in edges.items()},
        counts,
        edge_counts if directed else None,
        batch,
    )


def _checked_fanouts(fanouts: Sequence[int]) -> list[int]:
    values = [int(f) for f in fanouts]
    if any(not -1 <= f < 2**31 for f in values):
        raise InputError(f"fanouts: {values}, wanted -1 (all neighbours) or 0..2^31-1 per hop")
    return values


def neighbor_sample(
    csr: CSR,
    seeds: Tensor,
    fanouts: Sequence[int],
    *,
    replace: bool = False,
    directed: bool = True,
    disjoint: bool = False,
    seed: int = 0,
) -> NeighborSample:
    r"""Sample a subgraph from which the seeds' embeddings can be computed (GraphSAGE's sampler).

    Each hop expands the nodes that the hop before discovered, the seeds first: of node :math:`v`'s
    in-neighbours, :math:`S_h(v) \subseteq N(v)` with :math:`|S_h(v)| = \min(k_h, |N(v)|)` is drawn
    uniformly (Hamilton, Ying, Leskovec, NeurIPS 2017, algorithm 2). Draws depend on ``seed``, the
    node, the hop and, when disjoint, the tree; not on the other seeds or the number of threads.

    Args:
        csr: the graph, rows by destination.
        seeds: nodes to start from; a repeated seed keeps its place and is expanded again.
        fanouts: neighbours per node, hop by hop; -1 takes all.
        replace: draw with replacement: then every node with neighbours gets the full fan-out.
        directed: keep the edges that were drawn; else all edges between the sampled nodes.
        disjoint: give every seed a tree of its own, sharing no nodes with the others.
        seed: any integer.

    Shapes:
        seeds: ``[s]``; see :class:`NeighborSample` for the result.

    Raises:
        InputError: a seed node that is not there, a fan-out below -1, or a bipartite graph.

    Example:
        >>> path = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=4)
        >>> out = neighbor_sample(path, torch.tensor([3]), [1, 1])
        >>> out.node.tolist(), out.row.tolist(), out.col.tolist(), out.edge.tolist()
        ([3, 2, 1], [1, 2], [0, 1], [2, 1])
    """
    check_graph(csr)
    nodes = node_ids("seeds", seeds, csr.num_rows)
    hops = {_ONE: _checked_fanouts(fanouts)}
    out = _sample({_ONE: csr}, {"": nodes}, hops, replace, directed, disjoint, seed_bits(seed))
    return NeighborSample(
        out.node[""],
        out.row[_ONE],
        out.col[_ONE],
        out.edge[_ONE],
        out.num_sampled_nodes[""],
        None if out.num_sampled_edges is None else out.num_sampled_edges[_ONE],
        None if out.batch is None else out.batch[""],
    )


def hetero_neighbor_sample(
    csrs: Mapping[EdgeType, CSR],
    seeds: Mapping[str, Tensor],
    fanouts: Sequence[int] | Mapping[EdgeType, Sequence[int]],
    *,
    replace: bool = False,
    directed: bool = True,
    disjoint: bool = False,
    seed: int = 0,
    num_nodes: Mapping[str, int] | None = None,
) -> HeteroNeighborSample:
    """Sample a subgraph of a graph with several node and edge types; see :func:`neighbor_sample`.

    Every edge type draws its own neighbours: a node of type ``t`` is expanded along all edge types
    that end in ``t`` (as in PyG's ``NeighborLoader``).

    Args:
        csrs: rows by destination, for each ``(source type, relation, destination type)``; their
            order decides the order of discovery and the random stream of each type.
        seeds: nodes to start from, by type. When disjoint, trees are numbered in this order.
        fanouts: neighbours per node and hop, for all edge types or for each of them.
        replace: draw with replacement.
        directed: keep the edges that were drawn; else all edges between the sampled nodes.
        disjoint: give every seed a tree of its own.
        seed: any integer.
        num_nodes: numbers of nodes by type, for types that no edge type has.

    Shapes:
        seeds: ``[s]`` per type; see :class:`HeteroNeighborSample` for the result.

    Raises:
        InputError: a type or a seed node that is not there, fan-outs that miss an edge type or
            differ in the number of hops, or two edge types that count a node type differently.

    Example:
        >>> wrote = CSR.from_edge_index(torch.tensor([[0, 1], [0, 0]]), size=(2, 1))
        >>> kind = ("author", "wrote", "paper")
        >>> out = hetero_neighbor_sample({kind: wrote}, {"paper": torch.tensor([0])}, [2])
        >>> out.node["author"].tolist(), out.row[kind].tolist(), out.col[kind].tolist()
        ([0, 1], [0, 1], [0, 0])
    """
    sizes = dict(num_nodes or {})
    for et, csr in csrs.items():
        if csr.col.device.type != "cpu":
            raise InputError(f"csrs: {et} is on {csr.col.device}, wanted the CPU")
        for t, size in ((et[0], csr.num_cols), (et[2], csr.num_rows)):
            if sizes.setdefault(t, size) != size:
                raise InputError(
                    f"csrs: {et} has {size} nodes of type {t!r}, other edge types {sizes[t]}"
                )
    if isinstance(fanouts, Mapping):
        missing = [et for et in csrs if et not in fanouts]
        if missing:
            raise InputError(f"fanouts: nothing for edge type {missing[0]}, wanted all of csrs")
        hops = {et: _checked_fanouts(fanouts[et]) for et in csrs}
    else:
        hops = {et: _checked_fanouts(fanouts) for et in csrs}
    if len({len(f) for f in hops.values()}) > 1:
        lengths = {et: len(f) for et, f in hops.items()}
        raise InputError(f"fanouts: {lengths} hops, wanted as many for every edge type")
    checked = {}
    for t, nodes in seeds.items():
        if t not in sizes:
            raise InputError(f"seeds: no edge type has nodes of type {t!r}, only {sorted(sizes)}")
        checked[t] = node_ids(f"seeds[{t!r}]", nodes, sizes[t])
    return _sample(csrs, checked, hops, replace, directed, disjoint, seed_bits(seed))
