"""The best columns of each row of a block of scores, some of them left out; ties by lower id."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError

_WIDTH = 64  # columns that are first looked at as one


def top_items(scores: Tensor, k: int, masked: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the ``k`` best items of each row, best first; of equal scores the lower id is first.

    Exact: an item among the best ``k`` lies in one of the ``k`` groups of neighbouring items whose
    maximum is best (ties by lower group), so only those are looked at one by one.

    Args:
        scores: float ``[B, I]``. Masked entries are overwritten by minus infinity.
        k: how many.
        masked: rows and items ``([M], [M])`` that must not be returned.

    Shapes:
        - **out:** int64 ``[B, k]``

    Raises:
        InputError: ``k`` out of range, fewer than ``k`` items left in a row, or a score that is
            NaN or infinite.

    Example:
        >>> top_items(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 2).tolist()
        [[1, 2]]
    """
    if scores.dim() != 2 or not scores.is_floating_point():
        raise InputError(f"scores: {scores.dtype} {list(scores.shape)}, wanted float [B, I]")
    rows, items = scores.shape
    if not 1 <= k <= items:
        raise InputError(f"k: {k}, wanted 1..{items}, the number of items")
    if rows == 0:
        return torch.empty(0, k, dtype=torch.int64, device=scores.device)
    # Half types are ranked as they are: float32 holds each of their values.
    scores = scores.float() if scores.dtype != torch.float32 else scores
    if masked is not None and masked[0].numel():
        row, item = masked
        left = items - torch.bincount(row, minlength=rows)
        if int(left.min()) < k:
            at = int(left.argmin())
            raise InputError(
                f"k: {k} items wanted, but row {at} has {int(left[at])} of {items} that are not "
                "masked"
            )
        if scores.is_contiguous():
            scores.view(-1).index_fill_(0, row * items + item, -torch.inf)
        else:
            scores[row, item] = -torch.inf
    groups = items // _WIDTH
    if groups <= 2 * k:  # nothing to gain
        ids = torch.arange(items, device=scores.device).expand(rows, items)
        _check(scores)
        return _best(scores, ids, k)
    whole = scores[:, : groups * _WIDTH].view(rows, groups, _WIDTH)
    best_of = whole.amax(2)
    tail = scores[:, groups * _WIDTH :]
    if tail.size(1):
        best_of = torch.cat([best_of, tail.amax(1, keepdim=True)], dim=1)
    _check(best_of)
    numbers = torch.arange(best_of.size(1), device=scores.device).expand_as(best_of)
    chosen = _best(best_of, numbers, k)
    ids = (chosen[:, :, None] * _WIDTH + torch.arange(_WIDTH, device=scores.device)).flatten(1)
    found = scores.gather(1, ids.clamp(max=items - 1))
    found = found.masked_fill_(ids >= items, -torch.inf)
    return _best(found, ids, k)


def _best(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """Ids of the ``k`` largest values of each row, lower ids first among equals."""
    # + 0.0 turns -0.0 into 0.0, which equals it. Bits of a float ascend with it when those of
    # negative ones are turned round; the id below them makes every key different.
    bits = (values + 0.0).contiguous().view(torch.int32)
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    keys = (bits << 31) | (0x7FFFFFFF - ids)
    return 0x7FFFFFFF - (torch.topk(keys, k, dim=1).values & 0x7FFFFFFF)


def _check(values: Tensor) -> None:
    bad = torch.isnan(values) | (values == torch.inf)
    if bool(bad.any()):
        row = int(bad.any(1).nonzero()[0])
        raise InputError(
            f"scores: row {row} has values that are NaN or infinite; the model has diverged"
        )
