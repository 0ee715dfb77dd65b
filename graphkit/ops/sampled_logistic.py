"""sampled_logistic: UltraGCN's loss and its gradients in one sweep over pairs and negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import backends, cpu, reference_sampled_logistic
from graphkit.ops.eager import is_plain

_DTYPES = (torch.float32, torch.float64)
_IDS = (torch.int32, torch.int64)


def sampled_logistic(
    user: Tensor,
    item: Tensor,
    users: Tensor,
    items: Tensor,
    negatives: Tensor,
    *,
    beta_user: Tensor | None = None,
    beta_item: Tensor | None = None,
    weights: Sequence[float] = (1.0, 0.0, 1.0, 0.0),
    negative_weight: float = 1.0,
    neighbours: Tensor | None = None,
    neighbour_weights: Tensor | None = None,
    neighbour_scale: float = 1.0,
    decay: float = 0.0,
) -> Tensor:
    r"""Weighted logistic loss of user-item pairs against sampled negatives.

    UltraGCN (arXiv 2110.15114), equations 12 to 15: with :math:`s_{ui} = e_u \cdot e_i`,
    :math:`\beta_{ui} = \beta_u \beta_i`, :math:`\zeta(x) = \log(1 + e^x)`, the negatives
    :math:`n_{bk}` and the neighbours :math:`j_{ik}` of an item,

    .. math::
        L = \sum_b \Big[ (w_1 + w_2 \beta_{u_b i_b}) \zeta(-s_{u_b i_b})
            + \frac{c}{N} \sum_{k=1}^{N} (w_3 + w_4 \beta_{u_b n_{bk}}) \zeta(s_{u_b n_{bk}})
            + \lambda \sum_{k=1}^{K} \omega_{i_b k} \zeta(-s_{u_b j_{i_b k}}) \Big]
            + \frac{\gamma}{2} \Big( \sum_u |e_u|^2 + \sum_i |e_i|^2 \Big)

    Scores, weights and gathered rows exist in registers only; what is kept for the gradients of
    the items is one coefficient per item that a pair meets. Gradients are made together with the
    loss, so ``backward`` only multiplies them. Results are bitwise the same for any number of
    threads. Weights and betas are constants: they get no gradients.

    Args:
        user: ``[U, d]`` rows :math:`e_u`, float32 or float64.
        item: ``[I, d]`` rows :math:`e_i`.
        users: ``[B]`` users of the pairs, int32 or int64.
        items: ``[B]`` their items.
        negatives: ``[B, N]`` items that count as negatives of each pair, or ``[N]`` for all; none
            with ``N = 0``.
        beta_user: ``[U]`` values :math:`\beta_u`; without them :math:`\beta` is zero.
        beta_item: ``[I]`` values :math:`\beta_i`.
        weights: :math:`w_1, w_2, w_3, w_4`.
        negative_weight: :math:`c`, of the mean over the negatives.
        neighbours: ``[I, K]`` items :math:`j_{ik}`, int32 or int64, or ``None``.
        neighbour_weights: ``[I, K]`` weights :math:`\omega_{ik}`.
        neighbour_scale: :math:`\lambda`.
        decay: :math:`\gamma`, of the squares of both whole tables.

    Shapes:
        - **loss:** ``[]``

    Raises:
        InputError: a tensor whose shape, dtype or device does not fit, a factor that is negative
            or not finite, or an id outside its table.

    Example:
        >>> user, item = torch.zeros(2, 4), torch.zeros(3, 4)
        >>> loss = sampled_logistic(
        ...     user, item, torch.tensor([0]), torch.tensor([0]), torch.tensor([[1, 2]])
        ... )
        >>> round(loss.item(), 4)  # log 2 for the pair and for the mean of its negatives
        1.3863
    """
    factors = _factors(weights, negative_weight, neighbour_scale, decay)
    _check(user, item, users, items, negatives, beta_user, beta_item, factors)
    _check_neighbours(item, neighbours, neighbour_weights)
    if neighbours is not None and not neighbours.size(1):
        neighbours = neighbour_weights = None
    name = backends.current(user.device)
    # The CPU kernels look for themselves, when the values are there to be looked at.
    if name != "native" or user.device.type != "cpu":
        _check_ids(user, item, users, items, negatives, neighbours)
    if name in ("reference", "torch_scatter"):
        return reference_sampled_logistic.sampled_logistic(
            user, item, users, items, negatives, beta_user, beta_item,
            (factors[0], factors[1], factors[2], factors[3]), negative_weight, neighbours,
            neighbour_weights, neighbour_scale, decay,
        )  # fmt: skip
    tables = (user, item)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tables)
    inputs = (
        user, item, users, items, negatives, beta_user, beta_item, neighbours, neighbour_weights,
        factors, needs_grad,
    )  # fmt: skip
    run: Any = _logistic
    if is_plain(*inputs[:9]):
        run = _Eager.apply if needs_grad else _sweep
    loss: Tensor = run(*inputs)[0]
    return loss


def _factors(
    weights: Sequence[float], negative_weight: float, neighbour_scale: float, decay: float
) -> list[float]:
    if len(weights) != 4:
        raise InputError(f"weights: {len(weights)} of them, wanted w1, w2, w3, w4")
    named = {f"weights[{i}]": w for i, w in enumerate(weights)}
    named |= {
        "negative_weight": negative_weight,
        "neighbour_scale": neighbour_scale,
        "decay": decay,
    }
    for name, value in named.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name}: {value}, wanted a finite number that is not negative")
    return [float(value) for value in named.values()]


def _check(
    user: Tensor,
    item: Tensor,
    users: Tensor,
    items: Tensor,
    negatives: Tensor,
    beta_user: Tensor | None,
    beta_item: Tensor | None,
    factors: list[float],
) -> None:
    if user.dim() != 2:
        raise InputError(f"user: shape {list(user.shape)}, wanted [U, d]")
    if user.dtype not in _DTYPES:
        raise InputError(f"user: dtype {user.dtype}, wanted float32 or float64")
    if item.dim() != 2 or item.size(1) != user.size(1):
        raise InputError(f"item: shape {list(item.shape)}, wanted [I, {user.size(1)}]")
    if item.dtype != user.dtype:
        raise InputError(f"item: dtype {item.dtype}, wanted {user.dtype} as user")
    if users.dim() != 1:
        raise InputError(f"users: shape {list(users.shape)}, wanted [B]")
    if users.dtype not in _IDS:
        raise InputError(f"users: dtype {users.dtype}, wanted int32 or int64")
    if items.shape != users.shape:
        raise InputError(f"items: shape {list(items.shape)}, wanted [{users.numel()}]")
    if negatives.dim() not in (1, 2) or negatives.shape[:-1] not in ((), (users.numel(),)):
        raise InputError(
            f"negatives: shape {list(negatives.shape)}, wanted [{users.numel()}, N] or [N]"
        )
    for name, ids in (("items", items), ("negatives", negatives)):
        if ids.dtype != users.dtype:
            raise InputError(f"{name}: dtype {ids.dtype}, wanted {users.dtype} as users")
    if (beta_user is None) != (beta_item is None):
        missing = "beta_user" if beta_user is None else "beta_item"
        raise InputError(f"{missing}: missing, wanted both betas or neither")
    if beta_user is None and (factors[1] or factors[3]):
        raise InputError("beta_user: missing, but the second or fourth of the weights is not zero")
    for name, beta, table in (("beta_user", beta_user, user), ("beta_item", beta_item, item)):
        if beta is None:
            continue
        if beta.shape != table.shape[:1]:
            raise InputError(f"{name}: shape {list(beta.shape)}, wanted [{table.size(0)}]")
        _constant(name, beta, user)
    tensors = {"item": item, "users": users, "items": items, "negatives": negatives}
    for name, tensor in tensors.items():
        if tensor.device != user.device:
            raise InputError(f"{name}: on {tensor.device}, wanted {user.device} as user")


def _constant(name: str, tensor: Tensor, user: Tensor) -> None:
    if tensor.dtype != user.dtype:
        raise InputError(f"{name}: dtype {tensor.dtype}, wanted {user.dtype} as user")
    if tensor.device != user.device:
        raise InputError(f"{name}: on {tensor.device}, wanted {user.device} as user")
    if tensor.requires_grad:
        raise InputError(f"{name}: requires a gradient, wanted a constant")


def _check_neighbours(
    item: Tensor, neighbours: Tensor | None, neighbour_weights: Tensor | None
) -> None:
    if neighbours is None and neighbour_weights is None:
        return
    if neighbours is None or neighbour_weights is None:
        missing = "neighbours" if neighbours is None else "neighbour_weights"
        raise InputError(f"{missing}: missing, wanted neighbours with their weights or neither")
    if neighbours.dim() != 2 or neighbours.size(0) != item.size(0):
        raise InputError(f"neighbours: shape {list(neighbours.shape)}, wanted [{item.size(0)}, K]")
    if neighbours.dtype not in _IDS:
        raise InputError(f"neighbours: dtype {neighbours.dtype}, wanted int32 or int64")
    if neighbours.device != item.device:
        raise InputError(f"neighbours: on {neighbours.device}, wanted {item.device} as item")
    if neighbour_weights.shape != neighbours.shape:
        raise InputError(
            f"neighbour_weights: shape {list(neighbour_weights.shape)}, "
            f"wanted {list(neighbours.shape)}"
        )
    _constant("neighbour_weights", neighbour_weights, item)


def _check_ids(
    user: Tensor,
    item: Tensor,
    users: Tensor,
    items: Tensor,
    negatives: Tensor,
    neighbours: Tensor | None,
) -> None:
    """Refuse what the CPU kernels find on their way."""
    if torch.compiler.is_compiling() or type(users) not in (Tensor, torch.nn.Parameter):
        return
    named = [
        ("users", users, user.size(0)),
        ("items", items, item.size(0)),
        ("negatives", negatives, item.size(0)),
    ]
    if neighbours is not None:
        named.append(("neighbours", neighbours, item.size(0)))
    for name, ids, limit in named:
        bad = ((ids < 0) | (ids >= limit)).flatten()
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise InputError(
                f"{name}: id {int(ids.flatten()[at])} at position {at}, wanted 0..{limit - 1}"
            )


def _sweep(
    user: Tensor,
    item: Tensor,
    users: Tensor,
    items: Tensor,
    negatives: Tensor,
    beta_user: Tensor | None,
    beta_item: Tensor | None,
    neighbours: Tensor | None,
    neighbour_weights: Tensor | None,
    factors: list[float],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and, if ``keep``, its gradients by the two tables (else empty)."""
    shared = negatives.dim() == 1
    user_rows, ldu = cpu.rows(user)
    item_rows, ldi = cpu.rows(item)
    negatives = negatives.contiguous()
    whole = [
        None if t is None else t.contiguous()
        for t in (users, items, beta_user, beta_item, neighbours, neighbour_weights)
    ]
    # Gradients of no size have no address; the kernel would take it for: not wanted.
    here = keep and bool(user.numel() and item.numel())
    if here:
        grad_user, grad_item = cpu.empty(user, user.shape), cpu.empty(item, item.shape)
    elif keep:
        grad_user, grad_item = factors[6] * user.detach(), factors[6] * item.detach()
    else:
        grad_user, grad_item = user.new_empty(0), item.new_empty(0)
    places = [cpu.address(t) for t in whole]
    num = negatives.size(-1)
    near = 0 if neighbours is None else neighbours.size(1)
    assert cpu.kernels is not None
    try:
        loss = cpu.kernels.sampled_logistic(
            (
                cpu.DTYPES[user.dtype], users.element_size() * 8,
                64 if neighbours is None else neighbours.element_size() * 8,
                user.size(0), item.size(0), user.size(1), users.numel(), num, near,
            ),
            (
                user_rows.data_ptr(), item_rows.data_ptr(), ldu, ldi, places[0], places[1],
                negatives.data_ptr(), 0 if shared else num, *places[2:],
            ),
            factors, grad_user.data_ptr() if here else 0, grad_item.data_ptr() if here else 0,
            cpu.threads(),
        )  # fmt: skip
    except IndexError as error:
        raise InputError(str(error)) from None
    return user.new_full((), loss), grad_user, grad_item


