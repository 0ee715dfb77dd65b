"""linear: the dense map of many rows, on whichever product is quicker, in memory that is kept."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import cpu
from graphkit.ops.eager import is_plain

_MOST = 1 << 18  # weights; beyond, a product is no longer tall and thin
_LEAST = 1 << 23  # multiplications, below which the two take the same time
_PADDING = 1.6  # a product computes whole panels of outputs; more of them than this is a waste


def _whose() -> bool:
    """Whether products are ours: by GRAPHKIT_DENSE, or where torch's BLAS is the slower one."""
    asked = os.environ.get("GRAPHKIT_DENSE", "auto")
    if asked not in ("auto", "own", "torch"):
        raise InputError(f"GRAPHKIT_DENSE: {asked!r}, wanted 'auto', 'own' or 'torch'")
    if cpu.kernels is None or asked == "torch":
        return False
    return asked == "own" or bool(cpu.kernels.dense_is_faster())


_own = _whose()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""The dense map :math:`y = x W^\top + b`, as :func:`torch.nn.functional.linear`.

    For the tall and thin matrices of graph layers torch's BLAS reaches half of the arithmetic of
    AMD's processors; there the products are kernels of our own, on others they are torch's
    (``GRAPHKIT_DENSE=own`` or ``torch`` decides otherwise). Results of more than 8 MB, gradients
    included, reuse the memory of earlier ones: a new ``[N, F]`` tensor of a full graph spends as
    long in page faults as in arithmetic.

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
    ours = (
        x.dim() == 2
        and x.dtype in (torch.float32, torch.float64)
        and weight.dim() == 2
        and x.size(1) == weight.size(1)
        and x.dtype == weight.dtype
        and (bias is None or (bias.dtype == x.dtype and bias.shape == weight.shape[:1]))
        and is_plain(x, weight, bias)
        and not torch.is_autocast_enabled("cpu")
    )
    if not ours:
        return F.linear(x, weight, bias)
    work = x.size(0) * weight.numel()
    own = _own and work >= _LEAST and 0 < weight.numel() <= _MOST
    large = max(x.numel(), x.size(0) * weight.size(0)) * x.element_size() >= cpu.LARGE
    if not (own or large):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _map(x, weight, bias, own)
    out: Tensor = _Linear.apply(x, weight, bias, own)  # type: ignore[no-untyped-call]
    return out


def _map(x: Tensor, weight: Tensor, bias: Tensor | None, own: bool) -> Tensor:
    out = cpu.empty(x, (x.size(0), weight.size(0)))
    if own and _fills_panels(x, weight.size(0)):
        _own_product(x, weight, bias, True, out)
    elif bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)
    return out


def _fills_panels(x: Tensor, outputs: int) -> bool:
    assert cpu.kernels is not None
    panel = cpu.kernels.dense_panel(cpu.DTYPES[x.dtype])
    return bool(-(-outputs // panel) * panel <= _PADDING * outputs)


def _own_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, out: Tensor
) -> None:
    x, ldx = cpu.rows(x)
    weight, ldw = cpu.rows(weight)
    bias = None if bias is None else bias.contiguous()
    assert cpu.kernels is not None
    cpu.kernels.dense_map(
        cpu.DTYPES[x.dtype], transposed, x.size(0), x.size(1), out.size(1), x.data_ptr(), ldx,
        weight.data_ptr(), ldw, cpu.address(bias), out.data_ptr(), out.size(1), cpu.threads(),
    )  # fmt: skip


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, own: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.own = own
        return _map(x, weight, bias, own)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        # A gradient of the gradient may be asked for, or many at once: in torch's own products.
        direct = is_plain(grad) and not torch.is_grad_enabled()
        own = direct and ctx.own
        if need_x and own and _fills_panels(x, x.size(1)):
            grad_x = cpu.empty(x, x.shape)
            _own_product(grad, weight, None, False, grad_x)
        elif need_x:
            grad_x = torch.mm(grad, weight, out=cpu.empty(x, x.shape)) if direct else grad @ weight
        if own and need_weight:
            grad_weight, grad_bias = _own_gradients(x, weight, grad, need_bias)
        else:
            grad_weight = grad.mT @ x if need_weight else None
            grad_bias = grad.sum(0) if need_bias else None
        return grad_x, grad_weight, grad_bias, None


def _own_gradients(
    x: Tensor, weight: Tensor, grad: Tensor, need_bias: bool
) -> tuple[Tensor, Tensor | None]:
    x, ldx = cpu.rows(x)
    grad, ldg = cpu.rows(grad)
    grad_weight = x.new_empty(weight.shape)
    grad_bias = x.new_empty(weight.size(0)) if need_bias else None
    assert cpu.kernels is not None
    cpu.kernels.dense_gradient(
        cpu.DTYPES[x.dtype], x.size(0), x.size(1), grad.size(1), x.data_ptr(), ldx, grad.data_ptr(),
        ldg, grad_weight.data_ptr(), cpu.address(grad_bias), cpu.threads(),
    )  # fmt: skip
    return grad_weight, grad_bias


@torch.no_grad()
def product(x: Tensor, weight: Tensor) -> Tensor:
    """The product of two matrices without gradients, bitwise the same for any number of threads.

    BLAS libraries share the sum over ``in`` among threads where a matrix is narrow.

    Args:
        x: ``[N, in]``
        weight: ``[in, out]``

    Shapes:
        - **out:** ``[N, out]``

    Example:
        >>> product(torch.tensor([[1.0, 2.0]]), torch.eye(2)).tolist()
        [[1.0, 2.0]]
    """
    good = x.dim() == 2 and weight.dim() == 2 and x.size(1) == weight.size(0)
    if not good or x.dtype != weight.dtype:
        raise InputError(
            f"x, weight: {x.dtype} {list(x.shape)} and {weight.dtype} {list(weight.shape)}, wanted "
            "[N, in] and [in, out] of one type"
        )
    if cpu.kernels is None or x.dtype not in (torch.float32, torch.float64) or x.is_cuda:
        return x @ weight
    out = cpu.empty(x, (x.size(0), weight.size(1)))
    if out.numel() and x.size(1):
        _own_product(x, weight, None, False, out)
        return out
    return out.zero_()
