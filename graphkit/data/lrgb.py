"""Long Range Graph Benchmark (arXiv 2206.08164), from ``graphs.npz`` or the ``.pt`` files.

The superpixel sets are published as pickles only; these are not opened. See the card for the npz
layout that is read instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.data.packed import PackedGraphs
from graphkit.data.tensor_files import read_tensor_file
from graphkit.errors import CorruptFileError, DatasetNotFoundError

OPTIONS: dict[str, Any] = {}

_PARTS = {"train": "train", "val": "valid", "test": "test"}
# COCO's category numbers have gaps; the benchmark numbers the 81 that occur from 0 (background).
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def _target(values: Tensor, card: DatasetCard) -> Tensor:
    if card.task == "multiclass":
        return values.reshape(-1).long()
    return values.reshape(-1, card.num_tasks).float()


def _from_npz(path: Path, card: DatasetCard) -> Parsed:
    """Graphs end to end: ``bonds`` [B, 2] holds each bond once, ``edge_index`` [2, E] both ways."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}
    nodes = torch.nn.functional.pad(arrays["num_nodes"].long().cumsum(0), (1, 0))
    if "bonds" in arrays:
        # (u, v) and then (v, u) for each bond: the order of the benchmark's own featuriser.
        edge_index = arrays["bonds"].long().t().repeat_interleave(2, dim=1)
        edge_index[:, 1::2] = edge_index[:, 1::2].flip(0)
        edges = torch.nn.functional.pad(2 * arrays["num_bonds"].long().cumsum(0), (1, 0))
        edge_attr = arrays["bond_attr"].repeat_interleave(2, dim=0)
    else:
        edge_index = arrays["edge_index"].long()
        edges = torch.nn.functional.pad(arrays["num_edges"].long().cumsum(0), (1, 0))
        edge_attr = arrays["edge_attr"]
    y = {"y": _target(arrays["y"], card)} if "y" in arrays else {}
    graphs = PackedGraphs(
        nodes,
        edges,
        edge_index,
        node={"x": arrays["x"], **(y if card.level == "node" else {})},
        edge={"edge_attr": edge_attr},
        graph=y if card.level == "graph" else {},
    )
    split = {part: arrays[key].long() for key, part in _PARTS.items()}
    links = {
        key: arrays[key]
        for key in ("edge_label_index", "edge_label", "num_labels")
        if key in arrays
    }
    return Parsed(graphs, [split], links)


def _from_parts(folder: Path, card: DatasetCard) -> Parsed:
    """The published train/val/test ``.pt`` files: lists of tuples of tensors."""
    items: list[tuple[Tensor, ...]] = []
    split: dict[str, Tensor] = {}
    for key, part in _PARTS.items():
        found = read_tensor_file(folder / f"{key}.pt")
        if not isinstance(found, list) or not all(isinstance(item, tuple) for item in found):
            raise CorruptFileError(
                f"{folder / key}.pt: expected a list of tuples, got {type(found).__name__}"
            )
        split[part] = torch.arange(len(items), len(items) + len(found))
        items += found
    nodes = torch.tensor([0, *(len(item[0]) for item in items)]).cumsum(0)
    edges = torch.tensor([0, *(item[2].size(1) for item in items)]).cumsum(0)
    links: dict[str, Tensor] = {}
    y: dict[str, Tensor] = {}
    if card.level == "link":
        links["edge_label_index"] = torch.cat([item[3] for item in items], dim=1)
        links["edge_label"] = torch.cat([item[4] for item in items])
        links["num_labels"] = torch.tensor([item[3].size(1) for item in items])
    else:
        y["y"] = _target(torch.cat([torch.as_tensor(item[3]) for item in items]), card)
        if card.name == "coco-sp":
            y["y"] = _dense_coco(y["y"])
    graphs = PackedGraphs(
        nodes,
        edges,
        torch.cat([item[2] for item in items], dim=1),
        node={"x": torch.cat([item[0] for item in items]), **(y if card.level == "node" else {})},
        edge={"edge_attr": torch.cat([item[1] for item in items])},
        graph=y if card.level == "graph" else {},
    )
    return Parsed(graphs, [split], links)


def _dense_coco(y: Tensor) -> Tensor:
    kept = [number for number in range(91) if number not in _COCO_GAPS]
    table = torch.full((91,), -1)
    table[torch.tensor(kept)] = torch.arange(len(kept))
    return table[y]


def read(card: DatasetCard, source: Source) -> Parsed:
    """Read one LRGB set.

    Raises:
        DatasetNotFoundError: only the pickled form is there.
        CorruptFileError: a file is damaged or holds something else.
    """
    base = source.base
    if (base / "graphs.npz").exists():
        return _from_npz(base / "graphs.npz", card)
    folder = base / "raw" if (base / "raw").is_dir() else base
    if (folder / "train.pt").exists():
        return _from_parts(folder, card)
    raise DatasetNotFoundError(
        f"{card.name}: {base} has neither graphs.npz nor raw/train.pt; pickles are not opened "
        f"because they can run code. {card.how_to_get}"
    )
