"""UltraGCN: the limit of infinitely many graph convolutions as a loss, without any convolution."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.models.recommender import InteractionBatch, Recommender, Sampling
from graphkit.models.registry import register_model
from graphkit.ops import cooccurrence, dense_logistic, sampled_logistic

if TYPE_CHECKING:
    from graphkit.data.interactions import Interactions

NEGATIVES = ("sampled", "shared", "exact")


@register_model("ultragcn")
class UltraGCN(Recommender):
    r"""Embeddings of users and items whose loss stands for infinitely deep graph convolution.

    Mao et al., CIKM 2021 (arXiv 2110.15114). With :math:`s_{ui} = e_u \cdot e_i`,
    :math:`\zeta(x) = \log(1 + e^x)`, train degrees :math:`d` and

    .. math::
        \beta_{ui} = \frac{\sqrt{d_u + 1}}{d_u} \frac{1}{\sqrt{d_i + 1}}

    (zero where a degree is zero), the loss of a batch of pairs is

    .. math::
        L = \sum_b \Big[ (w_1 + w_2 \beta_{ui}) \zeta(-s_{ui})
            + \frac{c}{N} \sum_{k=1}^{N} (w_3 + w_4 \beta_{un_k}) \zeta(s_{un_k})
            + \lambda \sum_{k=1}^{K} \omega_{ij_k} \zeta(-s_{uj_k}) \Big]
            + \frac{\gamma}{2} \Big( \sum_u |e_u|^2 + \sum_i |e_i|^2 \Big)

    with the neighbours :math:`j_k` of :math:`i` and their weights from
    :func:`graphkit.ops.cooccurrence`. The last sum is over the whole tables at every step, so the
    optimiser must be a dense one.

    Args:
        num_users: ``U``.
        num_items: ``I``.
        dim: length of an embedding.
        w1: weight of a pair.
        w2: weight of a pair's :math:`\beta`.
        w3: weight of a negative.
        w4: weight of a negative's :math:`\beta`.
        num_negatives: :math:`N`.
        negative_weight: :math:`c`, of the mean over the negatives.
        gamma: of the squares of both tables.
        lambda_: :math:`\lambda`, of the neighbours of items.
        num_neighbours: :math:`K`.
        include_self: an item is among its own neighbours, as in the published results.
        negatives: ``sampled``: ``N`` items for each pair, as published. ``shared``: ``N`` items
            for the whole batch. ``exact``: the mean over all items, which is what the other two
            estimate; no more work than they are where ``I`` is a few times ``N``.
        sift_pos: negatives are items that the user has no training pair with.
        init_std: standard deviation of new embeddings.
        strict: refuse users and items without training pairs, which otherwise get weight zero and
            a warning.
        table: how the tables are stored; see :mod:`graphkit.nn.embedding`.

    Shapes:
        - **scores:** ``[B, I]``

    Raises:
        InputError: a number out of range, ``num_neighbours`` above ``num_items``, or ``sift_pos``
            with ``negatives="shared"``.

    Example:
        >>> from graphkit.data.interactions import Interactions
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 1]])
        >>> model = UltraGCN(3, 3, dim=4, num_neighbours=2, num_negatives=2)
        >>> model.prepare(Interactions(pairs))
        >>> batch = InteractionBatch(*pairs, torch.randint(3, (5, 2)))
        >>> model.training_loss(batch).shape, model.recommend([2], k=2)[0].shape
        (torch.Size([]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int = 64,
        w1: float = 1e-6,
        w2: float = 1.0,
        w3: float = 1e-6,
        w4: float = 1.0,
        num_negatives: int = 800,
        negative_weight: float = 300.0,
        gamma: float = 1e-4,
        lambda_: float = 5e-4,
        num_neighbours: int = 10,
        include_self: bool = True,
        negatives: Literal["sampled", "shared", "exact"] = "sampled",
        sift_pos: bool = False,
        init_std: float = 1e-4,
        strict: bool = False,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_users, num_items)
        numbers = {
            "w1": w1, "w2": w2, "w3": w3, "w4": w4, "negative_weight": negative_weight,
            "gamma": gamma, "lambda_": lambda_, "init_std": init_std,
        }  # fmt: skip
        for name, value in numbers.items():
            if not 0 <= value < math.inf:
                raise InputError(f"{name}: {value}, wanted a finite number that is not negative")
        for name, count in (("dim", dim), ("num_negatives", num_negatives)):
            if count < 1:
                raise InputError(f"{name}: {count}, wanted at least 1")
        if negatives not in NEGATIVES:
            raise InputError(
                f"negatives: {negatives!r} is not one of {', '.join(NEGATIVES)}"
                f"{nearest(negatives, NEGATIVES)}"
            )
        most = num_items - (not include_self)
        if not 0 <= num_neighbours <= most:
            raise InputError(
                f"num_neighbours: {num_neighbours}, wanted 0..{most} for {num_items} items"
            )
        if sift_pos and negatives == "shared":
            raise InputError("sift_pos: one set of negatives for all cannot leave out each user's")
        self.config |= {
            "dim": dim, **numbers, "num_negatives": num_negatives,
            "num_neighbours": num_neighbours, "include_self": include_self,
            "negatives": negatives, "sift_pos": sift_pos, "strict": strict, "table": table,
        }  # fmt: skip
        self.weights = (w1, w2, w3, w4)
        self.num_negatives, self.negative_weight = num_negatives, negative_weight
        self.gamma, self.lambda_ = gamma, lambda_
        self.num_neighbours, self.include_self = num_neighbours, include_self
        self.negatives, self.sift_pos, self.strict = negatives, sift_pos, strict
        self.sampling = Sampling(
            kind="pairs",
            num_negatives=0 if negatives == "exact" else num_negatives,
            shared=negatives == "shared",
            exclude_positives=sift_pos and negatives == "sampled",
        )

        def init(weight: Tensor) -> None:
            nn.init.normal_(weight, std=init_std)

        self.add_table("user_embedding", "user", dim, table, init)
        self.add_table("item_embedding", "item", dim, table, init)
        # They follow from the training pairs, which prepare() is given before weights are loaded.
        self.beta_user: Tensor
        self.beta_item: Tensor
        self.degree: Tensor
        self.neighbours: Tensor | None
        self.neighbour_weights: Tensor | None
        for name in ("beta_user", "beta_item", "degree", "neighbours", "neighbour_weights"):
            self.register_buffer(name, None, persistent=False)

    def prepare(self, interactions: Interactions) -> None:
        """Take the training pairs, and make the constraint weights and the item-item graph."""
        super().prepare(interactions)
        user_degree, item_degree = interactions.user_degree, interactions.item_degree
        for side, degree in (("users", user_degree), ("items", item_degree)):
            missing = (degree == 0).nonzero().flatten()
            if missing.numel():
                text = (
                    f"interactions: {missing.numel()} of {degree.numel()} {side} have no training "
                    f"pair, the first is {int(missing[0])}"
                )
                if self.strict:
                    raise InputError(f"{text}; strict=False gives them weight zero")
                warnings.warn(f"{text}; their weights are zero", stacklevel=2)
        if self.sift_pos and bool((user_degree >= self.num_items).any()):
            user = int((user_degree >= self.num_items).nonzero()[0])
            raise InputError(
                f"sift_pos: user {user} has a training pair with every item, which leaves no "
                "negatives"
            )
        beta_user, beta_item = constraint_weights(user_degree, item_degree)
        like = self.rows("item_embedding")
        self.beta_user, self.beta_item = beta_user.to(like), beta_item.to(like)
        self.degree = user_degree.to(like.device)
        if self.lambda_ and self.num_neighbours:
            neighbours, weights = cooccurrence(
                interactions.users, self.num_neighbours, include_self=self.include_self
            )
            self.neighbours = neighbours.to(like.device)
            self.neighbour_weights = weights.to(like)

    def representations(self) -> tuple[Tensor, Tensor]:
        return self.rows("user_embedding"), self.rows("item_embedding")

    def training_loss(self, batch: InteractionBatch) -> Tensor:
        """The loss above: a sum over the pairs of the batch, and the squares of both tables.

        Raises:
            InputError: no training pairs yet, or not the negatives that ``sampling`` asks for.
        """
        self.prepared()
        user, item = self.representations()
        wanted = self.sampling.num_negatives
        negatives = batch.negatives
        if wanted and (negatives is None or negatives.size(-1) != wanted):
            seen = "none" if negatives is None else list(negatives.shape)
            raise InputError(f"batch.negatives: {seen}, wanted {wanted} for each pair")
        if negatives is None or self.negatives != "sampled":
            loose = batch.users.new_empty(0)
        else:
            loose = negatives
        # The mean over the batches of a step, by their pairs, must be the sum over all its pairs.
        share = batch.whole / batch.users.numel() if batch.whole else 1.0
        loss = sampled_logistic(
            user, item, batch.users, batch.items, loose, beta_user=self.beta_user,
            beta_item=self.beta_item, weights=[w * share for w in self.weights],
            negative_weight=self.negative_weight, neighbours=self.neighbours,
            neighbour_weights=self.neighbour_weights, neighbour_scale=self.lambda_ * share,
            decay=self.gamma,
        )  # fmt: skip
        if self.negatives == "sampled":
            return loss
        return loss + share * self._dense(user, item, batch)

    def _dense(self, user: Tensor, item: Tensor, batch: InteractionBatch) -> Tensor:
        """The term of the negatives where all pairs of a batch have the same ones."""
        count = batch.users.new_full(batch.users.shape, self.num_items)
        beta_item, excluded = self.beta_item, None
        if self.negatives == "shared":
            assert batch.negatives is not None
            item, beta_item = item[batch.negatives], beta_item[batch.negatives]
            count.fill_(self.num_negatives)
        elif self.sift_pos:
            excluded = self.prepared().seen(batch.users)
            count -= self.degree[batch.users]
        return dense_logistic(
            user[batch.users], item, self.negative_weight / count.to(item), beta_item=beta_item,
            beta_user=self.beta_user[batch.users], weights=self.weights[2:], excluded=excluded,
        )  # fmt: skip


def constraint_weights(user_degree: Tensor, item_degree: Tensor) -> tuple[Tensor, Tensor]:
    r"""The factors of UltraGCN's :math:`\beta_{ui} = \beta_u \beta_i`, zero where a degree is.

    Args:
        user_degree: ``[U]``
        item_degree: ``[I]``

    Shapes:
        - **beta_user:** float64 ``[U]``
        - **beta_item:** float64 ``[I]``

    Example:
        >>> user, item = constraint_weights(torch.tensor([2, 0]), torch.tensor([1, 3]))
        >>> [round(b, 7) for b in user.tolist()], [round(b, 7) for b in item.tolist()]
        ([0.8660254, 0.0], [0.7071068, 0.5])
    """
    user, item = user_degree.double(), item_degree.double()
    beta_user = torch.where(user > 0, (user + 1).sqrt() / user.clamp(min=1), 0.0)
    return beta_user, torch.where(item > 0, 1 / (item + 1).sqrt(), 0.0)
