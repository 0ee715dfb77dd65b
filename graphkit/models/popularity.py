"""Most popular: the same ranking for everybody."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.models.recommender import InteractionBatch, Recommender, Scorer
from graphkit.models.registry import register_model


@register_model("most_popular")
class MostPop(Recommender):
    r"""Rank items by the number of users they have a training pair with; nothing is trained.

    .. math:: s(u, i) = d_i

    The baseline that every recommender should beat (Cremonesi, Koren, Turrin: "Performance of
    Recommender Algorithms on Top-N Recommendation Tasks", RecSys 2010).

    Args:
        num_users: ``U``.
        num_items: ``I``.

    Raises:
        InputError: a number below 1.

    Example:
        >>> from graphkit.data import Interactions
        >>> model = MostPop(num_users=2, num_items=3)
        >>> model.prepare(Interactions(torch.tensor([[0, 1, 1], [2, 2, 0]])))
        >>> model.recommend([0, 1], k=1)[0].tolist()
        [[0], [1]]
    """

    def scorer(self) -> Scorer:
        degree = self.prepared().item_degree
        return lambda users: degree.to(users.device, torch.float32).repeat(users.numel(), 1)

    def representations(self) -> tuple[Tensor, Tensor]:
        """One dimension: 1 for a user, the number of pairs for an item."""
        degree = self.prepared().item_degree.float()[:, None]
        return torch.ones(self.num_users, 1), degree

    def training_loss(self, batch: InteractionBatch) -> Tensor:
        """Zero: there is nothing to learn."""
        return torch.zeros(())
