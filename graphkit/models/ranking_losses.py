"""Losses of recommenders on rows of a batch: BPR, its L2 term, DirectAU."""

from __future__ import annotations

import torch  # noqa: F401  (doctests)
import torch.nn.functional as F
from torch import Tensor

from graphkit.errors import InputError

LOSSES = ("bpr", "directau")


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Bayesian personalised ranking: a pair should score above its negatives.

    Rendle et al., UAI 2009 (arXiv 1205.2618): :math:`\text{mean}\,\log(1 + e^{s^- - s^+})`

    Args:
        positive: scores of pairs.
        negative: scores of their negatives.

    Shapes:
        - **positive:** ``[B]``
        - **negative:** ``[B, N]``

    Example:
        >>> round(float(bpr(torch.zeros(2), torch.zeros(2, 1))), 6)
        0.693147
    """
    return F.softplus(negative - positive[:, None]).mean()


def half_squares(*rows: Tensor) -> Tensor:
    r"""Half the squared norm of all rows, by the number of rows of the first.

    .. math:: \frac{1}{2B} \sum_b \lVert x_b \rVert^2

    Example:
        >>> float(half_squares(torch.ones(2, 3), torch.ones(2, 1)))
        2.0
    """
    total = sum(row.square().sum() for row in rows)
    assert isinstance(total, Tensor)
    return total / (2 * rows[0].size(0))


def direct_au(users: Tensor, items: Tensor, weight: float = 1.0) -> Tensor:
    r"""Alignment of pairs and uniformity of the rows on the sphere.

    Wang, Yu, Ma et al.: "Towards Representation Alignment and Uniformity in Collaborative
    Filtering", KDD 2022 (arXiv 2206.12811): with normalised rows,

    .. math::
        \text{mean} \lVert u_b - i_b \rVert^2 + \frac{w}{2} \sum_{x \in \{u, i\}}
        \log \text{mean}_{a < b} \, e^{-2 \lVert x_a - x_b \rVert^2}

    Args:
        users: ``[B, d]``.
        items: ``[B, d]``.
        weight: of the uniformity.

    A single pair, as the last batch of an epoch may be, has no uniformity: only its alignment
    counts.

    Raises:
        InputError: no pairs.

    Example:
        >>> round(float(direct_au(torch.eye(2), torch.eye(2))), 4)
        -4.0
    """
    if users.size(0) < 1:
        raise InputError("batch: no pairs, DirectAU wants at least one")
    users, items = F.normalize(users, dim=-1), F.normalize(items, dim=-1)
    align = (users - items).square().sum(1).mean()
    if users.size(0) == 1:
        return align
    return align + weight * (_uniformity(users) + _uniformity(items)) / 2


def _uniformity(x: Tensor) -> Tensor:
    # |a - b|^2 = 2 - 2 a.b on the sphere; of the symmetric matrix the diagonal is left out.
    number = x.size(0)
    every = (4.0 * (x @ x.t()) - 4.0).exp()
    total = every.sum() - every.diagonal().sum()
    return (total / (number * (number - 1))).log()


def scores_of(users: Tensor, items: Tensor) -> Tensor:
    """Dot products of each user with its own items.

    Shapes:
        - **users:** ``[B, d]``
        - **items:** ``[B, N, d]``
        - **out:** ``[B, N]``

    Example:
        >>> scores_of(torch.ones(1, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [[3.0, 7.0]]
    """
    if items.size(1) == 1:  # a batched product of such small matrices is slow
        return (users * items[:, 0]).sum(1, keepdim=True)
    return (items @ users[:, :, None])[:, :, 0]


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table; the gradient adds up repeats in a fixed order."""
    return F.embedding(ids, table)


__all__ = ["LOSSES", "bpr", "direct_au", "half_squares", "rows_of", "scores_of"]
