"""Read OGB's heterogeneous raw files (ogbn-mag): tables by node type and by relation.

Open Graph Benchmark (arXiv 2005.00687). Nodes of all types become one graph with types, as for the
other heterogeneous sets; ``GraphDataset.hetero()`` takes them apart again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError

VERSION = 1


def _table(path: Path, **settings: Any) -> np.ndarray:
    try:
        frame: pd.DataFrame = pd.read_csv(path, compression="gzip", **settings)
    except (OSError, EOFError, ValueError) as error:
        raise CorruptFileError(f"{path}: not a readable csv.gz file ({error})") from error
    return frame.to_numpy()


def _integers(path: Path, limit: int) -> Tensor:
    values = _table(path, header=None)
    if values.size == 0 or not np.issubdtype(values.dtype, np.integer):
        raise CorruptFileError(f"{path}: holds no integers")
    if values.min() < 0 or values.max() >= limit:
        raise CorruptFileError(
            f"{path}: values from {values.min()} to {values.max()}, wanted 0..{limit - 1}"
        )
    return torch.from_numpy(values.astype(np.int64))


def read(card: DatasetCard, source: Source) -> Parsed:
    """Read one heterogeneous OGB set.

    Args:
        card: which set; ``options`` hold ``target`` and ``split``.
        source: its folder, with ``raw/`` and ``split/``.

    Raises:
        CorruptFileError: a file is missing, damaged or does not fit to the others.
    """
    raw, target = source.base / "raw", str(card.options["target"])
    counted = pd.read_csv(raw / "num-node-dict.csv.gz", compression="gzip")
    sizes = {str(kind): int(counted[kind].iloc[0]) for kind in counted.columns}
    if target not in sizes:
        raise CorruptFileError(f"{raw}: no nodes of type {target!r} among {list(sizes)}")
    # The target first: its ids then are those of the whole graph.
    kinds = [target, *sorted(set(sizes) - {target})]
    first = dict(zip(kinds, np.cumsum([0, *(sizes[k] for k in kinds)]).tolist(), strict=False))
    total = sum(sizes.values())
    extra: dict[str, Tensor] = {}
    for kind in kinds:
        path = raw / "node-feat" / kind / "node-feat.csv.gz"
        if path.is_file():
            x = torch.from_numpy(_table(path, header=None, dtype=np.float32))
            if len(x) != sizes[kind]:
                raise CorruptFileError(f"{path}: {len(x)} rows for {sizes[kind]} nodes")
            extra[f"x/{kind}"] = x
    triplets = [
        tuple(str(word) for word in row)
        for row in _table(raw / "triplet-type-list.csv.gz", header=None)
    ]
    edge_types, ends, numbers = [], [], []
    for number, (head, relation, tail) in enumerate(sorted(triplets)):
        path = raw / "relations" / f"{head}___{relation}___{tail}" / "edge.csv.gz"
        edges = _integers(path, max(sizes.values())).t().contiguous()
        for row, kind in enumerate((head, tail)):
            if int(edges[row].max()) >= sizes[kind]:
                raise CorruptFileError(f"{path}: names node {int(edges[row].max())} of {kind!r}")
        extra[f"edge_index/{number}"] = edges
        edge_types.append([head, relation, tail, number])
        ends.append(edges + torch.tensor([[first[head]], [first[tail]]]))
        numbers.append(torch.full((edges.size(1),), number))
    y = torch.full((total,), -1)
    labels = _integers(raw / "node-label" / target / "node-label.csv.gz", card.num_tasks)
    y[: sizes[target]] = labels[:, 0]
    node_type = torch.cat([torch.full((sizes[k],), i) for i, k in enumerate(kinds)])
    folder = source.base / "split" / str(card.options["split"]) / target
    split = {
        part: _integers(folder / f"{part}.csv.gz", sizes[target])[:, 0].sort().values
        for part in ("train", "valid", "test")
    }
    graphs = pack_single(
        total, torch.cat(ends, 1), node={"y": y, "node_type": node_type},
        edge={"edge_type": torch.cat(numbers)},
    )  # fmt: skip
    described = {
        "node_types": {kind: [first[kind], sizes[kind]] for kind in kinds},
        "edge_types": edge_types,
        "target": target,
    }
    return Parsed(graphs, [split], extra=extra, info=described)


def redrawn(parsed: Parsed, seed: int) -> Parsed:
    """The same set and split; what is random in a run follows from ``seed``."""
    return replace(parsed, info={**parsed.info, "run_seed": seed})
