"""The classical link-prediction graphs of SEAL (Zhang and Chen, arXiv 1802.09691), MATLAB files."""

from __future__ import annotations

from typing import Any

import torch

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source

OPTIONS: dict[str, Any] = {"split_name": "85/5/10"}


def read(card: DatasetCard, source: Source, split_name: str = "85/5/10") -> Parsed:
    """Read one graph; :func:`graphkit.data.load` splits its links, anew for each run.

    No split is published; the literature reports the mean over ten random ones.

    Args:
        card: which set.
        source: its ``.mat`` file.
        split_name: a key of :data:`graphkit.data.link_split.PROTOCOLS`.
    """
    from scipy.io import loadmat

    matrix = loadmat(source.base)["net"].tocoo()
    num_nodes = int(matrix.shape[0])
    edges = torch.stack([torch.from_numpy(matrix.row).long(), torch.from_numpy(matrix.col).long()])
    graphs = pack_single(num_nodes, simple_edges(edges, num_nodes, undirected=True))
    return Parsed(graphs, info={"link_protocol": split_name})
