"""Poisoned graphs of the Pro-GNN benchmark (arXiv 2005.10203), with its splits and clean graphs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data import planetoid
from graphkit.data.cards import DatasetCard
from graphkit.data.cards import card as read_card
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source, find
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError
from graphkit.storage import sha256_file

OPTIONS: dict[str, Any] = {"attack": "none", "rate": 0.0, "clean": "published"}

RATES = {
    "metattack": (0.05, 0.1, 0.15, 0.2, 0.25),
    "nettack": (1.0, 2.0, 3.0, 4.0, 5.0),
}
_FILES = {"metattack": "meta", "nettack": "nettack"}
_MAX_JSON = 4 * 1024 * 1024


def read(
    card: DatasetCard,
    source: Source,
    attack: str = "none",
    rate: float = 0.0,
    clean: str = "published",
) -> Parsed:
    """Read one graph of the benchmark, clean or attacked, in the node order all files share.

    The graph is the largest connected component, undirected, unweighted, without loops. The split
    is the one the attack was computed for. Under ``nettack`` the test nodes are the targets.

    Args:
        card: which set.
        source: the folder of all files.
        attack: ``"none"``, ``"metattack"`` or ``"nettack"``.
        rate: share of edges that metattack flipped (0.05 to 0.25), or flips per target that nettack
            was allowed (1 to 5); 0 is the clean graph, with the test nodes of that attack.
        clean: where the clean graph comes from: ``"published"``, or ``"recovered"`` from the
            attacked ones, see :func:`recover_clean`.

    Raises:
        DatasetNotFoundError: the file of this attack is not there; the others may be.
        CorruptFileError: a file is not the one on the card, or does not hold what it should.
        InputError: an attack, rate or origin that does not exist.
    """
    prefix = str(card.options["prefix"])
    if attack not in ("none", *RATES):
        raise InputError(f"attack: {attack!r}, wanted one of none, {', '.join(RATES)}")
    if clean not in ("published", "recovered"):
        raise InputError(f"clean: {clean!r}, wanted 'published' or 'recovered'")
    allowed = (0.0, *RATES.get(attack, ()))
    if isinstance(rate, bool) or rate not in allowed:
        raise InputError(f"rate: {rate!r} under attack={attack!r}, wanted one of {list(allowed)}")
    x, y, published = _clean(card, source, prefix)
    n = len(y)
    if rate:
        edges = _attacked(card, source, prefix, attack, float(rate), n)
    elif clean == "recovered":
        edges = _recovered(card, source, prefix, n)
    else:
        edges = published
    graphs = pack_single(n, edges, node={"x": x, "y": y})
    split = _split(card, source, prefix, n, targets=attack == "nettack")
    return Parsed(graphs, [split])


def recover_clean(attacked: Sequence[Tensor], num_nodes: int, at_least: int) -> Tensor:
    """Recover the clean graph from independent attacks on it: each flips other edges.

    Args:
        attacked: ``edge_index`` of each attacked graph, both directions of every edge.
        num_nodes: ``N``.
        at_least: keep the edges that this many of the graphs have.

    Shapes:
        - **out:** ``[2, E]`` int64, sorted, both directions

    Raises:
        InputError: no graphs, or ``at_least`` is not 1..their number.

    Example:
        >>> edge, other = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1, 2], [2, 1]])
        >>> recover_clean([edge, edge, torch.cat([edge, other], 1)], 3, at_least=2).tolist()
        [[0, 1], [1, 0]]
    """
    if not 1 <= at_least <= len(attacked):
        raise InputError(f"at_least: {at_least}, wanted 1..{len(attacked)}, the number of graphs")
    keys = torch.cat([simple_edges(e, num_nodes, True) for e in attacked], dim=1)
    found, count = torch.unique(keys[0] * num_nodes + keys[1], return_counts=True)
    found = found[count >= at_least]
    return torch.stack([found // num_nodes, found % num_nodes])


def _file(card: DatasetCard, source: Source, name: str) -> Path:
    """The path of a file whose absence costs only the options that need it."""
    path = source.base / name
    if not path.is_file():
        raise DatasetNotFoundError(
            f"{card.name}: {name} is not in {source.base}; the other graphs of the set may be. "
            f"How to get it: {card.how_to_get}"
        )
    wanted = card.sha256.get(f"?{name}")
    if wanted is not None and sha256_file(path) != wanted:
        raise CorruptFileError(f"{path}: the checksum is not the one on the card of {card.name}")
    return path


def _attacked(
    card: DatasetCard, source: Source, prefix: str, attack: str, rate: float, num_nodes: int
) -> Tensor:
    from scipy.sparse import load_npz

    path = _file(card, source, f"{prefix}_{_FILES[attack]}_adj_{rate}.npz")
    matrix = load_npz(path).tocoo()
    matrix.eliminate_zeros()
    if matrix.shape != (num_nodes, num_nodes):
        raise CorruptFileError(
            f"{path}: {matrix.shape[0]} x {matrix.shape[1]}, but {card.name} has {num_nodes} nodes"
        )
    edges = torch.stack([torch.from_numpy(matrix.row).long(), torch.from_numpy(matrix.col).long()])
    simple = simple_edges(edges, num_nodes, undirected=True)
    if simple.size(1) != edges.size(1) or not (matrix.data == 1).all():
        raise CorruptFileError(f"{path}: not a symmetric 0/1 matrix with an empty diagonal")
    return simple


def _recovered(card: DatasetCard, source: Source, prefix: str, num_nodes: int) -> Tensor:
    graphs = []
    for attack, rates in RATES.items():
        for rate in rates:
            if (source.base / f"{prefix}_{_FILES[attack]}_adj_{rate}.npz").is_file():
                graphs.append(_attacked(card, source, prefix, attack, rate, num_nodes))
    # How many must agree was found once per set, with the clean graph at hand.
    at_least = card.options.get("recovery", {}).get(str(len(graphs)))
    if at_least is None:
        raise DatasetNotFoundError(
            f"{card.name}: {len(graphs)} attacked graphs in {source.base}, from which the clean "
            f"graph is not recovered; use clean='published'"
        )
    return recover_clean(graphs, num_nodes, int(at_least))


def _clean(card: DatasetCard, source: Source, prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and edges of the graph that was attacked."""
    if "planetoid" in card.options:
        other = read_card(str(card.options["planetoid"]))
        graphs = planetoid.read(other, find(other, source.root)).graphs
        x, y = graphs.x, graphs.y
        assert x is not None
        assert y is not None
        return x, y, graphs.edge_index
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    # The archives also hold arrays of Python objects (names), which are never touched.
    with np.load(_file(card, source, f"{prefix}.npz"), allow_pickle=False) as archive:
        wanted = [k for k in archive.files if k.startswith(("adj_", "attr_")) or k == "labels"]
        part = {key: archive[key] for key in wanted if not key.endswith("names")}
    adjacency = csr_matrix(
        (part["adj_data"], part["adj_indices"], part["adj_indptr"]), part["adj_shape"]
    )
    _, component = connected_components(adjacency, directed=False)
    kept = np.flatnonzero(component == np.bincount(component).argmax())
    coo = adjacency[kept][:, kept].tocoo()
    edges = torch.stack([torch.from_numpy(coo.row).long(), torch.from_numpy(coo.col).long()])
    if "attr_data" in part:
        features = csr_matrix(
            (part["attr_data"], part["attr_indices"], part["attr_indptr"]), part["attr_shape"]
        )
        x = torch.from_numpy(features[kept].toarray()).float()
    else:  # nodes without attributes are told apart by their number in the whole graph
        x = torch.zeros(len(kept), adjacency.shape[0])
        x[torch.arange(len(kept)), torch.from_numpy(kept)] = 1.0
    y = torch.from_numpy(part["labels"][kept]).long()
    return x, y, simple_edges(edges, len(kept), undirected=True)


