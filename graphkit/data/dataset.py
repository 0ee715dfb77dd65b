"""A data set: graphs, splits, metric and evaluator under one name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.data.loader import GraphLoader
from graphkit.data.packed import PackedGraphs
from graphkit.errors import InputError, nearest

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

DEFAULT_BATCH_SIZE = 32
_PARTS = ("train", "valid", "test")


@dataclass
class Parsed:
    """What a reader returns and the cache keeps: tensors and plain values, nothing else.

    Attributes:
        graphs: the graphs.
        splits: one entry per published split; ids of graphs (graph level) or nodes (node level).
        links: positive and negative edges of link-level sets, keyed ``"valid/edge_neg"``.
        extra: tensors of heterogeneous sets, keyed ``"x/author"`` and ``"edge_index/3"``.
        info: plain values that depend on the files (number of classes, node types).
    """

    graphs: PackedGraphs
    splits: list[dict[str, Tensor]] = field(default_factory=list)
    links: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


class GraphDataset:
    """A loaded data set.

    Attributes:
        name: canonical name.
        card: the dataset card.
        level: ``"graph"``, ``"node"`` or ``"link"``.
        task_type: ``"binary"``, ``"multilabel"``, ``"multiclass"`` or ``"regression"``
            (``"link"`` for link prediction).
        num_tasks: outputs a model must give: classes for multiclass, else targets.
        metric: name of the official metric; ``maximize`` says which way is better.
        graphs: all graphs.
        splits: ``train``, ``valid`` and ``test`` ids of the selected split; on link level the
            links themselves.
        links: true and false links of link-level sets, ``[2, n]`` under ``"valid/edge_neg"``.
        split_kind: where the split comes from: official, protocol (random, drawn as published ones
            are), rebuilt, stand-in or random.
        data_kind: where the features come from: official, rebuilt or generated.
        sha256: one checksum over all raw files.
        std_kind: how the spread over seeds is reported: unbiased (OGB) or population (LRGB).

    Example:
        >>> from graphkit import data
        >>> demo = data.load("demo")
        >>> demo.level, demo.metric, demo.num_tasks
        ('graph', 'rocauc', 1)
    """

    def __init__(
        self, card: DatasetCard, parsed: Parsed, sha256: str, options: dict[str, Any]
    ) -> None:
        self.card = card
        self.name = card.name
        self.options = options
        self.level = card.level
        self.task_type = card.task
        self.num_tasks = int(parsed.info.get("num_tasks", card.num_tasks))
        self.metric = card.metric
        self.maximize = card.maximize
        self.split_kind = str(parsed.info.get("split_kind", card.split_kind))
        self.data_kind = str(parsed.info.get("data_kind", card.data_kind))
        self.std_kind = card.std_kind
        self.sha256 = sha256
        self.graphs = parsed.graphs
        self.links = parsed.links
        self.extra = parsed.extra
        self.info = parsed.info
        self._splits = parsed.splits
        self.split_number = 0
        self.redraw: Callable[[int], GraphDataset] | None = None

    def of_run(self, number: int) -> GraphDataset:
        """The data of run ``number``: with links split anew where each run has its own split.

        Example:
            >>> from graphkit import data
            >>> demo = data.load("demo")
            >>> demo.of_run(3) is demo
            True
        """
        return self if self.redraw is None else self.redraw(number)

    @property
    def display_name(self) -> str:
        """Name to print in results; says so when the features are not the official ones."""
        if self.data_kind == "rebuilt":
            return f"{self.name} (rebuilt features)"
        return self.name

    @property
    def num_splits(self) -> int:
        """Number of published splits."""
        return len(self._splits)

    @property
    def splits(self) -> dict[str, Tensor]:
        """Ids of ``train``, ``valid`` and ``test`` in the selected split, int64.

        Link level: the true links of each part, ``[n, 2]``.
        """
        if self.level == "link":
            return {key: self.positive_links(key).t().contiguous() for key in _PARTS}
        if not self._splits:
            raise InputError(
                f"{self.name} has no published split; choose one with "
                f"load({self.name!r}, split_seed=0) or use the edges in .links"
            )
        return self._splits[self.split_number]

    def positive_links(self, split: str) -> Tensor:
        """True links ``[2, n]`` of a part of a link-level set (source and target in citation2).

        Raises:
            InputError: no such part, or another level.
        """
        if self.level != "link" or split not in _PARTS:
            raise InputError(f"split: {self.name} ({self.level} level) has no links {split!r}")
        if f"{split}/edge" in self.links:
            return self.links[f"{split}/edge"]
        ends = [self.links[f"{split}/{end}"] for end in ("source_node", "target_node")]
        return torch.stack([end.reshape(-1).long() for end in ends])

    def select_split(self, number: int) -> GraphDataset:
        """Use published split ``number`` from now on; returns the data set itself.

        Raises:
            InputError: there is no such split.
        """
        if not 0 <= number < max(self.num_splits, 1):
            raise InputError(
                f"split: {self.name} has splits 0..{self.num_splits - 1}, got {number}"
            )
        self.split_number = number
        return self

    def __len__(self) -> int:
        return len(self.graphs)

    def _ids(self, split: str) -> Tensor:
        if split not in self.splits:
            raise InputError(
                f"split: expected one of {sorted(self.splits)}, got {split!r}"
                f"{nearest(split, self.splits)}"
            )
        return self.splits[split]

    def loader(
        self,
        split: str,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> GraphLoader:
        """Return a loader over one split.

        Graph level: batches of graphs. Node and link level: the whole graph as one batch, the same
        for every process; node level adds boolean ``train_mask``, ``valid_mask``, ``test_mask``.

        Args:
            split: ``"train"``, ``"valid"`` or ``"test"``.
            batch_size: graphs per batch (32 when not given).
            shuffle: new order each epoch, decided by ``seed`` and the epoch.
            seed: see above.
            rank: this process, of ``world_size``.
            world_size: processes that share the epoch.

        Raises:
            InputError: unknown split, or sizes that do not fit.
        """
        if self.level == "graph":
            return GraphLoader(
                self.graphs,
                self._ids(split),
                batch_size or DEFAULT_BATCH_SIZE,
                shuffle=shuffle,
                seed=seed,
                rank=rank,
                world_size=world_size,
            )
        masks: dict[str, Tensor] = {}
        if self.level == "node":
            self._ids(split)
            for key, ids in self.splits.items():
                mask = torch.zeros(self.graphs.num_nodes, dtype=torch.bool)
                mask[ids] = True
                masks[f"{key}_mask"] = mask
        return GraphLoader(self.graphs, torch.zeros(1, dtype=torch.int64), 1, attach=masks)

    def evaluate(self, y_true: Tensor, y_pred: Tensor) -> dict[str, float]:
        """Score predictions with the official evaluator.

        Args:
            y_true: targets; NaN marks an unlabelled entry.
            y_pred: scores or logits (any monotone map for ROC-AUC and AP), values for regression,
                class logits ``[n, C]`` or class ids ``[n]`` for accuracy and F1.

        Shapes:
            y_true: ``[n, T]`` or ``[n]``; y_pred: ``[n, T]``, ``[n, C]`` or ``[n]``.

        Raises:
            InputError: shapes differ, predictions are NaN, or no task has both classes.
        """
        from graphkit.data.evaluation import evaluate

        return evaluate(self.card, y_true, y_pred, num_tasks=self.num_tasks)

    def evaluate_links(
        self, positive: Tensor, negative: Tensor, metrics: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Score link predictions with the official evaluator (Hits@K, MRR or ROC-AUC).

        Args:
            positive: scores of true links.
            negative: scores of false links.
            metrics: names of metrics to give instead of the set's own.

        Shapes:
            positive: ``[P]``; negative: ``[M]`` for Hits@K, ``[P, M]`` for MRR.

        Raises:
            InputError: the set is not a link-level set, or shapes do not fit.
        """
        from graphkit.data.evaluation import evaluate_links

        return evaluate_links(self.card, positive, negative, metrics)

    def hetero(self) -> HeteroData:
        """Return a heterogeneous set as PyG ``HeteroData``, with masks on the target nodes.

        Raises:
            InputError: the set has one type of nodes and edges only.
        """
        from graphkit.data.hgb import hetero_data

        if "node_types" not in self.info:
            raise InputError(f"{self.name} is not heterogeneous; use .graphs")
        return hetero_data(self)

    def model_args(self) -> dict[str, Any]:
        """Return the arguments that fit a model to this set.

        ``in_channels`` and ``edge_dim`` are ``"atom"`` and ``"bond"`` for OGB molecules (integer
        features that need embedding tables), else numbers of features.
        """
        molecules = self.card.options.get("encoder") == "ogb-molecule"
        x, edge_attr = self.graphs.x, self.graphs.edge_attr
        edge_dim: int | str | None = None
        if edge_attr is not None:
            edge_dim = "bond" if molecules else (edge_attr.size(1) if edge_attr.dim() > 1 else 1)
        in_channels: int | str = 0 if x is None else x.size(-1)
        return {
            "in_channels": "atom" if molecules else in_channels,
            "edge_dim": edge_dim,
            "out_channels": self.num_tasks,
            "level": "node" if self.level == "link" else self.level,
        }

    def __repr__(self) -> str:
        sizes = (
            "/".join(str(len(ids)) for ids in self._splits[0].values()) if self._splits else "none"
        )
        return (
            f"GraphDataset({self.display_name}: {len(self)} graphs, {self.level} {self.task_type}, "
            f"{self.num_tasks} outputs, {self.metric}, split {sizes} {self.split_kind})"
        )
