"""dense_logistic: the loss of users against one set of items for all, by matrix products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphkit.errors import InputError

_BLOCK = 1 << 19  # scores that are looked at together: they stay in the caches


def dense_logistic(
    user: Tensor,
    item: Tensor,
    scale: Tensor,
    *,
    beta_user: Tensor | None = None,
    beta_item: Tensor | None = None,
    weights: tuple[float, float] = (1.0, 0.0),
    excluded: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Weighted logistic loss of every user against every item as its negative.

    The negative term of UltraGCN (arXiv 2110.15114), equation 12, with the sampled mean replaced by
    a sum over given items:

    .. math::
        L = \sum_b c_b \sum_m (w_3 + w_4 \beta_b \beta_m) \log(1 + e^{e_b \cdot e_m})

    Scores exist for a block of users at a time; gradients are made together with the loss. The
    products are torch's, whose last bits may depend on the number of threads.

    Args:
        user: ``[B, d]``
        item: ``[M, d]``
        scale: ``[B]`` constants :math:`c_b`.
        beta_user: ``[B]`` constants; without them :math:`\beta` is zero.
        beta_item: ``[M]``
        weights: :math:`w_3, w_4`.
        excluded: rows of ``user`` and of ``item`` that are no pair, in ascending order of the
            former.

    Shapes:
        - **loss:** ``[]``

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> loss = dense_logistic(torch.zeros(1, 4), torch.zeros(3, 4), torch.ones(1))
        >>> round(loss.item(), 4)  # 3 log 2
        2.0794
    """
    if user.dim() != 2 or item.dim() != 2 or user.size(1) != item.size(1):
        raise InputError(
            f"item: shape {list(item.shape)}, wanted [M, d] with user {list(user.shape)}"
        )
    for name, values, size in (
        ("scale", scale, user.size(0)),
        ("beta_user", beta_user, user.size(0)),
        ("beta_item", beta_item, item.size(0)),
    ):
        if values is not None and values.shape != (size,):
            raise InputError(f"{name}: shape {list(values.shape)}, wanted [{size}]")
    if (beta_user is None) != (beta_item is None):
        missing = "beta_user" if beta_user is None else "beta_item"
        raise InputError(f"{missing}: missing, wanted both betas or neither")
    needs_grad = torch.is_grad_enabled() and (user.requires_grad or item.requires_grad)
    inputs = (user, item, scale, beta_user, beta_item, weights, excluded, needs_grad)
    if not needs_grad:
        return _sweep(*inputs)[0]
    loss: Tensor = _Dense.apply(*inputs)  # type: ignore[no-untyped-call]
    return loss


def _sweep(
    user: Tensor,
    item: Tensor,
    scale: Tensor,
    beta_user: Tensor | None,
    beta_item: Tensor | None,
    weights: tuple[float, float],
    excluded: tuple[Tensor, Tensor] | None,
    keep: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    grad_user = torch.empty_like(user) if keep else None
    grad_item = torch.zeros_like(item) if keep else None
    total = torch.zeros((), dtype=torch.float64, device=user.device)
    step = max(_BLOCK // max(item.size(0), 1), 1)
    columns = item.t()
    for begin in range(0, user.size(0), step):
        here = slice(begin, begin + step)
        rows = user[here]
        scores = rows @ columns
        weight = scale[here, None].expand(scores.shape)
        if beta_user is None or beta_item is None:
            weight = weight * weights[0]
        else:
            weight = weight * torch.outer(beta_user[here] * weights[1], beta_item).add_(weights[0])
        if excluded is not None:
            ends = torch.tensor([begin, begin + rows.size(0)], device=user.device)
            first, last = torch.searchsorted(excluded[0], ends).tolist()
            weight[excluded[0][first:last] - begin, excluded[1][first:last]] = 0
        total -= (F.logsigmoid(-scores) * weight).sum(dtype=torch.float64)
        if grad_user is not None and grad_item is not None:
            weight.mul_(scores.sigmoid_())
            torch.mm(weight, item, out=grad_user[here])
            grad_item.addmm_(weight.t(), rows)
    return total.to(user.dtype), grad_user, grad_item


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        loss, *grads = _sweep(*inputs)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        found = [
            t * grad if need else None
            for t, need in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        ]
        return *found, *[None] * 6