def _split(
    card: DatasetCard, source: Source, prefix: str, num_nodes: int, targets: bool
) -> dict[str, Tensor]:
    name = f"{prefix}_nettacked_nodes.json" if targets else f"{prefix}_prognn_splits.json"
    path = _file(card, source, name)
    if path.stat().st_size > _MAX_JSON:
        raise CorruptFileError(f"{path}: larger than {_MAX_JSON} bytes")
    content = json.loads(path.read_text(encoding="utf-8"))
    keys = {"train": "idx_train", "valid": "idx_val", "test": "idx_test"}
    if targets:
        keys["test"] = "attacked_test_nodes"
    try:
        split = {part: torch.tensor(content[key], dtype=torch.int64) for part, key in keys.items()}
    except (KeyError, TypeError, ValueError) as error:
        wanted = ", ".join(keys.values())
        raise CorruptFileError(f"{path}: wanted lists of node ids: {wanted} ({error})") from None
    ids = torch.cat(list(split.values()))
    if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= num_nodes:
        raise CorruptFileError(f"{path}: a node id is not in 0..{num_nodes - 1}")
    if len(torch.unique(ids)) != len(ids):
        raise CorruptFileError(f"{path}: a node is in two parts, or twice in one")
    return {part: ids.sort().values for part, ids in split.items()}
