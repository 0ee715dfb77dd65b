"""Classify nodes of a heterogeneous graph by models that see the whole of it in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.models.rphgnn.relations import read_hetero
from graphkit.tasks.hetero import HeteroTask
from graphkit.tasks.link_batches import EvalLinks

_MOST_EDGES = 100_000_000


@dataclass
class HeteroBatch:
    """The whole graph, and the nodes that count.

    Attributes:
        data: a ``HeteroData``.
        nodes: positions of the nodes of a split.
        y: their targets.
        split: which.
    """

    data: Any
    nodes: Tensor
    y: Tensor
    split: str

    @property
    def num_graphs(self) -> int:
        """Number of nodes that count."""
        return int(self.nodes.numel())

    def to(self, device: Any) -> HeteroBatch:
        """The same batch on another device."""
        moved = {"data": self.data.clone().to(device), "nodes": self.nodes.to(device)}
        return replace(self, **moved, y=self.y.to(device))


def both_ways(data: Any, target: str) -> Any:
    """The graph with every relation once and its reverse; edges inside a type symmetric.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["a"].num_nodes, data["b"].num_nodes = 2, 2
        >>> data["a", "to", "b"].edge_index = torch.tensor([[0, 1], [1, 1]])
        >>> both_ways(data, "a").edge_types
        [('a', 'to', 'b'), ('b', 'rev_to', 'a')]
    """
    from torch_geometric.data import HeteroData

    graph, out = read_hetero(data, target), HeteroData()
    for kind, size in graph.sizes.items():
        out[kind].num_nodes = size
        if kind in graph.features:
            out[kind].x = graph.features[kind]
    kept = {relation.edge_type for relation in graph.relations}
    for relation in graph.relations:
        source, name, destination = relation.edge_type
        edges = data[source, name, destination].edge_index
        if relation.symmetric:
            out[source, name, destination].edge_index = torch.cat([edges, edges.flip(0)], 1)
        else:
            out[source, name, destination].edge_index = edges
            back = f"rev_{name}"
            while (destination, back, source) in kept:
                back = f"rev_{back}"  # one of the data's own, with other edges
            out[destination, back, source].edge_index = edges.flip(0)
    return out


def along_metapaths(data: Any, target: str, metapaths: Sequence[Sequence[str]]) -> Any:
    """The target's nodes alone, joined where a path of node types leads from one to the other.

    Args:
        data: a ``HeteroData``.
        target: the type at both ends of every path.
        metapaths: node types, such as ``["author", "paper", "author"]``.

    Raises:
        InputError: a path that no relation follows, or that joins too many pairs.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["a"].num_nodes, data["b"].num_nodes = 3, 2
        >>> data["a", "to", "b"].edge_index = torch.tensor([[0, 1, 2], [0, 0, 1]])
        >>> along_metapaths(data, "a", [["a", "b", "a"]])["a", "path_0", "a"].edge_index.tolist()
        [[0, 1, 0, 1, 2], [0, 0, 1, 1, 2]]
    """
    from torch_geometric.data import HeteroData

    graph, out = read_hetero(data, target), HeteroData()
    out[target].num_nodes = graph.sizes[target]
    if target in graph.features:
        out[target].x = graph.features[target]
    for number, path in enumerate(metapaths):
        if len(path) < 2 or path[0] != target or path[-1] != target:
            raise InputError(f"metapaths: {list(path)}, wanted to begin and end with {target!r}")
        steps = []
        for here, there in zip(path[:-1], path[1:], strict=True):
            relations = [r for r in graph.relations if {r.src, r.dst} == {here, there}]
            if not relations:
                raise InputError(f"metapaths: no relation between {here!r} and {there!r}")
            steps.append(sum(_matrix(r.into(here)) for r in relations))
        # Both halves first: what lies in the middle of a path is often small, such as venues.
        reached = _joined(_joined(*steps[: len(steps) // 2]), _joined(*steps[len(steps) // 2 :]))
        if reached.nnz > _MOST_EDGES:
            raise InputError(
                f"metapaths: {list(path)} joins {reached.nnz:,} pairs, wanted at most "
                f"{_MOST_EDGES:,}"
            )
        pairs = reached.tocoo()
        ends = np.stack([pairs.col, pairs.row]).astype(np.int64)
        order = np.lexsort((ends[0], ends[1]))
        out[target, f"path_{number}", target].edge_index = torch.from_numpy(ends[:, order])
    return out


def _joined(*steps: Any) -> Any:
    """Which nodes a path through all steps joins, however many paths; ``None`` for no step."""
    reached = None
    for step in steps:
        if step is not None:
            reached = step if reached is None else reached @ step
            reached.data[:] = 1
    return reached


def _matrix(csr: Any) -> Any:
    ones = np.ones(csr.num_entries, dtype=np.float32)
    parts = (ones, csr.col.numpy(), csr.rowptr.numpy())
    matrix = sparse.csr_matrix(parts, shape=(csr.num_rows, csr.num_cols))
    matrix.sum_duplicates()
    return matrix


def graph_args(dataset: Any, metapaths: Sequence[Sequence[str]] | None) -> dict[str, Any]:
    """Types, sizes and target, as a model for whole graphs wants them."""
    target = str(dataset.info["target"])
    data = _prepared(dataset.hetero(), target, metapaths)
    types = {
        kind: [int(data[kind].num_nodes), data[kind].x.size(1) if "x" in data[kind] else 0]
        for kind in data.node_types
    }
    return {
        "node_types": types, "edge_types": [list(t) for t in data.edge_types], "target": target,
    }  # fmt: skip


def _prepared(data: Any, target: str, metapaths: Sequence[Sequence[str]] | None) -> Any:
    return along_metapaths(data, target, metapaths) if metapaths else both_ways(data, target)


class HeteroGraphTask(HeteroTask):
    """Classify nodes of one type; each step sees the whole graph.

    Args:
        dataset: a heterogeneous set, or :class:`graphkit.data.HeteroNodes`.
        whole_graph: ``True``; what asks for this task in :func:`graphkit.tasks.create_task`.
        metapaths: join the target's nodes along these paths of node types, for HAN; without them
            relations stay as they are, each in both directions.
        loss: as for :class:`PropagatedNodeTask`.
        criterion: as for :class:`PropagatedNodeTask`.

    Raises:
        InputError: as :class:`PropagatedNodeTask`, or a metapath that does not exist.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> from graphkit.data import HeteroNodes
        >>> data = HeteroData()
        >>> data["a"].x, data["b"].num_nodes = torch.eye(3), 2
        >>> data["a"].y = torch.tensor([0, 1, 0])
        >>> data["a", "to", "b"].edge_index = torch.tensor([[0, 1, 2], [0, 1, 1]])
        >>> for number, part in enumerate(("train_mask", "val_mask", "test_mask")):
        ...     data["a"][part] = torch.arange(3) == number
        >>> batch = next(iter(HeteroGraphTask(HeteroNodes(data, "a")).loader("test")))
        >>> batch.nodes, batch.data.edge_types
        (tensor([2]), [('a', 'to', 'b'), ('b', 'rev_to', 'a')])
    """

    def __init__(
        self,
        dataset: Any,
        whole_graph: bool = True,
        metapaths: Sequence[Sequence[str]] | None = None,
        loss: str | None = None,
        criterion: str | None = None,
    ) -> None:
        super().__init__(dataset, loss=loss, batch_size=1, criterion=criterion)
        if whole_graph is not True:
            raise InputError(f"whole_graph: {whole_graph!r}, wanted true")
        self.graph = _prepared(self.data, self.target_type, metapaths)
        self.config["metapaths"] = [list(path) for path in metapaths or []]

    def loader(self, split: str, **options: Any) -> EvalLinks:
        """One batch: the graph and the nodes of the split."""
        if split not in self.split:
            raise InputError(f"split: expected train, valid or test, got {split!r}")
        nodes = self.split[split]
        return EvalLinks(lambda: HeteroBatch(self.graph, nodes, self.y[nodes], split))

    def apply(self, model: nn.Module, batch: HeteroBatch) -> Tensor:
        """Logits of the nodes of the split."""
        out: Tensor = model(batch.data)
        return out[batch.nodes]
