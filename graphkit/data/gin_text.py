"""The text format and folds of "How Powerful are Graph Neural Networks?" (arXiv 1810.00826)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.archives import read_members
from graphkit.data.cards import DatasetCard
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.data.tu import check_features_option, one_hot, pack_global, renumber
from graphkit.errors import CorruptFileError

OPTIONS: dict[str, Any] = {"features": "auto"}

_VALID_SHARE = 0.1


def _folds(members: dict[str, bytes], count: int) -> list[dict[str, Tensor]]:
    """The published train and test ids; a tenth of train, drawn by the fold number, validates."""
    splits = []
    for number in range(1, 11):
        part = {}
        for key in ("train", "test"):
            name = f"10fold_idx/{key}_idx-{number}.txt"
            ids = torch.tensor([int(value) for value in members[name].split()])
            if len(ids) == 0 or int(ids.min()) < 0 or int(ids.max()) >= count:
                raise CorruptFileError(f"{name}: ids must lie in 0..{count - 1}")
            part[key] = ids
        order = torch.randperm(len(part["train"]), generator=torch.Generator().manual_seed(number))
        cut = int(_VALID_SHARE * len(order))
        splits.append(
            {
                "train": part["train"][order[cut:]].sort().values,
                "valid": part["train"][order[:cut]].sort().values,
                "test": part["test"],
            }
        )
    return splits


def read(card: DatasetCard, source: Source, features: str = "auto") -> Parsed:
    """Read one set: per graph a line ``n label``, then n lines ``tag degree neighbour ...``.

    Args:
        card: which set.
        source: its zip file.
        features: see :func:`graphkit.data.tu.read`; used where all tags are equal.

    Raises:
        CorruptFileError: the text ends early, or a fold names a graph that does not exist.
    """
    check_features_option(features)
    name = str(card.options["tu_name"])
    members = {key.partition("/")[2]: data for key, data in read_members(source.base).items()}
    # One flat array of whole numbers: lines matter no more once degrees are known.
    values = np.array(members[f"{name}.txt"].split(), dtype=np.int64)
    count, at = int(values[0]), 1
    labels, tags, sizes, sources, targets = [], [], [], [], []
    offset = 0
    for _ in range(count):
        nodes, label = int(values[at]), int(values[at + 1])
        at += 2
        for node in range(nodes):
            tag, degree = int(values[at]), int(values[at + 1])
            tags.append(tag)
            targets.append(values[at + 2 : at + 2 + degree] + offset)
            sources.append((offset + node, degree))
            at += 2 + degree
        labels.append(label)
        sizes.append(nodes)
        offset += nodes
    if at != len(values):
        raise CorruptFileError(f"{name}.txt: {len(values) - at} numbers left over at the end")
    starts, degrees = np.array(sources, dtype=np.int64).T
    edges = torch.from_numpy(np.stack([np.repeat(starts, degrees), np.concatenate(targets)]))
    y = renumber(torch.tensor(labels))
    owner = torch.repeat_interleave(torch.tensor(sizes))
    kind = renumber(torch.tensor(tags))
    x = one_hot(kind) if int(kind.max()) > 0 else None
    return pack_global(card, edges, owner, y, x, None, features, _folds(members, count))
