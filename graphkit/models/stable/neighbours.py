"""The most similar nodes of every node, without the matrix of all similarities."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.stable.weighted_graph import graph_of, keys_of
from graphkit.ops import CSR

_BLOCK = 1 << 23  # similarities at a time: 32 MB


def most_similar(embedding: Tensor, candidates: Tensor, k: int, block: int | None = None) -> Tensor:
    r"""The ``k`` columns of each row of the cosine similarity that are largest.

    .. math::
        S_{ij} = c_j \frac{\langle e_i, e_j \rangle}{|e_i| |e_j|}, \qquad
        c_j = 1 \text{ for candidates, else } 0

    Columns that are no candidates count with similarity 0, so they come before candidates of
    negative similarity; the node itself takes one of its ``k`` places if it is a candidate. Among
    equals the lower index wins. Memory is ``block * N``, never ``N * N``.

    Args:
        embedding: ``[N, D]``.
        candidates: ``[N]`` bool.
        k: how many.
        block: rows at a time; chosen to fit 32 MB by default.

    Shapes:
        - **out:** ``[N, k]`` int64, ascending in each row

    Raises:
        InputError: fewer than ``k`` candidates, or values that are not finite.

    Example:
        >>> e = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> most_similar(e, torch.tensor([True, True, True]), 2).tolist()
        [[0, 1], [0, 1], [1, 2]]
    """
    n = embedding.size(0)
    available = int(candidates.sum())
    if k < 1:
        raise InputError(f"k: {k}, wanted at least 1")
    if available < k:
        raise InputError(
            f"k: {k} with {available} candidate nodes of {n}, wanted at least k of them; lower k "
            "(0 adds no neighbours), degree_threshold or what pruning removes"
        )
    if not bool(torch.isfinite(embedding).all()):
        raise InputError("embedding: NaN or infinite values, wanted finite ones")
    length = embedding.norm(dim=1, keepdim=True)
    unit = embedding / torch.where(length == 0, torch.ones_like(length), length)
    columns = torch.where(candidates[:, None], unit, torch.zeros_like(unit)).t().contiguous()
    step = block or max(1, _BLOCK // max(n, 1))
    return torch.cat([_top(unit[s : s + step] @ columns, k) for s in range(0, n, step)])


def _top(similarity: Tensor, k: int) -> Tensor:
    last = similarity.topk(k, dim=1).values[:, -1:]
    taken = similarity >= last
    tied = (taken.sum(1) > k).nonzero().flatten()
    if tied.numel():  # torch.topk breaks ties as it likes
        rows, limit = similarity[tied], last[tied]
        above, equal = rows > limit, rows == limit
        room = k - above.sum(1, keepdim=True)
        taken[tied] = above | (equal & (equal.cumsum(1) <= room))
    return taken.nonzero()[:, 1].view(-1, k)


def add_neighbours(csr: CSR, neighbours: Tensor) -> CSR:
    """Let row ``i`` also receive from ``neighbours[i]``: the graph becomes directed.

    Args:
        csr: a graph without self-loops.
        neighbours: ``[N, k]`` node ids; a node's own is left out.

    Example:
        >>> edge = CSR.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 3)
        >>> add_neighbours(edge, torch.tensor([[0], [2], [2]])).degree.tolist()
        [1, 2, 0]
    """
    n = csr.num_rows
    row = torch.arange(n, device=neighbours.device)[:, None].expand_as(neighbours)
    other = row != neighbours
    new = row[other] * n + neighbours[other]
    return graph_of(torch.cat([keys_of(csr), new]), n)
