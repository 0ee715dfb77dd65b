"""level_propagate: sums and extrema that run along a directed acyclic graph, level by level."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.ops import backends, cpu, reference
from graphkit.ops.aggregate_native import MESSAGES as _MESSAGE_CODES
from graphkit.ops.aggregate_native import REDUCES as _REDUCE_CODES
from graphkit.ops.csr import CSR
from graphkit.ops.eager import is_plain
from graphkit.ops.levels import Levels, level_arrays

_MESSAGES = ("copy", "scale", "add")
_REDUCES = ("sum", "mean", "min", "max")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def level_propagate(
    csr: CSR,
    x: Tensor,
    edge: Tensor | None = None,
    *,
    message: str | None = None,
    reduce: str = "sum",
) -> Tensor:
    r"""Propagate along a directed acyclic graph: every node adds what its predecessors came to.

    .. math::
        h_i = x_i + \begin{cases} 0 & \text{if no entry leads to } i \\
        \mathrm{REDUCE}_{k:\, row(k) = i} \; \mathrm{MESSAGE}(h_{col(k)},\, edge_{eid(k)})
        & \text{else} \end{cases}

    ============  ==================
    ``message``   value
    ============  ==================
    ``copy``      :math:`h_j`
    ``scale``     :math:`w_e h_j`
    ``add``       :math:`h_j + d_e`
    ============  ==================

    With ``add`` and ``max`` this is the late arrival time of static timing analysis: ``x`` holds
    the arrival at the inputs and zeros elsewhere, ``edge`` the delays, and ``min`` gives the early
    one (Hitchcock, Smith, Cheng, IBM J. R&D 26(1), 1982). With ``scale`` and ``sum`` it is
    :math:`(I - W)^{-1} x`. Gradients of ``min`` and ``max`` go to one winner, the first entry among
    equals; a NaN wins and stays. The levels are found once per CSR; inside a level the nodes run in
    parallel, and the result does not depend on the number of threads. Models with cells of their
    own loop over :class:`graphkit.ops.Levels` instead.

    Args:
        csr: an acyclic graph, rows by destination.
        x: ``[N, F]`` what each node adds (half types are computed in float32); differentiable.
        edge: ``[E]`` or ``[E, F]`` weights (``scale``) or delays (``add``) in the order of
            ``edge_index``; differentiable.
        message: one of the messages above; by default ``scale`` with ``edge``, else ``copy``.
        reduce: ``sum``, ``mean``, ``min`` or ``max``.

    Shapes:
        - **out:** ``[N, F]``

    Raises:
        InputError: a cycle (one of its nodes is named), an unknown message or reduce, or a tensor
            of the wrong shape, dtype or device.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 0], [1, 2, 2]])
        >>> csr = CSR.from_edge_index(edge_index, num_nodes=3)
        >>> delay = torch.tensor([1.0, 1.0, 5.0])
        >>> arrival = torch.tensor([[0.5], [0.0], [0.0]])
        >>> level_propagate(csr, arrival, delay, message="add", reduce="max").tolist()
        [[0.5], [1.5], [5.5]]
    """
    message = _check(csr, x, edge, message, reduce)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = x.to(compute)
    edge = None if edge is None else edge.to(compute)
    if backends.current(x.device) != "native" or cpu.kernels is None or x.device.type != "cpu":
        return _reference(csr, wide, edge, message, reduce).to(x.dtype)
    level, order, ptr = level_arrays(csr)
    back = csr.transpose()
    needs_grad = torch.is_grad_enabled() and (
        x.requires_grad or (edge is not None and edge.requires_grad)
    )
    run: Any = _propagate_op
    if is_plain(wide, edge):
        run = _Eager.apply if needs_grad else _propagate
    out: Tensor = run(
        wide, edge, csr.rowptr, csr.col, csr.eid, back.rowptr, back.col, back.eid, order, ptr,
        message, reduce, needs_grad,
    )[0]  # fmt: skip
    return out.to(x.dtype)


def _check(csr: CSR, x: Tensor, edge: Tensor | None, message: str | None, reduce: str) -> str:
    """Refuse what does not fit; return the message."""
    if not isinstance(csr, CSR):
        raise InputError(f"csr: {type(csr).__name__}, wanted a graphkit.ops.CSR")
    if message is None:
        message = "copy" if edge is None else "scale"
    for name, value, known in (("message", message, _MESSAGES), ("reduce", reduce, _REDUCES)):
        if value not in known:
            raise InputError(
                f"{name}: {value!r} is not one of {', '.join(known)}{nearest(value, known)}"
            )
    if (message == "copy") != (edge is None):
        raise InputError(f"edge: {'missing' if edge is None else 'given'} with {message=!s}")
    if x.dim() != 2 or x.size(0) != csr.num_cols:
        raise InputError(f"x: shape {list(x.shape)}, wanted [{csr.num_cols}, F]")
    if x.dtype not in _DTYPES:
        raise InputError(f"x: dtype {x.dtype}, wanted a floating-point type")
    if x.device != csr.col.device:
        raise InputError(f"x: on {x.device}, wanted {csr.col.device} as csr")
    if edge is not None:
        entries = csr.num_entries
        if edge.shape != (entries,) and edge.shape != (entries, x.size(1)):
            raise InputError(
                f"edge: shape {list(edge.shape)}, wanted [{entries}] or [{entries}, {x.size(1)}]"
            )
        if edge.dtype != x.dtype:
            raise InputError(f"edge: dtype {edge.dtype}, wanted {x.dtype} as x")
        if edge.device != x.device:
            raise InputError(f"edge: on {edge.device}, wanted {x.device} as x")
    return message


def _reference(csr: CSR, x: Tensor, edge: Tensor | None, message: str, reduce: str) -> Tensor:
    """The same in plain torch, one step per level."""
    levels = Levels.of(csr)
    source, _ = csr.edge_index().long()
    if edge is not None and edge.dim() == 1:
        edge = edge[:, None]
    h = x
    for step, (nodes, edges) in enumerate(levels):
        if step == 0:
            continue
        values = h[source[edges]]
        if edge is not None:
            values = values * edge[edges] if message == "scale" else values + edge[edges]
        rowptr = torch.zeros(nodes.numel() + 1, dtype=torch.int64, device=x.device)
        rowptr[1:] = torch.cumsum(csr.degree[nodes], 0)
        part = CSR.from_ptr(rowptr)
        if reduce in ("min", "max"):
            reduced = values.gather(0, reference.winners(part, values, reduce == "max"))
        else:
            reduced = torch.zeros_like(h[nodes]).index_add(0, part.row(), values)
            if reduce == "mean":
                reduced = reduced / part.degree[:, None]
        h = h.index_add(0, nodes, reduced)
    if h is not x:
        return h
    return x.clone() if edge is None else x + edge.sum()  # no rows: the sum is zero


def _options(x: Tensor, edge: Tensor | None, message: str, reduce: str) -> tuple[Any, ...]:
    codes = _MESSAGE_CODES.index(message), _REDUCE_CODES.index(reduce)
    return cpu.DTYPES[x.dtype], *codes, x.size(1), edge is not None and edge.dim() == 2


def _propagate(
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    order: Tensor,
    ptr: Tensor,
    message: str,
    reduce: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Return h and, for backward of min and max, the edge that each value came by."""
    assert cpu.kernels is not None
    n, entries = x.size(0), col.numel()
    x = x.contiguous()
    edge = None if edge is None else edge.contiguous()
    out = cpu.empty(x, x.shape)
    winner = cpu.empty(col, x.shape if keep and reduce in ("min", "max") else (0,))
    if out.numel():
        cpu.kernels.level_forward(
            cpu.graph(rowptr, col, eid, n, entries, n), _options(x, edge, message, reduce),
            x.data_ptr(), cpu.address(edge), order.data_ptr(), ptr.data_ptr(), out.data_ptr(),
            winner.data_ptr() if winner.numel() else 0, cpu.threads(),
        )  # fmt: skip
    return out, winner


