"""Features that are mostly zeros (bags of words), mapped without touching the zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from graphkit.nn.dense import dense, is_plain_linear
from graphkit.ops import CSR, aggregate
from graphkit.ops.eager import is_plain

_LEAST = 1 << 16  # elements; below, a dense product takes no time
_DENSEST = 1 / 8
_memo: Any = WeakTensorKeyDictionary()


def drop_and_map(dropout: nn.Module, layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer(dropout(x))``; where most of ``x`` is zero, only the rest is drawn and multiplied.

    A dropped zero is a zero like one that was kept, so only the order of summation differs. On
    Cora one entry in 79 is not zero.

    Args:
        dropout: a dropout, or nothing.
        layer: the map behind it.
        x: ``[N, F]`` features.

    Shapes:
        - **out:** ``[N, layer.out_features]``

    Example:
        >>> drop_and_map(nn.Identity(), nn.Linear(4, 2), torch.eye(4)).shape
        torch.Size([4, 2])
    """
    found = _entries(x) if _suits(layer, x) else None
    if found is None:
        return dense(layer, dropout(x))
    csr, value = found
    out = aggregate(csr, layer.weight.t(), dropout(value), message="scale")
    return out if layer.bias is None else out.add_(layer.bias)


def _suits(layer: nn.Linear, x: Tensor) -> bool:
    return (
        is_plain(x, layer.weight)
        and x.numel() >= _LEAST
        and not x.requires_grad
        and x.dtype == layer.weight.dtype
        and is_plain_linear(layer)
        and not torch.is_autocast_enabled("cpu")
    )


def _entries(x: Tensor) -> tuple[CSR, Tensor] | None:
    """Where ``x`` is not zero and what it holds there, looked at once per tensor."""
    version = 0 if x.is_inference() else x._version
    kept = _memo.get(x)
    if kept is None or kept[0] != version:
        kept = (version, _find(x))
        _memo[x] = kept
    found: tuple[CSR, Tensor] | None = kept[1]
    return found


def _find(x: Tensor) -> tuple[CSR, Tensor] | None:
    there = x != 0
    degree = there.sum(1)
    if int(degree.sum()) > _DENSEST * x.numel():
        return None
    rowptr = torch.zeros(x.size(0) + 1, dtype=torch.int32)
    torch.cumsum(degree, 0, out=rowptr[1:])
    col = there.nonzero()[:, 1].to(torch.int32)
    return CSR(rowptr, col, None, x.size(0), x.size(1)), x[there]
