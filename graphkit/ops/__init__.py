"""Fused primitives: tensors in, tensors out. Knows CSR and nothing above it."""

from graphkit.ops.aggregate import MESSAGES, REDUCES, aggregate, segment
from graphkit.ops.backends import available, backend, current
from graphkit.ops.batch_norm import batch_norm
from graphkit.ops.csr import CSR
from graphkit.ops.gated import gated_aggregate
from graphkit.ops.linear import linear

__all__ = [
    "CSR",
    "MESSAGES",
    "REDUCES",
    "aggregate",
    "available",
    "backend",
    "batch_norm",
    "current",
    "gated_aggregate",
    "linear",
    "segment",
]
