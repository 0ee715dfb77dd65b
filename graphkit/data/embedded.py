"""The small sets that come with graphkit: npz files made by ``datasets/build_embedded.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphkit.data.cards import DatasetCard
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.data.packed import PackedGraphs

OPTIONS: dict[str, Any] = {}

_KINDS = ("node", "edge", "graph")


def read(card: DatasetCard, source: Source) -> Parsed:
    """Read one embedded set; arrays are named ``node/x``, ``graph/y``, ``split/train`` ..."""
    with np.load(source.base, allow_pickle=False) as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}
    parts: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in _KINDS}
    split: dict[str, torch.Tensor] = {}
    links: dict[str, torch.Tensor] = {}
    for key, value in arrays.items():
        kind, _, name = key.partition("/")
        if kind in parts:
            parts[kind][name] = value.float() if value.dtype == torch.float16 else value
        elif kind == "split":
            split[name] = value.long()
        elif kind == "link":
            links[name] = value.long()
    nodes = torch.nn.functional.pad(arrays["num_nodes"].long().cumsum(0), (1, 0))
    edges = torch.nn.functional.pad(arrays["num_edges"].long().cumsum(0), (1, 0))
    graphs = PackedGraphs(
        nodes,
        edges,
        arrays["edge_index"].long(),
        node=parts["node"],
        edge=parts["edge"],
        graph=parts["graph"],
    )
    if split:
        split = {key: split[key] for key in ("train", "valid", "test")}
    return Parsed(graphs, [split] if split else [], links)
