"""Wide & Deep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.models.ctr.base import ClickModel, mlp
from graphkit.models.registry import register_model


@register_model("wide_deep")
class WideDeep(ClickModel):
    r"""Wide & Deep: a linear map and a perceptron of the same input, joined by a linear map.

    .. math::
        \text{logit} = w^T [W x; \text{MLP}(x)] + b

    Cheng et al., DLRS 2016 (arXiv 1606.07792), in the sizes of GraphHash (arXiv 2412.17245).

    Args:
        num_users, num_items, dim, contexts, user_features, item_features, table: see
            :class:`ClickModel`.

    Shapes:
        - **users, items:** int64 ``[B]`` of the batch, and its contexts and features
        - **output:** ``[B]`` logits

    Example:
        >>> from graphkit.data.ctr import ClickBatch
        >>> ids = torch.tensor([0, 1, 2])
        >>> model = WideDeep(num_users=5, num_items=4, dim=8)
        >>> model(ClickBatch(ids, ids)).shape
        torch.Size([3])
    """

    def add_layers(self) -> None:
        self.wide = nn.Linear(self.width, self.dim)
        self.deep = mlp(self.width, 2 * self.dim, self.dim, 3)
        self.out = nn.Linear(2 * self.dim, 1)

    def forward(self, batch: Any) -> Tensor:
        x = self.inputs(batch)
        logits: Tensor = self.out(torch.cat([self.wide(x), self.deep(x)], dim=1))
        return logits[:, 0]
