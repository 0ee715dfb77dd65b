"""attention: softmax-weighted sums over neighbours, scores and weights never stored."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.ops import backends, cpu, reference
from graphkit.ops.csr import CSR
from graphkit.ops.eager import is_plain

SCORES = ("additive", "gatv2", "dot")
_WORD = 0xFFFFFFFFFFFFFFFF  # the kernels read the seed as an unsigned number
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def attention(
    csr: CSR,
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None = None,
    *,
    score: str = "additive",
    heads: int = 1,
    att: Tensor | None = None,
    bias: Tensor | None = None,
    negative_slope: float = 0.2,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    r"""Sum neighbour values, weighted by a softmax over each node's neighbours.

    .. math::
        out_{i,h} = \sum_{k:\, row(k)=i} m_{k,h} \,
        \frac{\exp s_{k,h}}{\sum_{k'} \exp s_{k',h}} \, v_{k,h}

    with :math:`j = col(k)`, :math:`e = edge_{eid(k)}` and the score :math:`s_{k,h}` (plus the bias
    of the edge) from

    ============  ===================================================  ==================
    ``score``     :math:`s_{k,h}`                                      :math:`v_{k,h}`
    ============  ===================================================  ==================
    ``additive``  LeakyReLU(dst + src + e), one number per head        value_j
                  (GAT, arXiv 1710.10903)
    ``gatv2``     att . LeakyReLU(dst + src + e) (arXiv 2105.14491)    value_j
    ``dot``       scale * dst . (src + e) (arXiv 2009.03509)           value_j + e
    ============  ===================================================  ==================

    The maximum and the sum of the softmax run along with the values, and backward recomputes the
    scores: extra memory is ``[N, H]`` numbers. Dropout keeps weight ``(edge, head)`` by a hash of
    the seed and the two, so backward knows the mask without having stored it. Results are bitwise
    the same for any number of threads. A node without entries gets zeros.

    Args:
        csr: the graph, sorted by destination.
        value: ``[num_cols, H * D]`` what is summed.
        dst: ``[num_rows, H]`` (``additive``) or ``[num_rows, H * D]`` (queries, for ``dot``).
        src: ``[num_cols, H]`` or ``[num_cols, H * D]`` (keys, for ``dot``).
        edge: ``[E, H]`` or ``[E, H * D]`` in the order of ``edge_index``, or ``None``.
        score: one of the scores above.
        heads: ``H``
        att: ``[H * D]`` or ``[H, D]``, only for ``gatv2``.
        bias: ``[E, H]`` added to the scores; ``-inf`` masks an edge out.
        negative_slope: of LeakyReLU.
        scale: of the dot product, ``1 / sqrt(D)`` by default.
        dropout: probability that a weight becomes zero; the others grow by ``1 / (1 - dropout)``.
        seed: ``[1]`` int64; drawn from torch's generator where dropout needs one.

    Shapes:
        - **out:** ``[num_rows, H * D]``

    Raises:
        InputError: an unknown score, or a tensor whose shape, dtype or device does not fit.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1], [2, 2]]), num_nodes=3)
        >>> value = torch.tensor([[1.0], [3.0], [5.0]])
        >>> attention(csr, value, torch.zeros(3, 1), torch.zeros(3, 1))[2].tolist()
        [2.0]
    """
    width = _check(csr, value, dst, src, edge, score, heads, att, bias, dropout)
    att = None if att is None else att.reshape(-1)
    scale = max(width, 1) ** -0.5 if scale is None else scale
    if dropout and seed is None:
        seed = torch.randint(2**62, (1,), device="cpu")
    if backends.current(value.device) in ("reference", "torch_scatter"):
        return reference.attention(
            csr, value, dst, src, edge, score=score, heads=heads, att=att, bias=bias,
            negative_slope=negative_slope, scale=scale, dropout=dropout, seed=seed,
        )  # fmt: skip
    tensors = (value, dst, src, edge, att, bias)
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    structure: tuple[Tensor | None, ...] = (csr.rowptr, csr.col, csr.eid, None, None, None)
    if needs_grad:
        t = csr.transpose()
        structure = (*structure[:3], t.rowptr, t.col, t.eid)
    run: Any = _attention
    if is_plain(*tensors):
        run = _Eager.apply if needs_grad else _attention_cpu
    out: Tensor = run(
        *tensors, seed if dropout else None, *structure, score, heads, negative_slope, scale,
        dropout, needs_grad,
    )[0]  # fmt: skip
    return out


def _check(
    csr: CSR,
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None,
    score: str,
    heads: int,
    att: Tensor | None,
    bias: Tensor | None,
    dropout: float,
) -> int:
    """Refuse what does not fit; return the width of a head."""
    if score not in SCORES:
        raise InputError(
            f"score: {score!r} is not one of {', '.join(SCORES)}{nearest(score, SCORES)}"
        )
    if value.dim() != 2 or value.size(0) != csr.num_cols:
        raise InputError(f"value: shape {list(value.shape)}, wanted [{csr.num_cols}, H * D]")
    if value.dtype not in _DTYPES:
        raise InputError(f"value: dtype {value.dtype}, wanted a floating-point type")
    if heads < 1 or value.size(1) % heads:
        raise InputError(f"heads: {heads}, wanted a divisor of value's {value.size(1)} columns")
    if not 0.0 <= dropout <= 1.0:
        raise InputError(f"dropout: {dropout}, wanted a probability")
    if csr.col.device != value.device:
        raise InputError(f"csr: on {csr.col.device}, wanted {value.device} as value")
    columns = heads if score == "additive" else value.size(1)
    wanted = {
        "dst": (dst, csr.num_rows, columns),
        "src": (src, csr.num_cols, columns),
        "edge": (edge, csr.num_entries, columns),
        "bias": (bias, csr.num_entries, heads),
    }
    for name, (tensor, rows, width) in wanted.items():
        if tensor is None:
            continue
        if tensor.shape != (rows, width):
            raise InputError(f"{name}: shape {list(tensor.shape)}, wanted [{rows}, {width}]")
        if tensor.dtype != value.dtype:
            raise InputError(f"{name}: dtype {tensor.dtype}, wanted {value.dtype} as value")
        if tensor.device != value.device:
            raise InputError(f"{name}: on {tensor.device}, wanted {value.device} as value")
    if (score == "gatv2") != (att is not None):
        raise InputError(f"att: {'missing' if att is None else 'given'} with score={score!r}")
    if att is not None and att.numel() != value.size(1):
        raise InputError(f"att: shape {list(att.shape)}, wanted {value.size(1)} values")
    if att is not None and att.device != value.device:
        raise InputError(f"att: on {att.device}, wanted {value.device} as value")
    return value.size(1) // heads


class _Call(NamedTuple):
    """What forward and backward hand to the kernels alike."""

    dtype: int
    options: tuple[int, int, int, float, float, float, int]
    inputs: tuple[int, ...]
    alive: tuple[Any, ...]  # the tensors behind the addresses


def _call(
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None,
    att: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    score: str,
    heads: int,
    slope: float,
    scale: float,
    dropout: float,
) -> _Call:
    value_2d, ldv = cpu.rows(value)
    dst_2d, ldd = cpu.rows(dst)
    src_2d, lds = cpu.rows(src)
    edge_2d, lde = (None, 0) if edge is None else cpu.rows(edge)
    bias = None if bias is None else bias.contiguous()
    att = None if att is None else att.to(_compute(value)).contiguous()
    tensors = (value_2d, dst_2d, src_2d, edge_2d, bias, att)
    number = int(seed) & _WORD if seed is not None else 0
    return _Call(
        cpu.DTYPES[value.dtype],
        (SCORES.index(score), heads, value.size(1) // heads, slope, scale, dropout, number),
        (*(cpu.address(t) for t in tensors), ldv, ldd, lds, lde),
        tensors,
    )


def _compute(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _attention_cpu(
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None,
    att: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    score: str,
    heads: int,
    slope: float,
    scale: float,
    dropout: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Return out and, if ``keep``, log(sum(exp(score))) per row and head."""
    n = rowptr.numel() - 1
    out = cpu.empty(value, (n, value.size(1)))
    lse = value.new_empty((n, heads) if keep else (0,), dtype=_compute(value))
    if out.numel():
        assert cpu.kernels is not None
        call = _call(value, dst, src, edge, att, bias, seed, score, heads, slope, scale, dropout)
        cpu.kernels.attention_forward(
            cpu.graph(rowptr, col, eid, value.size(0), col.numel(), n), call.dtype, call.options,
            call.inputs, out.data_ptr(), lse.data_ptr() if keep else 0, cpu.threads(),
        )  # fmt: skip
    return out, lse


