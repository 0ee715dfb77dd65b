"""Your own graphs as a data set that tasks, the Trainer and the zoo accept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard, Level
from graphkit.data.dataset import GraphDataset, Parsed
from graphkit.data.load import random_split
from graphkit.data.packed import PackedGraphs
from graphkit.errors import InputError, nearest

if TYPE_CHECKING:
    from torch_geometric.data import Data

OwnTask = Literal["binary", "multilabel", "multiclass", "regression"]
# The usual metric of each kind of task, and the others it may have.
_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("rocauc", "ap"),
    "multilabel": ("ap", "rocauc", "f1", "f1_micro"),
    "multiclass": ("acc", "f1", "f1_micro"),
    "regression": ("mae", "rmse"),
}
_MASKS = {"train_mask": "train", "val_mask": "valid", "test_mask": "test"}


def from_graphs(
    graphs: Data | Sequence[Data],
    task: OwnTask,
    *,
    metric: str | None = None,
    splits: dict[str, Tensor] | None = None,
    split_seed: int = 0,
    name: str = "own",
) -> GraphDataset:
    """Make a data set of your own graphs: many for graph level, a single one for node level.

    Args:
        graphs: PyG ``Data`` objects with ``edge_index``, ``x`` and ``y``; a single ``Data`` makes a
            node-level set, whose ``train_mask``, ``val_mask`` and ``test_mask`` are its split.
        task: what ``y`` is.
        metric: how it is judged; the first of rocauc or ap (binary), ap, rocauc, f1 or f1_micro
            (multilabel), acc, f1 or f1_micro (multiclass), mae or rmse (regression) by default.
        splits: ids of the graphs (or nodes) of ``train``, ``valid`` and ``test``.
        split_seed: without splits and masks: decides a random split, 80/10/10 of graphs or
            60/20/20 of nodes.
        name: what results and checkpoints call the set.

    Shapes:
        - **y, graph level:** one row per graph; for multiclass int64 ``[1]``, else ``[1, T]``
        - **y, node level:** int64 ``[N]`` for multiclass, else ``[N, T]``; NaN marks no label

    Raises:
        InputError: no labels, an unknown task or metric, split ids out of range or in two splits,
            or graphs that :class:`PackedGraphs` refuses.

    Example:
        >>> from torch_geometric.data import Data
        >>> edge_index = torch.tensor([[0, 1], [1, 0]])
        >>> ring = Data(x=torch.ones(2, 3), edge_index=edge_index, y=torch.tensor([1]))
        >>> from_graphs([ring] * 10, "binary")
        GraphDataset(own: 10 graphs, graph binary, 1 outputs, rocauc, split 8/1/1 random)
    """
    if task not in _METRICS:
        known = ", ".join(_METRICS)
        raise InputError(f"task: {task!r} is not one of {known}{nearest(task, _METRICS)}")
    metric = metric or _METRICS[task][0]
    if metric not in _METRICS[task]:
        raise InputError(f"metric: {metric!r} does not judge {task}; one of {_METRICS[task]}")
    single = not isinstance(graphs, Sequence)
    given: Sequence[Data] = graphs if isinstance(graphs, Sequence) else [graphs]
    items = [data.clone() for data in given]
    masks = {key: items[0][key] for key in _MASKS if single and key in items[0]}
    for data in items:
        if getattr(data, "y", None) is None:
            raise InputError("y: a graph has no labels; set data.y")
        for key in masks:
            del data[key]
    packed = PackedGraphs.from_data_list(items, {"y": "node"} if single else None)
    y = packed.y
    assert y is not None
    if splits is None and len(masks) == len(_MASKS):
        splits = {_MASKS[key]: mask.nonzero().flatten() for key, mask in masks.items()}
    total = packed.num_nodes if single else len(packed)
    if splits is not None:
        _check_splits(splits, total)
    if task == "multiclass":
        if y.is_floating_point():
            raise InputError(f"y: class labels must be integers, got {y.dtype}")
        num_tasks = int(y.max()) + 1
    else:
        num_tasks = 1 if y.dim() == 1 else y.size(-1)
    level: Level = "node" if single else "graph"
    tensors = [packed.node_ptr, packed.edge_ptr, packed.edge_index]
    tensors += [getattr(packed, key) for key in packed.keys()]  # noqa: SIM118  (a method)
    card = DatasetCard(
        name=name, title=name, source=["your own graphs"], licence="yours", citation="none",
        level=level, task=task, num_tasks=num_tasks, metric=metric,
        maximize=metric not in ("mae", "rmse"), split="your own", split_kind="official",
        reader="own", size_bytes=sum(t.numel() * t.element_size() for t in tensors),
        how_to_get="made by graphkit.data.from_graphs",
    )  # fmt: skip
    parsed = Parsed(packed, [splits] if splits else [])
    if splits is None:
        parsed = random_split(parsed, card, split_seed)
        if any(len(ids) == 0 for ids in parsed.splits[0].values()):
            raise InputError(
                f"graphs: {total} {level}s are too few for a random split; give splits"
            )
    else:
        parsed = replace(parsed, info={"split_kind": "own"})
    return GraphDataset(card, parsed, _checksum(tensors), {})


def _check_splits(splits: dict[str, Tensor], total: int) -> None:
    if set(splits) != {"train", "valid", "test"}:
        raise InputError(f"splits: wanted train, valid and test, got {sorted(splits)}")
    ids = torch.cat([splits[key].flatten() for key in splits])
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= total):
        raise InputError(f"splits: ids must lie in 0..{total - 1}, got {ids.min()}..{ids.max()}")
    if len(set(ids.tolist())) != len(ids):
        raise InputError("splits: an id is in two splits, or twice in one")


def _checksum(tensors: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
