"""A ``HeteroData`` of one's own as a data set that tasks and the Trainer take."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

_METRICS = ("f1_micro", "acc", "ndcg")


class HeteroNodes:
    """Nodes of one type to classify in a heterogeneous graph.

    Args:
        data: ``data[target]`` holds ``y``, int64 ``[N]`` classes or float ``[N, C]`` zeros and
            ones, and ``train_mask``, ``val_mask`` and ``test_mask``.
        target: the node type.
        metric: ``"f1_micro"``, ``"acc"`` or ``"ndcg"``.
        num_classes: number of classes; one more than the largest label when not given.
        seed: of what is random in the run.

    Raises:
        InputError: no such node type, no labels, or an unknown metric.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["author"].y = torch.tensor([0, 2, 1])
        >>> HeteroNodes(data, "author").num_tasks
        3
    """

    level = "node"
    maximize = True

    def __init__(
        self,
        data: HeteroData,
        target: str,
        metric: str = "f1_micro",
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        if target not in data.node_types:
            known = [str(kind) for kind in data.node_types]
            raise InputError(
                f"target: no node type {target!r} among {known}{nearest(target, known)}"
            )
        if metric not in _METRICS:
            raise InputError(f"metric: {metric!r}, wanted one of {', '.join(_METRICS)}")
        y = data[target].get("y")
        if not isinstance(y, Tensor) or y.numel() == 0:
            raise InputError(f"target: node type {target!r} has no labels y")
        multilabel = y.dim() == 2 and y.size(1) > 1
        if y.is_floating_point() and not multilabel:
            raise InputError(f"y: {y.dtype} {list(y.shape)}, wanted int64 [N] or float [N, C]")
        self.data, self.name, self.metric = data, "hetero", metric
        self.task_type = "multilabel" if multilabel else "multiclass"
        known_classes = y.size(1) if multilabel else int(y.max()) + 1
        self.num_tasks = int(num_classes or known_classes)
        self.info: dict[str, Any] = {"target": target, "run_seed": int(seed)}

    def hetero(self) -> HeteroData:
        """The graph."""
        return self.data

    @property
    def splits(self) -> dict[str, Tensor]:
        """Positions of the nodes of ``train``, ``valid`` and ``test``."""
        store = self.data[self.info["target"]]
        names = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}
        return {part: store[name].nonzero()[:, 0] for part, name in names.items()}

    @cached_property
    def sha256(self) -> str:
        """One checksum over all features, labels, edges and numbers of nodes."""
        digest = hashlib.sha256()
        for store in self.data.stores:
            for key, value in sorted(store.items()):
                digest.update(f"{store._key} {key}".encode())
                for part in _parts(value):
                    digest.update(f"{part.dtype} {list(part.shape)}".encode())
                    # As bytes: numpy does not know all of torch's types.
                    flat = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
                    digest.update(flat.numpy().data)
                if isinstance(value, bool | int | float | str):
                    digest.update(repr(value).encode())
        return digest.hexdigest()

    def of_run(self, number: int) -> HeteroNodes:
        """The same nodes; what is random follows from ``number``."""
        return HeteroNodes(self.data, self.info["target"], self.metric, self.num_tasks, seed=number)

    def evaluate(self, y_true: Tensor, y_pred: Tensor) -> dict[str, float]:
        """Accuracy of classes ``[n]``, or of a row of zeros and ones as a whole."""
        if y_pred.is_floating_point():
            y_pred = (y_pred > 0).to(y_true.dtype)
        same = torch.eq(y_true, y_pred).reshape(len(y_true), -1).all(1)
        return {self.metric: float(same.double().mean())}


def _parts(value: Any) -> list[Tensor]:
    """The dense tensors that a value consists of."""
    if not isinstance(value, Tensor):
        return []
    if value.layout == torch.strided:
        return [value]
    entries = value.detach().to_sparse(layout=torch.sparse_coo).coalesce()
    return [entries.indices(), entries.values(), torch.tensor(value.shape)]
