"""Pairs of nodes behind superedges: all of them, or a random part without listing the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]


def all_pairs(owner: Tensor, super_index: Tensor, pairs: Tensor) -> Tensor:
    """``[2, sum of pairs]`` nodes, superedge after superedge."""
    edge = torch.arange(len(pairs)).repeat_interleave(pairs)
    first = pairs.cumsum(0) - pairs
    rank = torch.arange(int(pairs.sum())) - first[edge]
    return _nodes(owner, super_index, edge, rank)


def sampled_pairs(
    owner: Tensor, super_index: Tensor, pairs: Tensor, density: Tensor, seed: int
) -> Tensor:
    """``[2, k]`` pairs, each with the probability of its superedge."""
    random = np.random.default_rng(seed)
    total = pairs.numpy()
    count = random.binomial(total, density.numpy())
    many = count > total // 2  # there, the pairs that are left out are drawn
    drawn_edge, drawn_rank = _distinct(random, total, np.where(many, total - count, count))
    few = ~many[drawn_edge]
    edges, ranks = [drawn_edge[few]], [drawn_rank[few]]
    crowded = np.flatnonzero(many)
    if len(crowded):
        edge = np.repeat(crowded, total[crowded])
        first = np.cumsum(total[crowded]) - total[crowded]
        rank = np.arange(len(edge)) - np.repeat(first, total[crowded])
        base = np.zeros(len(total), np.int64)
        base[crowded] = first
        keep = np.ones(len(edge), bool)
        keep[base[drawn_edge[~few]] + drawn_rank[~few]] = False
        edges.append(edge[keep])
        ranks.append(rank[keep])
    return _nodes(
        owner, super_index, torch.from_numpy(np.concatenate(edges)),
        torch.from_numpy(np.concatenate(ranks)),
    )  # fmt: skip


def _distinct(random: np.random.Generator, total: Ints, count: Ints) -> tuple[Ints, Ints]:
    """``count[i]`` different ranks below ``total[i]`` for each ``i``, at most half of them all."""
    edge, rank = np.empty(0, np.int64), np.empty(0, np.int64)
    missing = count.copy()
    while int(missing.sum()):
        new = np.repeat(np.arange(len(total)), missing)
        edge = np.concatenate([edge, new])
        rank = np.concatenate([rank, random.integers(0, total[new])])
        # The first of equals stays, so every set of ranks is equally likely.
        order = np.lexsort((np.arange(len(edge)), rank, edge))
        same = np.zeros(len(edge), bool)
        same[order[1:]] = (np.diff(edge[order]) == 0) & (np.diff(rank[order]) == 0)
        edge, rank = edge[~same], rank[~same]
        missing = count - np.bincount(edge, minlength=len(total))
    return edge, rank


def _nodes(owner: Tensor, super_index: Tensor, edge: Tensor, rank: Tensor) -> Tensor:
    size = torch.bincount(owner)
    member = owner.argsort(stable=True)
    first = size.cumsum(0) - size
    a, b = super_index[0][edge], super_index[1][edge]
    # Inside a supernode, rank i (i - 1) / 2 + j stands for the pair i > j.
    i = ((1 + (1 + 8 * rank.double()).sqrt()) / 2).long()
    i = i - (i * (i - 1) // 2 > rank).long()
    i = i + ((i + 1) * i // 2 <= rank).long()
    loop = a == b
    row = torch.where(loop, i, rank // size[b])
    column = torch.where(loop, rank - i * (i - 1) // 2, rank % size[b])
    return torch.stack([member[first[a] + row], member[first[b] + column]])
