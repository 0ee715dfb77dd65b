"""Remove edges whose ends are unlike: by features before, by embeddings after."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.models.stable.weighted_graph import graph_of_pairs, pairs_of
from graphkit.ops import CSR, common_neighbors
from graphkit.ops.rows import SORTED

METRICS = ("jaccard", "cosine")
_EPS = 1e-8
_CHUNK = 1 << 22  # numbers gathered at a time: 16 MB


def jaccard(x: Tensor, pairs: Tensor) -> Tensor:
    r"""Jaccard similarity of the features of pairs of nodes.

    .. math:: J_{uv} = |x_u \cap x_v| \; / \; |x_u \cup x_v|

    Args:
        x: ``[N, F]`` of zeros and ones.
        pairs: ``[2, P]`` node ids.

    Shapes:
        - **out:** ``[P]`` float64; NaN where both rows are empty

    Raises:
        InputError: features that are not binary.

    Example:
        >>> x = torch.tensor([[1.0, 1, 1, 0], [0, 0, 1, 1]])
        >>> jaccard(x, torch.tensor([[0], [1]])).item()
        0.25
    """
    there = x != 0
    if not bool((x[there] == 1).all()):
        row, column = ((x != 0) & (x != 1)).nonzero()[0].tolist()
        raise InputError(
            f"x: {float(x[row, column]):g} in row {row}, column {column}; the Jaccard stage wants "
            "features of 0 and 1: use metric='cosine'"
        )
    size = there.sum(1)
    rowptr = torch.zeros(x.size(0) + 1, dtype=torch.int32, device=x.device)
    rowptr[1:] = torch.cumsum(size, 0)
    csr = CSR(rowptr, there.nonzero()[:, 1].to(torch.int32), None, x.size(0), x.size(1))
    csr.derived[SORTED] = True
    shared = common_neighbors(csr, pairs)
    either = size[pairs[0]] + size[pairs[1]] - shared
    return shared.double() / either.double()


def cosine(x: Tensor, pairs: Tensor) -> Tensor:
    r"""Cosine similarity of pairs of rows, a block of pairs at a time.

    .. math:: c_{uv} = \langle x_u, x_v \rangle \; / \; (|x_u| \, |x_v| + 10^{-8})

    Args:
        x: ``[N, F]``.
        pairs: ``[2, P]`` node ids.

    Shapes:
        - **out:** ``[P]``

    Example:
        >>> cosine(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0], [1]])).item()
        0.6000000238418579
    """
    length = x.norm(dim=1)
    out = x.new_empty(pairs.size(1))
    step = max(1, _CHUNK // max(x.size(1), 1))
    for start in range(0, pairs.size(1), step):
        u, v = pairs[:, start : start + step]
        product = (x[u] * x[v]).sum(1)
        out[start : start + step] = product / (length[u] * length[v] + _EPS)
    return out


def rough_prune(
    csr: CSR, x: Tensor, threshold: float, metric: str = "jaccard"
) -> tuple[CSR, Tensor]:
    """Remove the edges whose ends have features less similar than ``threshold``.

    GCN-Jaccard (arXiv 1903.01610), and the first step of STABLE. A threshold of 0 removes nothing
    by Jaccard, and an edge between two nodes without features stays.

    Args:
        csr: a symmetric graph.
        x: ``[N, F]`` features.
        threshold: remove where the similarity is strictly below.
        metric: ``"jaccard"`` of binary features, or ``"cosine"`` of any.

    Returns:
        The graph that is left, and the removed edges ``[2, R]``, each once.

    Raises:
        InputError: an unknown metric, or features that are not binary for Jaccard.

    Example:
        >>> edge = CSR.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> rough_prune(edge, torch.eye(2), 0.01)[1].tolist()
        [[0], [1]]
    """
    if metric not in METRICS:
        raise InputError(f"metric: {metric!r} is not one of {METRICS}{nearest(metric, METRICS)}")
    pairs = pairs_of(csr)
    if metric == "jaccard" and threshold <= 0.0:
        return csr, pairs[:, :0]
    similarity = jaccard(x, pairs) if metric == "jaccard" else cosine(x, pairs)
    cut = similarity < threshold  # false for NaN: two empty rows
    return graph_of_pairs(pairs[:, ~cut], csr.num_rows), pairs[:, cut]


def prune_by_embedding(csr: CSR, embedding: Tensor, threshold: float) -> tuple[CSR, Tensor]:
    """Remove the edges whose ends have embeddings of cosine at most ``threshold``.

    Unlike :func:`rough_prune`, equality removes.

    Returns:
        The graph that is left, and the removed edges ``[2, R]``, each once.

    Example:
        >>> edge = CSR.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> prune_by_embedding(edge, torch.eye(2), 0.0)[0].num_entries
        0
    """
    pairs = pairs_of(csr)
    cut = cosine(embedding, pairs) <= threshold
    return graph_of_pairs(pairs[:, ~cut], csr.num_rows), pairs[:, cut]
