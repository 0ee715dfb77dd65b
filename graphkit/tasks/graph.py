"""Graph classification and regression: one row of targets per graph."""

from __future__ import annotations

from typing import Any

from graphkit.tasks.base import Task


class GraphTask(Task):
    """Predict targets of whole graphs (binary, multilabel with NaN, multiclass, regression).

    Args:
        dataset: a graph-level data set.
        loss: "bce", "cross_entropy", "weighted_cross_entropy", "l1" or "mse"; ``None`` chooses.
        batch_size: batch size when the Trainer is given none.

    Raises:
        InputError: the loss does not fit the data set's task type.

    Example:
        >>> from graphkit import data
        >>> GraphTask(data.load("demo")).loss_name
        'bce'
    """

    level = "graph"

    def should_skip(self, batch: Any) -> bool:
        """True for a batch of one graph, as the official OGB scripts do."""
        return int(batch.num_graphs) < 2
