"""The closed set of messages on the GPU: a message is its value and its two derivatives."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def message_value(x, e, MESSAGE: tl.constexpr):
    if MESSAGE == "copy":
        m = x
    elif MESSAGE == "scale" or MESSAGE == "mul":
        m = x * e
    else:
        m = x + e
        if MESSAGE == "add_relu":
            m = tl.where(m < 0, 0.0, m)  # not max(m, 0): a NaN stays a NaN
    return m


@triton.jit
def through_x(d, x, e, MESSAGE: tl.constexpr):
    """Gradient of x, given the gradient of the message."""
    if MESSAGE == "scale" or MESSAGE == "mul":
        d = d * e
    elif MESSAGE == "add_relu":
        d = tl.where(x + e > 0, d, 0.0)
    return d


@triton.jit
def through_edge(d, x, e, MESSAGE: tl.constexpr):
    """Gradient of the edge features (or, for ``scale``, of a weight: before its sum)."""
    if MESSAGE == "scale" or MESSAGE == "mul":
        d = d * x
    elif MESSAGE == "add_relu":
        d = tl.where(x + e > 0, d, 0.0)
    return d


@triton.jit
def edge_row(eid, k, live):
    """The edge that entry ``k`` came from; entries are the edges where ``eid`` is None."""
    if eid is not None:
        k = tl.load(eid + k, mask=live, other=0)
    return k.to(tl.int64)


@triton.jit
def entry_message(
    x, edge, col, eid, k, live, f, column, width, ldx, lde, MESSAGE: tl.constexpr, ACC: tl.constexpr
):
    """Message of entry ``k`` of the forward graph; zero where it is not ``live``."""
    mask = f < tl.where(live, width, 0)
    j = tl.load(col + k, mask=live, other=0).to(tl.int64)
    m = tl.load(x + j * ldx + f, mask=mask, other=0).to(ACC)
    if MESSAGE != "copy":
        e = edge_row(eid, k, live)
        m = message_value(m, tl.load(edge + e * lde + column, mask=mask, other=0).to(ACC), MESSAGE)
    return m
