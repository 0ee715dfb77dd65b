"""Fused primitives: tensors in, tensors out. Knows CSR and nothing above it."""

from graphkit.ops.aggregate import MESSAGES, REDUCES, aggregate, segment
from graphkit.ops.attention import attention
from graphkit.ops.backends import available, backend, current
from graphkit.ops.csr import CSR
from graphkit.ops.gated import gated_aggregate
from graphkit.ops.linear import linear

__all__ = [
    "CSR",
    "MESSAGES",
    "REDUCES",
    "aggregate",
    "attention",
    "available",
    "backend",
    "current",
    "gated_aggregate",
    "linear",
    "segment",
]