_propagate_op = torch.library.custom_op(
    "graphkit::level_propagate", _propagate, mutates_args=(), device_types="cpu"
)


@_propagate_op.register_fake
def _(
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    order: Tensor,
    ptr: Tensor,
    message: str,
    reduce: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    shape = x.shape if keep and reduce in ("min", "max") else (0,)
    return x.new_empty(x.shape), col.new_empty(shape)


def _propagate_backward(
    grad: Tensor,
    out: Tensor,
    winner: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    order: Tensor,
    ptr: Tensor,
    message: str,
    reduce: str,
    need_edge: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the edges (empty where not asked for)."""
    assert cpu.kernels is not None
    n, entries = out.size(0), col_t.numel()
    grad = grad.contiguous()
    edge = None if edge is None else edge.contiguous()
    grad_x = cpu.empty(out, out.shape)
    grad_edge = cpu.empty(out, edge.shape if edge is not None and need_edge else (0,))
    if not out.numel():
        return grad_x, grad_edge.zero_()
    cpu.kernels.level_backward(
        cpu.graph(rowptr_t, col_t, eid_t, n, entries, n), _options(out, edge, message, reduce),
        cpu.address(edge), out.data_ptr(), grad.data_ptr(), winner.data_ptr(), rowptr.data_ptr(),
        order.data_ptr(), ptr.data_ptr(), grad_x.data_ptr(),
        grad_edge.data_ptr() if grad_edge.numel() else 0, cpu.threads(),
    )  # fmt: skip
    return grad_x, grad_edge


_propagate_backward_op = torch.library.custom_op(
    "graphkit::level_propagate_backward", _propagate_backward, mutates_args=(), device_types="cpu"
)


@_propagate_backward_op.register_fake
def _(
    grad: Tensor,
    out: Tensor,
    winner: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    order: Tensor,
    ptr: Tensor,
    message: str,
    reduce: str,
    need_edge: bool,
) -> tuple[Tensor, Tensor]:
    shape = edge.shape if edge is not None and need_edge else (0,)
    return out.new_empty(out.shape), out.new_empty(shape)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, edge, rowptr, _, _, rowptr_t, col_t, eid_t, order, ptr, message, reduce, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output, edge, rowptr, rowptr_t, col_t, eid_t, order, ptr)
    ctx.options = (message, reduce)


def _gradients(ctx: Any, grad: Any, backward: Any) -> Any:
    if grad is None:
        return (None,) * 13
    need_edge = ctx.needs_input_grad[1]
    grad_x, grad_edge = backward(grad, *ctx.saved_tensors, *ctx.options, need_edge)
    return grad_x, grad_edge if need_edge else None, *[None] * 11


_propagate_op.register_autograd(
    lambda ctx, grad, _: _gradients(ctx, grad, _propagate_backward_op),
    setup_context=_setup_context,
)


class _Eager(torch.autograd.Function):
    # With `setup_context` apart, torch binds the signature anew at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _propagate(*inputs)
        ctx.mark_non_differentiable(output[1])
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        return _gradients(ctx, grad, _propagate_backward)
