"""What both directions of attention share on the GPU: a program's tile, scores, dropout by counter.

A program owns a row and ``GROUP`` heads and looks at ``ENTRIES`` entries of the row at once. Its
tiles are ``[ENTRIES, GROUP]`` (a number per head) or ``[ENTRIES, GROUP, PER]`` (a row of features).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops import cpu
from graphkit.ops.triton import pieces as hubs

TILE = 256  # features that a program of one warp holds of each of its inputs


@triton.jit
def _mix(x):
    # As in cpu/attention.h: masks are the same on every device.
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def keep_factor(seed, e, head, THRESHOLD: tl.constexpr, FACTOR: tl.constexpr, ACC: tl.constexpr):
    """``[ENTRIES, GROUP]`` 0 or 1 / (1 - dropout), by a hash of the seed, the edge and the head."""
    number = tl.load(seed).to(tl.uint64)
    x = _mix(e.to(tl.uint32) ^ number.to(tl.uint32))
    x = _mix(x ^ (e.to(tl.uint64) >> 32).to(tl.uint32) ^ (number >> 32).to(tl.uint32))
    x = _mix(x[:, None] ^ head.to(tl.uint32)[None, :])
    dropped = tl.zeros(x.shape, ACC)
    return tl.where(x < THRESHOLD, dropped, tl.full(x.shape, FACTOR, ACC))


@triton.jit
def own_lanes(
    HEADS: tl.constexpr, PER_HEAD: tl.constexpr, GROUP: tl.constexpr, PER: tl.constexpr
):  # fmt: skip
    """Heads of the program, the columns of their features, and which of both there are."""
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    inside = tl.arange(0, PER)
    there = head < HEADS
    f = head[:, None] * PER_HEAD + inside[None, :]
    return head, there, f, there[:, None] & (inside[None, :] < PER_HEAD)


@triton.jit
def load_own(base, row, ld, head, there, f, whole, NARROW: tl.constexpr, ACC: tl.constexpr):
    """One row: ``[GROUP]`` where it holds a number per head, else ``[GROUP, PER]``."""
    if NARROW:
        x = tl.load(base + row * ld + head, mask=there, other=0).to(ACC)
    else:
        x = tl.load(base + row * ld + f, mask=whole, other=0).to(ACC)
    return x


@triton.jit
def load_rows(base, row, ld, live, head, there, f, whole, NARROW: tl.constexpr, ACC: tl.constexpr):
    """The rows of several entries; zeros where an entry is not ``live``."""
    if NARROW:
        at = row[:, None] * ld + head[None, :]
        x = tl.load(base + at, mask=live[:, None] & there[None, :], other=0).to(ACC)
    else:
        at = row[:, None, None] * ld + f[None, :, :]
        x = tl.load(base + at, mask=live[:, None, None] & whole[None, :, :], other=0).to(ACC)
    return x


@triton.jit
def leaky(z, SLOPE: tl.constexpr):
    return tl.where(z > 0, z, z * SLOPE)


@triton.jit
def through_leaky(d, z, SLOPE: tl.constexpr):
    return tl.where(z > 0, d, d * SLOPE)


@triton.jit
def raw_scores(dst, src, att, SCORE: tl.constexpr, SLOPE: tl.constexpr, SCALE: tl.constexpr):
    """Scores before the bias, and what goes into LeakyReLU (for ``dot``, the keys).

    One side has a row per entry and the other, broadcast along the first axis, a single one.
    """
    if SCORE == "dot":
        u = src
        s = tl.sum(dst * src, 2) * SCALE
    else:
        u = dst + src
        s = leaky(u, SLOPE)
        if SCORE == "gatv2":
            s = tl.sum(att[None, :, :] * s, 2)
    return s, u


@triton.jit
def slope_of_scores(
    s, towards, level, delta, live, seed, e, head,
    THRESHOLD: tl.constexpr, FACTOR: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``ds`` and ``P m``, with P = exp(s - lse) and m the dropout factor."""
    p = tl.exp(s - level)
    kept = p
    if THRESHOLD > 0:
        m = keep_factor(seed, e, head, THRESHOLD, FACTOR, ACC)
        kept = p * m
        towards = m * towards
    ds = p * (towards - delta)
    return tl.where(live[:, None], ds, 0.0), tl.where(live[:, None], kept, 0.0)


class Inputs(NamedTuple):
    """The tensors with contiguous rows, the distances of their rows, and the kernels' options."""

    tensors: tuple[Tensor | None, ...]
    distances: tuple[int, int, int, int]
    options: dict[str, Any]
    blocks: int  # programs per row


def inputs_of(
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
) -> Inputs:
    """What forward and backward hand to their kernels alike."""
    per_head = value.size(1) // heads
    # Values that are the keys as well are read once; autograd may have wrapped them anew.
    shared = score != "additive" and src.data_ptr() == value.data_ptr()
    shared = shared and src.stride() == value.stride()
    value, ldv = cpu.rows(value)
    dst, ldd = cpu.rows(dst)
    src, lds = cpu.rows(src)
    edge, lde = (None, 0) if edge is None else cpu.rows(edge)
    att, bias = (None if t is None else t.contiguous() for t in (att, bias))
    if seed is not None:
        seed = seed.to(value.device)
    per = triton.next_power_of_2(per_head)
    group = min(triton.next_power_of_2(heads), max(1, TILE // per))
    entries = max(1, min(32, TILE // (group * per)))
    options = {
        "SCORE": score, "SHARED": shared, "HEADS": heads, "PER_HEAD": per_head,
        "SLOPE": float(slope), "SCALE": float(scale),
        "THRESHOLD": int(min(dropout * 2.0**32, 2.0**32 - 1)) if seed is not None else 0,
        "FACTOR": 0.0 if dropout >= 1.0 else 1.0 / (1.0 - dropout),
        "PIECE": hubs.PIECE, "LIMIT": hubs.LIMIT, "ACC": hubs.accumulator(value.dtype),
        "ENTRIES": entries, "GROUP": group, "PER": per,
        **hubs.LAUNCH, "num_warps": min(8, max(1, per // TILE)),
    }  # fmt: skip
    return Inputs(
        (value, dst, src, edge, att, bias, seed), (ldv, ldd, lds, lde), options,
        triton.cdiv(heads, group),
    )  # fmt: skip
