"""Clusters cover the graph once; GraphSAINT's norms make sums over batches unbiased."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import subgraph

from graphkit.data.subgraph_loaders import ClusterLoader, RandomWalkLoader, partition
from graphkit.errors import InputError


def blocks(count: int = 6, size: int = 15) -> Data:
    """Dense blocks with few edges between them."""
    g = torch.Generator().manual_seed(0)
    inside = torch.randint(size, (2, count * 60), generator=g)
    inside = inside + size * torch.arange(count).repeat_interleave(60)
    across = torch.randint(count * size, (2, 10), generator=g)
    pairs = torch.cat([inside, across], 1)
    pairs = torch.cat([pairs, pairs.flip(0)], 1).unique(dim=1)
    n = count * size
    return Data(
        x=torch.randn(n, 4, generator=g), edge_index=pairs, edge_attr=torch.arange(pairs.size(1))
    )


@pytest.mark.parametrize("method", ["label_propagation", "random", "auto"])
def test_parts_are_balanced_and_communities_stay_together(method):
    data = blocks()
    part = partition(data, 6, method=method, seed=1)
    sizes = torch.bincount(part, minlength=6)
    assert sizes.numel() == 6
    assert sizes.sum() == 90
    assert sizes.max() <= 30
    cut = float((part[data.edge_index[0]] != part[data.edge_index[1]]).double().mean())
    assert cut > 0.6 if method == "random" else cut < 0.3
    assert torch.equal(part, partition(data, 6, method=method, seed=1))


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_clusters_cover_every_node_once_with_their_induced_edges(batch_size):
    data = blocks()
    loader = ClusterLoader(data, 6, batch_size, shuffle=True, seed=2)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-6 // batch_size)
    nodes = torch.cat([b.n_id for b in batches])
    assert torch.equal(nodes.sort().values, torch.arange(90))
    for batch in batches:
        kept = subgraph(batch.n_id, data.edge_index, torch.arange(data.num_edges))[1]
        assert torch.equal(batch.e_id.sort().values, kept)
        assert torch.equal(data.edge_index[:, batch.e_id], batch.n_id[batch.edge_index])
        assert torch.equal(batch.edge_attr, batch.e_id)
        assert torch.equal(batch.x, data.x[batch.n_id])
    if batch_size < 6:
        assert not torch.equal(nodes, torch.cat([b.n_id for b in loader]))


def test_graphsaint_norms_are_unbiased():
    data = blocks()
    loader = RandomWalkLoader(data, 8, 3, num_steps=1500, presamples=1500, seed=3)
    value = torch.randn(90, generator=torch.Generator().manual_seed(5))
    loss, messages, seen = 0.0, torch.zeros(90), torch.zeros(90)
    for batch in loader:
        source, target = batch.edge_index
        loss += float((batch.node_norm * value[batch.n_id]).sum()) / 1500
        sums = torch.zeros(batch.num_nodes)
        sums.index_add_(0, target, batch.edge_norm * value[batch.n_id][source])
        messages[batch.n_id] += sums
        seen[batch.n_id] += 1
    assert loss == pytest.approx(float(value.mean()), abs=0.02)
    exact = torch.zeros(90).index_add_(0, data.edge_index[1], value[data.edge_index[0]])
    error = (messages / seen.clamp(min=1) - exact).abs()
    assert float(error.mean()) < 0.15 * float(exact.abs().mean())


def test_walk_batches_follow_seed_and_epoch():
    data = blocks()

    def nodes(loader: RandomWalkLoader) -> list[list[int]]:
        return [batch.n_id.tolist() for batch in loader]

    loader = RandomWalkLoader(data, 3, 2, 4, presamples=0, seed=1)
    first, second = nodes(loader), nodes(loader)
    assert first == nodes(RandomWalkLoader(data, 3, 2, 4, presamples=5, seed=1))
    assert first != second
    assert len({tuple(n) for n in first}) > 1
    assert "node_norm" not in next(iter(loader))


def test_errors_name_the_argument():
    data = blocks()
    with pytest.raises(InputError, match="num_parts"):
        partition(data, 91)
    with pytest.raises(InputError, match="num_parts"):
        ClusterLoader(data, 0)
    with pytest.raises(InputError, match="method"):
        partition(data, 2, method="best")
    with pytest.raises(InputError, match="part"):
        ClusterLoader(data, 2, part=torch.full((90,), 2))
    with pytest.raises(InputError, match="part"):
        ClusterLoader(data, 2, part=torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="roots"):
        RandomWalkLoader(data, 0, 2)
    with pytest.raises(InputError, match="presamples"):
        RandomWalkLoader(data, 1, 2, presamples=-1)
    with pytest.raises(InputError, match="data"):
        RandomWalkLoader([data], 1, 2)
