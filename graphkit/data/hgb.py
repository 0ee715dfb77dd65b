"""Heterogeneous Graph Benchmark (arXiv 2112.14936): ACM, DBLP, IMDB and Freebase."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.archives import read_members
from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from graphkit.data.dataset import GraphDataset

OPTIONS: dict[str, Any] = {"test": "half", "valid_seed": 0}
#: Raised when what is read changes: parsed sets that were kept are then read anew.
VERSION = 3

_VALID_SHARE = 0.2


def _files(source: Source) -> dict[str, bytes]:
    if source.base.is_file():
        return {name.rsplit("/", 1)[-1]: data for name, data in read_members(source.base).items()}
    return {path.name: path.read_bytes() for path in source.base.rglob("*.dat*")}


def _nodes(data: bytes) -> tuple[np.ndarray, dict[int, list[np.ndarray]]]:
    """Type of each node (ids are 0..n-1 in file order), and feature rows by type."""
    types: list[int] = []
    rows: dict[int, list[np.ndarray]] = {}
    for number, line in enumerate(io.BytesIO(data)):
        fields = line.rstrip(b"\r\n").split(b"\t")
        if int(fields[0]) != number:
            raise CorruptFileError(f"node.dat: line {number} holds node {int(fields[0])}")
        kind = int(fields[2])
        types.append(kind)
        if len(fields) > 3 and fields[3]:
            # Ten times as quick as splitting the line: DBLP holds sixty million numbers.
            row = np.fromstring(fields[3].decode(), dtype=np.float32, sep=",")
            if len(row) != fields[3].count(b",") + 1:
                raise CorruptFileError(f"node.dat: line {number} holds a feature that is no number")
            rows.setdefault(kind, []).append(row)
    return np.array(types), rows


def _labels(data: bytes) -> tuple[np.ndarray, list[list[int]]]:
    ids, classes = [], []
    for line in io.BytesIO(data):
        fields = line.rstrip(b"\r\n").split(b"\t")
        if len(fields) >= 4:
            ids.append(int(fields[0]))
            classes.append([int(value) for value in fields[3].split(b",")])
    return np.array(ids), classes


def read(card: DatasetCard, source: Source, test: str = "half", valid_seed: int = 0) -> Parsed:
    """Read one HGB set: all nodes as one graph with types, and the parts of its hetero form.

    Args:
        card: which set.
        source: its zip file or folder.
        test: ``"half"``, the published half of the test nodes, or ``"full"``. The whole test set
            is in ``extra["test_full"]`` either way.
        valid_seed: decides which fifth of the labelled nodes validates; none is published. A fifth
            of each class, or plainly at random where nodes have several labels.

    Raises:
        CorruptFileError: a file is missing, ids do not fit, or the only whole test set is
            ``label.dat.test_full``, whose labels are scrambled.
        InputError: unknown value of ``test``.
    """
    if test not in ("half", "full"):
        raise InputError(f"test: expected 'half' or 'full', got {test!r}")
    files = _files(source)
    _refuse_scrambled(files)
    info = json.loads(files["info.dat"])
    types, rows = _nodes(files["node.dat"])
    names = {int(key): str(value) for key, value in info["node.dat"]["node type"].items()}
    offsets = {kind: np.flatnonzero(types == kind) for kind in names}
    for kind, ids in offsets.items():
        if len(ids) and ids[-1] - ids[0] + 1 != len(ids):
            raise CorruptFileError(f"node.dat: nodes of type {names[kind]} are not together")
    links = np.loadtxt(io.BytesIO(files["link.dat"]), delimiter="\t", dtype=np.float64, ndmin=2)
    order = np.argsort(links[:, 2], kind="stable")
    ends, relation = (
        torch.from_numpy(links[order, :2].T.astype(np.int64)),
        links[order, 2].astype(np.int64),
    )

    target_type, targets = 0, {}
    for part, file in (
        ("train", "label.dat"),
        ("full", "label.dat.test"),
        ("half", "label.dat.test.half"),
    ):
        if part == "half" and file not in files and test == "full":
            continue
        targets[part] = _labels(files[file])
    everything = targets["full"]
    targets["test"] = targets.pop("half") if test == "half" else everything
    del targets["full"]
    classes = card.num_tasks
    multilabel = card.task == "multilabel"
    y = (
        torch.full((len(types), classes), float("nan"))
        if multilabel
        else torch.full((len(types),), -1)
    )
    for ids, found in targets.values():
        for node, values in zip(ids.tolist(), found, strict=True):
            if multilabel:
                y[node] = 0.0
                y[node, values] = 1.0
            else:
                y[node] = values[0]
    split = {"test": torch.from_numpy(targets["test"][0]).sort().values}
    labelled = torch.from_numpy(targets["train"][0]).sort().values
    split = {**_train_valid(labelled, None if multilabel else y[labelled], valid_seed), **split}
    graphs = pack_single(
        len(types),
        ends,
        node={"y": y, "node_type": torch.from_numpy(types)},
        edge={
            "edge_type": torch.from_numpy(relation),
            "edge_weight": torch.from_numpy(links[order, 3]).float(),
        },
    )
    full, found_labels = torch.from_numpy(everything[0]), everything[1]
    y_full = torch.zeros(len(full), classes) if multilabel else torch.zeros(len(full)).long()
    for row, values in enumerate(found_labels):
        if multilabel:
            y_full[row, values] = 1.0
        else:
            y_full[row] = values[0]
    order_full = full.argsort()
    extra: dict[str, Tensor] = {
        "test_full": full[order_full], "test_full_y": y_full[order_full]
    }  # fmt: skip
    for kind, found_rows in rows.items():
        extra[f"x/{names[kind]}"] = torch.from_numpy(np.stack(found_rows))
    edge_types: list[list[Any]] = []
    start = 0
    for number, text in sorted(
        (int(key), value["meaning"]) for key, value in info["link.dat"]["link type"].items()
    ):
        count = int((relation == number).sum())
        if count == 0:
            continue
        # The names in info.dat are swapped or misspelt in places: end types come from the ids.
        source_kind, target_kind = int(types[ends[0, start]]), int(types[ends[1, start]])
        local = ends[:, start : start + count].clone()
        local[0] -= int(offsets[source_kind][0])
        local[1] -= int(offsets[target_kind][0])
        extra[f"edge_index/{number}"] = local
        key = [names[source_kind], _relation(text, names), names[target_kind]]
        if key in [known[:3] for known in edge_types]:
            key[1] += f"_{number}"  # two relations of one name are two relations
        edge_types.append([*key, number])
        start += count
    described = {
        "node_types": {names[kind]: [int(ids[0]), len(ids)] for kind, ids in offsets.items()},
        "edge_types": edge_types,
        "target": names[target_type],
    }
    return Parsed(graphs, [split], extra=extra, info=described)


def _refuse_scrambled(files: dict[str, bytes]) -> None:
    if "label.dat.test_full" in files and "label.dat.test.half" not in files:
        raise CorruptFileError(
            "label.dat.test_full: copies with this file hold half of the test nodes in "
            "label.dat.test, and scrambled labels in label.dat.test_full, which are no ground "
            "truth; get an archive with label.dat.test and label.dat.test.half"
        )


def _train_valid(labelled: Tensor, y: Tensor | None, seed: int) -> dict[str, Tensor]:
    """Four fifths and one fifth of the labelled nodes; with classes, of each class."""
    generator = torch.Generator().manual_seed(seed)
    count = int(_VALID_SHARE * len(labelled))
    order = torch.randperm(len(labelled), generator=generator)
    if y is not None:
        # The remainders of a fifth go to the classes with the largest ones.
        sizes = torch.bincount(y)
        quota = sizes * count / max(len(labelled), 1)
        take = quota.floor().long()
        for extra in (quota - take).argsort(descending=True)[: count - int(take.sum())].tolist():
            take[extra] += 1
        classes = y[order]
        chosen = torch.zeros(len(order), dtype=torch.bool)
        for number, size in enumerate(take.tolist()):
            chosen[(classes == number).nonzero()[:size, 0]] = True
        order = torch.cat([order[chosen], order[~chosen]])
    return {
        "train": labelled[order[count:]].sort().values,
        "valid": labelled[order[:count]].sort().values,
    }


def redrawn(parsed: Parsed, seed: int) -> Parsed:
    """The same set with training and validation nodes drawn anew from the labelled ones."""
    (split,) = parsed.splits
    labelled = torch.cat([split["train"], split["valid"]]).sort().values
    y = parsed.graphs[0].y
    drawn = _train_valid(labelled, None if y.is_floating_point() else y[labelled], seed)
    info = {**parsed.info, "run_seed": seed}
    return replace(parsed, splits=[{**drawn, "test": split["test"]}], info=info)


def _relation(meaning: str, names: dict[int, str]) -> str:
    """``cite`` from ``paper-cite-paper``; ``to`` where the name only repeats the types."""
    words = meaning.replace("->", "-").split("-")
    inner = [word for word in words if not any(word.startswith(name) for name in names.values())]
    return inner[0] if inner else "to"


def hetero_data(dataset: GraphDataset) -> HeteroData:
    """Build the ``HeteroData`` of a loaded set."""
    from torch_geometric.data import HeteroData

    data = HeteroData()
    for name, (first, count) in dataset.info["node_types"].items():
        if f"x/{name}" in dataset.extra:
            data[name].x = dataset.extra[f"x/{name}"]
        data[name].num_nodes = count
        if name == dataset.info["target"]:
            y = dataset.graphs.y
            assert y is not None
            own = y[first : first + count].clone()
            parts = dict(dataset.splits)
            if "test_full" in dataset.extra:
                parts["test_full"] = dataset.extra["test_full"]
                own[parts["test_full"] - first] = dataset.extra["test_full_y"].to(own.dtype)
            data[name].y = own
            for part, ids in parts.items():
                mask = torch.zeros(count, dtype=torch.bool)
                mask[ids - first] = True
                data[name][{"valid": "val_mask"}.get(part, f"{part}_mask")] = mask
    for source, relation, target, number in dataset.info["edge_types"]:
        data[source, relation, target].edge_index = dataset.extra[f"edge_index/{number}"]
    return data
