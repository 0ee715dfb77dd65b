"""Node classification and regression: one row of targets per node, splits by masks or by graphs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphkit.errors import InputError
from graphkit.tasks.base import Task


class NodeTask(Task):
    """Predict targets of nodes.

    On one large graph the batch carries ``train_mask``, ``valid_mask`` and ``test_mask``, and only
    the nodes of the split count. On many graphs (the LRGB superpixel sets) splits are of graphs
    and every node counts; metrics are over all nodes of a split together.

    Args:
        dataset: a node-level data set.
        loss: as for :class:`~graphkit.tasks.GraphTask`.
        batch_size: batch size when the Trainer is given none.

    Raises:
        InputError: the loss does not fit the data set's task type.
    """

    level = "node"
    one_epoch = True

    @property
    def metrics(self) -> list[str]:
        """The metric, and the figures that the card wants beside it."""
        return [self.metric, *getattr(getattr(self.dataset, "card", None), "also", [])]

    def _rows(self, tensor: Tensor, batch: Any, split: str) -> Tensor:
        mask = getattr(batch, f"{split}_mask", None)
        if mask is None:
            return tensor
        if mask.dim() != 1 or mask.numel() != len(tensor):
            raise InputError(
                f"{split}_mask: has shape {list(mask.shape)}, but there are {len(tensor)} rows"
            )
        return tensor[mask]

    def should_skip(self, batch: Any) -> bool:
        """True for a batch of one node."""
        return int(batch.num_nodes) < 2
