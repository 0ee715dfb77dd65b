"""Clusters of users and items that maximise bipartite modularity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from graphkit.errors import InputError

_memo: Any = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Clusters:
    """What :func:`cluster_pairs` found.

    Attributes:
        user_labels, item_labels: int64 ``[U]`` and ``[I]``, the joint labels; -1 where an id has no
            pair. Larger clusters come first.
        user_codes, item_codes: labels numbered anew for each side, ``0..K-1``. All ids without a
            pair share the last code.
        num_user_codes, num_item_codes: ``K_u`` and ``K_i``.
        unseen_user, unseen_item: the code of ids without a pair, or ``None`` where all have one.
        modularity: Barber's, with the resolution.
    """

    user_labels: Tensor
    item_labels: Tensor
    user_codes: Tensor
    item_codes: Tensor
    num_user_codes: int
    num_item_codes: int
    unseen_user: int | None
    unseen_item: int | None
    modularity: float

    @property
    def num_clusters(self) -> int:
        """Number of joint clusters."""
        return int(max(self.user_labels.max(), self.item_labels.max())) + 1


def cluster_pairs(
    pairs: Tensor,
    num_users: int,
    num_items: int,
    resolution: float,
    *,
    weight: Tensor | None = None,
    reserve_unseen: bool = False,
) -> Clusters:
    """Cluster users and items by Louvain on bipartite modularity; deterministic.

    The engine is scikit-network's (Barber's modularity, nodes visited in the order of their ids).
    A result is remembered for as long as the tensor of pairs lives.

    Args:
        pairs: int64 ``[2, E]`` users and items; a pair that occurs twice weighs twice.
        num_users, num_items: ``U`` and ``I``.
        resolution: large values give many small clusters. A user and an item alone join only if
            it is below ``m B_ui / (d_u d_i)``.
        weight: ``[E]``, at least 0.
        reserve_unseen: keep a code for ids without a pair even if every id has one.

    Raises:
        InputError: a resolution that is not positive, no pairs, ids out of range, or negative
            weights.

    Example:
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]])
        >>> found = cluster_pairs(pairs, 4, 4, resolution=1.0)
        >>> found.user_codes.tolist(), found.modularity
        ([0, 0, 1, 1], 0.5)
    """
    check_resolution(resolution)
    check_pairs(pairs, num_users, num_items, weight)
    key = (num_users, num_items, float(resolution), reserve_unseen)
    version = 0 if pairs.is_inference() else pairs._version
    if weight is not None:
        return _cluster(pairs, weight, *key)
    entry = _memo.get(pairs)
    if entry is None or entry[0] != version:
        entry = (version, {})
        _memo[pairs] = entry
    if key not in entry[1]:
        entry[1][key] = _cluster(pairs, None, *key)
    found: Clusters = entry[1][key]
    return found


def _cluster(
    pairs: Tensor, weight: Tensor | None, num_users: int, num_items: int, resolution: float,
    reserve_unseen: bool,
) -> Clusters:  # fmt: skip
    from scipy import sparse

    louvain = _engine()(resolution=resolution)
    users, items = pairs.cpu().numpy()
    value = np.ones(len(users)) if weight is None else weight.detach().double().cpu().numpy()
    biadjacency = sparse.csr_matrix((value, (users, items)), shape=(num_users, num_items))
    biadjacency.sum_duplicates()
    biadjacency.eliminate_zeros()
    # Ids without a pair would be clusters of their own, one row each.
    rows = np.flatnonzero(np.diff(biadjacency.indptr))
    columns = np.unique(biadjacency.indices)
    louvain.fit(biadjacency[rows][:, columns], force_bipartite=True)
    labels = []
    for size, kept, found in (
        (num_users, rows, louvain.labels_row_),
        (num_items, columns, louvain.labels_col_),
    ):
        whole = torch.full((size,), -1)
        whole[torch.from_numpy(kept.astype(np.int64))] = torch.from_numpy(found.astype(np.int64))
        labels.append(whole)
    user_codes, num_user, unseen_user = _compact(labels[0], reserve_unseen)
    item_codes, num_item, unseen_item = _compact(labels[1], reserve_unseen)
    modularity = bipartite_modularity(pairs, labels[0], labels[1], resolution, weight=weight)
    return Clusters(
        labels[0], labels[1], user_codes, item_codes, num_user, num_item, unseen_user, unseen_item,
        modularity,
    )  # fmt: skip


def _compact(labels: Tensor, reserve: bool) -> tuple[Tensor, int, int | None]:
    """Labels of one side as 0..K-1 in increasing order, with the unseen ones last."""
    known, codes = torch.unique(labels, return_inverse=True)
    if int(known[0]) >= 0:
        return codes, len(known) + reserve, len(known) if reserve else None
    unseen = len(known) - 1
    return torch.where(labels < 0, unseen, codes - 1), len(known), unseen


def _engine() -> Any:
    try:
        from sknetwork.clustering import Louvain
    except ImportError as error:
        raise InputError(
            "GraphHash: clustering needs scikit-network, which is not installed; "
            "get it with: pip install scikit-network"
        ) from error
    return Louvain


def bipartite_modularity(
    pairs: Tensor,
    user_labels: Tensor,
    item_labels: Tensor,
    resolution: float = 1.0,
    *,
    weight: Tensor | None = None,
) -> float:
    r"""Barber's modularity of a joint labelling of users and items.

    .. math::
        Q_\gamma = \frac{1}{m} \sum_{u,i} \left[ B_{ui} - \gamma \frac{d_u d_i}{m} \right]
        \mathbb{1}\{c_u = c_i\}

    Barber, Phys. Rev. E 76, 066102 (2007).

    Args:
        pairs: int64 ``[2, E]``.
        user_labels: ``[U]`` cluster of each user; -1 for none.
        item_labels: ``[I]``, of the same clusters.
        resolution: :math:`\gamma`.
        weight: ``[E]``.

    Raises:
        InputError: no pairs, ids out of range, negative weights, or a resolution that is not
            positive.

    Example:
        >>> pairs = torch.tensor([[0, 1], [0, 1]])
        >>> bipartite_modularity(pairs, torch.tensor([0, 1]), torch.tensor([0, 1]))
        0.5
    """
    check_resolution(resolution)
    check_pairs(pairs, len(user_labels), len(item_labels), weight)
    value = torch.ones(pairs.size(1)) if weight is None else weight
    value = value.double().cpu()
    ends = [user_labels.cpu()[pairs[0].cpu()], item_labels.cpu()[pairs[1].cpu()]]
    total = value.sum()
    inside = value[(ends[0] == ends[1]) & (ends[0] >= 0)].sum() / total
    num = int(max(user_labels.max(), item_labels.max())) + 1
    # Summing degrees over a cluster is summing the weights of the pairs that end in it.
    shares = [
        torch.zeros(num + 1, dtype=torch.float64).index_add_(0, end + 1, value)[1:] / total
        for end in ends
    ]
    return float(inside - resolution * (shares[0] * shares[1]).sum())


def find_resolution(
    pairs: Tensor,
    num_users: int,
    num_items: int,
    rows: int,
    *,
    tolerance: float = 0.03,
    max_runs: int = 20,
) -> float:
    """The resolution that gives about ``rows`` rows in both tables together, by bisection.

    Args:
        pairs, num_users, num_items: as for :func:`cluster_pairs`.
        rows: wanted ``K_u + K_i``.
        tolerance: relative; the search ends when it is met, or with the nearest of ``max_runs``.
        max_runs: how many clusterings may be tried.

    Raises:
        InputError: more rows than ids or fewer than 2, or a tolerance that is not positive.

    Example:
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]])
        >>> gamma = find_resolution(pairs, 4, 4, rows=4)
        >>> cluster_pairs(pairs, 4, 4, gamma).num_clusters
        2
    """
    check_pairs(pairs, num_users, num_items)
    if not 2 <= rows <= num_users + num_items:
        raise InputError(f"rows: {rows}, wanted 2..{num_users + num_items}, both sides together")
    if not (0 < tolerance < 1 and max_runs >= 1):
        raise InputError(f"tolerance, max_runs: {tolerance}, {max_runs}; wanted 0..1, at least 1")

    def rows_at(resolution: float) -> int:
        found = cluster_pairs(pairs, num_users, num_items, resolution)
        return found.num_user_codes + found.num_item_codes

    return _bisect(rows_at, rows, 2.0 * pairs.size(1), tolerance, max_runs)


def _bisect(
    rows_at: Callable[[float], int], rows: int, most: float, tolerance: float, max_runs: int,
    at_least: bool = False,
) -> float:  # fmt: skip
    """The resolution whose number of rows is nearest, or nearest from above (``at_least``)."""
    low, high = math.log(1e-2), math.log(most)
    best: tuple[float, float] = (math.inf, most)
    for _ in range(max_runs):
        middle = (low + high) / 2
        got = rows_at(math.exp(middle))
        if got >= rows or not at_least:
            best = min(best, (abs(got - rows) / rows, math.exp(middle)))
        if best[0] <= tolerance:
            break
        low, high = (middle, high) if got < rows else (low, middle)
    return best[1]


def codes_of_size(
    pairs: Tensor,
    num_users: int,
    num_items: int,
    side: str,
    rows: int,
    *,
    tolerance: float = 0.03,
    max_runs: int = 20,
) -> tuple[Tensor, int]:
    """Cluster codes of one side in exactly ``rows`` rows.

    The resolution is found by bisection, a little too many clusters rather than too few; then the
    smallest ones, at most ``tolerance`` of them, each join the cluster that most of their pairs
    lead to. Ids without a pair share one row of the ``rows``.

    Args:
        pairs, num_users, num_items: as for :func:`cluster_pairs`.
        side: ``"user"`` or ``"item"``.
        rows: ``K``.
        tolerance, max_runs: as for :func:`find_resolution`.

    Returns:
        Codes int64 ``[n]``, and their number: ``K``, or fewer where fewer ids have pairs.

    Raises:
        InputError: another side, or fewer rows than 1 or more than ids.

    Example:
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]])
        >>> codes_of_size(pairs, 4, 4, "user", rows=2)
        (tensor([0, 0, 1, 1]), 2)
    """
    check_pairs(pairs, num_users, num_items)
    sizes = {"user": num_users, "item": num_items}
    if side not in sizes:
        raise InputError(f"side: {side!r}, wanted 'user' or 'item'")
    if not 1 <= rows <= sizes[side]:
        raise InputError(f"rows: {rows}, wanted 1..{sizes[side]} for {sizes[side]} {side}s")

    def rows_at(resolution: float) -> int:
        found = cluster_pairs(pairs, num_users, num_items, resolution)
        return found.num_user_codes if side == "user" else found.num_item_codes

    resolution = _bisect(rows_at, rows, 2.0 * pairs.size(1), tolerance, max_runs, at_least=True)
    found = cluster_pairs(pairs, num_users, num_items, resolution)
    own, codes, number = found.user_labels, found.user_codes, found.num_user_codes
    other, unseen, ends = found.item_labels, found.unseen_user, (0, 1)
    if side == "item":
        own, codes, number = found.item_labels, found.item_codes, found.num_item_codes
        other, unseen, ends = found.user_labels, found.unseen_item, (1, 0)
    if number <= rows:
        return codes, number
    weight = torch.bincount(codes, minlength=number)
    if unseen is not None and rows > 1:
        weight[unseen] = len(codes) + 1  # stays
    kept = torch.zeros(number, dtype=torch.bool)
    kept[torch.sort(weight, descending=True, stable=True).indices[:rows]] = True
    to = row_of_labels(own, codes, found.num_clusters)[other[pairs[ends[1]].cpu()]]
    owner = codes[pairs[ends[0]].cpu()]
    votes = (to >= 0) & kept[to] & ~kept[owner]
    joined = majority(owner[votes], to[votes], number, number)
    first = int(kept.nonzero()[0])  # the largest cluster takes those without a vote
    target = torch.where(kept, torch.arange(number), torch.where(joined >= 0, joined, first))
    return torch.unique(target[codes], return_inverse=True)[1], rows


def row_of_labels(labels: Tensor, codes: Tensor, num_labels: int) -> Tensor:
    """The code of each joint label on one side; -1 for clusters without an id of it.

    Example:
        >>> row_of_labels(torch.tensor([0, 2, -1]), torch.tensor([0, 1, 2]), 3).tolist()
        [0, -1, 1]
    """
    rows = torch.full((num_labels,), -1)
    rows[labels[labels >= 0]] = codes[labels >= 0]
    return rows


def majority(owner: Tensor, rows: Tensor, num_owners: int, num_rows: int) -> Tensor:
    """The row that most votes of each owner are for; ties go to the smaller row.

    Args:
        owner: ``[V]`` who votes.
        rows: ``[V]`` for which row.
        num_owners, num_rows: how many there are.

    Returns:
        int64 ``[num_owners]``; -1 for owners without a vote.

    Example:
        >>> majority(torch.tensor([0, 0, 0, 2]), torch.tensor([3, 1, 3, 0]), 3, 4).tolist()
        [3, -1, 0]
    """
    keys, counts = torch.unique(owner * num_rows + rows, return_counts=True)
    # Written from the worst to the best, so that the best stays.
    order = torch.sort(counts.flip(0), stable=True).indices
    out = torch.full((num_owners,), -1)
    for key in keys.flip(0)[order].tolist():
        out[key // num_rows] = key % num_rows
    return out


def check_resolution(resolution: float) -> None:
    """Refuse a resolution that is not a positive number."""
    number = isinstance(resolution, (int, float)) and not isinstance(resolution, bool)
    if not number or not (math.isfinite(resolution) and resolution > 0):
        raise InputError(f"resolution: {resolution!r}, wanted a positive number (gamma)")


def check_pairs(
    pairs: Tensor, num_users: int, num_items: int, weight: Tensor | None = None
) -> None:
    """Refuse an empty graph, ids out of range and weights below zero."""
    if pairs.dim() != 2 or pairs.size(0) != 2 or pairs.dtype != torch.int64:
        raise InputError(f"pairs: {pairs.dtype} of shape {list(pairs.shape)}, wanted int64 [2, E]")
    if not pairs.size(1):
        raise InputError("pairs: the graph is empty, wanted at least one pair of a user and item")
    for name, ids, size in (("user", pairs[0], num_users), ("item", pairs[1], num_items)):
        low, high = (int(v) for v in torch.aminmax(ids))
        if low < 0 or high >= size:
            raise InputError(
                f"pairs: {name} {low if low < 0 else high}, wanted 0..{size - 1}; are these pairs "
                "of another data set?"
            )
    if weight is None:
        return
    if weight.shape != pairs.shape[1:]:
        raise InputError(f"weight: shape {list(weight.shape)}, wanted [{pairs.size(1)}]")
    if not bool((weight >= 0).all()) or not bool((weight > 0).any()):
        raise InputError(
            f"weight: the smallest is {float(weight.min())}, wanted weights of at least 0, one "
            "of them positive"
        )
