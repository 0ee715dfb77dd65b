"""Matrix factorisation by BPR or DirectAU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.models.ranking_losses import LOSSES, bpr, direct_au, half_squares, scores_of
from graphkit.models.recommender import InteractionBatch, Recommender, Sampling
from graphkit.models.registry import register_model

INITS = ("normal", "xavier_uniform")


def initializer(init: str, init_std: float) -> Callable[[Tensor], Any]:
    """What fills a table: ``normal`` with a standard deviation, or ``xavier_uniform``.

    Raises:
        InputError: an unknown name, or a deviation that is not positive.
    """
    if init not in INITS:
        raise InputError(f"init: {init!r} is not one of {', '.join(INITS)}{nearest(init, INITS)}")
    if not init_std > 0.0:
        raise InputError(f"init_std: {init_std}, wanted a number above 0")
    if init == "xavier_uniform":
        return torch.nn.init.xavier_uniform_
    return lambda weight: torch.nn.init.normal_(weight, std=init_std)


def sampling_of(loss: str, kind: Any, num_negatives: int) -> Sampling:
    """The batches that a loss wants.

    Raises:
        InputError: an unknown loss, BPR without negatives, or DirectAU on all pairs at once.
    """
    if loss not in LOSSES:
        raise InputError(f"loss: {loss!r} is not one of {', '.join(LOSSES)}{nearest(loss, LOSSES)}")
    if loss == "directau":
        if kind == "full":
            raise InputError(
                "sampling: 'full' with DirectAU, which compares all pairs of a batch with each "
                "other, would need E x E numbers; take 'pairs' and a batch size"
            )
        return Sampling(kind, num_negatives=0)
    if num_negatives < 1:
        raise InputError(f"num_negatives: {num_negatives}, wanted at least 1 for BPR")
    return Sampling(kind, num_negatives=num_negatives)


@register_model("mf")
class MatrixFactorization(Recommender):
    r"""One vector per user and per item.

    .. math:: s(u, i) = e_u \cdot e_i

    Trained by BPR (Rendle et al., UAI 2009, arXiv 1205.2618)

    .. math::
        L = \text{mean}_b \, \log(1 + e^{s(u_b, n_b) - s(u_b, i_b)})
            + \frac{reg}{2B} \sum_b (\lVert e_{u_b} \rVert^2 + \lVert e_{i_b} \rVert^2
            + \lVert e_{n_b} \rVert^2)

    or DirectAU (Wang et al., KDD 2022, arXiv 2206.12811), which needs no negatives.

    Args:
        num_users: ``U``.
        num_items: ``I``.
        dim: length of a vector.
        loss: ``"bpr"`` or ``"directau"``.
        reg: of the rows in the batch (BPR). GraphHash regularises by the optimiser's
            ``weight_decay`` instead, which acts on all rows in every step.
        uniformity: weight of DirectAU's second term.
        sampling: ``"pairs"``, ``"users"``, ``"each_user"`` or ``"full"``; see :class:`Sampling`.
        num_negatives: for each pair (BPR).
        init: ``"xavier_uniform"`` or ``"normal"``.
        init_std: of ``"normal"``.
        table: how the vectors are stored; see :mod:`graphkit.nn.embedding`.

    Shapes:
        - **users, items:** int64 ``[B]``
        - **output:** ``[B]``

    Raises:
        InputError: an argument out of range.

    Example:
        >>> model = MatrixFactorization(num_users=5, num_items=7, dim=4)
        >>> model(torch.tensor([0, 4]), torch.tensor([6, 0])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int = 64,
        loss: str = "bpr",
        reg: float = 0.0,
        uniformity: float = 1.0,
        sampling: Literal["pairs", "users", "each_user", "full"] = "pairs",
        num_negatives: int = 1,
        init: str = "xavier_uniform",
        init_std: float = 0.1,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_users, num_items)
        if reg < 0.0 or uniformity < 0.0:
            raise InputError(f"reg, uniformity: {reg}, {uniformity}, wanted at least 0")
        self.config.update(
            dim=dim, loss=loss, reg=reg, uniformity=uniformity, sampling=sampling,
            num_negatives=num_negatives, init=init, init_std=init_std, table=table,
        )  # fmt: skip
        self.loss, self.reg, self.uniformity = loss, reg, uniformity
        self.sampling = sampling_of(loss, sampling, num_negatives)
        fill = initializer(init, init_std)
        self.add_table("user_table", "user", dim, table, fill)
        self.add_table("item_table", "item", dim, table, fill)

    def representations(self) -> tuple[Tensor, Tensor]:
        return self.rows("user_table"), self.rows("item_table")

    def training_loss(self, batch: InteractionBatch) -> Tensor:
        user_table, item_table = self.table("user_table"), self.table("item_table")
        users, items = user_table(batch.users), item_table(batch.items)
        if self.loss == "directau":
            return direct_au(users, items, self.uniformity)
        assert batch.negatives is not None
        negatives = item_table(batch.negatives)
        value = bpr((users * items).sum(1), scores_of(users, negatives))
        if self.reg:
            value = value + self.reg * half_squares(users, items, negatives)
        return value


__all__ = ["INITS", "MatrixFactorization", "initializer", "sampling_of"]
