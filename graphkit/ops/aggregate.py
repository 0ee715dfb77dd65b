"""aggregate: out_i = REDUCE_{j in N(i)} MESSAGE(x_j, e_ij) in one pass, without E x F tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphkit.errors import InputError, nearest
from graphkit.ops import backends, cpu, reference
from graphkit.ops.csr import CSR
from graphkit.ops.eager import is_plain
from graphkit.ops.lookup import through as _through

MESSAGES = ("copy", "scale", "mul", "add", "add_relu")
REDUCES = ("sum", "mean", "min", "max", "var", "std")
_NARROW = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, torch.float64, *_NARROW)


def aggregate(
    csr: CSR,
    x: Tensor,
    edge: Tensor | None = None,
    *,
    lookup: Tensor | None = None,
    message: str = "copy",
    reduce: str | Sequence[str] = "sum",
) -> Tensor:
    r"""Reduce the messages that each node receives.

    .. math::
        out_{i,f} = \mathrm{REDUCE}_{k:\, row(k) = i} \;
        \mathrm{MESSAGE}(x_{col(k),f},\, edge_{eid(k),f})

    ============  ====================================================
    ``message``   value
    ============  ====================================================
    ``copy``      :math:`x_j`
    ``scale``     :math:`w_e x_j`, one weight per edge, or per edge and head
    ``mul``       :math:`x_j \odot e`
    ``add``       :math:`x_j + e`
    ``add_relu``  :math:`\mathrm{ReLU}(x_j + e)`
    ============  ====================================================

    Several reduces share one pass over the neighbours. ``var`` is the biased variance and ``std``
    its root, zero where the variance is at most 1e-5 (PyG's StdAggregation). Gradients of ``min``
    and ``max`` go to one winner, the first edge among equals. A row with no entries gives zeros.
    Results are bitwise the same for any number of threads and from run to run.

    Args:
        csr: the graph, sorted by destination.
        x: ``[num_cols, F]`` source features (float16, bfloat16, float32 or float64; half types
            accumulate in float32).
        edge: ``[E, F]`` edge features in the order of ``edge_index`` (``mul``, ``add``,
            ``add_relu``), or ``[E]`` or ``[E, H]`` weights (``scale``; head ``h`` weighs
            features ``h*F/H:(h+1)*F/H``). With ``lookup``, a table of ``R`` rows instead of ``E``.
        lookup: ``[E]`` integer row of the table ``edge`` that each edge reads (bond embeddings).
        message: one of the messages above.
        reduce: ``sum``, ``mean``, ``min``, ``max``, ``var``, ``std``, or several of them.

    Shapes:
        - **out:** ``[num_rows, F]``; with a sequence of ``R`` reduces ``[num_rows, R, F]``.

    Raises:
        InputError: an unknown message or reduce, or a tensor of the wrong shape or dtype.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 1]]), num_nodes=3)
        >>> x = torch.tensor([[1.0], [2.0], [4.0]])
        >>> aggregate(csr, x, reduce=["sum", "max"])[1].tolist()
        [[5.0], [4.0]]
    """
    reduces = (reduce,) if isinstance(reduce, str) else tuple(reduce)
    _check(csr, x, edge, lookup, message, reduces)
    name = backends.current(x.device)
    if name in ("reference", "torch_scatter"):
        if lookup is not None and edge is not None:
            _through(csr, lookup, False, edge.size(0))  # for its check
        out = reference.aggregate(
            csr, x, edge, lookup=lookup, message=message, reduces=reduces,
            scatter="torch_scatter" if name == "torch_scatter" else "torch",
        )  # fmt: skip
    else:
        eid, rowptr_t, col_t, eid_t = csr.eid, None, None, None
        needs_grad = torch.is_grad_enabled() and (
            x.requires_grad or (edge is not None and edge.requires_grad)
        )
        transposed = csr.transpose() if needs_grad else None
        if transposed is not None:
            rowptr_t, col_t, eid_t = transposed.rowptr, transposed.col, transposed.eid
        if lookup is not None and edge is not None:
            eid, eid_t = _through(csr, lookup, needs_grad, edge.size(0))
        run: Any = _aggregate
        if is_plain(x, edge):
            run = _Eager.apply if needs_grad else _aggregate_cpu
        out = run(
            x, edge, csr.rowptr, csr.col, eid, rowptr_t, col_t, eid_t, message,
            ",".join(reduces), lookup is not None, needs_grad,
        )[0]  # fmt: skip
    # Not `out[:, 0]`: its backward would fill a tensor of zeros first.
    return out.squeeze(1) if isinstance(reduce, str) else out


def segment(x: Tensor, ptr: Tensor | CSR, reduce: str | Sequence[str] = "sum") -> Tensor:
    """Reduce consecutive rows: graph ``g`` of a batch owns rows ``ptr[g]:ptr[g+1]`` (pooling).

    Args:
        x: ``[N, F]`` values sorted by segment.
        ptr: ``[G + 1]`` segment starts, or a CSR from :meth:`CSR.from_ptr` (reuse it: cheaper).
        reduce: as for :func:`aggregate`.

    Shapes:
        - **out:** ``[G, F]``; with ``R`` reduces ``[G, R, F]``. An empty segment gives zeros.

    Raises:
        InputError: ``ptr`` is not non-decreasing from 0, or does not end with ``N``.

    Example:
        >>> segment(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([0, 2, 3]), "mean").tolist()
        [[1.5], [5.0]]
    """
    csr = ptr if isinstance(ptr, CSR) else CSR.from_ptr(ptr)
    return aggregate(csr, x, reduce=reduce)


def _check(
    csr: CSR,
    x: Tensor,
    edge: Tensor | None,
    lookup: Tensor | None,
    message: str,
    reduces: tuple[str, ...],
) -> None:
    if message not in MESSAGES:
        raise InputError(
            f"message: {message!r} is not one of {', '.join(MESSAGES)}{nearest(message, MESSAGES)}"
        )
    if not reduces or len(set(reduces)) < len(reduces):
        raise InputError(f"reduce: {list(reduces)}, wanted at least one and each at most once")
    for reduce in reduces:
        if reduce not in REDUCES:
            raise InputError(
                f"reduce: {reduce!r} is not one of {', '.join(REDUCES)}{nearest(reduce, REDUCES)}"
            )
    if x.dim() != 2 or x.size(0) != csr.num_cols:
        raise InputError(f"x: shape {list(x.shape)}, wanted [{csr.num_cols}, F]")
    if x.dtype not in _DTYPES:
        raise InputError(f"x: dtype {x.dtype}, wanted float16, bfloat16, float32 or float64")
    if message == "copy":
        if edge is not None:
            raise InputError("edge: given, but message='copy' does not read it")
        return
    if edge is None:
        raise InputError(f"edge: missing, but message={message!r} reads it")
    if edge.dtype != x.dtype:
        raise InputError(f"edge: dtype {edge.dtype}, wanted {x.dtype} as x")
    entries, width = csr.num_entries, x.size(1)
    rows = "R" if lookup is not None else "E"
    if edge.dim() not in (1, 2):
        raise InputError(f"edge: shape {list(edge.shape)}, wanted one or two dimensions")
    if lookup is None and edge.size(0) != entries:
        raise InputError(f"edge: {edge.size(0)} rows, but edge_index has {entries} edges")
    integers = (torch.int32, torch.int64)
    if lookup is not None and (lookup.shape != (entries,) or lookup.dtype not in integers):
        raise InputError(
            f"lookup: {lookup.dtype} of shape {list(lookup.shape)}, wanted [{entries}] integers"
        )
    if message == "scale":
        if edge.dim() == 2 and (not edge.size(1) or width % edge.size(1)):
            raise InputError(
                f"edge: shape {list(edge.shape)}, wanted [{rows}] or [{rows}, H], "
                f"H a divisor of {width}"
            )
    elif edge.dim() != 2 or edge.size(1) != width:
        raise InputError(f"edge: shape {list(edge.shape)}, wanted [{rows}, {width}]")


def _heads(edge: Tensor | None, message: str) -> int:
    return edge.size(1) if message == "scale" and edge is not None and edge.dim() == 2 else 1


def _edge_rows(edge: Tensor | None, message: str) -> tuple[Tensor | None, int]:
    if edge is None:
        return None, 0
    return cpu.rows(edge if edge.dim() == 2 else edge.unsqueeze(1))


def _aggregate_cpu(
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    message: str,
    reduces: str,
    edge_is_table: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return out [N, R, F] and, if ``keep``, what backward needs: mean, argmin, argmax [N, F], and
    where add_relu was positive [E, words of 16 features]."""
    names = reduces.split(",")
    n, width = rowptr.numel() - 1, x.size(1)
    x, ldx = cpu.rows(x)
    edge, lde = _edge_rows(edge, message)
    graph = cpu.graph(rowptr, col, eid, x.size(0), edge.size(0) if edge is not None else 0)
    out = cpu.empty(x, (n, len(names), width))
    kept = (n, width) if keep else (0,)
    mean = cpu.empty(x, kept if "var" in names or "std" in names else (0,))
    low = torch.empty(kept if "min" in names else (0,), dtype=torch.int32)
    high = torch.empty(kept if "max" in names else (0,), dtype=torch.int32)
    signs = keep and edge is not None and _keeps_signs(message, names, edge_is_table)
    words = torch.empty(0, dtype=torch.int16)
    positive = cpu.empty(words, _signs_shape(col, width)) if signs else words
    if out.numel():
        assert cpu.kernels is not None
        cpu.kernels.aggregate_forward(
            graph, cpu.DTYPES[x.dtype], MESSAGES.index(message),
            [REDUCES.index(r) for r in names], width,
            _heads(edge, message), x.data_ptr(), ldx, cpu.address(edge), lde, out.data_ptr(),
            mean.data_ptr() if mean.numel() else 0, low.data_ptr() if low.numel() else 0,
            high.data_ptr() if high.numel() else 0,
            positive.data_ptr() if positive.numel() else 0, cpu.threads(),
        )  # fmt: skip
    return out, mean, low, high, positive


