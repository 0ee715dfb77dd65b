"""Mini-batches of large graphs: PyG's loaders over graphkit's own neighbour sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import LinkLoader, NodeLoader
from torch_geometric.sampler import (
    BaseSampler,
    EdgeSamplerInput,
    HeteroSamplerOutput,
    NegativeSampling,
    NodeSamplerInput,
    NumNeighbors,
    SamplerOutput,
)

from graphkit.errors import InputError
from graphkit.ops import CSR, hetero_neighbor_sample, neighbor_sample
from graphkit.ops.reference_sampling import after, mix

EdgeType = tuple[str, str, str]
Fanouts = Sequence[int] | Mapping[EdgeType, Sequence[int]]  # or PyG's NumNeighbors
SUBGRAPHS = ("directional", "bidirectional", "induced")


def csr_of(store: Any, size: tuple[int, int], name: str) -> CSR:
    """Sort the edges of one PyG edge store by destination."""
    edge_index = getattr(store, "edge_index", None)
    if not isinstance(edge_index, Tensor):
        raise InputError(f"data: {name} holds no edge_index, wanted a [2, num_edges] tensor")
    return CSR.from_edge_index(torch.Tensor.cpu(edge_index.as_subclass(Tensor)), size=size)


class NeighborSampler(BaseSampler):
    """Uniform neighbour sampling for PyG's ``NodeLoader`` and ``LinkLoader`` (GraphSAGE).

    It needs neither pyg-lib nor torch-sparse. Edge ids in its outputs are columns of the
    ``edge_index`` that ``data`` holds, so there is no edge permutation.

    Args:
        data: a graph with ``edge_index``, of one or several node and edge types.
        num_neighbors: neighbours per node and hop, -1 for all; by edge type if wanted.
        replace: draw with replacement.
        disjoint: give every seed a tree of its own.
        subgraph_type: keep the sampled edges (``"directional"``), their reverses too
            (``"bidirectional"``), or all edges between sampled nodes (``"induced"``).
        seed: ``None`` draws from torch's generator, anew for each batch. An integer makes what is
            drawn for a node a function of this integer and the epoch only (:meth:`set_epoch`),
            whichever worker and batch it comes in; negatives also depend on the batch.

    Raises:
        InputError: no ``edge_index``, an unknown ``subgraph_type``, or fan-outs that do not fit.

    Example:
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> loader = NodeLoader(data, NeighborSampler(data, [-1]), torch.tensor([2]))
        >>> next(iter(loader)).n_id.tolist()
        [2, 1]
    """

    def __init__(
        self,
        data: Data | HeteroData,
        num_neighbors: Fanouts | NumNeighbors,
        *,
        replace: bool = False,
        disjoint: bool = False,
        subgraph_type: str = "directional",
        seed: int | None = None,
    ) -> None:
        subgraph_type = getattr(subgraph_type, "value", subgraph_type)
        if subgraph_type not in SUBGRAPHS:
            raise InputError(f"subgraph_type: {subgraph_type!r} is not one of {SUBGRAPHS}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise InputError(f"seed: {seed!r}, wanted an int or None")
        self.is_hetero = isinstance(data, HeteroData)
        if not isinstance(data, (Data, HeteroData)):
            raise InputError(f"data: {type(data).__name__}, wanted Data or HeteroData")
        self.replace = replace
        self.disjoint = disjoint
        self.subgraph_type = subgraph_type
        self.seed = seed
        self.epoch = 0
        self.num_neighbors = num_neighbors
        if isinstance(num_neighbors, NumNeighbors):
            wanted = num_neighbors
        elif isinstance(num_neighbors, Mapping):
            wanted = NumNeighbors({et: list(f) for et, f in num_neighbors.items()})
        else:
            wanted = NumNeighbors(list(num_neighbors))
        self.num_nodes: int | dict[str, int]
        if isinstance(data, HeteroData):
            sizes = {t: int(data[t].num_nodes) for t in data.node_types}
            self.num_nodes = sizes
            self.csrs = {
                et: csr_of(data[et], (sizes[et[0]], sizes[et[2]]), f"edge type {et}")
                for et in data.edge_types
            }
            fanouts = _fitting(wanted, list(data.edge_types))
        else:
            n = int(data.num_nodes or 0)
            self.num_nodes = n
            self.csr = csr_of(data, (n, n), "the graph")
            fanouts = _fitting(wanted, None)
        self._fanouts = fanouts

    def set_epoch(self, epoch: int) -> None:
        """Choose other samples for the same nodes, when the sampler has a seed.

        Workers that outlive an epoch (``persistent_workers=True``) do not hear of it.
        """
        self.epoch = int(epoch)

    def _draw_seed(self) -> int:
        if self.seed is None:
            return int(torch.randint(2**63 - 1, ()))
        return int(after(mix(self.seed % 2**64), self.epoch))

    def _generator(self, inputs: EdgeSamplerInput) -> torch.Generator | None:
        if self.seed is None:
            return None
        key = self._draw_seed()
        for value in [inputs.row.numel(), *inputs.input_id[:1].tolist()]:
            key = int(after(key, value))
        return torch.Generator().manual_seed(key % 2**63)

    def _sample(self, seeds: Any) -> SamplerOutput | HeteroSamplerOutput:
        options: dict[str, Any] = {
            "replace": self.replace,
            "directed": self.subgraph_type != "induced",
            "disjoint": self.disjoint,
            "seed": self._draw_seed(),
        }
        if isinstance(seeds, Tensor):
            found: Any = neighbor_sample(self.csr, seeds, self._fanouts, **options)
            kind: Any = SamplerOutput
        else:
            assert isinstance(self.num_nodes, dict)
            found = hetero_neighbor_sample(
                self.csrs, seeds, self._fanouts, num_nodes=self.num_nodes, **options
            )
            kind = HeteroSamplerOutput
        out = kind(
            node=found.node,
            row=found.row,
            col=found.col,
            edge=found.edge,
            batch=found.batch,
            num_sampled_nodes=found.num_sampled_nodes,
            num_sampled_edges=found.num_sampled_edges,
        )
        return out.to_bidirectional() if self.subgraph_type == "bidirectional" else out

    def sample_from_nodes(
        self, index: NodeSamplerInput, **kwargs: Any
    ) -> SamplerOutput | HeteroSamplerOutput:
        """Sample around seed nodes; see PyG's ``BaseSampler``.

        Raises:
            InputError: time stamps, or a seed that is not there.
        """
        inputs = NodeSamplerInput.cast(index)
        _refuse_time(inputs.time)
        seeds = {inputs.input_type: inputs.node} if self.is_hetero else inputs.node
        out = self._sample(seeds)
        out.metadata = (inputs.input_id, inputs.time)
        return out

    def sample_from_edges(
        self, index: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None, **kwargs: Any
    ) -> SamplerOutput | HeteroSamplerOutput:
        """Sample around the ends of seed edges, and of negatives drawn for them.

        Negatives are drawn from all nodes, so some may be edges of the graph, as in PyG. When
        disjoint, the trees of all ends of one example carry that example's number in ``batch``.

        Raises:
            InputError: time stamps, or a seed that is not there.
        """
        inputs = EdgeSamplerInput.cast(index)
        _refuse_time(inputs.time)
        source, target, label = inputs.row, inputs.col, inputs.label
        examples = source.numel()
        source_type, target_type = inputs.input_type[::2] if inputs.input_type else (None, None)
        example = torch.arange(examples)
        source_owner = target_owner = example
        triplet = neg_sampling is not None and neg_sampling.is_triplet()
        if neg_sampling is not None:
            generator = self._generator(inputs)
            sizes = self.num_nodes
            of_source = sizes[str(source_type)] if isinstance(sizes, dict) else sizes
            of_target = sizes[str(target_type)] if isinstance(sizes, dict) else sizes
            extra = math.ceil(examples * neg_sampling.amount)
            owner = torch.arange(extra) % max(examples, 1)
            if triplet:  # the negatives of one example stand together
                owner = example.repeat_interleave(int(neg_sampling.amount))
            else:
                drawn = _negatives(neg_sampling.src_weight, of_source, extra, generator)
                source = torch.cat([source, drawn])
                source_owner = torch.cat([example, owner])
                label = torch.ones(examples) if label is None else label
                label = torch.cat([label, label.new_zeros((extra, *label.shape[1:]))])
            drawn = _negatives(neg_sampling.dst_weight, of_target, extra, generator)
            target = torch.cat([target, drawn])
            target_owner = torch.cat([example, owner])

        together = source_type == target_type
        seeds: Any
        if together:
            merged = torch.cat([source, target])
            merged, place = self._distinct(merged)
            source_at, target_at = place[: source.numel()], place[source.numel() :]
            seeds = {source_type: merged} if self.is_hetero else merged
        else:
            source, source_at = self._distinct(source)
            target, target_at = self._distinct(target)
            seeds = {source_type: source, target_type: target}
        out = self._sample(seeds)
        if self.disjoint:
            owners = torch.cat([source_owner, target_owner])
            if isinstance(out, HeteroSamplerOutput):
                out.batch = {t: owners[tree] for t, tree in out.batch.items()}
            else:
                out.batch = owners[out.batch]
        if triplet:
            negatives = target_at[examples:].view(examples, -1).squeeze(-1)
            out.metadata = (inputs.input_id, source_at, target_at[:examples], negatives, None)
        else:
            pairs = torch.stack([source_at, target_at])
            out.metadata = (inputs.input_id, pairs, label, None)
        return out

    def _distinct(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Seeds and the place of each node among them; trees of their own share no seed."""
        if self.disjoint:
            return nodes, torch.arange(nodes.numel())
        distinct, place = torch.unique(nodes, return_inverse=True)
        return distinct, place

    @property
    def edge_permutation(self) -> None:
        """Edge ids already are those of the original ``edge_index``."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_neighbors})"


def _fitting(wanted: NumNeighbors, edge_types: list[EdgeType] | None) -> Any:
    try:
        values = wanted.get_values(edge_types)
    except (ValueError, KeyError) as error:
        raise InputError(f"num_neighbors: {error}") from error
    if edge_types is None and isinstance(values, dict):
        raise InputError("num_neighbors: fan-outs by edge type, but the graph has one type only")
    rows = values.values() if isinstance(values, dict) else [values]
    if any(int(k) < -1 for row in rows for k in row):
        raise InputError(f"num_neighbors: {values}, wanted -1 (all) or at least 0 for each hop")
    return values


def _negatives(
    weight: Tensor | None, num_nodes: int, count: int, generator: torch.Generator | None
) -> Tensor:
    if weight is None:
        return torch.randint(num_nodes, (count,), generator=generator)
    if weight.numel() != num_nodes:
        raise InputError(
            f"neg_sampling: {weight.numel()} weights, wanted one per node, {num_nodes}"
        )
    return torch.multinomial(weight, count, replacement=True, generator=generator)


def _refuse_time(time: Any) -> None:
    if time is not None:
        raise InputError("time: sampling by time stamps is not supported, wanted None")


def _refuse(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name}: {value!r}; temporal and weighted sampling is not supported")


class NeighborLoader(NodeLoader):
    """PyG's ``NeighborLoader`` on graphkit's sampler: the first ``batch_size`` nodes are the seeds.

    Args:
        data: a graph, or a graph of several types.
        num_neighbors: neighbours per node and hop, -1 for all.
        input_nodes: seed nodes, a mask, or ``(type, nodes)``; all nodes when ``None``.
        replace, disjoint, subgraph_type, seed: see :class:`NeighborSampler`.
        neighbor_sampler: a sampler to use instead of building one.
        kwargs: of PyG's ``NodeLoader`` and of ``torch.utils.data.DataLoader``.

    Raises:
        InputError: time stamps or weights are asked for, or see :class:`NeighborSampler`.

    Example:
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> [b.num_nodes for b in NeighborLoader(data, [1, 1], batch_size=1)]
        [1, 2, 3]
    """

    def __init__(
        self,
        data: Data | HeteroData,
        num_neighbors: Fanouts | NumNeighbors,
        input_nodes: Any = None,
        *,
        replace: bool = False,
        subgraph_type: str = "directional",
        disjoint: bool = False,
        seed: int | None = None,
        neighbor_sampler: NeighborSampler | None = None,
        input_time: Any = None,
        time_attr: Any = None,
        weight_attr: Any = None,
        **kwargs: Any,
    ) -> None:
        _refuse(input_time=input_time, time_attr=time_attr, weight_attr=weight_attr)
        sampler = neighbor_sampler or NeighborSampler(
            data,
            num_neighbors,
            replace=replace,
            disjoint=disjoint,
            subgraph_type=subgraph_type,
            seed=seed,
        )
        super().__init__(data, sampler, input_nodes=input_nodes, **kwargs)


class LinkNeighborLoader(LinkLoader):
    """PyG's ``LinkNeighborLoader`` on graphkit's sampler.

    Args:
        data: a graph, or a graph of several types.
        num_neighbors: neighbours per node and hop, -1 for all.
        edge_label_index: seed edges ``[2, e]``, or ``(edge type, edges)``; all edges when ``None``.
        edge_label: their labels.
        neg_sampling: PyG's ``NegativeSampling``, binary or triplet.
        replace, disjoint, subgraph_type, seed: see :class:`NeighborSampler`.
        neighbor_sampler: a sampler to use instead of building one.
        kwargs: of PyG's ``LinkLoader`` and of ``torch.utils.data.DataLoader``.

    Raises:
        InputError: time stamps or weights are asked for, or see :class:`NeighborSampler`.

    Example:
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> batch = next(iter(LinkNeighborLoader(data, [1], batch_size=2)))
        >>> batch.n_id[batch.edge_label_index].tolist()
        [[0, 1], [1, 2]]
    """

    def __init__(
        self,
        data: Data | HeteroData,
        num_neighbors: Fanouts | NumNeighbors,
        edge_label_index: Any = None,
        edge_label: Tensor | None = None,
        *,
        neg_sampling: NegativeSampling | None = None,
        replace: bool = False,
        subgraph_type: str = "directional",
        disjoint: bool = False,
        seed: int | None = None,
        neighbor_sampler: NeighborSampler | None = None,
        edge_label_time: Any = None,
        time_attr: Any = None,
        weight_attr: Any = None,
        **kwargs: Any,
    ) -> None:
        _refuse(edge_label_time=edge_label_time, time_attr=time_attr, weight_attr=weight_attr)
        sampler = neighbor_sampler or NeighborSampler(
            data,
            num_neighbors,
            replace=replace,
            disjoint=disjoint,
            subgraph_type=subgraph_type,
            seed=seed,
        )
        super().__init__(
            data,
            sampler,
            edge_label_index=edge_label_index,
            edge_label=edge_label,
            neg_sampling=neg_sampling,
            **kwargs,
        )
