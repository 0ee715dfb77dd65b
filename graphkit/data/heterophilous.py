"""Heterophilous graphs with ten splits each (arXiv 2302.11640 and 2002.05287)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single, sorted_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source

OPTIONS: dict[str, Any] = {}


def read(card: DatasetCard, source: Source) -> Parsed:
    """Read one npz: ``edges``, ``node_features``, ``node_labels`` and ten masks per part."""
    base = source.base
    path = base if base.is_file() else base / "raw" / f"{card.name.replace('-', '_')}.npz"
    with np.load(path, allow_pickle=False) as archive:
        part = {key: torch.from_numpy(archive[key]) for key in archive.files}
    y = part["node_labels"].long()
    edges = part["edges"].long().t()
    directed = bool(card.options.get("directed", False))
    graphs = pack_single(
        len(y),
        sorted_edges(edges, len(y), undirected=not directed),
        node={
            "x": part["node_features"].float(),
            "y": y.float()[:, None] if card.task == "binary" else y,
        },
    )
    masks = {
        key: part[f"{name}_masks"]
        for key, name in (("train", "train"), ("valid", "val"), ("test", "test"))
    }
    splits = [
        {key: mask[number].nonzero().flatten() for key, mask in masks.items()}
        for number in range(len(masks["train"]))
    ]
    return Parsed(graphs, splits)