def _keeps_signs(message: str, names: list[str], edge_is_table: bool) -> bool:
    """Whether forward leaves a bit per edge and feature, so that backward reads no edge row again.

    They take a thirty-second of the edge features, which are then not kept for backward either.
    """
    return message == "add_relu" and not edge_is_table and names in (["sum"], ["mean"])


def _signs_shape(col: Tensor, width: int) -> tuple[int, int]:
    return col.numel(), (width + 15) // 16


_aggregate = torch.library.custom_op(
    "graphkit::aggregate", _aggregate_cpu, mutates_args=(), device_types="cpu"
)


@_aggregate.register_fake
def _(
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    message: str,
    reduces: str,
    edge_is_table: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    names = reduces.split(",")
    n, width = rowptr.numel() - 1, x.size(1)

    def kept(wanted: bool, dtype: torch.dtype) -> Tensor:
        return x.new_empty((n, width) if keep and wanted else (0,), dtype=dtype)

    signs = keep and x.device.type == "cpu" and _keeps_signs(message, names, edge_is_table)
    return (
        x.new_empty(n, len(names), width),
        kept("var" in names or "std" in names, x.dtype),
        kept("min" in names, torch.int32),
        kept("max" in names, torch.int32),
        x.new_empty(_signs_shape(col, width) if signs else (0,), dtype=torch.int16),
    )


def _aggregate_backward_cpu(
    grad: Tensor,
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    message: str,
    reduces: str,
    edge_is_table: bool,
    out: Tensor,
    mean: Tensor,
    low: Tensor,
    high: Tensor,
    positive: Tensor,
    need_x: bool,
    need_edge: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and edge; an empty tensor where none was asked for."""
    names = reduces.split(",")
    dtype = x.dtype
    simple = names in (["sum"], ["mean"])
    if dtype in _NARROW and not simple:
        # Moments and winners add up in place; half types would lose what is small.
        x, grad, out, mean = x.float(), grad.float(), out.float(), mean.float()
        edge = None if edge is None else edge.float()
    n, width, entries = rowptr.numel() - 1, x.size(1), col.numel()
    signs = bool(positive.numel())
    if signs or (message == "copy" and "var" not in names and "std" not in names):
        x_address, ldx = 0, 0  # no derivative reads x, and its caller may not have kept it
    else:
        x, ldx = cpu.rows(x)
        x_address = x.data_ptr()
    edge_2d, lde = (None, 0) if signs else _edge_rows(edge, message)
    edge_rows = edge.size(0) if edge is not None else entries
    heads = _heads(edge, message)
    code, kind = cpu.DTYPES[x.dtype], MESSAGES.index(message)
    grad = grad.contiguous()
    none = x.new_empty(0)
    grad_x = cpu.empty(x, x.shape if need_x else (0,))
    grad_edge = x.new_empty(0)
    if need_edge and edge is not None:
        # Rows that no entry reads keep a zero gradient; every other row is written.
        whole = not edge_is_table and edge_rows == entries
        grad_edge = cpu.empty(x, edge.shape)
        if not whole:
            grad_edge.zero_()
    if not grad.numel() or not entries:
        return grad_x.zero_().to(dtype), grad_edge.zero_().to(dtype)
    assert cpu.kernels is not None
    forward = cpu.graph(rowptr, col, eid, x.size(0), edge_rows)
    transposed = cpu.graph(rowptr_t, col_t, eid_t, n, edge_rows, x.size(0))
    if simple and not need_edge and message != "add_relu":
        # The gradient is itself a sum over the transposed graph: the quickest kernel serves.
        weights, which, pulled = edge_2d, eid_t, message
        if message == "add" or message == "copy":
            weights, which, pulled = None, None, "copy"
        if names == ["mean"]:
            degree = rowptr[1:] - rowptr[:-1]
            inverse = degree.clamp(min=1).to(x.dtype).reciprocal()
            if pulled == "copy":
                weights, which, pulled = inverse[:, None], col_t, "scale"
            else:
                grad = grad * inverse[:, None, None]
        lde = 0 if weights is None else weights.stride(0)
        table_rows = 0 if weights is None else weights.size(0)
        cpu.kernels.aggregate_forward(
            cpu.graph(rowptr_t, col_t, which, n, table_rows, x.size(0)), code,
            MESSAGES.index(pulled), [REDUCES.index("sum")], width, _heads(weights, pulled),
            grad.data_ptr(), width, cpu.address(weights), lde, grad_x.data_ptr(), 0, 0, 0, 0,
            cpu.threads(),
        )  # fmt: skip
        return grad_x, grad_edge
    address_x = grad_x.data_ptr() if need_x else 0
    address_edge = grad_edge.data_ptr() if grad_edge.numel() else 0
    if any(r not in ("min", "max") for r in names):
        shift, lds, slope = grad, grad.stride(0), none
        if not simple:
            shift, lds = cpu.empty(x, (n, width)), width
            slope = cpu.empty(x, (n, width)) if "var" in names or "std" in names else none
            cpu.kernels.aggregate_moments(
                forward[0], code, [REDUCES.index(r) for r in names], n, width, rowptr.data_ptr(),
                grad.data_ptr(), out.data_ptr(), mean.data_ptr() if mean.numel() else 0,
                shift.data_ptr(), slope.data_ptr() if slope.numel() else 0, cpu.threads(),
            )  # fmt: skip
        cpu.kernels.aggregate_backward(
            transposed, code, kind, names == ["mean"], width, heads, x_address, ldx,
            cpu.address(edge_2d), lde, shift.data_ptr(), lds,
            slope.data_ptr() if slope.numel() else 0, rowptr.data_ptr(),
            positive.data_ptr() if signs else 0, address_x, address_edge, edge_is_table,
            cpu.threads(),
        )  # fmt: skip
    else:
        grad_x.zero_()
        grad_edge.zero_()
    if "min" in names or "max" in names:
        grad_of = [grad[:, names.index(r)] if r in names else None for r in ("min", "max")]
        cpu.kernels.aggregate_winners(
            forward, code, kind, width, heads, x_address, ldx, cpu.address(edge_2d), lde,
            cpu.address(grad_of[0]), cpu.address(grad_of[1]), grad.stride(0),
            low.data_ptr() if low.numel() else 0, high.data_ptr() if high.numel() else 0,
            address_x, address_edge, cpu.threads(),
        )  # fmt: skip
    return grad_x.to(dtype), grad_edge.to(dtype)


_aggregate_backward = torch.library.custom_op(
    "graphkit::aggregate_backward", _aggregate_backward_cpu, mutates_args=(), device_types="cpu"
)


@_aggregate_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    message: str,
    reduces: str,
    edge_is_table: bool,
    out: Tensor,
    mean: Tensor,
    low: Tensor,
    high: Tensor,
    positive: Tensor,
    need_x: bool,
    need_edge: bool,
) -> tuple[Tensor, Tensor]:
    grad_edge = x.new_empty(0) if edge is None or not need_edge else x.new_empty(edge.shape)
    return x.new_empty(x.shape if need_x else (0,)), grad_edge


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, edge, rowptr, col, eid, rowptr_t, col_t, eid_t, message, reduces, is_table, _ = inputs
    out, mean, low, high, positive = output
    # Do not keep alive what no derivative reads: the input of a sum or mean of copies, and both
    # inputs where the signs of their sums were kept.
    names = reduces.split(",")
    signs = bool(positive.numel())
    ctx.without_x = signs or (message == "copy" and not any(r in names for r in ("var", "std")))
    ctx.without_edge = signs
    ctx.shapes = x.shape, None if edge is None else edge.shape
    ctx.save_for_backward(
        x.new_empty(0) if ctx.without_x else x, x.new_empty(0) if signs else edge,
        rowptr, col, eid, rowptr_t, col_t, eid_t,
        out if "std" in names else x.new_empty(0), mean, low, high, positive,
    )  # fmt: skip
    ctx.options = (message, reduces, is_table)


def _gradients(ctx: Any, grad: Any, backward: Any) -> Any:
    x, edge, rowptr, col, eid, rowptr_t, col_t, eid_t, *kept = ctx.saved_tensors
    message, reduces, is_table = ctx.options
    if grad is None:  # nothing depends on the output, and zeros are not made for it
        return (None,) * 12
    if ctx.without_x:
        x = grad.new_empty(1, 1).expand(ctx.shapes[0])  # only its shape is read
    if ctx.without_edge:
        edge = grad.new_empty(1, 1).expand(ctx.shapes[1])
    need_x, need_edge = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
    grad_x, grad_edge = backward(
        grad, x, edge, rowptr, col, eid, rowptr_t, col_t, eid_t, message, reduces, is_table,
        *kept, need_x, need_edge,
    )  # fmt: skip
    return grad_x if need_x else None, grad_edge if need_edge else None, *[None] * 10


_aggregate.register_autograd(
    lambda ctx, grad, *_: _gradients(ctx, grad, _aggregate_backward), setup_context=_setup_context
)


class _Eager(torch.autograd.Function):
    # With `setup_context` apart, torch binds the signature anew at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _aggregate_cpu(*inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        return _gradients(ctx, grad, _aggregate_backward_cpu)


@_aggregate.register_kernel("cuda")
def _(x, edge, rowptr, col, eid, _rowptr_t, _col_t, _eid_t, message, reduces, _is_table, keep):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.aggregate import aggregate_forward  # only where there is a GPU

    found = aggregate_forward(x, edge, rowptr, col, eid, message, reduces, keep)
    return *found, x.new_empty(0, dtype=torch.int16)


@_aggregate_backward.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.aggregate_backward import aggregate_backward

    return aggregate_backward(*arguments[:-3], *arguments[-2:])  # without the signs
