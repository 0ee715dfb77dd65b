"""Read OGB's raw files (csv.gz or npz) for graph-, node- and link-property sets.

Open Graph Benchmark: Datasets for Machine Learning on Graphs (arXiv 2005.00687). OGB's own loader
is not used: it asks questions on standard input and unpickles.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.data.checks import check_edge_index
from graphkit.data.dataset import Parsed
from graphkit.data.evaluation import ogb_folder
from graphkit.data.locate import Source
from graphkit.data.packed import PackedGraphs
from graphkit.data.tensor_files import read_tensor_file
from graphkit.errors import CorruptFileError, InputError

OPTIONS: dict[str, Any] = {"undirected": False}

_FAMILIES = {"ogbg": "graphproppred", "ogbn": "nodeproppred", "ogbl": "linkproppred"}


@lru_cache(maxsize=64)
def ogb_table(name: str) -> dict[str, str]:
    """Return OGB's own description of a set: metric, task, split name, which files there are.

    Raises:
        InputError: the installed ogb does not know the set.

    Example:
        >>> ogb_table("ogbg-molhiv")["eval metric"]
        'rocauc'
    """
    path = ogb_folder() / _FAMILIES[name.split("-")[0]] / "master.csv"
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    if name not in rows[0]:
        raise InputError(f"{name}: not in the table of the installed ogb; it lists {rows[0][1:]}")
    column = rows[0].index(name)
    return {row[0]: row[column] for row in rows[1:]}


def _table(path: Path) -> np.ndarray:
    """One csv.gz file as a 2-D array, int64 or float32."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, header=None, compression="gzip")
    except pd.errors.EmptyDataError:
        return np.zeros((0, 0), dtype=np.int64)
    except (EOFError, OSError, ValueError) as error:
        raise CorruptFileError(
            f"{path}: not a readable csv.gz file ({error}); truncated or damaged, get it again"
        ) from error
    values = frame.to_numpy()
    if np.issubdtype(values.dtype, np.integer) or values.dtype == bool:
        return values.astype(np.int64)
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    raise CorruptFileError(f"{path}: holds text where numbers are expected")


def _names(text: str) -> list[str]:
    return [] if text == "None" else text.split(",")


def _raw_csv(raw: Path, table: dict[str, str]) -> dict[str, np.ndarray]:
    """The arrays of the csv layout under the names of the npz layout."""
    edge = _table(raw / "edge.csv.gz")
    arrays = {
        "edge_index": edge.reshape(-1, 2).T,
        "num_nodes_list": _table(raw / "num-node-list.csv.gz").reshape(-1),
        "num_edges_list": _table(raw / "num-edge-list.csv.gz").reshape(-1),
    }
    for kind in ("node", "edge"):
        if (raw / f"{kind}-feat.csv.gz").exists():
            arrays[f"{kind}_feat"] = _table(raw / f"{kind}-feat.csv.gz")
    extra = _names(table["additional node files"]) + _names(table["additional edge files"])
    for name in extra:
        path = raw / f"{name}.csv.gz"
        if name == "node_species" and not path.exists():
            path = raw / "species.csv.gz"
        arrays[name] = _table(path)
    return arrays


def _raw_npz(raw: Path) -> dict[str, np.ndarray]:
    with np.load(raw / "data.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _pack(
    arrays: dict[str, np.ndarray], add_inverse: bool, graph: dict[str, Tensor]
) -> PackedGraphs:
    node_counts = torch.from_numpy(np.asarray(arrays.pop("num_nodes_list"), dtype=np.int64))
    edge_counts = torch.from_numpy(np.asarray(arrays.pop("num_edges_list"), dtype=np.int64))
    edge_index = torch.from_numpy(np.ascontiguousarray(arrays.pop("edge_index"))).long()
    repeat = 2 if add_inverse else 1
    if add_inverse:
        # Each bond is stored once; its reverse comes right after it, as in OGB's loader.
        edge_index = edge_index.repeat_interleave(2, dim=1)
        edge_index[:, 1::2] = edge_index[:, 1::2].flip(0)
    node: dict[str, Tensor] = {}
    edge: dict[str, Tensor] = {}
    for key, value in arrays.items():
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        tensor = tensor.float() if tensor.is_floating_point() else tensor.long()
        if key in ("edge_weight", "edge_year", "edge_reltype", "node_year", "node_species"):
            tensor = tensor.reshape(-1)
        if key.startswith("node_"):
            node["x" if key == "node_feat" else key] = tensor
        elif key.startswith("edge_"):
            tensor = tensor.float() if key == "edge_weight" else tensor
            edge["edge_attr" if key == "edge_feat" else key] = tensor.repeat_interleave(
                repeat, dim=0
            )
    node_ptr = torch.nn.functional.pad(node_counts.cumsum(0), (1, 0))
    edge_ptr = torch.nn.functional.pad(repeat * edge_counts.cumsum(0), (1, 0))
    node.update({key: value for key, value in graph.items() if key.startswith("node/")})
    labels = {key: value for key, value in graph.items() if not key.startswith("node/")}
    node = {key.removeprefix("node/"): value for key, value in node.items()}
    return PackedGraphs(node_ptr, edge_ptr, edge_index, node=node, edge=edge, graph=labels)


