"""sampled_logistic on the GPU: a program per pair, then the rows of both tables by their owners.

A program leaves one coefficient per item that its pair meets; sorted by item they are a weighted
graph, whose sums are those of ``aggregate``.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated, operator"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops import cpu
from graphkit.ops.triton.aggregate import aggregate_forward
from graphkit.ops.triton.pieces import LAUNCH, accumulator

TOGETHER = 16  # items that a program meets at a time


@triton.jit
def _softplus(x):
    """Its value and its slope, the sigmoid."""
    e = tl.exp(-tl.abs(x))
    above = 1 + e  # rounded: the quotient below takes the error out of the logarithm
    low = tl.where(above == 1, e, tl.log(above) * (e / tl.where(above == 1, 1, above - 1)))
    return tl.maximum(x, 0) + low, tl.where(x >= 0, 1, e) / above


@triton.jit
def _meet(
    item, ids, weights, here, e, f, ldi, width, to, SIGN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Loss of some items and the user's gradient by them; their coefficients are stored."""
    both = here[:, None] & (f[None, :] < width)
    rows = tl.load(item + ids[:, None] * ldi + f[None, :], mask=both, other=0).to(ACC)
    value, slope = _softplus(SIGN * tl.sum(rows * e[None, :], 1))
    found = tl.where(here, SIGN * weights * slope, 0.0)
    if to is not None:
        tl.store(to, found, mask=here)
    return tl.sum(tl.where(here, weights * value, 0.0), 0), tl.sum(rows * found[:, None], 0)


@triton.jit
def _pairs(
    user, item, users, items, negatives, beta_user, beta_item, near, near_weights, factors,
    losses, coefficients, grads, ldu, ldi, ldn, width, num_negatives, num_near,
    ACC: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, BLOCK)
    n = tl.arange(0, TOGETHER)
    u = tl.load(users + b).to(tl.int64)
    i = tl.load(items + b).to(tl.int64)
    e = tl.load(user + u * ldu + f, mask=f < width, other=0).to(ACC)
    w0 = tl.load(factors)
    w1 = tl.load(factors + 1)
    w2 = tl.load(factors + 2)
    w3 = tl.load(factors + 3)
    share = tl.load(factors + 4) / num_negatives
    scale = tl.load(factors + 5)
    beta = w0 * 0
    of_item = w0 * 0
    if beta_user is not None:
        beta = tl.load(beta_user + u)
        of_item = tl.load(beta_item + i)
    to = None
    if coefficients is not None:
        to = coefficients + b * (1 + num_near + num_negatives) + n
    ids = tl.zeros([TOGETHER], tl.int64) + i
    weights = tl.zeros([TOGETHER], ACC) + (w0 + w1 * beta * of_item)
    loss, grad = _meet(item, ids, weights, n < 1, e, f, ldi, width, to, -1, ACC)
    if near is not None:
        for start in range(0, num_near, TOGETHER):
            here = start + n < num_near
            at = i * num_near + start + n
            ids = tl.load(near + at, mask=here, other=0).to(tl.int64)
            weights = scale * tl.load(near_weights + at, mask=here, other=0)
            next_to = to
            if coefficients is not None:
                next_to = to + 1 + start
            more, of_user = _meet(item, ids, weights, here, e, f, ldi, width, next_to, -1, ACC)
            loss += more
            grad += of_user
    for start in range(0, num_negatives, TOGETHER):
        here = start + n < num_negatives
        ids = tl.load(negatives + b * ldn + start + n, mask=here, other=0).to(tl.int64)
        weights = tl.zeros([TOGETHER], ACC) + w2
        if beta_item is not None:
            weights += w3 * beta * tl.load(beta_item + ids, mask=here, other=0)
        next_to = to
        if coefficients is not None:
            next_to = to + 1 + num_near + start
        more, of_user = _meet(
            item, ids, share * weights, here, e, f, ldi, width, next_to, 1, ACC
        )  # fmt: skip
        loss += more
        grad += of_user
    tl.store(losses + b, loss)
    if grads is not None:
        tl.store(grads + b * width + f, grad, mask=f < width)


def sampled_logistic(
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
    """The loss and its gradients by both tables, as ``graphkit::sampled_logistic``."""
    pairs, num, width = users.numel(), negatives.size(-1), user.size(1)
    near = 0 if neighbours is None else neighbours.size(1)
    shared = negatives.dim() == 1
    rows, ldu = cpu.rows(user.detach())
    item_rows, ldi = cpu.rows(item.detach())
    users, items, negatives, beta_user, beta_item, neighbours, neighbour_weights = (
        None if t is None else t.contiguous()
        for t in (users, items, negatives, beta_user, beta_item, neighbours, neighbour_weights)
    )
    losses = user.new_empty(pairs)
    coefficients = user.new_empty(pairs, 1 + near + num) if keep else None
    grads = user.new_empty(pairs, width) if keep else None
    if pairs:
        with torch.cuda.device_of(user):
            _pairs[(pairs,)](
                rows, item_rows, users, items, negatives, beta_user, beta_item, neighbours,
                neighbour_weights, torch.tensor(factors, dtype=user.dtype, device=user.device),
                losses, coefficients, grads, ldu, ldi, 0 if shared else num, width, num, near,
                ACC=accumulator(user.dtype), BLOCK=triton.next_power_of_2(max(width, 1)),
                TOGETHER=TOGETHER, **LAUNCH,
            )  # fmt: skip
    loss = losses.sum()
    decay = factors[6]
    if decay:
        loss = loss + decay / 2 * sum(torch.linalg.vector_norm(t) ** 2 for t in (rows, item_rows))
    if coefficients is None or grads is None:
        return loss, user.new_empty(0), item.new_empty(0)
    met = [items[:, None]]
    if neighbours is not None:
        met.append(neighbours[items.long()].to(items.dtype))
    met.append(negatives.expand(pairs, num))
    grad_item = _owned(
        torch.cat(met, 1).flatten(), item.size(0), rows[users.long()], coefficients.flatten()
    )
    grad_user = _owned(users, user.size(0), grads, None)
    if decay:
        grad_user.add_(rows, alpha=decay)
        grad_item.add_(item_rows, alpha=decay)
    return loss, grad_user, grad_item


def _owned(owner: Tensor, num_rows: int, rows: Tensor, weight: Tensor | None) -> Tensor:
    """``out[r] = sum_k weight[k] rows[k // (entries per row)]`` over ``owner[k] = r``, in order."""
    entry = torch.sort(owner, stable=True).indices
    ptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=owner.device)
    torch.cumsum(torch.bincount(owner, minlength=num_rows), 0, out=ptr[1:])
    message = "copy" if weight is None else "scale"
    each = max(owner.numel() // max(rows.size(0), 1), 1)
    out = aggregate_forward(rows, weight, ptr, entry // each, entry, message, "sum", False)[0]
    return out[:, 0].contiguous()
