"""layer_norm and dropout, and the ReLU after them, forward and backward in one pass each."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.ops import backends, cpu
from graphkit.ops.eager import is_plain

_LEAST = 1 << 12  # elements; below, torch's own dropout is as quick
_STEPS = 1 << 16
_HALF = _STEPS // 2


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    *,
    p: float = 0.0,
    training: bool = True,
    relu: bool = False,
) -> Tensor:
    r"""Normalise each row, then drop elements and rectify the rest, if asked for.

    Layer Normalization (arXiv 1607.06450), with the mean and the biased variance of each row:

    .. math::
        y = \mathrm{ReLU}\left(\mathrm{dropout}_p\left(
            \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \odot w + b \right)\right)

    On the CPU in float32 or float64 kernels read ``x`` once forward and once backward; besides
    ``x`` two numbers a row and, with dropout or ReLU, a byte per element are kept for the gradient.
    The results are the same for any number of threads. Everything else is left to torch.

    Args:
        x: ``[N, F]``, or any shape that ends with ``F``.
        weight: ``[F]``, or ``None`` for ones.
        bias: ``[F]``, or ``None`` for zeros.
        eps: added to the variance.
        p: probability of zero, as in :func:`dropout`.
        training: whether anything is dropped.
        relu: apply ReLU to the result.

    Shapes:
        - **out:** as ``x``

    Example:
        >>> layer_norm(torch.tensor([[1.0, 3.0]]), None, None, relu=True).round().tolist()
        [[0.0, 1.0]]
    """
    steps = round(p * _STEPS) if training else 0
    if not _served(x, weight, bias) or (steps and not _draws(x, steps)):
        plain = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return dropout(plain, p, training=training, relu=relu)
    words = _words(x) if steps else None
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias)
    ):
        given = (x, weight, bias, words, steps, eps, relu)
        out: Tensor = _LayerNorm.apply(*given)  # type: ignore[no-untyped-call]
        return out
    return _normalise(x, weight, bias, words, steps, eps, relu, False)[0]


def dropout(x: Tensor, p: float, *, training: bool = True, relu: bool = False) -> Tensor:
    r"""Set each element to zero with probability ``p`` in training, scale and rectify the rest.

    .. math:: y = \mathrm{ReLU}\left(\frac{b}{1 - p} x\right), \qquad
        b \sim \mathrm{Bernoulli}(1 - p)

    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15,
    2014. torch's generator on the CPU takes longer per number than everything else in a small
    network; four elements share one of its 64-bit numbers here. ``p`` is rounded to a multiple of
    1/65536 and the scale follows. On the CPU in float32 or float64 one pass forward and one
    backward do it, and a byte per element is kept; the half types draw the same bits in torch's
    ops. Elsewhere, below 4,096 elements, and where a transform or a compiler looks on, this is
    torch's own dropout.

    Args:
        x: any shape, floating point.
        p: probability of zero.
        training: whether anything is dropped.
        relu: apply ReLU to the result.

    Shapes:
        - **out:** as ``x``

    Raises:
        ValueError: ``p`` outside of [0, 1] in training (torch's own error).

    Example:
        >>> dropout(torch.tensor([-1.0, 2.0]), 0.0, relu=True).tolist()
        [0.0, 2.0]
    """
    steps = round(p * _STEPS) if training else 0
    if not _draws(x, steps):
        if training:  # a copy even where nothing is dropped, as in torch
            x = F.dropout(x, p)
        return torch.relu(x) if relu else x
    words = _words(x)
    if not _fused(x):
        keep = (words[: x.numel()] >= steps - _HALF).view(x.shape)
        # A product: torch.where takes five times as long on the CPU.
        out = x * keep * _scale(steps)
        return torch.relu(out) if relu else out
    if torch.is_grad_enabled() and x.requires_grad:
        dropped: Tensor = _Drop.apply(x, words, steps, relu)  # type: ignore[no-untyped-call]
        return dropped
    return _drop(x, words, steps, relu, False)[0]


def _draws(x: Tensor, steps: int) -> bool:
    """Whether elements are dropped by our own random bits."""
    # Sizes come last: what is traced for any size (torch.export) must not ask for them.
    return 0 < steps < _STEPS and is_plain(x) and x.is_floating_point() and x.numel() >= _LEAST


def _words(x: Tensor) -> Tensor:
    # From the smallest number and without an end: all 64 bits are drawn.
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    return words.random_(-(2**63), None).view(torch.int16)


def _scale(steps: int) -> float:
    return _STEPS / (_STEPS - steps)


def _fused(x: Tensor) -> bool:
    return (
        x.dtype in (torch.float32, torch.float64)
        and x.layout is torch.strided
        and backends.current(x.device) == "native"
        and not torch.is_autocast_enabled("cpu")
    )


def _served(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether the kernels take this; they must be able to trust sizes and layouts."""
    return (
        is_plain(x, weight, bias)
        and _fused(x)
        and x.dim() >= 1
        and x.numel() > 0
        and all(
            t is None or (t.dtype == x.dtype and t.shape == x.shape[-1:] and t.is_contiguous())
            for t in (weight, bias)
        )
    )


def _normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    words: Tensor | None,
    steps: int,
    eps: float,
    relu: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output, mean and 1 / std of each row and, with ``keep``, where the gradient passes."""
    rows, ldx = cpu.rows(x.reshape(-1, x.size(-1)))
    out, stats = cpu.empty(x, x.shape), x.new_empty((rows.size(0), 2))
    passes = _bytes(x) if keep and (relu or words is not None) else None
    assert cpu.kernels is not None
    cpu.kernels.layer_norm_forward(
        cpu.DTYPES[x.dtype], relu, eps, rows.size(0), rows.size(1), rows.data_ptr(), ldx,
        cpu.address(weight), cpu.address(bias), cpu.address(words), steps - _HALF, _scale(steps),
        out.data_ptr(), stats.data_ptr(), cpu.address(passes), cpu.threads(),
    )  # fmt: skip
    return out, stats, passes


def _drop(
    x: Tensor, words: Tensor, steps: int, relu: bool, keep: bool
) -> tuple[Tensor, Tensor | None]:
    x = x.contiguous()
    out, passes = cpu.empty(x, x.shape), _bytes(x) if keep else None
    assert cpu.kernels is not None
    cpu.kernels.drop_forward(
        cpu.DTYPES[x.dtype], relu, x.numel(), x.data_ptr(), words.data_ptr(), steps - _HALF,
        _scale(steps), out.data_ptr(), cpu.address(passes), cpu.threads(),
    )  # fmt: skip
    return out, passes


def _bytes(x: Tensor) -> Tensor:
    return cpu.empty(x.new_empty(0, dtype=torch.uint8), x.shape)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        words: Tensor | None,
        steps: int,
        eps: float,
        relu: bool,
    ) -> Tensor:
        out, stats, passes = _normalise(x, weight, bias, words, steps, eps, relu, True)
        ctx.save_for_backward(x, weight, stats, passes)
        ctx.options = (_scale(steps), relu, eps)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, stats, passes = ctx.saved_tensors
        scale, relu, eps = ctx.options
        if torch.is_grad_enabled() or not is_plain(grad):  # a gradient of the gradient is wanted
            grad = grad if passes is None else _passed(grad, passes, scale, relu)
            grads = _differentiable_backward(grad, x, weight, eps)
        else:
            need_x = ctx.needs_input_grad[0]
            grads = _backward(grad, x, weight, stats, passes, scale, relu, need_x)
        wanted = (g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False))
        return *wanted, None, None, None, None


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    passes: Tensor | None,
    scale: float,
    relu: bool,
    need_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    rows, ldx = cpu.rows(x.reshape(-1, x.size(-1)))
    grad, ldg = cpu.rows(grad.reshape(-1, x.size(-1)))
    grad_x = cpu.empty(x, x.shape) if need_x else None
    grad_weight, grad_bias = x.new_empty(x.size(-1)), x.new_empty(x.size(-1))
    assert cpu.kernels is not None
    cpu.kernels.layer_norm_backward(
        cpu.DTYPES[x.dtype], relu, rows.size(0), rows.size(1), rows.data_ptr(), ldx,
        cpu.address(weight), stats.data_ptr(), cpu.address(passes), scale, grad.data_ptr(), ldg,
        cpu.address(grad_x), grad_weight.data_ptr(), grad_bias.data_ptr(), cpu.threads(),
    )  # fmt: skip
    return grad_x, grad_weight, grad_bias


def _passed(grad: Tensor, passes: Tensor, scale: float, relu: bool) -> Tensor:
    """What ReLU stops is zero whatever the gradient is; what dropout stops is a product."""
    return torch.where(passes != 0, grad * scale, 0) if relu else grad * passes * scale


def _differentiable_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The same in torch's ops, from ``x`` instead of the statistics, which carry no gradient."""
    centred = x - x.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    xhat = centred * inverse
    width = x.size(-1)
    grad_weight = (grad * xhat).reshape(-1, width).sum(0)
    grad_bias = grad.reshape(-1, width).sum(0)
    h = grad if weight is None else grad * weight
    slope = (h * xhat).mean(-1, keepdim=True)
    grad_x = inverse * (h - h.mean(-1, keepdim=True) - xhat * slope)
    return grad_x, grad_weight, grad_bias


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, words: Tensor, steps: int, relu: bool) -> Tensor:
        out, passes = _drop(x, words, steps, relu, True)
        ctx.save_for_backward(passes)
        ctx.scale, ctx.relu = _scale(steps), relu
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (passes,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(grad):
            return _passed(grad, passes, ctx.scale, ctx.relu), None, None, None
        grad = grad.contiguous()
        out = cpu.empty(grad, grad.shape)
        assert cpu.kernels is not None
        cpu.kernels.drop_backward(
            cpu.DTYPES[grad.dtype], ctx.relu, grad.numel(), grad.data_ptr(), passes.data_ptr(),
            ctx.scale, out.data_ptr(), cpu.threads(),
        )  # fmt: skip
        return out, None, None, None
