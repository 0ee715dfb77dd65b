"""Graphs to measure on: one with a power law of degrees, and batches of small molecules."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

NODES, EDGES, FEATURES = 169_343, 2_315_598, 128  # the sizes of ogbn-arxiv, both directions stored


def power_law_edges(num_nodes: int, num_edges: int, seed: int = 0) -> Tensor:
    """``[2, num_edges]`` undirected graph, shuffled: node ``k`` is drawn with weight k^-0.75."""
    generator = np.random.default_rng(seed)
    weight = np.arange(1, num_nodes + 1) ** -0.75
    weight /= weight.sum()
    half = num_edges // 2
    ends = [generator.choice(num_nodes, half, p=weight) for _ in range(2)]
    names = generator.permutation(num_nodes)
    source = names[np.concatenate(ends)]
    target = names[np.concatenate(ends[::-1])]
    order = generator.permutation(2 * half)
    return torch.from_numpy(np.stack([source[order], target[order]]))


def molecule_batch(num_graphs: int = 100, num_nodes: int = 25, seed: int = 0) -> Batch:
    """Random trees with two rings closed, OGB's atom and bond features, one binary label."""
    generator = torch.Generator().manual_seed(seed)

    def integers(limits: list[int], rows: int) -> Tensor:
        return torch.stack([torch.randint(0, n, (rows,), generator=generator) for n in limits], 1)

    graphs = []
    for _ in range(num_graphs):
        child = torch.arange(1, num_nodes)
        parent = torch.tensor(
            [int(torch.randint(max(0, c - 3), c, (1,), generator=generator)) for c in child]
        )
        rings = torch.randint(0, num_nodes, (2, 2), generator=generator)
        one_way = torch.cat([torch.stack([child, parent]), rings], dim=1)
        bonds = integers([5, 6, 2], one_way.size(1))
        graphs.append(
            Data(
                x=integers([119, 5, 12, 12, 10, 6, 6, 2, 2], num_nodes),
                edge_index=torch.stack([one_way, one_way.flip(0)], 2).flatten(1),
                edge_attr=bonds.repeat_interleave(2, 0),
                y=torch.randint(0, 2, (1, 1), generator=generator).float(),
            )
        )
    return Batch.from_data_list(graphs)
