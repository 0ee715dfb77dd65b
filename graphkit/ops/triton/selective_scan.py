"""selective_scan on the GPU: a program per sequence and block of channels walks along time.

Programs of backward take several sequences where there are many, as each needs room for the states
of a chunk. Sums over blocks and programs are left in parts that are added up in order.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops import cpu
from graphkit.ops.selective_scan import CHUNK
from graphkit.ops.triton.pieces import LAUNCH, accumulator

BLOCK = 16  # channels of a program
PROGRAMS = 1024  # of backward along the sequences, at most


@triton.jit
def _span(ptr, s, steps):
    """Ends of a sequence, inside the steps whatever the offsets are."""
    if ptr is not None:
        begin = tl.load(ptr + s).to(tl.int64)
        end = tl.load(ptr + s + 1).to(tl.int64)
        begin = tl.minimum(tl.maximum(begin, 0), steps)
        end = tl.minimum(tl.maximum(end, begin), steps)
    else:
        begin = tl.zeros([], tl.int64)
        end = begin + steps
    return begin, end


@triton.jit
def _vector(base, c, channels, ACC: tl.constexpr, BLOCK: tl.constexpr):
    if base is not None:
        found = tl.load(base + c, mask=c < channels, other=0).to(ACC)
    else:
        found = tl.zeros([BLOCK], ACC)
    return found


@triton.jit
def _row(base, t, ld, at, width, ACC: tl.constexpr):
    return tl.load(base + t * ld + at, mask=at < width, other=0).to(ACC)


@triton.jit
def _step(delta, t, ldd, c, channels, shift, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """Step size, and its derivative by what it comes from."""
    x = _row(delta, t, ldd, c, channels, ACC) + shift
    slope = x * 0 + 1
    if SOFTPLUS:
        e = tl.exp(-tl.abs(x))
        above = 1 + e  # rounded: the quotient below takes the error out of the logarithm
        low = tl.where(above == 1, e, tl.log(above) * (e / tl.where(above == 1, 1, above - 1)))
        slope = tl.where(x >= 0, 1, e) / above
        x = tl.maximum(x, 0) + low
    return x, slope


@triton.jit
def _hold(step, decay, a, ACC: tl.constexpr):
    """``(a - 1) / A`` with ``a = exp(step A)`` and its derivative by ``A``; series near zero."""
    # Coefficients are 1 / k!; a loop over a table is not something that Triton takes.
    x = step * decay
    series = x * 0 + 2.7557319223985893e-06  # 1 / 9!
    slope = x * 0
    slope = slope * x + series
    series = series * x + 2.48015873015873e-05
    slope = slope * x + series
    series = series * x + 0.0001984126984126984
    slope = slope * x + series
    series = series * x + 0.001388888888888889
    slope = slope * x + series
    series = series * x + 0.008333333333333333
    slope = slope * x + series
    series = series * x + 0.041666666666666664
    slope = slope * x + series
    series = series * x + 0.16666666666666666
    slope = slope * x + series
    series = series * x + 0.5
    slope = slope * x + series
    series = series * x + 1.0
    near = tl.abs(x) < (0.1 if tl.float64 == ACC else 0.5)
    safe = tl.where(near, -1.0, decay)
    value = tl.where(near, step * series, (a - 1) / safe)
    return value, tl.where(near, step * step * slope, (step * a - value) / safe)


@triton.jit
def _entering(step, x, decay, a, ZOH: tl.constexpr, ACC: tl.constexpr):
    """What multiplies B: the step times x, or x held during the step."""
    if ZOH:
        held, _ = _hold(step[:, None], decay, a, ACC)
        found = held * x[:, None]
    else:
        found = (step * x)[:, None]
    return found


@triton.jit
def _forward(
    u, delta, A, B, C, D, z, bias, initial, ptr, out, last, starts, steps, channels, states,
    ldu, ldd, ldb, ldc, ldz,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, ZOH: tl.constexpr, ACC: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, STATES)
    both = (c[:, None] < channels) & (n[None, :] < states)
    own = c[:, None] * states + n[None, :]
    begin, end = _span(ptr, s, steps)
    length = (end - begin).to(tl.int32)
    decay = tl.load(A + own, mask=both, other=-1).to(ACC)
    skip = _vector(D, c, channels, ACC, BLOCK)
    shift = _vector(bias, c, channels, ACC, BLOCK)
    h = tl.zeros([BLOCK, STATES], ACC)
    if initial is not None:
        h = tl.load(initial + s * channels * states + own, mask=both, other=0).to(ACC)
    for i in range(length):
        if starts is not None:  # noqa: SIM102 (known when the kernel is compiled)
            if (i > 0) & (i % CHUNK == 0):
                slot = begin // CHUNK + i // CHUNK - 1
                at = (slot * states + n[None, :]) * channels + c[:, None]
                tl.store(starts + at, h, mask=both)
        t = begin + i
        if REVERSE:
            t = end - 1 - i
        x = _row(u, t, ldu, c, channels, ACC)
        step, _ = _step(delta, t, ldd, c, channels, shift, SOFTPLUS, ACC)
        b = _row(B, t, ldb, n, states, ACC)
        a = tl.exp(step[:, None] * decay)
        h = a * h + _entering(step, x, decay, a, ZOH, ACC) * b[None, :]
        y = tl.sum(h * _row(C, t, ldc, n, states, ACC)[None, :], 1) + skip * x
        if z is not None:
            gate = _row(z, t, ldz, c, channels, ACC)
            y = y * gate / (1 + tl.exp(-gate))
        tl.store(out + t * channels + c, y, mask=c < channels)
    if last is not None:
        tl.store(last + s * channels * states + own, h, mask=both)


@triton.jit
def _backward(
    grad, grad_last, u, delta, A, B, C, D, z, bias, initial, ptr, starts, room,
    grad_u, grad_delta, grad_z, part_A, part_B, part_C, part_D, part_bias, grad_initial,
    sequences, steps, channels, states, ldg, ldu, ldd, ldb, ldc, ldz,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, ZOH: tl.constexpr, ACC: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, STATES)
    both = (c[:, None] < channels) & (n[None, :] < states)
    own = c[:, None] * states + n[None, :]
    decay = tl.load(A + own, mask=both, other=-1).to(ACC)
    skip = _vector(D, c, channels, ACC, BLOCK)
    shift = _vector(bias, c, channels, ACC, BLOCK)
    of_A = tl.zeros([BLOCK, STATES], ACC)
    of_D = tl.zeros([BLOCK], ACC)
    of_bias = tl.zeros([BLOCK], ACC)
    inside = tl.arange(0, BLOCK)[:, None] * STATES + n[None, :]
    mine = room + (program * tl.num_programs(1) + block) * CHUNK * BLOCK * STATES + inside
    for s in range(program, sequences, tl.num_programs(0)):
        begin, end = _span(ptr, s, steps)
        length = (end - begin).to(tl.int32)
        carry = tl.zeros([BLOCK, STATES], ACC)
        if grad_last is not None:
            carry = tl.load(grad_last + s * channels * states + own, mask=both, other=0).to(ACC)
        chunks = (length + CHUNK - 1) // CHUNK
        for k in range(chunks):
            first = (chunks - 1 - k) * CHUNK
            count = tl.minimum(length - first, CHUNK)
            h = tl.zeros([BLOCK, STATES], ACC)
            if first > 0:
                at = ((begin // CHUNK + first // CHUNK - 1) * states + n[None, :]) * channels
                h = tl.load(starts + at + c[:, None], mask=both, other=0)
            elif initial is not None:
                h = tl.load(initial + s * channels * states + own, mask=both, other=0).to(ACC)
            tl.debug_barrier()  # the states of the chunk before have been read
            for j in range(count):
                tl.store(mine + j * BLOCK * STATES, h)
                t = begin + first + j
                if REVERSE:
                    t = end - 1 - first - j
                x = _row(u, t, ldu, c, channels, ACC)
                step, _ = _step(delta, t, ldd, c, channels, shift, SOFTPLUS, ACC)
                b = _row(B, t, ldb, n, states, ACC)
                a = tl.exp(step[:, None] * decay)
                h = a * h + _entering(step, x, decay, a, ZOH, ACC) * b[None, :]
            tl.debug_barrier()
            for back in range(count):
                j = count - 1 - back
                t = begin + first + j
                if REVERSE:
                    t = end - 1 - first - j
                before = tl.load(mine + j * BLOCK * STATES)
                x = _row(u, t, ldu, c, channels, ACC)
                step, slope = _step(delta, t, ldd, c, channels, shift, SOFTPLUS, ACC)
                b = _row(B, t, ldb, n, states, ACC)
                leave = _row(C, t, ldc, n, states, ACC)
                a = tl.exp(step[:, None] * decay)
                entering = _entering(step, x, decay, a, ZOH, ACC)
                h = a * before + entering * b[None, :]
                g = _row(grad, t, ldg, c, channels, ACC)
                if z is not None:
                    gate = _row(z, t, ldz, c, channels, ACC)
                    sigmoid = 1 / (1 + tl.exp(-gate))
                    y = tl.sum(h * leave[None, :], 1) + skip * x
                    of_z = g * y * sigmoid * (1 + gate * (1 - sigmoid))
                    tl.store(grad_z + t * channels + c, of_z, mask=c < channels)
                    g = g * gate * sigmoid
                q = g[:, None] * leave[None, :] + carry
                carry = q * a
                kept = carry * before
                of_A += kept * step[:, None]
                if ZOH:
                    held, by_A = _hold(step[:, None], decay, a, ACC)
                    of_A += q * x[:, None] * b[None, :] * by_A
                    of_u = tl.sum(q * held * b[None, :], 1)
                    of_step = tl.sum(carry * b[None, :], 1)  # the hold's derivative by step is a
                else:
                    of_step = tl.sum(q * b[None, :], 1)
                    of_u = of_step * step
                of_delta = (tl.sum(kept * decay, 1) + of_step * x) * slope
                of_bias += of_delta
                of_D += g * x
                here = t * channels + c
                tl.store(grad_u + here, of_u + skip * g, mask=c < channels)
                tl.store(grad_delta + here, of_delta, mask=c < channels)
                row = (block * steps + t) * states + n
                tl.store(part_B + row, tl.sum(q * entering, 0), mask=n < states)
                tl.store(part_C + row, tl.sum(h * g[:, None], 0), mask=n < states)
        if grad_initial is not None:
            tl.store(grad_initial + s * channels * states + own, carry, mask=both)
    tl.store(part_A + program * channels * states + own, of_A, mask=both)
    tl.store(part_D + program * channels + c, of_D, mask=c < channels)
    tl.store(part_bias + program * channels + c, of_bias, mask=c < channels)


def _options(
    u: Tensor, A: Tensor, reverse: bool, delta_softplus: bool, zoh: bool
) -> tuple[int, Any]:
    options = {
        "REVERSE": reverse, "SOFTPLUS": delta_softplus, "ZOH": zoh, "ACC": accumulator(u.dtype),
        "CHUNK": CHUNK, "BLOCK": BLOCK, "STATES": triton.next_power_of_2(A.size(1)), **LAUNCH,
    }  # fmt: skip
    return triton.cdiv(u.size(1), BLOCK), options


def _whole(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def selective_scan_forward(
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
    """Outputs of ``graphkit::selective_scan``."""
    steps, channels = u.shape
    states = A.size(1)
    sequences = 1 if seq_ptr is None else seq_ptr.numel() - 1
    out = u.new_empty(u.shape)
    last = A.new_empty((sequences, channels, states) if want_last else (0,))
    starts = A.new_empty((steps // CHUNK, states, channels) if keep else (0,))
    if not channels or not sequences:
        return out, last, starts
    blocks, options = _options(u, A, reverse, delta_softplus, zoh)
    (u, ldu), (delta, ldd), (B, ldb), (C, ldc) = (cpu.rows(t) for t in (u, delta, B, C))
    z, ldz = (None, 0) if z is None else cpu.rows(z)
    with torch.cuda.device_of(u):
        _forward[(sequences, blocks)](
            u, delta, A.contiguous(), B, C, _whole(D), z, _whole(delta_bias), _whole(initial),
            _whole(seq_ptr), out, last if want_last else None, starts if starts.numel() else None,
            steps, channels, states, ldu, ldd, ldb, ldc, ldz, **options,
        )  # fmt: skip
    return out, last, starts


def selective_scan_backward(
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
    steps, channels = u.shape
    states = A.size(1)
    sequences = 1 if seq_ptr is None else seq_ptr.numel() - 1
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial)
    if not channels or not sequences:
        return [u.new_empty(0) if t is None else torch.zeros_like(t) for t in inputs]
    blocks, options = _options(u, A, reverse, delta_softplus, zoh)
    programs = min(sequences, PROGRAMS)
    room = A.new_empty(programs * blocks * CHUNK * BLOCK * options["STATES"])
    of_u, of_delta = u.new_empty(u.shape), u.new_empty(u.shape)
    of_z = None if z is None else u.new_empty(u.shape)
    of_initial = None if initial is None else A.new_empty(initial.shape)
    part_A, part_D = A.new_empty(programs, *A.shape), A.new_empty(programs, channels)
    part_B, part_C = A.new_empty(2, blocks, steps, states)
    part_bias = torch.empty_like(part_D)
    (grad, ldg), (u, ldu), (delta, ldd) = (cpu.rows(t) for t in (grad, u, delta))
    (B, ldb), (C, ldc) = cpu.rows(B), cpu.rows(C)
    z, ldz = (None, 0) if z is None else cpu.rows(z)
    with torch.cuda.device_of(u):
        _backward[(programs, blocks)](
            grad, _whole(grad_last), u, delta, A.contiguous(), B, C, _whole(D), z,
            _whole(delta_bias), _whole(initial), _whole(seq_ptr), starts, room, of_u, of_delta,
            of_z, part_A, part_B, part_C, part_D, part_bias, of_initial, sequences, steps,
            channels, states, ldg, ldu, ldd, ldb, ldc, ldz, **options,
        )  # fmt: skip
    return [
        of_u, of_delta, part_A.sum(0), part_B.sum(0).to(B.dtype), part_C.sum(0).to(C.dtype),
        u.new_empty(0) if D is None else part_D.sum(0),
        u.new_empty(0) if of_z is None else of_z,
        u.new_empty(0) if delta_bias is None else part_bias.sum(0),
        u.new_empty(0) if of_initial is None else of_initial,
    ]  # fmt: skip
