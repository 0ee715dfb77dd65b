"""Primitives on the structure of a graph, against scipy and plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import peers
from benchmarks.cases.registry import Pair, graph_inputs, register
from graphkit.ops import CSR, common_neighbors, sorted_rows


@register("common_neighbors", "common neighbours of a million random pairs, against scipy",
          memory=False, forward=10)  # fmt: skip
def _random_pairs(scale: float) -> dict[str, Callable[[], Pair]]:
    generator = torch.Generator().manual_seed(1)
    nodes, count = graph_inputs(scale)[0].size(0), max(1000, int(1_000_000 * scale))
    return _pairs(scale, torch.randint(nodes, (2, count), generator=generator))


@register("common_neighbors_edges", "common neighbours of 20,000 linked pairs, against scipy",
          memory=False, forward=10)  # fmt: skip
def _linked_pairs(scale: float) -> dict[str, Callable[[], Pair]]:
    edge_index = graph_inputs(scale)[1]
    return _pairs(scale, edge_index[:, : max(1000, int(20_000 * scale))])


def _pairs(scale: float, pairs: torch.Tensor) -> dict[str, Callable[[], Pair]]:
    x, edge_index = graph_inputs(scale)
    csr = sorted_rows(CSR.from_edge_index(edge_index, num_nodes=x.size(0)))
    peer = peers.CommonNeighbors(edge_index, x.size(0))
    return {
        "forward": lambda: Pair(lambda: (common_neighbors(csr, pairs),), lambda: (peer(pairs),))
    }
