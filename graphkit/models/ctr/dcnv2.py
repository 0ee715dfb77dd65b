"""DCN-V2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.models.ctr.base import ClickModel, mlp
from graphkit.models.registry import register_model


@register_model("dcnv2")
class DCNv2(ClickModel):
    r"""DCN-V2: cross layers beside a perceptron.

    .. math::
        x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l

    Wang et al., WWW 2021 (arXiv 2008.13535), in the sizes of GraphHash (arXiv 2412.17245): two
    cross layers of full rank, their matrices Xavier-normal.

    Args:
        num_users, num_items, dim, contexts, user_features, item_features, table: see
            :class:`ClickModel`.

    Shapes:
        - **users, items:** int64 ``[B]`` of the batch, and its contexts and features
        - **output:** ``[B]`` logits

    Example:
        >>> from graphkit.data.ctr import ClickBatch
        >>> ids = torch.tensor([0, 1, 2])
        >>> model = DCNv2(num_users=5, num_items=4, dim=8)
        >>> model(ClickBatch(ids, ids)).shape
        torch.Size([3])
    """

    def add_layers(self) -> None:
        self.cross = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(2))
        for layer in self.cross:
            nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.deep = mlp(self.width, 2 * self.dim, self.dim, 3)
        self.out = nn.Linear(self.width + self.dim, 1, bias=False)

    def forward(self, batch: Any) -> Tensor:
        first = x = self.inputs(batch)
        deep = self.deep(first)
        for layer in self.cross:
            x = first * layer(x) + x
        logits: Tensor = self.out(torch.cat([x, deep], dim=1))
        return logits[:, 0]
