"""gated_aggregate: GatedGCN's gate, weighted sum and edge state in one sweep over the edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphkit.errors import InputError
from graphkit.ops import backends, cpu, reference
from graphkit.ops.csr import CSR
from graphkit.ops.eager import is_plain


def gated_aggregate(
    csr: CSR,
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    edge: Tensor | None = None,
    *,
    normalize: bool = True,
    eps: float = 1e-6,
    overwrite_edge: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""Sum neighbour values through sigmoid gates.

    Residual Gated Graph ConvNets (arXiv 1711.07553), in the edge-updating form of
    Benchmarking Graph Neural Networks (arXiv 2003.00982):

    .. math::
        e_{ij} = d_i + s_j + edge_{ij}, \qquad
        out_i = \frac{\sum_j \sigma(e_{ij}) \odot v_j}{\sum_j \sigma(e_{ij}) + \epsilon}

    Only :math:`e_{ij}`, which the next layer reads, has one row per edge; the gathers, the gates
    and the gated values exist in registers only.

    Args:
        csr: the graph, sorted by destination.
        gate_dst: ``[num_rows, F]`` gate part :math:`d_i` of the destination.
        gate_src: ``[num_cols, F]`` gate part :math:`s_j` of the source.
        value: ``[num_cols, F]`` values :math:`v_j`.
        edge: ``[E, F]`` gate part of the edge, in the order of ``edge_index``, or ``None``.
        normalize: divide by the sum of the gates (GatedGCN); without, ResGatedGraphConv's sum.
        eps: added to the sum of the gates.
        overwrite_edge: ``edge`` is the caller's own and not read again: write :math:`e` into its
            memory where that is possible.

    Shapes:
        - **out:** ``[num_rows, F]``
        - **e:** ``[E, F]`` in the order of ``edge_index``; ``None`` without ``edge``.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> out, e = gated_aggregate(csr, x, x, x, torch.zeros(4, 1))
        >>> [round(v, 4) for v in out.flatten().tolist()], e.flatten().tolist()
        ([2.0, 2.0209, 2.0], [3.0, 3.0, 5.0, 5.0])
    """
    _check(csr, gate_dst, gate_src, value, edge)
    name = backends.current(value.device)
    if name in ("reference", "torch_scatter"):
        return reference.gated_aggregate(
            csr, gate_dst, gate_src, value, edge, normalize=normalize, eps=eps,
            scatter="torch_scatter" if name == "torch_scatter" else "torch",
        )  # fmt: skip
    tensors = (gate_dst, gate_src, value) if edge is None else (gate_dst, gate_src, value, edge)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    rowptr_t = col_t = eid_t = None
    if needs_grad:
        transposed = csr.transpose()
        rowptr_t, col_t, eid_t = transposed.rowptr, transposed.col, transposed.eid
    inputs: tuple[Any, ...] = (
        gate_dst, gate_src, value, edge, csr.rowptr, csr.col, csr.eid, rowptr_t, col_t, eid_t,
        normalize, eps, needs_grad,
    )  # fmt: skip
    run: Any = _gated
    if is_plain(*tensors):
        run = _Eager.apply if needs_grad else _sweep
        free = overwrite_edge and edge is not None and edge.is_contiguous()
        inputs += (free and not (edge.is_leaf and edge.requires_grad),)  # type: ignore[union-attr]
    out, gates, _ = run(*inputs)
    return out, None if edge is None else gates


def _check(
    csr: CSR, gate_dst: Tensor, gate_src: Tensor, value: Tensor, edge: Tensor | None
) -> None:
    width = value.size(-1) if value.dim() else 1
    wanted = {"gate_dst": csr.num_rows, "gate_src": csr.num_cols, "value": csr.num_cols}
    given = {"gate_dst": gate_dst, "gate_src": gate_src, "value": value}
    if edge is not None:
        wanted["edge"], given["edge"] = csr.num_entries, edge
    for name, tensor in given.items():
        if tensor.shape != (wanted[name], width):
            raise InputError(
                f"{name}: shape {list(tensor.shape)}, wanted [{wanted[name]}, {width}]"
            )
        if tensor.dtype != value.dtype or value.dtype not in cpu.DTYPES:
            raise InputError(f"{name}: dtype {tensor.dtype}, wanted one floating dtype for all")


