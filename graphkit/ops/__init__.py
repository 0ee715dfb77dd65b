"""Fused primitives: tensors in, tensors out. Knows CSR and nothing above it."""

from graphkit.ops.aggregate import aggregate, segment
from graphkit.ops.aggregate_native import MESSAGES, REDUCES
from graphkit.ops.attention import attention
from graphkit.ops.backends import available, backend, current
from graphkit.ops.batch_norm import batch_norm
from graphkit.ops.cooccurrence import cooccurrence
from graphkit.ops.csr import CSR
from graphkit.ops.degree_scalers import SCALERS, average_degrees
from graphkit.ops.dense_logistic import dense_logistic
from graphkit.ops.edge_softmax import edge_softmax
from graphkit.ops.ego import EgoSubgraphs, ego_subgraphs
from graphkit.ops.gated import gated_aggregate
from graphkit.ops.intersect import Intersection, common_neighbors, intersect, intersect_sum
from graphkit.ops.keep_entries import keep_entries
from graphkit.ops.layer_norm import dropout, layer_norm
from graphkit.ops.level_propagate import level_propagate
from graphkit.ops.levels import Levels, topological_levels
from graphkit.ops.linear import linear
from graphkit.ops.memory import empty_cache, kept_bytes
from graphkit.ops.neighbor_sample import (
    HeteroNeighborSample,
    NeighborSample,
    hetero_neighbor_sample,
    neighbor_sample,
)
from graphkit.ops.random_signs import random_signs
from graphkit.ops.random_walk import random_walk
from graphkit.ops.ranking import top_items
from graphkit.ops.rows import is_symmetric, sorted_rows
from graphkit.ops.sampled_logistic import sampled_logistic
from graphkit.ops.selective_scan import selective_scan
from graphkit.ops.summarise import summarise

__all__ = [
    "CSR",
    "EgoSubgraphs",
    "HeteroNeighborSample",
    "Intersection",
    "Levels",
    "MESSAGES",
    "NeighborSample",
    "REDUCES",
    "SCALERS",
    "aggregate",
    "attention",
    "available",
    "average_degrees",
    "backend",
    "batch_norm",
    "common_neighbors",
    "cooccurrence",
    "current",
    "dense_logistic",
    "dropout",
    "edge_softmax",
    "ego_subgraphs",
    "empty_cache",
    "gated_aggregate",
    "hetero_neighbor_sample",
    "keep_entries",
    "kept_bytes",
    "intersect",
    "intersect_sum",
    "is_symmetric",
    "layer_norm",
    "level_propagate",
    "linear",
    "neighbor_sample",
    "random_signs",
    "random_walk",
    "sampled_logistic",
    "segment",
    "sorted_rows",
    "top_items",
    "topological_levels",
    "selective_scan",
    "summarise",
]
