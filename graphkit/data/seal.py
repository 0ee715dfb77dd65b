"""The classical link-prediction graphs of SEAL (Zhang and Chen, arXiv 1802.09691), MATLAB files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source

OPTIONS: dict[str, Any] = {"seed": 0}

_VALID_SHARE, _TEST_SHARE = 0.05, 0.10


def _false_edges(
    positive: Tensor, num_nodes: int, count: int, generator: torch.Generator
) -> Tensor:
    """``count`` distinct pairs u < v that are no edges."""
    taken = set((positive[0] * num_nodes + positive[1]).tolist())
    found: list[int] = []
    while len(found) < count:
        pairs = torch.randint(num_nodes, (2, 2 * count), generator=generator).sort(0).values
        for u, v in pairs.t().tolist():
            key = u * num_nodes + v
            if u != v and key not in taken and len(found) < count:
                taken.add(key)
                found.append(key)
    keys = torch.tensor(found)
    return torch.stack([keys // num_nodes, keys % num_nodes])


def read(card: DatasetCard, source: Source, seed: int = 0) -> Parsed:
    """Read one graph and split its edges 85/5/10 with as many false edges in valid and test.

    The graph holds training edges only. No split is published; the literature reports the mean over
    ten random ones.

    Args:
        card: which set.
        source: its ``.mat`` file.
        seed: decides the split.
    """
    from scipy.io import loadmat

    matrix = loadmat(source.base)["net"].tocoo()
    num_nodes = int(matrix.shape[0])
    edges = torch.stack([torch.from_numpy(matrix.row).long(), torch.from_numpy(matrix.col).long()])
    both = simple_edges(edges, num_nodes, undirected=True)
    once = both[:, both[0] < both[1]]
    generator = torch.Generator().manual_seed(seed)
    total = once.size(1)
    shuffled = once[:, torch.randperm(total, generator=generator)]
    num_valid, num_test = int(_VALID_SHARE * total), int(_TEST_SHARE * total)
    negative = _false_edges(once, num_nodes, num_valid + num_test, generator)
    train = shuffled[:, num_valid + num_test :]
    links = {
        "train/edge": train,
        "valid/edge": shuffled[:, :num_valid],
        "valid/edge_neg": negative[:, :num_valid],
        "test/edge": shuffled[:, num_valid : num_valid + num_test],
        "test/edge_neg": negative[:, num_valid:],
    }
    graphs = pack_single(num_nodes, simple_edges(train, num_nodes, undirected=True))
    return Parsed(graphs, links=links)
