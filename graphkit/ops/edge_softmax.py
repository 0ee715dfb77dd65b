"""edge_softmax: weights of the edges that sum to one at each destination."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import backends, reference
from graphkit.ops.aggregate import aggregate
from graphkit.ops.csr import CSR

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def edge_softmax(csr: CSR, score: Tensor) -> Tensor:
    r"""Softmax of the scores of all edges that end at the same node.

    .. math::
        p_k = \frac{\exp(s_k)}{\sum_{l:\, row(l) = row(k)} \exp(s_l)}

    The largest score of each row is taken off first, so nothing overflows; a row whose scores are
    all :math:`-\infty` gives zeros. Where the weights go straight into a sum over neighbours,
    :func:`graphkit.ops.attention` is one sweep and keeps no weights.

    Args:
        csr: the graph, sorted by destination.
        score: ``[E]``, or ``[E, H]`` for ``H`` heads, in the order of ``edge_index`` (float16,
            bfloat16, float32 or float64; half types are computed in float32).

    Shapes:
        - **out:** as ``score``.

    Raises:
        InputError: ``score`` has another shape or dtype.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 1]]), num_nodes=3)
        >>> edge_softmax(csr, torch.tensor([0.0, 5.0, 0.0])).tolist()
        [0.5, 1.0, 0.5]
    """
    if score.dim() not in (1, 2) or score.size(0) != csr.num_entries:
        raise InputError(
            f"score: shape {list(score.shape)}, wanted [{csr.num_entries}] or "
            f"[{csr.num_entries}, H]"
        )
    if score.dtype not in _DTYPES:
        raise InputError(
            f"score: dtype {score.dtype}, wanted float16, bfloat16, float32 or float64"
        )
    wide = reference.widen(score)
    wide = wide[:, None] if wide.dim() == 1 else wide
    out: Tensor
    if backends.current(score.device) == "reference":
        if csr.eid is None:
            out = reference.edge_softmax(csr, wide)
        else:
            eid = csr.eid.long()
            entries = reference.edge_softmax(csr, wide.index_select(0, eid))
            out = torch.empty_like(entries).index_copy(0, eid, entries)
    else:
        out = _Softmax.apply(wide, csr)  # type: ignore[no-untyped-call]
    return out.view(score.shape).to(score.dtype)


class _Softmax(torch.autograd.Function):
    """Keeps the weights alone: their gradient needs neither scores nor sums."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, csr: CSR) -> Tensor:
        row = edge_row(csr)
        highest = _reduce(csr, score, "max")
        # A row of -inf: exp(-inf - 0) = 0, not exp(-inf + inf).
        highest = highest.masked_fill(highest == -torch.inf, 0.0)
        weight = (score - highest.index_select(0, row)).exp_()
        total = _reduce(csr, weight, "sum")
        weight /= total.masked_fill(total == 0, 1.0).index_select(0, row)
        ctx.csr = csr
        ctx.save_for_backward(weight)
        return weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        part = weight * grad
        total = _reduce(ctx.csr, part, "sum")
        return part - weight * total.index_select(0, edge_row(ctx.csr)), None


def _reduce(csr: CSR, values: Tensor, reduce: str) -> Tensor:
    """``[N, H]`` of ``[E, H]``: the sources of the edges add nothing."""
    nothing = values.new_zeros(csr.num_cols, values.size(1))
    return aggregate(csr, nothing, values, message="add", reduce=reduce)


def edge_row(csr: CSR) -> Tensor:
    """``[E]`` destination of each edge, in the order of ``edge_index``; found once.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 1]]), num_nodes=3)
        >>> edge_row(csr).tolist()
        [1, 2, 1]
    """
    found = csr.derived.get("edge_row")
    if found is None:
        found = csr.edge_index()[1]
        if not torch.compiler.is_compiling():
            csr.derived["edge_row"] = found
    assert isinstance(found, Tensor)
    return found
