"""The native way of aggregate: the CPU kernels behind a custom op, its gradients, its dispatch.

:func:`graphkit.ops.aggregate` has checked every argument before anything here is called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphkit.ops import cpu

MESSAGES = ("copy", "scale", "mul", "add", "add_relu")
REDUCES = ("sum", "mean", "min", "max", "var", "std")
_NARROW = (torch.float16, torch.bfloat16)


def _heads(edge: Tensor | None, message: str) -> int:
    return edge.size(1) if message == "scale" and edge is not None and edge.dim() == 2 else 1


def _edge_rows(edge: Tensor | None, message: str) -> tuple[Tensor | None, int]:
    if edge is None:
        return None, 0
    return cpu.rows(edge if edge.dim() == 2 else edge.unsqueeze(1))


def aggregate_cpu(
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
    positions = x.new_empty(0, dtype=torch.int32)
    low = cpu.empty(positions, kept if "min" in names else (0,))
    high = cpu.empty(positions, kept if "max" in names else (0,))
    signs = keep and edge is not None and _keeps_signs(message, names, edge_is_table)
    words = x.new_empty(0, dtype=torch.int16)
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


aggregate_op = torch.library.custom_op(
    "graphkit::aggregate", aggregate_cpu, mutates_args=(), device_types="cpu"
)


@aggregate_op.register_fake
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


aggregate_op.register_autograd(
    lambda ctx, grad, *_: _gradients(ctx, grad, _aggregate_backward), setup_context=_setup_context
)


class Eager(torch.autograd.Function):
    # With `setup_context` apart, torch binds the signature anew at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = aggregate_cpu(*inputs)
        if output[0].size(1) == 1:
            # [N, F] from the beginning: changing a view of it in place, as layers do to add a bias,
            # would make backward copy its gradient.
            output[0].squeeze_(1)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        if grad is not None and grad.dim() == 2:
            grad = grad.unsqueeze(1)
        return _gradients(ctx, grad, _aggregate_backward_cpu)


@aggregate_op.register_kernel("cuda")
def _(x, edge, rowptr, col, eid, _rowptr_t, _col_t, _eid_t, message, reduces, _is_table, keep):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.aggregate import aggregate_forward  # only where there is a GPU

    found = aggregate_forward(x, edge, rowptr, col, eid, message, reduces, keep)
    return *found, x.new_empty(0, dtype=torch.int16)


@_aggregate_backward.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.aggregate_backward import aggregate_backward

    return aggregate_backward(*arguments[:-3], *arguments[-2:])  # without the signs
