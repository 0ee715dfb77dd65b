"""The specification of sampled_logistic in plain torch: every row that a pair meets is gathered."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled_logistic(
    user: Tensor,
    item: Tensor,
    users: Tensor,
    items: Tensor,
    negatives: Tensor,
    beta_user: Tensor | None,
    beta_item: Tensor | None,
    weights: tuple[float, float, float, float],
    negative_weight: float,
    neighbours: Tensor | None,
    neighbour_weights: Tensor | None,
    neighbour_scale: float,
    decay: float,
) -> Tensor:
    """Return the loss; autograd has its gradients."""
    w1, w2, w3, w4 = weights  # of log(1 + e^x), which F.softplus rounds off beyond 20
    users, items = users.long(), items.long()
    negatives = negatives.long().expand(users.numel(), -1)
    e = user[users]

    def beta(others: Tensor) -> Tensor:
        if beta_user is None or beta_item is None:
            return torch.zeros(others.shape, dtype=e.dtype, device=e.device)
        shape = [-1] + [1] * (others.dim() - 1)
        return beta_user[users].view(shape) * beta_item[others]

    positive = (e * item[items]).sum(-1)
    loss = ((w1 + w2 * beta(items)) * -F.logsigmoid(positive)).sum()
    if negatives.size(1):
        scores = (e[:, None] * item[negatives]).sum(-1)
        each = (w3 + w4 * beta(negatives)) * -F.logsigmoid(-scores)
        loss = loss + negative_weight * each.sum() / negatives.size(1)
    if neighbours is not None and neighbour_weights is not None:
        near = neighbours[items].long()
        scores = (e[:, None] * item[near]).sum(-1)
        loss = loss + neighbour_scale * (neighbour_weights[items] * -F.logsigmoid(scores)).sum()
    if decay:
        loss = loss + decay / 2 * (user.square().sum() + item.square().sum())
    return loss
