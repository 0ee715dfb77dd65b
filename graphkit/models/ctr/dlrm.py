"""DLRM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.models.ctr.base import ClickModel, mlp
from graphkit.models.registry import register_model


@register_model("dlrm")
class DLRM(ClickModel):
    r"""DLRM: vectors and the perceptrons of dense features side by side, then a perceptron.

    Naumov et al., 2019 (arXiv 1906.00091), in the form of GraphHash (arXiv 2412.17245), which has
    no layer of pairwise products.

    Args:
        num_users, num_items, dim, contexts, user_features, item_features, table: see
            :class:`ClickModel`.

    Shapes:
        - **users, items:** int64 ``[B]`` of the batch, and its contexts and features
        - **output:** ``[B]`` logits

    Example:
        >>> from graphkit.data.ctr import ClickBatch
        >>> ids = torch.tensor([0, 1, 2])
        >>> model = DLRM(num_users=5, num_items=4, dim=8)
        >>> model(ClickBatch(ids, ids)).shape
        torch.Size([3])
    """

    def add_layers(self) -> None:
        towers = {"user": self.user_features, "item": self.item_features}
        self.towers = nn.ModuleList(
            mlp(size, 2 * self.dim, self.dim, 2) for size in towers.values() if size
        )
        parts = 2 + len(self.context_tables) + len(self.towers)
        self.out = mlp(parts * self.dim, 2 * self.dim, 1, 2)

    def forward(self, batch: Any) -> Tensor:
        dense = [
            tower(value) for tower, value in zip(self.towers, self.features(batch), strict=True)
        ]
        logits: Tensor = self.out(torch.cat([*self.vectors(batch), *dense], dim=1))
        return logits[:, 0]
