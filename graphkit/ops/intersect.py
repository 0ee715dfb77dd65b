"""intersect: what two rows of a graph share, or what one has and the other lacks, for many pairs.

Common neighbours of candidate links and their residuals, as NCN and NCNC pool them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.ops import cpu
from graphkit.ops.csr import CSR
from graphkit.ops.eager import is_eager, is_plain
from graphkit.ops.intersect_sets import count_op, counted, intersect_op, packed, pool, sum_op
from graphkit.ops.rows import has_sorted_rows

KINDS = ("common", "difference")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Intersection:
    """One set of nodes per pair, packed one after the other, each in ascending order.

    Attributes:
        csr: row ``p`` holds the nodes of pair ``p``; give it to :func:`graphkit.ops.aggregate`.
        entry: ``[K]`` position of each node in ``col`` of the first graph: its edge is
            ``csr.eid[entry]``.
        entry_b: ``[K]`` the same in the second graph; ``None`` for a difference.
    """

    csr: CSR
    entry: Tensor
    entry_b: Tensor | None

    @property
    def ptr(self) -> Tensor:
        """``[P + 1]``: pair ``p`` owns ``ptr[p]:ptr[p+1]``."""
        return self.csr.rowptr

    @property
    def node(self) -> Tensor:
        """``[K]`` the nodes of all sets."""
        return self.csr.col

    def pair(self) -> Tensor:
        """``[K]`` the pair that each node was found for."""
        return self.csr.row()


def intersect(
    csr: CSR, pairs: Tensor, csr_b: CSR | None = None, *, kind: str = "common"
) -> Intersection:
    r"""Find what the rows of each pair share, or what the first has and the second lacks.

    .. math::
        S_p = N_a(i_p) \cap N_b(j_p) \quad (\text{common}), \qquad
        S_p = N_a(i_p) \setminus N_b(j_p) \quad (\text{difference})

    with :math:`(i_p, j_p)` = ``pairs[:, p]`` and :math:`N_a(i)` the columns of row ``i`` of
    ``csr``, as a set: a column that a row repeats is found once, at its first entry. These are the
    overlap and the residuals of NCN and NCNC (Wang, Yang, Zhang, "Neural Common Neighbor with
    Completion for Link Prediction", arXiv 2302.00890). Rows are merged, or searched where one is
    far longer than the other. The result does not depend on the number of threads.

    A number per found node, say its completion score, is pooled with
    ``aggregate(found.csr, x, score, message="scale")``; a weight per edge of the graph is looked
    up as ``weight[csr.eid[found.entry]]``.

    Args:
        csr: rows in ascending order (:func:`graphkit.ops.sorted_rows`; a transpose has them).
        pairs: ``[2, P]`` int32 or int64, a row of ``csr`` and a row of ``csr_b``.
        csr_b: the graph of the second row, over the same columns; ``csr`` if not given.
        kind: ``"common"`` or ``"difference"``; for :math:`N(j) \setminus N(i)` flip the pairs.

    Shapes:
        - **ptr:** ``[P + 1]``, **node**, **entry** and **entry_b:** ``[K]``

    Raises:
        InputError: a row out of order (the first is named), or pairs of a wrong shape, dtype,
            device or range.

    Example:
        >>> from graphkit.ops import aggregate, sorted_rows
        >>> both = torch.tensor([[0, 2, 0, 3, 1, 2, 1, 3, 1, 4], [2, 0, 3, 0, 2, 1, 3, 1, 4, 1]])
        >>> csr = sorted_rows(CSR.from_edge_index(both, num_nodes=5))
        >>> pairs = torch.tensor([[0, 1], [1, 0]])
        >>> found = intersect(csr, pairs, kind="difference")
        >>> found.ptr.tolist(), found.node.tolist()
        ([0, 0, 1], [4])
        >>> score = torch.tensor([0.5])  # one number for each of found.node
        >>> x = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
        >>> rest = aggregate(found.csr, x, score, message="scale")
        >>> (intersect_sum(csr, pairs, x) + rest).tolist()
        [[12.0], [20.0]]
    """
    call = _Call(csr, pairs, csr_b, kind)
    ptr, node, entry, entry_b = call.run(packed, intersect_op, True)
    found = CSR(ptr, node, None, pairs.size(1), csr.num_cols)
    return Intersection(found, entry, None if kind == "difference" else entry_b)


def common_neighbors(csr: CSR, pairs: Tensor, csr_b: CSR | None = None) -> Tensor:
    """Count what the rows of each pair share (Newman, Phys. Rev. E 64, 025102, 2001).

    .. math:: c_p = |N_a(i_p) \\cap N_b(j_p)|

    Args:
        csr: rows in ascending order (:func:`graphkit.ops.sorted_rows`).
        pairs: ``[2, P]`` a row of ``csr`` and a row of ``csr_b``.
        csr_b: as for :func:`intersect`.

    Shapes:
        - **out:** ``[P]`` int64

    Raises:
        InputError: as for :func:`intersect`.

    Example:
        >>> from graphkit.ops import sorted_rows
        >>> triangle = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
        >>> csr = sorted_rows(CSR.from_edge_index(triangle, num_nodes=3))
        >>> common_neighbors(csr, torch.tensor([[0, 0], [1, 0]])).tolist()
        [1, 2]
    """
    count: Tensor = _Call(csr, pairs, csr_b, "common").run(counted, count_op)
    return count


def intersect_sum(
    csr: CSR,
    pairs: Tensor,
    x: Tensor,
    weight: Tensor | None = None,
    csr_b: CSR | None = None,
    *,
    kind: str = "common",
) -> Tensor:
    r"""Sum node features over what the rows of each pair share, or what only the first has.

    .. math:: out_p = \sum_{c \in S_p} w_c \, x_c

    with the sets :math:`S_p` of :func:`intersect`; the overlap term of NCN (arXiv 2302.00890). The
    ids of the sets are packed, their features are not: no tensor of size K x F is made, forward or
    backward. To pool the same sets more than once, keep ``found = intersect(...)`` and call
    ``aggregate(found.csr, x)``. Half types accumulate in float32.

    Args:
        csr: rows in ascending order (:func:`graphkit.ops.sorted_rows`).
        pairs: ``[2, P]`` a row of ``csr`` and a row of ``csr_b``.
        x: ``[num_cols, F]`` features; differentiable.
        weight: ``[num_cols]`` a weight per node, ones if not given; differentiable.
        csr_b: as for :func:`intersect`.
        kind: ``"common"`` or ``"difference"``.

    Shapes:
        - **out:** ``[P, F]``; zeros where a set is empty

    Raises:
        InputError: as for :func:`intersect`, or features or weights that do not fit.

    Example:
        >>> from graphkit.ops import sorted_rows
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> csr = sorted_rows(CSR.from_edge_index(path, num_nodes=3))
        >>> pairs = torch.tensor([[0, 0], [2, 1]])
        >>> intersect_sum(csr, pairs, torch.tensor([[1.0], [3.0], [5.0]])).tolist()
        [[3.0], [0.0]]
    """
    call = _Call(csr, pairs, csr_b, kind)
    if x.dim() != 2 or x.size(0) != csr.num_cols:
        raise InputError(f"x: shape {list(x.shape)}, wanted [{csr.num_cols}, F]")
    if x.dtype not in _DTYPES:
        raise InputError(f"x: dtype {x.dtype}, wanted a floating-point type")
    if weight is not None and weight.shape != (csr.num_cols,):
        raise InputError(f"weight: shape {list(weight.shape)}, wanted [{csr.num_cols}]")
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor is not None and tensor.device != csr.col.device:
            raise InputError(f"{name}: on {tensor.device}, wanted {csr.col.device} as csr")
    if weight is not None and weight.dtype != x.dtype:
        raise InputError(f"weight: dtype {weight.dtype}, wanted {x.dtype} as x")
    if call.eager and is_eager(x, weight):
        return pool(call.run(packed, None, False), x, weight)
    out: Tensor = sum_op(x, weight, *call.arguments())
    return out


class _Call:
    """Arguments that all functions share, checked."""

    def __init__(self, csr: CSR, pairs: Tensor, csr_b: CSR | None, kind: str) -> None:
        if kind not in KINDS:
            raise InputError(
                f"kind: {kind!r} is not one of {', '.join(KINDS)}{nearest(kind, KINDS)}"
            )
        other = csr if csr_b is None else csr_b
        for name, graph in (("csr", csr), ("csr_b", other)):
            if not isinstance(graph, CSR):
                raise InputError(f"{name}: {type(graph).__name__}, wanted a graphkit.ops.CSR")
        if other.num_cols != csr.num_cols:
            raise InputError(f"csr_b: {other.num_cols} columns, wanted {csr.num_cols} as csr")
        if other.col.device != csr.col.device:
            raise InputError(f"csr_b: on {other.col.device}, wanted {csr.col.device} as csr")
        if not isinstance(pairs, Tensor) or pairs.dtype not in (torch.int32, torch.int64):
            seen = pairs.dtype if isinstance(pairs, Tensor) else type(pairs).__name__
            raise InputError(f"pairs: {seen}, wanted int64 or int32")
        if pairs.dim() != 2 or pairs.size(0) != 2:
            raise InputError(f"pairs: shape {list(pairs.shape)}, wanted [2, P]")
        if pairs.device != csr.col.device:
            raise InputError(f"pairs: on {pairs.device}, wanted {csr.col.device} as csr")
        self.csr, self.other, self.kind = csr, other, kind
        self.pairs = pairs.to(torch.int64).contiguous()
        self.eager = is_eager(pairs, csr.col, other.col)
        if self.eager:  # else values cannot be looked at before the op runs
            _check_range(self.pairs, (csr.num_rows, other.num_rows))
            has_sorted_rows("csr", csr)
            has_sorted_rows("csr_b", other)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor, int, bool]:
        csr, other = self.csr, self.other
        same = other is csr
        return (
            csr.rowptr, csr.col, None if same else other.rowptr, None if same else other.col,
            self.pairs, csr.num_cols, self.kind == "difference",
        )  # fmt: skip

    def run(self, function: Any, op: Any, *options: bool) -> Any:
        if self.eager:
            return function(*self.arguments(), *options)
        return op(*self.arguments())


def _check_range(pairs: Tensor, limits: tuple[int, int]) -> None:
    for side, limit in enumerate(limits):
        index = pairs[side]
        if not index.numel():
            continue
        if cpu.kernels is not None and is_plain(index):
            low, high, *_ = cpu.kernels.index_range(
                index.data_ptr(), 64, index.numel(), cpu.threads()
            )
        else:
            low, high = (int(v) for v in torch.aminmax(index))
        if low < 0 or high >= limit:
            bad = low if low < 0 else high
            place = int((index == bad).nonzero()[0])
            raise InputError(f"pairs: row {bad} in pairs[{side}, {place}], wanted 0..{limit - 1}")
