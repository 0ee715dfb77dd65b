"""batch_norm: normalise the columns of a batch, and ReLU with it, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.ops import backends, cpu
from graphkit.ops.eager import is_plain


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
) -> Tensor:
    r"""Batch normalisation over the rows, as :func:`torch.nn.functional.batch_norm`, and ReLU.

    Batch Normalization (arXiv 1502.03167), with the mean and the biased variance of each column:

    .. math::
        y = \mathrm{ReLU}\left(
            \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \odot w + b \right)

    Training on the CPU in float32 or float64 goes through kernels that read ``x`` twice forward
    and twice backward; besides ``x`` itself only the statistics, one row each, are kept for the
    gradient. Everything else is left to torch. The running statistics move as torch moves them.

    Args:
        x: ``[N, F]``, or any shape that torch takes.
        weight: ``[F]``, or ``None`` for ones.
        bias: ``[F]``, or ``None`` for zeros.
        running_mean: ``[F]``, updated in training, read otherwise; ``None`` keeps none.
        running_var: ``[F]``, likewise, with the unbiased variance.
        training: use the statistics of ``x``.
        momentum: share of ``x`` in the new running statistics.
        eps: added to the variance.
        relu: apply ReLU to the result.

    Shapes:
        - **out:** as ``x``

    Raises:
        ValueError: training on a single row, or ``eps`` not above zero (torch's own errors).

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm(x, None, None, None, None, training=True, relu=True).round().tolist()
        [[0.0], [1.0]]
    """
    vectors = (weight, bias, running_mean, running_var)
    if not (training and eps > 0 and _served(x, vectors)):
        out = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return torch.relu(out) if relu else out
    stats = x.new_empty((4, x.size(1)))
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias)
    ):
        out = _BatchNorm.apply(x, weight, bias, stats, eps, relu)  # type: ignore[no-untyped-call]
    else:
        out = _forward(x, weight, bias, stats, eps, relu)
    if running_mean is not None:
        running_mean.lerp_(stats[0], momentum)
    if running_var is not None:
        running_var.lerp_(stats[3], momentum)
    return out


def _served(x: Tensor, vectors: tuple[Tensor | None, ...]) -> bool:
    """Whether the kernels take this; they must be able to trust sizes and layouts."""
    return (
        is_plain(x, *vectors)
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 2
        and x.size(0) > 1
        and x.size(1) > 0
        and all(
            t is None or (t.dtype == x.dtype and t.shape == x.shape[1:] and t.is_contiguous())
            for t in vectors
        )
        and backends.current(x.device) == "native"
        and not torch.is_autocast_enabled("cpu")
    )


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, stats: Tensor, eps: float, relu: bool
) -> Tensor:
    rows, ldx = cpu.rows(x)
    out = cpu.empty(x, x.shape)
    assert cpu.kernels is not None
    cpu.kernels.batch_norm_forward(
        cpu.DTYPES[x.dtype], relu, eps, x.size(0), x.size(1), rows.data_ptr(), ldx,
        cpu.address(weight), cpu.address(bias), out.data_ptr(), stats.data_ptr(), cpu.threads(),
    )  # fmt: skip
    return out


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        stats: Tensor,
        eps: float,
        relu: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, stats)
        ctx.options = (eps, relu)
        return _forward(x, weight, bias, stats, eps, relu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, bias, stats = ctx.saved_tensors
        eps, relu = ctx.options
        if torch.is_grad_enabled() or not is_plain(grad):  # a gradient of the gradient is wanted
            grads = _differentiable_backward(grad, x, weight, bias, eps, relu)
        else:
            need_x = ctx.needs_input_grad[0]
            grads = _backward(grad, x, weight, bias, stats, relu, need_x)
        wanted = (g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False))
        return *wanted, None, None, None


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    relu: bool,
    need_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    rows, ldx = cpu.rows(x)
    grad, ldg = cpu.rows(grad)
    grad_x = cpu.empty(x, x.shape) if need_x else None
    grad_weight, grad_bias = x.new_empty(x.size(1)), x.new_empty(x.size(1))
    assert cpu.kernels is not None
    cpu.kernels.batch_norm_backward(
        cpu.DTYPES[x.dtype], relu, x.size(0), x.size(1), rows.data_ptr(), ldx,
        cpu.address(weight), cpu.address(bias), stats.data_ptr(), grad.data_ptr(), ldg,
        cpu.address(grad_x), grad_weight.data_ptr(), grad_bias.data_ptr(), cpu.threads(),
    )  # fmt: skip
    return grad_x, grad_weight, grad_bias


def _differentiable_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The same in torch's ops, from ``x`` instead of the statistics, which carry no gradient."""
    centred = x - x.mean(0)
    inverse = (centred.square().mean(0) + eps).rsqrt()
    xhat = centred * inverse
    if relu:
        z = xhat if weight is None else xhat * weight
        z = z if bias is None else z + bias
        grad = torch.where(z <= 0, 0, grad)
    grad_weight, grad_bias = (grad * xhat).sum(0), grad.sum(0)
    scale = inverse if weight is None else inverse * weight
    grad_x = scale * (grad - (grad_bias + xhat * grad_weight) / x.size(0))
    return grad_x, grad_weight, grad_bias
