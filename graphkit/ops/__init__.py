"""Fused primitives: tensors in, tensors out. Knows CSR and nothing above it."""

from graphkit.ops.aggregate import aggregate, segment
from graphkit.ops.aggregate_native import MESSAGES, REDUCES
from graphkit.ops.attention import attention
from graphkit.ops.backends import available, backend, current
from graphkit.ops.batch_norm import batch_norm
from graphkit.ops.csr import CSR
from graphkit.ops.ego import EgoSubgraphs, ego_subgraphs
from graphkit.ops.gated import gated_aggregate
from graphkit.ops.linear import linear
from graphkit.ops.neighbor_sample import (
    HeteroNeighborSample,
    NeighborSample,
    hetero_neighbor_sample,
    neighbor_sample,
)
from graphkit.ops.random_walk import random_walk
from graphkit.ops.selective_scan import selective_scan

__all__ = [
    "CSR",
    "EgoSubgraphs",
    "HeteroNeighborSample",
    "MESSAGES",
    "NeighborSample",
    "REDUCES",
    "aggregate",
    "attention",
    "available",
    "backend",
    "batch_norm",
    "current",
    "ego_subgraphs",
    "gated_aggregate",
    "hetero_neighbor_sample",
    "linear",
    "neighbor_sample",
    "random_walk",
    "segment",
    "selective_scan",
]