_logistic = torch.library.custom_op(
    "graphkit::sampled_logistic", _sweep, mutates_args=(), device_types="cpu"
)


@_logistic.register_fake
def _(
    user: Tensor,
    item: Tensor,
    users: Tensor,
    items: Tensor,
    negatives: Tensor,
    beta_user: Tensor | None,
    beta_item: Tensor | None,
    neighbours: Tensor | None,
    neighbour_weights: Tensor | None,
    factors: list[float],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        user.new_empty(()),
        user.new_empty(user.shape if keep else (0,)),
        item.new_empty(item.shape if keep else (0,)),
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


@torch.library.custom_op("graphkit::sampled_logistic_backward", mutates_args=())
def _scaled(grad: Tensor, grad_user: Tensor, grad_item: Tensor) -> tuple[Tensor, Tensor]:
    """An op, so that a second derivative is refused: it has no formula."""
    return grad * grad_user, grad * grad_item


@_scaled.register_fake
def _(grad: Tensor, grad_user: Tensor, grad_item: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad_user), torch.empty_like(grad_item)


def _gradients(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
    if grad is None:
        return (None,) * 11
    return *_scaled(grad, *ctx.saved_tensors), *[None] * 9


_logistic.register_autograd(_gradients, setup_context=_setup_context)

_TWICE = b"sampled_logistic: trying to differentiate its gradients, which go once only: not twice"


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        loss, *grads = _sweep(*inputs)
        ctx.save_for_backward(*grads)
        return (loss,)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # One is the gradient of the loss by itself: what `loss.backward()` asks for.
        scale = float(grad)
        found = [t if scale == 1.0 else t.detach() * scale for t in ctx.saved_tensors]
        if torch.is_grad_enabled():  # the gradients of these are refused when they are asked for
            refuse = torch._C._functions.DelayedError(_TWICE, len(found))  # type: ignore[attr-defined]
            found = list(refuse(*(t.detach().requires_grad_() for t in found)))
        need = ctx.needs_input_grad
        return *(t if n else None for t, n in zip(found, need, strict=False)), *[None] * 9


@_logistic.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.sampled_logistic import sampled_logistic  # only with a GPU

    return sampled_logistic(*arguments)
