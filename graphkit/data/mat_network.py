"""Networks with labelled nodes in DeepWalk's MATLAB form: BlogCatalog, PPI, DBLP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError, InputError

OPTIONS: dict[str, Any] = {"share": 0.1}


def read(card: DatasetCard, source: Source, share: float = 0.1) -> Parsed:
    """Read the matrices ``network`` and ``group``; each run labels another part of the nodes.

    Self-loops are dropped: a node is no neighbour of itself.

    Args:
        card: which set.
        source: its ``.mat`` file.
        share: of the nodes whose labels are known; all others are test nodes.

    Raises:
        CorruptFileError: matrices that are missing or do not fit.
        InputError: a share outside (0, 1).
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError
    from scipy.sparse import coo_array

    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"share: {share!r}, wanted a part of the nodes, 0 < share < 1")
    try:
        content = loadmat(source.base, variable_names=["network", "group"])
    except MatReadError as error:  # what is cut off; no ValueError, as other damage is
        raise CorruptFileError(f"{source.base}: {error}") from None
    if not {"network", "group"} <= set(content):
        raise CorruptFileError(f"{source.base}: wanted the matrices network and group")
    matrix, group = coo_array(content["network"]), coo_array(content["group"])
    num_nodes = int(matrix.shape[0])
    if matrix.shape != (num_nodes, num_nodes) or group.shape[0] != num_nodes:
        raise CorruptFileError(
            f"{source.base}: network {matrix.shape} and group {group.shape}, wanted n x n and n x L"
        )
    for name, held in (("network", matrix), ("group", group)):
        if not np.isfinite(held.data).all():
            raise CorruptFileError(f"{source.base}: {name} has a value that is no number")
        held.eliminate_zeros()  # a stored zero is neither an edge nor a label
    edges = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    y = torch.zeros(group.shape)
    y[torch.from_numpy(group.row).long(), torch.from_numpy(group.col).long()] = 1.0
    return Parsed(
        pack_single(num_nodes, simple_edges(edges, num_nodes, undirected=True), node={"y": y}),
        info={"label_share": float(share)},
    )


def redrawn(parsed: Parsed, seed: int) -> Parsed:
    """The same network with other labelled nodes."""
    split = label_split(parsed.graphs.num_nodes, float(parsed.info["label_share"]), seed)
    return replace(parsed, splits=[split])


def label_split(num_nodes: int, share: float, seed: int) -> dict[str, torch.Tensor]:
    """The nodes whose labels are known in one run, and all others; none are left to validate.

    Example:
        >>> {part: len(ids) for part, ids in label_split(10, 0.3, seed=0).items()}
        {'train': 3, 'test': 7}
    """
    if seed < 0:
        raise InputError(f"split_seed: {seed}, wanted an int of at least 0")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(num_nodes))
    known = int(share * num_nodes)
    if not known or known == num_nodes:
        raise InputError(f"share: {share} of {num_nodes} nodes, wanted some but not all")
    return {"train": order[:known], "test": order[known:]}
