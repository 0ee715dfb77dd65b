"""Tasks: what is learnt from a data set, with the loss and the official metric that go with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from graphkit.errors import InputError, nearest
from graphkit.tasks.base import Task
from graphkit.tasks.ctr import ClickTask
from graphkit.tasks.graph import GraphTask
from graphkit.tasks.hetero_graph import HeteroGraphTask, graph_args
from graphkit.tasks.link import LinkTask
from graphkit.tasks.link_batches import LinkBatch
from graphkit.tasks.losses import (
    batch_class_weights,
    bce_with_logits,
    cross_entropy,
    l1,
    labelled,
    mse,
    weighted_cross_entropy,
)
from graphkit.tasks.node import NodeTask
from graphkit.tasks.propagated import PropagatedNodeTask, group_shapes
from graphkit.tasks.recommendation import RecommendationTask

_BY_LEVEL: dict[str, type[Task]] = {
    "ctr": ClickTask,
    "graph": GraphTask,
    "node": NodeTask,
    "link": LinkTask,
    "recommendation": RecommendationTask,
}


def create_task(dataset: Any, **options: Any) -> Task:
    """Make the task that fits a data set.

    Args:
        dataset: a :class:`graphkit.data.GraphDataset`.
        **options: those of the task of this level: ``loss`` and ``batch_size`` for graphs and
            nodes, for links see :class:`LinkTask`, for users and items
            :class:`RecommendationTask`, for nodes with ``propagation``
            :class:`PropagatedNodeTask`, with ``whole_graph: true`` :class:`HeteroGraphTask`.

    Raises:
        InputError: an option is unknown or does not fit, or the level has no task yet.

    Example:
        >>> from graphkit import data
        >>> create_task(data.load("demo"))
        GraphTask(demo, loss=bce)
    """
    if dataset.level not in _BY_LEVEL:
        raise InputError(
            f"{dataset.name}: no task for {dataset.level}-level sets yet; there are tasks for "
            f"{' and '.join(_BY_LEVEL)} level"
        )
    task = _BY_LEVEL[dataset.level]
    if dataset.level == "node" and "propagation" in options:
        task = PropagatedNodeTask
    elif dataset.level == "node" and "whole_graph" in options:
        task = HeteroGraphTask
    known = [name for name in inspect.signature(task).parameters if name != "dataset"]
    for key in options:
        if key not in known:
            raise InputError(
                f"task: unknown option {key!r}{nearest(key, known)}; options are {', '.join(known)}"
            )
    return task(dataset, **options)


def model_args(dataset: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of a task say about the shape of a model, before anything is computed.

    Example:
        >>> from graphkit import data
        >>> model_args(data.load("demo"), {})
        {}
    """
    if "propagation" in options:
        return {"groups": group_shapes(dataset, options["propagation"])}
    if "whole_graph" in options:
        return graph_args(dataset, options.get("metapaths"))
    return {}


__all__ = [
    "ClickTask",
    "GraphTask",
    "HeteroGraphTask",
    "LinkBatch",
    "LinkTask",
    "NodeTask",
    "PropagatedNodeTask",
    "RecommendationTask",
    "Task",
    "batch_class_weights",
    "bce_with_logits",
    "create_task",
    "model_args",
    "cross_entropy",
    "l1",
    "labelled",
    "mse",
    "weighted_cross_entropy",
]
