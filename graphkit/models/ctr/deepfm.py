"""DeepFM."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphkit.models.ctr.base import ClickModel, mlp
from graphkit.models.registry import register_model


@register_model("deepfm")
class DeepFM(ClickModel):
    r"""DeepFM as GraphHash's code has it: every number of the input is a field of its own.

    .. math::
        \text{logit} = \text{MLP}(x) + \tfrac{1}{2} \left[ (\sum_k x_k)^2 - \sum_k x_k^2 \right]

    After Guo et al., IJCAI 2017 (arXiv 1703.04247), whose fields are vectors.

    Args:
        num_users, num_items, dim, contexts, user_features, item_features, table: see
            :class:`ClickModel`.

    Shapes:
        - **users, items:** int64 ``[B]`` of the batch, and its contexts and features
        - **output:** ``[B]`` logits

    Example:
        >>> import torch
        >>> from graphkit.data.ctr import ClickBatch
        >>> ids = torch.tensor([0, 1, 2])
        >>> model = DeepFM(num_users=5, num_items=4, dim=8)
        >>> model(ClickBatch(ids, ids)).shape
        torch.Size([3])
    """

    def add_layers(self) -> None:
        self.deep = mlp(self.width, self.dim, 1, 3)

    def forward(self, batch: Any) -> Tensor:
        x = self.inputs(batch)
        deep: Tensor = self.deep(x)
        return deep[:, 0] + 0.5 * (x.sum(1).square() - x.square().sum(1))
