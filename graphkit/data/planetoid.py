"""Cora, CiteSeer and PubMed (arXiv 1603.08861), with the public and the geom-gcn splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.data.restricted_pickle import read_planetoid_pickle
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError
from graphkit.storage import sha256_file

OPTIONS: dict[str, Any] = {"split_name": "public"}

_PUBLIC_VALID = 500


def _dense(value: Any) -> np.ndarray:
    return value.toarray() if hasattr(value, "toarray") else np.asarray(value)


def _geom_gcn(card: DatasetCard, source: Source, prefix: str) -> list[dict[str, Tensor]]:
    """The ten 60/20/20 splits of Geom-GCN (arXiv 2002.05287)."""
    places = [
        source.base / "geom-gcn" / "raw",
        source.base.parent / "geom_gcn_splits",
        source.root / "planetoid" / "geom_gcn_splits",
        source.base / "raw",
    ]
    splits = []
    for number in range(10):
        name = f"{prefix}_split_0.6_0.2_{number}.npz"
        found = [place / name for place in places if (place / name).is_file()]
        if not found:
            looked = ", ".join(str(place) for place in places)
            raise DatasetNotFoundError(
                f"{card.name}: split file {name} is not in {looked}; it is in splits/ of "
                "https://github.com/graphdml-uiuc-jlu/geom-gcn"
            )
        _check(card, found[0], f"?{name}")
        with np.load(found[0], allow_pickle=False) as archive:
            splits.append(
                {
                    part: torch.from_numpy(archive[f"{key}_mask"]).nonzero().flatten()
                    for part, key in (("train", "train"), ("valid", "val"), ("test", "test"))
                }
            )
    return splits


def _check(card: DatasetCard, path: Path, key: str) -> None:
    wanted = card.sha256.get(key)
    if wanted is not None and sha256_file(path) != wanted:
        raise CorruptFileError(f"{path}: the checksum is not the one on the card of {card.name}")


def read(card: DatasetCard, source: Source, split_name: str = "public") -> Parsed:
    """Read one Planetoid graph; loops and repeated edges are dropped, as PyG does.

    Args:
        card: which set.
        source: its folder.
        split_name: ``"public"`` (20 nodes per class, 500 valid, 1000 test) or ``"geom-gcn"``
            (ten splits of 60/20/20); for the link-prediction cards a key of
            :data:`graphkit.data.link_split.PROTOCOLS`.

    Raises:
        CorruptFileError: a file has not the checksum on the card.
        InputError: unknown split name.
    """
    links = card.level == "link"
    if not links and split_name not in ("public", "geom-gcn"):
        raise InputError(f"split_name: expected 'public' or 'geom-gcn', got {split_name!r}")
    prefix = str(card.options["prefix"])
    parts: dict[str, Any] = {}
    for name in ("x", "tx", "allx", "y", "ty", "ally", "graph"):
        key = f"raw/ind.{prefix}.{name}"
        if key not in card.sha256:
            raise CorruptFileError(f"card of {card.name}: no checksum for {key}")
        parts[name] = read_planetoid_pickle(source.base / key, card.sha256[key])
    test = np.loadtxt(source.base / f"raw/ind.{prefix}.test.index", dtype=np.int64)

    known, num_nodes = parts["allx"].shape[0], len(parts["graph"])
    x = np.zeros((num_nodes, parts["allx"].shape[1]), dtype=np.float32)
    labels = np.zeros((num_nodes, parts["ally"].shape[1]), dtype=np.int64)
    x[:known], labels[:known] = _dense(parts["allx"]), parts["ally"]
    # Rows of tx stand in the order of test.index. CiteSeer has isolated nodes that no row
    # describes: they keep zeros.
    x[test], labels[test] = _dense(parts["tx"]), parts["ty"]
    pairs = [(node, other) for node, others in parts["graph"].items() for other in others]
    edge_index = simple_edges(torch.tensor(pairs).t(), num_nodes, undirected=True)
    graphs = pack_single(
        num_nodes,
        edge_index,
        node={"x": torch.from_numpy(x), "y": torch.from_numpy(labels.argmax(1))},
    )
    if links:
        return Parsed(graphs, info={"link_protocol": split_name})
    if split_name == "geom-gcn":
        return Parsed(graphs, _geom_gcn(card, source, prefix))
    labelled = len(parts["y"])
    public = {
        "train": torch.arange(labelled),
        "valid": torch.arange(labelled, labelled + _PUBLIC_VALID),
        "test": torch.from_numpy(np.sort(test)),
    }
    return Parsed(graphs, [public])
