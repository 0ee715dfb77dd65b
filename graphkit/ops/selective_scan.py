"""selective_scan: Mamba's state space recurrence over packed sequences, states never stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.ops import backends, cpu, reference_selective_scan
from graphkit.ops.eager import is_plain

_DISCS = ("euler", "zoh")
CHUNK = 32  # steps between the states that forward keeps, on every device


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    seq_ptr: Tensor | None = None,
    initial: Tensor | None = None,
    reverse: bool = False,
    delta_softplus: bool = True,
    disc: str = "euler",
    return_last: bool = False,
) -> Any:
    r"""Run the selective state space recurrence of Mamba over sequences of any lengths.

    Mamba (arXiv 2312.00752), equations 1 and 2 with the first-order input of its kernels:

    .. math::
        h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t B_t u_t, \qquad
        y_t = (C_t \cdot h_t + D \odot u_t) \odot \mathrm{SiLU}(z_t)

    with :math:`\Delta_t = \mathrm{softplus}(delta_t + bias)`. With ``disc="zoh"`` the inputs enter
    by the exact zero-order hold of the same paper's equation 4: :math:`A^{-1} (e^{\Delta_t A} - 1)`
    in the place of :math:`\Delta_t` before :math:`B_t u_t`. Each sequence starts anew. Backward
    recomputes the states from every 32nd one, so nothing of size ``[T, D, N]`` is ever held.
    Results are bitwise the same for any number of threads, and a sequence's own outputs and
    gradients do not depend on what it is packed with. Half types compute in float32.

    Args:
        u: ``[T, D]`` inputs of all sequences, one after the other.
        delta: ``[T, D]`` step sizes, before bias and softplus.
        A: ``[D, N]`` decay of each state, negative in Mamba.
        B: ``[T, N]`` how inputs enter the states.
        C: ``[T, N]`` how states leave.
        D: ``[D]`` weight of the input in the output, or ``None`` for zero.
        z: ``[T, D]`` gate, or ``None`` for none.
        delta_bias: ``[D]`` added to ``delta``, or ``None``.
        seq_ptr: ``[S + 1]`` int32 or int64: sequence ``s`` holds steps ``seq_ptr[s]`` to
            ``seq_ptr[s + 1] - 1``; ``None`` for one sequence of all steps.
        initial: ``[S, D, N]`` states before the first step, or ``None`` for zeros.
        reverse: run each sequence from its last step to its first.
        delta_softplus: apply softplus to ``delta + delta_bias``.
        disc: how inputs enter: ``euler``, first order as in Mamba's kernel, or ``zoh``, exact for
            inputs that stay the same during a step.
        return_last: return the states after the last step as well.

    ``u``, ``delta``, ``B``, ``C`` and ``z`` share one dtype; the others may be in that or in
    float32 (float64 with a float64 ``u``).

    Shapes:
        - **y:** ``[T, D]``
        - **last:** ``[S, D, N]`` in the computing type, with ``return_last``; after the first
          step in the order of ``seq_ptr`` where ``reverse`` is set.

    Raises:
        InputError: an unknown ``disc``, a tensor whose shape, dtype or device does not fit, or
            offsets that do not start at 0, decrease or do not end at ``T``.

    Example:
        >>> u, delta = torch.tensor([[1.0], [2.0], [1.0]]), torch.ones(3, 1)
        >>> A, B = torch.full((1, 1), -1e9), torch.ones(3, 1)
        >>> selective_scan(u, delta, A, B, B, delta_softplus=False).flatten().tolist()
        [1.0, 2.0, 1.0]
        >>> selective_scan(
        ...     u, delta, 0 * A, B, B, seq_ptr=torch.tensor([0, 2, 3]), delta_softplus=False
        ... ).flatten().tolist()
        [1.0, 3.0, 1.0]
        >>> held = selective_scan(u, delta, -B[:1], B, B, delta_softplus=False, disc="zoh")
        >>> [round(y, 4) for y in held.flatten().tolist()]  # 0.6321 = 1 - 1 / e
        [0.6321, 1.4968, 1.1828]
    """
    if disc not in _DISCS:
        raise InputError(f"disc: {disc!r} is not one of {', '.join(_DISCS)}{nearest(disc, _DISCS)}")
    zoh = disc == "zoh"
    _check(u, delta, A, B, C, D, z, delta_bias, seq_ptr, initial)
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    A = A.to(wide)
    D, delta_bias, initial = (None if t is None else t.to(wide) for t in (D, delta_bias, initial))
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial)
    name = backends.current(u.device)
    # The CPU kernels look for themselves, when the values are there to be looked at.
    if name != "native" and seq_ptr is not None and not torch.compiler.is_compiling():
        _check_offsets(seq_ptr, u.size(0))
    if name in ("reference", "torch_scatter"):
        out, last = reference_selective_scan.selective_scan(
            *tensors, seq_ptr, reverse=reverse, delta_softplus=delta_softplus, zoh=zoh
        )
        return (out, last) if return_last else out
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    run: Any = _scan
    if is_plain(*tensors, seq_ptr):
        run = _Eager.apply if needs_grad else _scan_cpu
    out, last, _ = run(*tensors, seq_ptr, reverse, delta_softplus, zoh, return_last, needs_grad)
    return (out, last) if return_last else out


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    seq_ptr: Tensor | None,
    initial: Tensor | None,
) -> None:
    if u.dim() != 2:
        raise InputError(f"u: shape {list(u.shape)}, wanted [T, D]")
    if u.dtype not in cpu.DTYPES:
        raise InputError(f"u: dtype {u.dtype}, wanted a floating-point type")
    steps, channels = u.shape
    if A.dim() != 2 or A.size(0) != channels or not A.size(1):
        raise InputError(f"A: shape {list(A.shape)}, wanted [{channels}, N] with N above zero")
    sequences = 1
    if seq_ptr is not None:
        if seq_ptr.dim() != 1 or not seq_ptr.numel():
            raise InputError(f"seq_ptr: shape {list(seq_ptr.shape)}, wanted [S + 1]")
        if seq_ptr.dtype not in (torch.int32, torch.int64):
            raise InputError(f"seq_ptr: dtype {seq_ptr.dtype}, wanted int32 or int64")
        if seq_ptr.device != u.device:
            raise InputError(f"seq_ptr: on {seq_ptr.device}, wanted {u.device} as u")
        sequences = seq_ptr.numel() - 1
    states = A.size(1)
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    one, both = (u.dtype,), (u.dtype, wide)
    wanted = (
        ("delta", delta, (steps, channels), one),
        ("A", A, (channels, states), both),
        ("B", B, (steps, states), one),
        ("C", C, (steps, states), one),
        ("D", D, (channels,), both),
        ("z", z, (steps, channels), one),
        ("delta_bias", delta_bias, (channels,), both),
        ("initial", initial, (sequences, channels, states), both),
    )
    for name, tensor, shape, dtypes in wanted:
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise InputError(f"{name}: shape {list(tensor.shape)}, wanted {list(shape)}")
        if tensor.dtype not in dtypes:
            names = " or ".join(str(dtype) for dtype in dict.fromkeys(dtypes))
            raise InputError(f"{name}: dtype {tensor.dtype}, wanted {names} with u in {u.dtype}")
        if tensor.device != u.device:
            raise InputError(f"{name}: on {tensor.device}, wanted {u.device} as u")


def _check_offsets(seq_ptr: Tensor, steps: int) -> None:
    """Refuse offsets that do not cover the steps in order."""
    values = seq_ptr.tolist()
    for position, (before, offset) in enumerate(zip([0, *values], values, strict=False)):
        if offset < before or offset > steps or (position == 0 and offset):
            break
    else:
        if values[-1] == steps:
            return
        position, offset = len(values) - 1, values[-1]
    raise InputError(
        f"seq_ptr: offset {offset} at position {position}, wanted offsets that start at 0, do not "
        f"decrease and end at {steps}"
    )


def _call(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    seq_ptr: Tensor | None,
    reverse: bool,
    delta_softplus: bool,
    zoh: bool,
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """Options and inputs for the kernels, and the tensors behind the addresses."""
    rows = [(None, 0) if t is None else cpu.rows(t) for t in (u, delta, B, C, z)]
    whole = [None if t is None else t.contiguous() for t in (A, D, delta_bias, initial, seq_ptr)]
    options = (
        cpu.DTYPES[u.dtype], 32 if seq_ptr is not None and seq_ptr.dtype == torch.int32 else 64,
        u.size(0), _sequences(seq_ptr), u.size(1), A.size(1), reverse, delta_softplus, zoh,
    )  # fmt: skip
    addresses = (*(cpu.address(t) for t, _ in rows), *(ld for _, ld in rows))
    return options, (*addresses, *(cpu.address(t) for t in whole)), (*rows, *whole)


@contextmanager
def _refusing() -> Iterator[None]:
    """What the kernels say about the offsets, as an InputError."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