def _label(raw: Path, kind: str, binary: bool) -> np.ndarray:
    if binary:
        with np.load(raw / f"{kind}-label.npz", allow_pickle=False) as archive:
            return np.asarray(archive[f"{kind}_label"])
    return _table(raw / f"{kind}-label.csv.gz")


def _target(values: np.ndarray, task: str) -> Tensor:
    """float32 ``[n, T]`` with NaN, or int64 ``[n]`` classes with -1, where unlabelled."""
    if task == "multiclass":
        flat = values.reshape(len(values), -1)[:, 0]
        return torch.from_numpy(np.nan_to_num(flat, nan=-1).astype(np.int64))
    return torch.from_numpy(values.reshape(len(values), -1).astype(np.float32))


def _index_split(folder: Path) -> dict[str, Tensor]:
    if (folder / "split_dict.pt").exists():
        stored = read_tensor_file(folder / "split_dict.pt")
        return {key: torch.as_tensor(stored[key]).long() for key in ("train", "valid", "test")}
    return {
        key: torch.from_numpy(_table(folder / f"{key}.csv.gz").reshape(-1))
        for key in ("train", "valid", "test")
    }


def _link_split(folder: Path, num_nodes: int) -> dict[str, Tensor]:
    """Edges as ``[2, n]``; OGB stores ``[n, 2]``. citation2's columns stay as they are."""
    links: dict[str, Tensor] = {}
    whole = folder / "split_dict.pt"
    stored = read_tensor_file(whole) if whole.exists() else None
    for part in ("train", "valid", "test"):
        values = stored[part] if stored is not None else read_tensor_file(folder / f"{part}.pt")
        for key, value in values.items():
            tensor = torch.as_tensor(value)
            if key in ("edge", "edge_neg"):
                tensor = tensor.long().reshape(-1, 2).t().contiguous()
                check_edge_index(tensor, num_nodes, name=f"split {part}/{key}")
            links[f"{part}/{key}"] = tensor
    return links


def _symmetric(graphs: PackedGraphs) -> PackedGraphs:
    from torch_geometric.utils import to_undirected

    if len(graphs) != 1 or any(kind == "edge" for kind in graphs.kinds.values()):
        raise InputError("undirected: only for one graph without edge features (ogbn-arxiv)")
    edge_index = to_undirected(graphs.edge_index, num_nodes=graphs.num_nodes)
    node = {key: getattr(graphs, key) for key, kind in graphs.kinds.items() if kind == "node"}
    return PackedGraphs(
        graphs.node_ptr, torch.tensor([0, edge_index.size(1)]), edge_index, node=node
    )


def read(card: DatasetCard, source: Source, undirected: bool = False) -> Parsed:
    """Read one OGB set.

    Args:
        card: which set.
        source: its folder, with ``raw/`` and ``split/``.
        undirected: add missing reverse edges (OGB stores ogbn-arxiv directed; its GNN baselines
            symmetrise it).

    Raises:
        CorruptFileError: a file is damaged or does not fit to the others.
    """
    name = str(card.options.get("ogb_name", card.name))
    table = ogb_table(name)
    if table.get("is hetero") == "True":
        raise InputError(f"{name}: heterogeneous OGB sets are not read")
    raw, binary = source.base / "raw", table["binary"] == "True"
    arrays = _raw_npz(raw) if binary else _raw_csv(raw, table)
    info: dict[str, Any] = {}
    labels: dict[str, Tensor] = {}
    if card.task == "subtoken":
        import pandas as pd

        column = pd.read_csv(raw / "graph-label.csv.gz", header=None, keep_default_na=False)[0]
        info["sequences"] = [str(text).split(" ") for text in column]
    elif card.level == "graph":
        labels["y"] = _target(_label(raw, "graph", binary), card.task)
    elif card.level == "node":
        labels["node/y"] = _target(_label(raw, "node", binary), card.task)
    graphs = _pack(arrays, table["add_inverse_edge"] == "True", labels)
    if undirected:
        graphs = _symmetric(graphs)
    folder = source.base / "split" / table["split"]
    if card.level == "link":
        return Parsed(graphs, [], _link_split(folder, graphs.num_nodes), info=info)
    split = _index_split(folder)
    limit = len(graphs) if card.level == "graph" else graphs.num_nodes
    for key, ids in split.items():
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= limit):
            raise CorruptFileError(
                f"{folder}/{key}: ids must lie in 0..{limit - 1}, got {int(ids.max())}"
            )
    return Parsed(graphs, [split], info=info)