_attention = torch.library.custom_op(
    "graphkit::attention", _attention_cpu, mutates_args=(), device_types="cpu"
)


@_attention.register_fake
def _(
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None,
    att: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    score: str,
    heads: int,
    slope: float,
    scale: float,
    dropout: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    n = rowptr.numel() - 1
    shape = (n, heads) if keep else (0,)
    return value.new_empty(n, value.size(1)), value.new_empty(shape, dtype=_compute(value))


def _attention_backward_cpu(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None,
    att: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    score: str,
    heads: int,
    slope: float,
    scale: float,
    dropout: float,
    need_edge: bool,
    need_att: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, dst, src, edge, att and bias; empty where none was asked for."""
    n, entries = rowptr.numel() - 1, col.numel()

    def like(t: Tensor | None, wanted: bool = True) -> Tensor:
        return cpu.empty(value, t.shape if t is not None and wanted else (0,))

    grads = (
        like(value), like(dst), like(src), like(edge, need_edge), like(att, need_att),
        like(bias, need_bias),
    )  # fmt: skip
    if not entries or not grad.numel():
        for g in grads:
            g.zero_()
        return grads
    assert cpu.kernels is not None
    call = _call(value, dst, src, edge, att, bias, seed, score, heads, slope, scale, dropout)
    forward = cpu.graph(rowptr, col, eid, value.size(0), entries, n)
    grad, out = grad.contiguous(), out.contiguous()
    delta = torch.empty_like(lse)
    total = value.new_empty(grads[4].shape, dtype=_compute(value))
    grad_value, grad_dst, grad_src, grad_edge, _, grad_bias = grads
    cpu.kernels.attention_backward(
        forward, cpu.graph(rowptr_t, col_t, eid_t, n, entries, value.size(0)), call.dtype,
        call.options, call.inputs, out.data_ptr(), lse.data_ptr(), grad.data_ptr(),
        delta.data_ptr(), grad_dst.data_ptr(), grad_edge.data_ptr() if grad_edge.numel() else 0,
        grad_bias.data_ptr() if grad_bias.numel() else 0, total.data_ptr() if total.numel() else 0,
        grad_src.data_ptr(), grad_value.data_ptr(), cpu.threads(),
    )  # fmt: skip
    return (*grads[:4], total.to(value.dtype), grad_bias)


_attention_backward = torch.library.custom_op(
    "graphkit::attention_backward", _attention_backward_cpu, mutates_args=(), device_types="cpu"
)


@_attention_backward.register_fake
def _(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None,
    att: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    score: str,
    heads: int,
    slope: float,
    scale: float,
    dropout: float,
    need_edge: bool,
    need_att: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(t: Tensor | None, wanted: bool = True) -> Tensor:
        return value.new_empty(t.shape if t is not None and wanted else (0,))

    return (
        like(value), like(dst), like(src), like(edge, need_edge), like(att, need_att),
        like(bias, need_bias),
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, score, heads, slope, scale, dropout, _ = inputs
    out, lse = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(out, lse, *tensors)
    ctx.options = (score, heads, slope, scale, dropout)


def _gradients(ctx: Any, grad: Any, backward: Any) -> Any:
    if grad is None:
        return (None,) * 19
    need = ctx.needs_input_grad
    grads = backward(grad, *ctx.saved_tensors, *ctx.options, need[3], need[4], need[5])
    return *(g if wanted else None for g, wanted in zip(grads, need, strict=False)), *[None] * 13


_attention.register_autograd(
    lambda ctx, grad, _: _gradients(ctx, grad, _attention_backward), setup_context=_setup_context
)


class _Eager(torch.autograd.Function):
    # With `setup_context` apart, torch binds the signature anew at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _attention_cpu(*inputs)
        ctx.mark_non_differentiable(output[1])
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        return _gradients(ctx, grad, _attention_backward_cpu)


@_attention.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.attention import attention_forward  # only with a GPU

    return attention_forward(*arguments)


@_attention_backward.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.attention_backward import attention_backward

    return attention_backward(*arguments)