def _sequences(seq_ptr: Tensor | None) -> int:
    return 1 if seq_ptr is None else seq_ptr.numel() - 1


def _num_starts(u: Tensor) -> int:
    return u.size(0) // CHUNK


def _scan_cpu(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    seq_ptr: Tensor | None,
    reverse: bool,
    delta_softplus: bool,
    zoh: bool,
    want_last: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states if wanted and, if ``keep``, the states at starts of chunks."""
    channels, states = A.shape
    out = cpu.empty(u, u.shape)
    last = cpu.empty(A, (_sequences(seq_ptr), channels, states) if want_last else (0,))
    starts = cpu.empty(A, (_num_starts(u), states, channels) if keep else (0,))
    assert cpu.kernels is not None
    options, inputs, _alive = _call(
        u, delta, A, B, C, D, z, delta_bias, initial, seq_ptr, reverse, delta_softplus, zoh
    )
    with _refusing():
        cpu.kernels.selective_scan_forward(
            options, inputs, out.data_ptr(), last.data_ptr() if want_last else 0,
            starts.data_ptr() if starts.numel() else 0, cpu.threads(),
        )  # fmt: skip
    return out, last, starts


_scan = torch.library.custom_op(
    "graphkit::selective_scan", _scan_cpu, mutates_args=(), device_types="cpu"
)


@_scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    seq_ptr: Tensor | None,
    reverse: bool,
    delta_softplus: bool,
    zoh: bool,
    want_last: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    channels, states = A.shape
    return (
        u.new_empty(u.shape),
        A.new_empty((_sequences(seq_ptr), channels, states) if want_last else (0,)),
        A.new_empty((_num_starts(u), states, channels) if keep else (0,)),
    )


def _scan_backward_cpu(
    grad: Tensor,
    grad_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    seq_ptr: Tensor | None,
    starts: Tensor,
    reverse: bool,
    delta_softplus: bool,
    zoh: bool,
) -> list[Tensor]:
    """Gradients of the nine tensors in their order; empty for one that is not there."""
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial)
    # The kernel sums dB and dC over channels in the computing type.
    kinds = (u, u, A, A, A, A, u, A, A)
    grads = [
        cpu.empty(kind, (0,) if t is None else t.shape)
        for t, kind in zip(inputs, kinds, strict=True)
    ]
    to_u, to_delta, to_A, to_B, to_C, to_D, to_z, to_bias, to_initial = (
        0 if t is None else g.data_ptr() for t, g in zip(inputs, grads, strict=True)
    )
    if not u.size(1):  # nobody writes the sums over no channels
        return [g.zero_().to(u.dtype if i in (3, 4) else g.dtype) for i, g in enumerate(grads)]
    assert cpu.kernels is not None
    options, addresses, _alive = _call(*inputs, seq_ptr, reverse, delta_softplus, zoh)
    grad, ldg = cpu.rows(grad)
    grad_last = None if grad_last is None else grad_last.contiguous()
    with _refusing():
        cpu.kernels.selective_scan_backward(
            options, addresses, starts.data_ptr() if starts.numel() else 0, grad.data_ptr(), ldg,
            cpu.address(grad_last),
            (to_u, to_delta, to_z, to_A, to_B, to_C, to_D, to_bias, to_initial), cpu.threads(),
        )  # fmt: skip
    grads[3], grads[4] = grads[3].to(u.dtype), grads[4].to(u.dtype)
    return grads


_scan_backward = torch.library.custom_op(
    "graphkit::selective_scan_backward", _scan_backward_cpu, mutates_args=(), device_types="cpu"
)


@_scan_backward.register_fake
def _(
    grad: Tensor,
    grad_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    seq_ptr: Tensor | None,
    starts: Tensor,
    reverse: bool,
    delta_softplus: bool,
    zoh: bool,
) -> list[Tensor]:
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial)
    return [u.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, reverse, delta_softplus, zoh, _, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.options = (reverse, delta_softplus, zoh, inputs[-2])


def _gradients(ctx: Any, grad: Any, grad_last: Any, backward: Any) -> Any:
    *options, want_last = ctx.options
    if grad is None and (grad_last is None or not want_last):
        return (None,) * 15
    if grad is None:
        grad = torch.zeros_like(ctx.saved_tensors[0])
    grads = backward(grad, grad_last if want_last else None, *ctx.saved_tensors, *options)
    need = ctx.needs_input_grad
    return *(g if wanted else None for g, wanted in zip(grads, need, strict=False)), *[None] * 6


_scan.register_autograd(
    lambda ctx, grad, grad_last, _: _gradients(ctx, grad, grad_last, _scan_backward),
    setup_context=_setup_context,
)


class _Eager(torch.autograd.Function):
    # With `setup_context` apart, torch binds the signature anew at every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _scan_cpu(*inputs)
        ctx.mark_non_differentiable(output[2], *([] if inputs[-2] else [output[1]]))
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_last: Any, _: Any) -> Any:
        return _gradients(ctx, grad, grad_last, _scan_backward_cpu)


@_scan.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.selective_scan import selective_scan_forward  # only with a GPU

    return selective_scan_forward(*arguments)


@_scan_backward.register_kernel("cuda")
def _(*arguments):  # type: ignore[no-untyped-def]
    from graphkit.ops.triton.selective_scan import selective_scan_backward

    return selective_scan_backward(*arguments)
