"""TU graph-classification sets (Morris et al., arXiv 2007.08663), read from their zip or folder."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.archives import read_members
from graphkit.data.cards import DatasetCard
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.data.packed import PackedGraphs
from graphkit.errors import CorruptFileError, InputError

OPTIONS: dict[str, Any] = {"features": "auto"}

# One-hot degrees wider than this (REDDIT's hubs) are replaced by a constant feature.
_WIDEST_DEGREE = 512


def stratified_folds(y: Tensor, folds: int = 10, seed: int = 0) -> list[dict[str, Tensor]]:
    """Return ``folds`` stratified splits: fold k tests, fold k + 1 validates, the rest trains.

    Example:
        >>> [len(part) for part in stratified_folds(torch.arange(20) % 2)[0].values()]
        [16, 2, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    fold = torch.empty(len(y), dtype=torch.int64)
    shift = 0
    for label in sorted(set(y.tolist())):
        members = (y == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        fold[members] = (torch.arange(len(members)) + shift) % folds
        shift += len(members)
    splits = []
    for number in range(folds):
        test, valid = fold == number, fold == (number + 1) % folds
        masks = {"train": ~(test | valid), "valid": valid, "test": test}
        splits.append({key: mask.nonzero().flatten() for key, mask in masks.items()})
    return splits


def structural_features(edge_index: Tensor, num_nodes: int, features: str) -> Tensor:
    """Features of graphs that have none: one-hot degrees, or a constant where degrees are too many.

    Shapes:
        output: int8 ``[N, 1 + largest degree]`` or float32 ``[N, 1]``.
    """
    degree = torch.bincount(edge_index[1], minlength=num_nodes)
    widest = int(degree.max()) + 1
    if features == "constant" or (features == "auto" and widest > _WIDEST_DEGREE):
        return torch.ones(num_nodes, 1)
    return one_hot(degree)


def renumber(values: Tensor) -> Tensor:
    """Number the distinct values from 0 in sorted order.

    Example:
        >>> renumber(torch.tensor([2, 0, 2])).tolist()
        [1, 0, 1]
    """
    return torch.from_numpy(np.unique(values.numpy(), return_inverse=True)[1])


def one_hot(values: Tensor) -> Tensor:
    """int8 one-hot rows; packed graphs serve them as float32."""
    rows = torch.zeros(len(values), int(values.max()) + 1, dtype=torch.int8)
    rows[torch.arange(len(values)), values] = 1
    return rows


def check_features_option(features: str) -> None:
    """Refuse an unknown value of the option ``features``."""
    if features not in ("auto", "degree", "constant"):
        raise InputError(f"features: expected 'auto', 'degree' or 'constant', got {features!r}")


def _text(source: Source) -> dict[str, bytes]:
    base = source.base
    if base.is_file():
        return {name.rsplit("/", 1)[-1]: data for name, data in read_members(base).items()}
    return {path.name: path.read_bytes() for path in base.rglob("*.txt")}


def _numbers(data: bytes, dtype: Any) -> np.ndarray:
    return np.loadtxt(io.BytesIO(data), delimiter=",", dtype=dtype, ndmin=2)


def _labels(data: bytes | None) -> list[Tensor]:
    if data is None:
        return []
    values = torch.from_numpy(_numbers(data, np.int64))
    return [one_hot(column - column.min()) for column in values.t()]


def _columns(parts: dict[str, bytes], kind: str) -> Tensor | None:
    """Attributes first, then one-hot labels: the order of PyG's ``TUDataset``."""
    columns: list[Tensor] = []
    if f"{kind}_attributes" in parts:
        columns.append(torch.from_numpy(_numbers(parts[f"{kind}_attributes"], np.float32)))
    columns += _labels(parts.get(f"{kind}_labels"))
    if len({column.is_floating_point() for column in columns}) > 1:
        columns = [column.float() for column in columns]
    return torch.cat(columns, dim=1) if columns else None


def read(card: DatasetCard, source: Source, features: str = "auto") -> Parsed:
    """Read one TU set; loops and repeated edges are dropped, as PyG does.

    Args:
        card: which set.
        source: its zip file or folder.
        features: for sets without node features: ``"degree"`` (one-hot), ``"constant"``, or
            ``"auto"`` (degree unless there are more than 512 of them).

    Raises:
        CorruptFileError: a file of the set is missing or does not fit to the others.
    """
    check_features_option(features)
    name = str(card.options["tu_name"])
    files = _text(source)
    parts = {
        key.removeprefix(f"{name}_").removesuffix(".txt"): data
        for key, data in files.items()
        if key.startswith(f"{name}_")
    }
    missing = {"A", "graph_indicator", "graph_labels"} - parts.keys()
    if missing:
        raise CorruptFileError(f"{source.base}: lacks {name}_{sorted(missing)[0]}.txt")
    edges = torch.from_numpy(_numbers(parts["A"], np.int64)).t() - 1
    owner = torch.from_numpy(_numbers(parts["graph_indicator"], np.int64)).flatten() - 1
    y = torch.from_numpy(_numbers(parts["graph_labels"], np.int64)).flatten()
    y = renumber(y)
    edge_attr = _columns(parts, "edge")
    return pack_global(
        card, edges, owner, y, _columns(parts, "node"), edge_attr, features, stratified_folds(y)
    )


def pack_global(
    card: DatasetCard,
    edges: Tensor,
    owner: Tensor,
    y: Tensor,
    x: Tensor | None,
    edge_attr: Tensor | None,
    features: str,
    splits: list[dict[str, Tensor]],
) -> Parsed:
    """Pack graphs whose node ids run through all of them; sorts edges by (source, target).

    Raises:
        CorruptFileError: an edge joins two graphs, an id does not exist, or a graph has no node.
    """
    total = len(owner)
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= total):
        raise CorruptFileError(f"{card.name}: an edge names node {int(edges.max())} of {total}")
    if bool((owner.diff() < 0).any()):
        raise CorruptFileError(f"{card.name}: nodes are not ordered by graph")
    across = owner[edges[0]] != owner[edges[1]]
    if bool(across.any()):
        raise CorruptFileError(f"{card.name}: edge {int(across.nonzero()[0])} joins two graphs")
    kept = edges[0] != edges[1]
    edges = edges[:, kept]
    edge_attr = None if edge_attr is None else edge_attr[kept]
    distinct = np.unique((edges[0] * total + edges[1]).numpy(), return_inverse=True)
    keys, inverse = (torch.from_numpy(part) for part in distinct)
    if edge_attr is not None:
        # Of a repeated edge the first features stay.
        first = torch.full((len(keys),), len(inverse)).scatter_reduce_(
            0, inverse, torch.arange(len(inverse)), "amin"
        )
        edge_attr = edge_attr[first]
    edges = torch.stack([keys // total, keys % total])
    if x is None:
        x = structural_features(edges, total, features)
    counts = torch.bincount(owner, minlength=len(y))
    node_ptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    edge_counts = torch.bincount(owner[edges[0]], minlength=len(y))
    edge_ptr = torch.nn.functional.pad(edge_counts.cumsum(0), (1, 0))
    graphs = PackedGraphs(
        node_ptr,
        edge_ptr,
        edges - node_ptr[owner[edges[0]]],
        node={"x": x},
        edge={} if edge_attr is None else {"edge_attr": edge_attr},
        graph={"y": y},
        served={"x": torch.float32, "edge_attr": torch.float32},
    )
    return Parsed(graphs, splits)
