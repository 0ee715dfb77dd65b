"""linear: torch's dense map, its large results in memory that is kept from step to step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.ops import cpu
from graphkit.ops.eager import is_plain


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""The dense map :math:`y = x W^\top + b`, as :func:`torch.nn.functional.linear`.

    The products are torch's own. What differs is where large results live on the CPU: a new
    ``[N, F]`` tensor of a full graph spends as long in page faults as in arithmetic, so results of
    more than 8 MB, gradients included, reuse the memory of earlier ones.

    Args:
        x: ``[N, in]``, or any shape that ends with ``in``.
        weight: ``[out, in]``
        bias: ``[out]``

    Shapes:
        - **out:** ``[N, out]``

    Example:
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).tolist()
        [[11.0]]
    """
    large = (
        x.dim() == 2
        and x.dtype in (torch.float32, torch.float64)
        and x.dtype == weight.dtype
        and max(x.numel(), x.size(0) * weight.size(0)) * x.element_size() >= cpu.LARGE
        and is_plain(x, weight, bias)
        and not torch.is_autocast_enabled("cpu")
    )
    if not large:
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _product(x, weight, bias)
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = cpu.empty(x, (x.size(0), weight.size(0)))
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_x = grad_weight = None
        if need_x and (torch.is_grad_enabled() or not is_plain(grad)):
            grad_x = grad @ weight  # a gradient of the gradient will be asked for
        elif need_x:
            grad_x = torch.mm(grad, weight, out=cpu.empty(x, x.shape))
        if need_weight:
            grad_weight = grad.mT @ x
        return grad_x, grad_weight, grad.sum(0) if need_bias else None
