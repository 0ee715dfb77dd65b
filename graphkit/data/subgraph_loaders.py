"""Mini-batches that are induced subgraphs: clusters (Cluster-GCN) and random walks (GraphSAINT)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader.utils import filter_data

from graphkit.data.loader import epoch_permutation
from graphkit.data.neighbor_sampler import csr_of
from graphkit.errors import InputError
from graphkit.ops import CSR, neighbor_sample, random_walk

METHODS = ("auto", "metis", "label_propagation", "random")


def _induced(data: Data, csr: CSR, nodes: Tensor) -> tuple[Data, Tensor]:
    """The subgraph on some nodes with everything that the graph says about them, and its edges."""
    out = neighbor_sample(csr, nodes, [], directed=False)
    batch = filter_data(data, out.node, out.row, out.col, out.edge)
    batch.n_id, batch.e_id = out.node, out.edge
    return batch, out.edge


def _csr(data: Data) -> CSR:
    if not isinstance(data, Data):
        raise InputError(f"data: {type(data).__name__}, wanted a torch_geometric Data")
    n = int(data.num_nodes or 0)
    if n == 0:
        raise InputError("data: no nodes, wanted at least one")
    return csr_of(data, (n, n), "the graph")


def _positive(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}: {value!r}, wanted an int of at least 1")


def partition(data: Data, num_parts: int, *, method: str = "auto", seed: int = 0) -> Tensor:
    """Assign every node to one of ``num_parts`` parts of about equal size.

    ``"metis"`` cuts few edges and needs ``pymetis``. ``"label_propagation"`` finds communities with
    networkx, cuts those larger than a part, and fills the parts with the largest first: it keeps
    communities together but does not minimise the cut, and needs minutes beyond some million
    edges. ``"random"`` ignores the edges: most of them are then lost between parts. ``"auto"``
    takes METIS if it is installed, else label propagation.

    Args:
        data: the graph; edges count in both directions.
        num_parts: number of parts.
        method: one of the above.
        seed: decides ties and orders.

    Shapes:
        result: int64 ``[N]``, values ``0..num_parts-1``.

    Raises:
        InputError: more parts than nodes, an unknown method, or METIS without ``pymetis``.

    Example:
        >>> pairs = Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), num_nodes=4)
        >>> part = partition(pairs, 2)
        >>> bool(part[0] == part[1]), bool(part[2] == part[3]), bool(part[0] == part[2])
        (True, True, False)
    """
    csr = _csr(data)
    n = csr.num_rows
    _positive(num_parts=num_parts)
    if num_parts > n:
        raise InputError(f"num_parts: {num_parts}, wanted at most the number of nodes, {n}")
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not one of {METHODS}")
    has_metis = importlib.util.find_spec("pymetis") is not None
    if method == "metis" and not has_metis:
        raise InputError("method: 'metis' needs pymetis: pip install pymetis")
    if method == "random":
        return torch.arange(n)[epoch_permutation(n, seed, 0)] % num_parts
    pairs = csr.edge_index().long()
    pairs = torch.unique(torch.cat([pairs, pairs.flip(0)], 1), dim=1)
    pairs = pairs[:, pairs[0] != pairs[1]]
    if method == "metis" or (method == "auto" and has_metis):
        import pymetis

        both = CSR.from_edge_index(pairs, num_nodes=n)
        _, member = pymetis.part_graph(num_parts, xadj=both.rowptr.numpy(), adjncy=both.col.numpy())
        return torch.as_tensor(np.asarray(member, dtype=np.int64))
    return _communities(pairs, n, num_parts, seed)


def _communities(pairs: Tensor, n: int, num_parts: int, seed: int) -> Tensor:
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(pairs.t().tolist())
    found = nx.community.fast_label_propagation_communities(graph, seed=seed)
    limit = -(-n // num_parts)
    pieces = []
    for community in found:
        # Breadth first, so that a community that is cut stays together piece by piece.
        order = list(nx.bfs_tree(graph.subgraph(community), min(community)))
        order += sorted(set(community) - set(order))
        pieces += [order[i : i + limit] for i in range(0, len(order), limit)]
    pieces.sort(key=lambda piece: (-len(piece), piece[0]))
    part, sizes = torch.empty(n, dtype=torch.int64), [0] * num_parts
    for piece in pieces:
        smallest = sizes.index(min(sizes))
        part[piece] = smallest
        sizes[smallest] += len(piece)
    return part


class ClusterLoader:
    """Batches of some clusters and all edges between them (Cluster-GCN; Chiang et al., KDD 2019).

    One iteration is one epoch; which clusters meet in a batch depends on seed and epoch.

    Args:
        data: the graph.
        num_parts: number of clusters, made by :func:`partition`.
        batch_size: clusters per batch.
        shuffle: meet in a new order each epoch.
        method: see :func:`partition`.
        part: cluster of each node, instead of ``method``.
        seed: decides partition and order.

    Shapes:
        part: ``[N]``, values ``0..num_parts-1``.

    Raises:
        InputError: a size that is not positive, or a partition that does not fit.

    Example:
        >>> pairs = Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), num_nodes=4)
        >>> [batch.num_edges for batch in ClusterLoader(pairs, 2)]
        [2, 2]
    """

    def __init__(
        self,
        data: Data,
        num_parts: int,
        batch_size: int = 1,
        *,
        shuffle: bool = False,
        method: str = "auto",
        part: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        _positive(num_parts=num_parts, batch_size=batch_size)
        self.data, self.csr = data, _csr(data)
        if part is None:
            part = partition(data, num_parts, method=method, seed=seed)
        elif part.shape != (self.csr.num_rows,) or part.dtype != torch.int64:
            raise InputError(f"part: {part.dtype} {list(part.shape)}, wanted int64 [N]")
        elif int(part.min()) < 0 or int(part.max()) >= num_parts:
            raise InputError(
                f"part: {int(part.min())}..{int(part.max())}, wanted 0..{num_parts - 1}"
            )
        self.part = part
        self.num_parts, self.batch_size = num_parts, batch_size
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        order = torch.sort(part, stable=True).indices
        ends = torch.bincount(part, minlength=num_parts).cumsum(0).tolist()
        begins = [0, *ends[:-1]]
        self._clusters = [order[b:e] for b, e in zip(begins, ends, strict=True)]

    def __len__(self) -> int:
        return -(-self.num_parts // self.batch_size)

    def __iter__(self) -> Iterator[Data]:
        order = torch.arange(self.num_parts)
        if self.shuffle:
            order = epoch_permutation(self.num_parts, self.seed, self.epoch)
        clusters = [self._clusters[i] for i in order.tolist()]
        for first in range(0, self.num_parts, self.batch_size):
            nodes = torch.cat(clusters[first : first + self.batch_size])
            yield _induced(self.data, self.csr, nodes)[0]
        self.epoch += 1


class RandomWalkLoader:
    r"""Subgraphs induced by random walks, with GraphSAINT's normalisation (Zeng et al., ICLR 2020).

    A batch is the subgraph on all nodes that ``roots`` uniform walks visit. From :math:`N`
    subgraphs sampled beforehand, with :math:`C_v` and :math:`C_{u,v}` those that hold a node or an
    edge (section 3.2 of arXiv 1907.04931, counts of 0 taken as 1),

    .. math:: \lambda_v = |V|\, C_v / N, \qquad \alpha_{u,v} = C_{u,v} / C_v,

    each batch carries ``node_norm`` :math:`= 1/\lambda_v`, so that ``(node_norm * loss).sum()``
    estimates the mean loss over the graph, and ``edge_norm`` :math:`= 1/\alpha_{u,v}`, with
    :math:`v` the destination: the factor on each message that makes a sum over neighbours unbiased.

    Args:
        data: the graph; walks go along its edges.
        roots: walks per batch; starts are drawn uniformly, with replacement.
        walk_length: steps per walk.
        num_steps: batches per epoch.
        presamples: :math:`N`; 0 leaves the norms out.
        seed: with epoch and step, decides the walks.

    Shapes:
        node_norm: ``[n]`` of a batch's nodes; edge_norm: ``[e]`` of its edges.

    Raises:
        InputError: a size that is not positive, or a graph without nodes.

    Example:
        >>> ring = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]), num_nodes=3)
        >>> batch = next(iter(RandomWalkLoader(ring, roots=1, walk_length=2)))
        >>> batch.n_id.tolist(), batch.node_norm.sum().item(), batch.edge_norm.tolist()
        ([0, 1, 2], 1.0, [1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        data: Data,
        roots: int,
        walk_length: int,
        num_steps: int = 1,
        *,
        presamples: int = 100,
        seed: int = 0,
    ) -> None:
        _positive(roots=roots, walk_length=walk_length, num_steps=num_steps)
        if isinstance(presamples, bool) or not isinstance(presamples, int) or presamples < 0:
            raise InputError(f"presamples: {presamples!r}, wanted an int of at least 0")
        self.data, self.csr = data, _csr(data)
        self.roots, self.walk_length, self.num_steps = roots, walk_length, num_steps
        self.seed, self.epoch = seed, 0
        self.node_norm: Tensor | None = None
        self.edge_norm: Tensor | None = None
        if presamples:
            self._count(presamples)

    def _nodes(self, epoch: int, step: int) -> Tensor:
        n = self.csr.num_rows
        generator = torch.Generator().manual_seed((self.seed * 1000003 + epoch) % 2**63)
        # Epoch -1 is the sampling beforehand.
        key = int(torch.randint(2**62, (), generator=generator)) + step
        start = torch.randint(n, (self.roots,), generator=generator.manual_seed(key))
        return torch.unique(random_walk(self.csr, start, self.walk_length, seed=key))

    def _count(self, presamples: int) -> None:
        n, entries = self.csr.num_rows, self.csr.num_entries
        nodes, edges = torch.zeros(n), torch.zeros(entries)
        for step in range(presamples):
            out = neighbor_sample(self.csr, self._nodes(-1, step), [], directed=False)
            nodes[out.node] += 1
            edges[out.edge] += 1
        nodes, edges = nodes.clamp(min=1), edges.clamp(min=1)
        self.node_norm = presamples / (nodes * n)
        target = self.csr.edge_index()[1].long()
        self.edge_norm = nodes[target] / edges

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[Data]:
        for step in range(self.num_steps):
            batch, edge = _induced(self.data, self.csr, self._nodes(self.epoch, step))
            if self.node_norm is not None and self.edge_norm is not None:
                batch.node_norm = self.node_norm[batch.n_id]
                batch.edge_norm = self.edge_norm[edge]
            yield batch
        self.epoch += 1
