"""Click-through rate: predict a binary label for a user, an item and their context."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from graphkit.errors import InputError
from graphkit.models.ctr import ClickModel
from graphkit.tasks.base import Task


class ClickTask(Task):
    """Binary cross-entropy; AUC decides which epoch is kept, LogLoss stands beside it.

    Args:
        dataset: a :class:`graphkit.data.ctr.ClickDataset`.
        loss: ``"bce"``.
        batch_size: rows per step when the Trainer is given none.
        graph_from: which training rows lay out tables that follow from pairs: those with label 1,
            or ``"all"``, as GraphHash's published code has it.

    Raises:
        InputError: a set of another level.

    Example:
        >>> import torch
        >>> from graphkit.data.ctr import ClickBatch, ClickDataset
        >>> ids = torch.arange(20)
        >>> rows = ClickBatch(ids % 4, ids % 5, y=(ids % 2).float())
        >>> ClickTask(ClickDataset(rows, num_users=4, num_items=5))
        ClickTask(clicks, loss=bce)
    """

    level = "ctr"

    def __init__(
        self,
        dataset: Any,
        loss: str | None = None,
        batch_size: int = 1024,
        graph_from: Literal["positives", "all"] = "positives",
    ) -> None:
        if dataset.level != "ctr":
            raise InputError(f"dataset: {dataset.name} is a {dataset.level}-level set, wanted ctr")
        super().__init__(dataset, loss, batch_size)
        if graph_from not in ("positives", "all"):
            raise InputError(f"graph_from: {graph_from!r}, wanted 'positives' or 'all'")
        self.graph_from = graph_from
        self.config["graph_from"] = graph_from

    def prepare(self, model: nn.Module) -> None:
        """Give a model the training pairs that its tables may be laid out by.

        Raises:
            InputError: the model was made for other numbers of users or items.
        """
        if isinstance(model, ClickModel):
            model.prepare(self.dataset.train_pairs(self.graph_from))
