"""Node embeddings: FastRP against scipy.sparse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.cases.registry import Pair, register
from benchmarks.embedding_peer import fastrp, random_projection
from benchmarks.graphs import power_law_edges
from graphkit.models import FastRP
from graphkit.models.graph_input import read_graph
from graphkit.ops import random_signs

NODES, EDGES, DIM = 1_000_000, 40_000_000, 512  # edges in both directions


@register("fastrp", "FastRP, a million nodes, 20 million edges, d = 512, against scipy", forward=3)
def _embed(scale: float) -> dict[str, Callable[[], Pair]]:
    _compare()
    nodes = max(1000, int(NODES * scale))
    edge_index = power_law_edges(nodes, max(10_000, int(EDGES * scale)) // 2 * 2)
    ends = edge_index.numpy().astype(np.int32)
    ones = np.ones(ends.shape[1], dtype=np.float32)
    adjacency = sp.csr_array((ones, (ends[0], ends[1])), shape=(nodes, nodes))
    adjacency.data[:] = 1  # repeats were added up
    graph = read_graph(adjacency).csr
    graph.transpose()
    model = FastRP(DIM)
    return {
        "forward": lambda: Pair(
            lambda: (model.fit_transform(graph),),
            lambda: (torch.from_numpy(fastrp(adjacency, random_projection(nodes, DIM, 0))),),
            tolerance=None,  # other random numbers: compared with the same ones before
        )
    }


def _compare() -> None:
    """On a small graph and one projection both give the same embedding."""
    n, dim = 400, 32
    edge_index = power_law_edges(n, 4000)
    ends = edge_index.numpy()
    adjacency = sp.csr_array((np.ones(ends.shape[1], np.float32), (ends[0], ends[1])), shape=(n, n))
    adjacency.data[:] = 1
    signs = random_signs(torch.arange(n), (0, dim), density=n**-0.5, seed=42)
    projection = sp.csr_array((signs * math.sqrt(n**0.5 / dim)).numpy())
    ours = FastRP(dim).fit_transform(adjacency)
    torch.testing.assert_close(
        ours, torch.from_numpy(fastrp(adjacency, projection)), rtol=1e-3, atol=1e-3
    )
