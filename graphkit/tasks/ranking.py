"""Full ranking of all items, block by block, and the figures that judge it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops.ranking import top_items

if TYPE_CHECKING:
    from graphkit.data.interactions import Interactions

_BLOCK = 1 << 23  # scores in memory at once
NAMES = ("ndcg", "precision", "f1", "hit", "map")


def ranked_hits(
    score: Callable[[Tensor], Tensor],
    held: Interactions,
    known: Interactions,
    k: int,
    *,
    device: torch.device | str = "cpu",
    block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Rank all items for each user of a held-out part; say which ranks are hits.

    Scores are made for a block of users at a time: a matrix of all users and items never exists.
    Known items are never ranked; items that nobody has a pair with are. Of equal scores the lower
    id comes first.

    Args:
        score: from users int64 ``[B]`` to scores ``[B, I]``.
        held: what should be found; users without any are not ranked.
        known: pairs to leave out of the ranking.
        k: ranks to look at.
        device: where ``score`` works.
        block: users scored together; default as many as fit 32 MB of scores.

    Returns:
        Hits, bool ``[n, k]``, and the number of held-out items, int64 ``[n]``, of the ``n`` users
        who have any, ascending.

    Raises:
        InputError: fewer than ``k`` items are not known to a user, or scores that are not finite.

    Example:
        >>> from graphkit.data.interactions import Interactions
        >>> known, held = (Interactions(torch.tensor(p), 1, 4) for p in ([[0], [3]], [[0], [1]]))
        >>> scores = torch.tensor([[0.1, 0.5, 0.7, 0.9]])
        >>> ranked_hits(lambda users: scores[users], held, known, k=2)[0].tolist()
        [[False, True]]
    """
    degree = held.user_degree
    users = degree.nonzero().flatten()
    if users.numel() == 0:
        raise InputError("held: no user has a held-out item, there is nothing to evaluate")
    left = held.num_items - known.user_degree[users]
    if int(left.min()) < k:
        worst = int(left.argmin())
        raise InputError(
            f"k: {k} items wanted, but user {int(users[worst])} knows all but {int(left[worst])} "
            f"of {held.num_items}"
        )
    rows = block or max(_BLOCK // held.num_items, 1)
    best = []
    for ids in torch.split(users, rows):
        scores = score(ids.to(device))
        if list(scores.shape) != [ids.numel(), held.num_items]:
            raise InputError(
                f"scores: shape {list(scores.shape)}, wanted {[ids.numel(), held.num_items]}"
            )
        row, item = known.seen(ids)
        best.append(top_items(scores, k, (row.to(device), item.to(device))).cpu())
    hits = held.contains(users[:, None], torch.cat(best))
    return hits, degree[users]


def figures(
    hits: Tensor, sizes: Tensor, ks: Sequence[int], convention: str, num_users: int
) -> dict[str, float]:
    r"""Recall, NDCG, Precision, F1, Hit and MAP at each cutoff.

    With :math:`h_p` the hit at rank p and T the held-out items of a user,

    .. math::
        \text{Recall} = \frac{\sum_{p \le K} h_p}{|T|}, \quad
        \text{NDCG} = \frac{\sum_{p \le K} h_p / \log_2(p + 1)}
                           {\sum_{p \le \min(K, |T|)} 1 / \log_2(p + 1)}, \quad
        \text{MAP} = \frac{\sum_{p \le K} h_p \, \text{Precision@}p}{\min(K, |T|)}

    and F1 is that of the mean Precision and the mean Recall. The means are over

    =============  ===============================  ==================================
    convention     users                            Recall
    =============  ===============================  ==================================
    ``ultragcn``   all; without held-out items 0    as above
    ``lightgcn``   those with held-out items        as above
    ``graphhash``  those with held-out items        divided by min(K, \|T\|) instead:
                                                    ``capped_recall``, never smaller
    =============  ===============================  ==================================

    Args:
        hits: ``[n, K]`` whether the item at each rank was held out.
        sizes: ``[n]`` how many held-out items the user has.
        ks: cutoffs, none larger than ``K``.
        convention: see above.
        num_users: ``U``.

    Returns:
        ``{"recall@20": ..., "ndcg@20": ..., ...}``

    Raises:
        InputError: shapes that do not fit, or a user without held-out items.

    Example:
        >>> hits = torch.tensor([[True, False, True] + [False] * 17])
        >>> found = figures(hits, torch.tensor([3]), [20], "ultragcn", num_users=1)
        >>> {key: round(value, 7) for key, value in found.items() if key in ("ndcg@20", "map@20")}
        {'ndcg@20': 0.7039181, 'map@20': 0.5555556}
    """
    if hits.dim() != 2 or hits.size(0) != sizes.numel() or max(ks) > hits.size(1):
        raise InputError(
            f"hits: shape {list(hits.shape)} for {sizes.numel()} users and cutoffs {list(ks)}"
        )
    if sizes.numel() == 0 or int(sizes.min()) < 1:
        raise InputError("sizes: a user without held-out items cannot be evaluated")
    number = num_users if convention == "ultragcn" else sizes.numel()
    discount = 1.0 / torch.arange(2, hits.size(1) + 2, dtype=torch.float64).log2()
    ideal = torch.cat([torch.zeros(1, dtype=torch.float64), discount.cumsum(0)])
    found = {}
    for k in ks:
        top = hits[:, :k].double()
        count = top.sum(1)
        capped = sizes.clamp(max=k)
        recall = count / (capped if convention == "graphhash" else sizes)
        at_rank = top.cumsum(1) / torch.arange(1, k + 1, dtype=torch.float64)
        values = {
            "recall": recall,
            "ndcg": (top * discount[:k]).sum(1) / ideal[capped],
            "precision": count / k,
            "hit": (count > 0).double(),
            "map": (top * at_rank).sum(1) / capped,
        }
        mean = {name: float(value.sum()) / number for name, value in values.items()}
        both = mean["precision"] + mean["recall"]
        mean["f1"] = 2 * mean["precision"] * mean["recall"] / both if both else 0.0
        title = "capped_recall" if convention == "graphhash" else "recall"
        found[f"{title}@{k}"] = mean["recall"]
        found.update({f"{name}@{k}": mean[name] for name in NAMES})
    return found