def _gated_cpu(
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    normalize: bool,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return out, e (empty without edges) and the sums of the gates (empty unless kept)."""
    return _sweep(
        gate_dst, gate_src, value, edge, rowptr, col, eid, rowptr_t, col_t, eid_t, normalize, eps,
        keep,
    )  # fmt: skip


def _sweep(
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    normalize: bool,
    eps: float,
    keep: bool,
    overwrite_edge: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same; with ``overwrite_edge`` the gates go where ``edge`` was."""
    n, width = gate_dst.shape
    gate_dst, ldd = cpu.rows(gate_dst)
    gate_src, lds = cpu.rows(gate_src)
    value, ldv = cpu.rows(value)
    edge = None if edge is None else edge.contiguous()
    out = cpu.empty(value, (n, width))
    if edge is None:
        gates = value.new_empty(0)
    else:
        gates = edge if overwrite_edge else cpu.empty(value, edge.shape)
    sums = cpu.empty(value, (n, width) if keep and normalize else (0,))
    if out.numel():
        assert cpu.kernels is not None
        cpu.kernels.gated_forward(
            cpu.graph(rowptr, col, eid, value.size(0), col.numel(), n), cpu.DTYPES[value.dtype],
            normalize, eps, width, gate_dst.data_ptr(), gate_src.data_ptr(), value.data_ptr(),
            cpu.address(edge), ldd, lds, ldv, out.data_ptr(),
            sums.data_ptr() if sums.numel() else 0, gates.data_ptr() if gates.numel() else 0,
            cpu.threads(),
        )  # fmt: skip
    return out, gates, sums


_gated = torch.library.custom_op(
    "graphkit::gated_aggregate", _gated_cpu, mutates_args=(), device_types="cpu"
)


@_gated.register_fake
def _(
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    normalize: bool,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(gate_dst.shape),
        value.new_empty(0) if edge is None else value.new_empty(edge.shape),
        value.new_empty(gate_dst.shape if keep and normalize else (0,)),
    )


def _gated_backward_cpu(
    grad: Tensor,
    grad_gates: Tensor | None,
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    gates: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    normalize: bool,
    eps: float,
    out: Tensor,
    sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gate_dst, gate_src, value and edge (empty without edges)."""
    n, width = gate_dst.shape
    gate_dst, ldd = cpu.rows(gate_dst)
    gate_src, lds = cpu.rows(gate_src)
    value, ldv = cpu.rows(value)
    grad = grad.contiguous()
    grad_gates = None if grad_gates is None else grad_gates.contiguous()
    grad_dst = cpu.empty(value, (n, width))
    grad_src, grad_value = cpu.empty(value, value.shape), cpu.empty(value, value.shape)
    grad_edge = value.new_empty(0) if gates is None else cpu.empty(value, gates.shape)
    entries = col.numel()
    if not width or not entries:
        return grad_dst.zero_(), grad_src.zero_(), grad_value.zero_(), grad_edge.zero_()
    assert cpu.kernels is not None
    scaled = cpu.empty(value, (n, width)) if normalize and gates is not None else None
    cpu.kernels.gated_backward(
        cpu.graph(rowptr, col, eid, value.size(0), entries, n),
        cpu.graph(rowptr_t, col_t, eid_t, n, entries, value.size(0)),
        cpu.DTYPES[value.dtype], normalize, eps, width,
        gate_dst.data_ptr(), gate_src.data_ptr(), value.data_ptr(), ldd, lds, ldv,
        cpu.address(gates), out.data_ptr(), sums.data_ptr() if normalize else 0, grad.data_ptr(),
        cpu.address(grad_gates), grad_edge.data_ptr() if gates is not None else 0,
        cpu.address(scaled), grad_dst.data_ptr(), grad_src.data_ptr(), grad_value.data_ptr(),
        cpu.threads(),
    )  # fmt: skip
    return grad_dst, grad_src, grad_value, grad_edge


_gated_backward = torch.library.custom_op(
    "graphkit::gated_aggregate_backward", _gated_backward_cpu, mutates_args=(), device_types="cpu"
)


@_gated_backward.register_fake
def _(
    grad: Tensor,
    grad_gates: Tensor | None,
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    gates: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    normalize: bool,
    eps: float,
    out: Tensor,
    sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        value.new_empty(gate_dst.shape),
        value.new_empty(value.shape),
        value.new_empty(value.shape),
        value.new_empty(0) if gates is None else value.new_empty(gates.shape),
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    gate_dst, gate_src, value, edge, *structure, normalize, eps, _ = inputs
    out, gates, sums = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        gate_dst, gate_src, value, None if edge is None else gates, *structure, out, sums
    )
    ctx.options = (normalize, eps)


def _gradients(ctx: Any, grad: Any, grad_gates: Any, backward: Any) -> Any:
    gate_dst, gate_src, value, gates, *structure, out, sums = ctx.saved_tensors
    if grad is None:
        grad = torch.zeros_like(out)
    grads = backward(
        grad, None if gates is None else grad_gates, gate_dst, gate_src, value, gates, *structure,
        *ctx.options, out, sums,
    )  # fmt: skip
    wanted = [g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return *wanted, *[None] * 9


_gated.register_autograd(
    lambda ctx, grad, grad_gates, _: _gradients(ctx, grad, grad_gates, _gated_backward),
    setup_context=_setup_context,
)


class _Eager(torch.autograd.Function):
    # With `setup_context` apart, torch binds the signature anew at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _sweep(*inputs)
        inputs, overwritten = inputs[:-1], inputs[-1]
        if overwritten:
            ctx.mark_dirty(inputs[3])
        ctx.mark_non_differentiable(output[2], *([] if inputs[3] is not None else [output[1]]))
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_gates: Tensor | None, _: Any) -> Any:
        return *_gradients(ctx, grad, grad_gates, _gated_backward_cpu), None


@_gated.register_kernel("cuda")
def _(  # type: ignore[no-untyped-def]
    gate_dst,
    gate_src,
    value,
    edge,
    rowptr,
    col,
    eid,
    _rowptr_t,
    _col_t,
    _eid_t,
    normalize,
    eps,
    keep,
):
    from graphkit.ops.triton.gated import gated_forward  # only where there is a GPU

    return gated_forward(gate_dst, gate_src, value, edge, rowptr, col, eid, normalize, eps, keep)


@_gated_backward.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.gated import gated_backward

    return gated_backward(*arguments)
