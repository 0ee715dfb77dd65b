"""PyG's loaders on graphkit's sampler give batches that train as the whole graph does."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import LinkLoader, NodeLoader
from torch_geometric.nn import HeteroConv, SAGEConv
from torch_geometric.sampler import NegativeSampling

from graphkit.data.neighbor_sampler import LinkNeighborLoader, NeighborLoader, NeighborSampler
from graphkit.errors import InputError


def graph(nodes: int = 100, edges: int = 600) -> Data:
    g = torch.Generator().manual_seed(0)
    return Data(
        x=torch.randn(nodes, 8, generator=g),
        edge_index=torch.randint(nodes, (2, edges), generator=g),
        edge_attr=torch.arange(edges),
        y=torch.randint(3, (nodes,), generator=g),
    )


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = SAGEConv(8, 16), SAGEConv(16, 3)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


def hetero() -> HeteroData:
    g = torch.Generator().manual_seed(1)
    data = HeteroData()
    data["paper"].x = torch.randn(50, 8, generator=g)
    data["author"].x = torch.randn(30, 8, generator=g)
    for kind in (
        ("author", "wrote", "paper"),
        ("paper", "cites", "paper"),
        ("paper", "by", "author"),
    ):
        ends = [torch.randint(data[t].num_nodes, (150,), generator=g) for t in kind[::2]]
        data[kind].edge_index = torch.stack(ends)
        data[kind].edge_attr = torch.arange(150)
    return data


@pytest.mark.parametrize("subgraph_type", ["directional", "induced", "bidirectional"])
@pytest.mark.parametrize("disjoint", [False, True])
def test_full_neighbourhoods_give_the_outputs_of_the_whole_graph(subgraph_type, disjoint):
    data, net = graph(), Net()
    if subgraph_type == "bidirectional":
        data.edge_index = torch.cat([data.edge_index, data.edge_index.flip(0)], 1).unique(dim=1)
        del data.edge_attr
    whole = net(data.x, data.edge_index)
    # One hop more, so that an edge that another type of subgraph adds has its whole row.
    hops = 2 if subgraph_type == "directional" else 3
    sampler = NeighborSampler(data, [-1] * hops, disjoint=disjoint, subgraph_type=subgraph_type)
    seen = []
    for batch in NodeLoader(data, sampler, input_nodes=torch.arange(0, 100, 3), batch_size=8):
        out = net(batch.x, batch.edge_index)[: batch.batch_size]
        seeds = batch.n_id[: batch.batch_size]
        assert torch.allclose(out, whole[seeds], atol=1e-5)
        assert torch.equal(batch.y, data.y[batch.n_id])
        seen.append(seeds)
    assert torch.equal(torch.cat(seen), torch.arange(0, 100, 3))


def test_a_training_step_and_the_edges_of_a_batch():
    data, net = graph(), Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    loader = NeighborLoader(data, [4, 3], batch_size=32, shuffle=True)
    before = [p.clone() for p in net.parameters()]
    for batch in loader:
        assert torch.equal(batch.n_id[batch.edge_index], data.edge_index[:, batch.e_id])
        assert torch.equal(batch.edge_attr, batch.e_id)
        assert len(batch.num_sampled_nodes) == 3
        assert torch.bincount(batch.edge_index[1]).max() <= 4
        out = net(batch.x, batch.edge_index)[: batch.batch_size]
        loss = torch.nn.functional.cross_entropy(out, batch.y[: batch.batch_size])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_seeds_decide_what_is_drawn():
    data = graph()

    def edges(loader) -> torch.Tensor:
        return torch.cat([batch.e_id for batch in loader])

    fixed = NeighborLoader(data, [2, 2], batch_size=20, seed=7)
    first = edges(fixed)
    assert torch.equal(first, edges(fixed))
    fixed.node_sampler.set_epoch(1)
    assert not torch.equal(first, edges(fixed))
    workers = NeighborLoader(data, [2, 2], batch_size=20, seed=7, num_workers=1)
    assert torch.equal(first, edges(workers))
    free = NeighborLoader(data, [2, 2], batch_size=20)
    torch.manual_seed(3)
    one, two = edges(free), edges(free)
    torch.manual_seed(3)
    assert torch.equal(one, edges(free))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_link_batches(mode, disjoint):
    data, net = graph(), Net()
    whole = net(data.x, data.edge_index)
    negatives = None if mode is None else NegativeSampling(mode, 2)
    sampler = NeighborSampler(data, [-1, -1], disjoint=disjoint, seed=1)
    loader = LinkLoader(data, sampler, neg_sampling=negatives, batch_size=50)
    for number, batch in enumerate(loader):
        out = net(batch.x, batch.edge_index)
        positives = data.edge_index[:, number * 50 : (number + 1) * 50]
        if mode == "triplet":
            ends = torch.stack([batch.src_index, batch.dst_pos_index])
            assert batch.dst_neg_index.shape == (50, 2)
            ends_all = [batch.src_index, batch.dst_pos_index, *batch.dst_neg_index.t()]
        else:
            pairs = batch.edge_label_index
            ends, ends_all = pairs[:, :50], list(pairs)
        assert torch.equal(batch.n_id[ends], positives)
        for at in ends_all:
            assert torch.allclose(out[at], whole[batch.n_id[at]], atol=1e-5)
        if disjoint:
            first, *rest = (batch.batch[at] for at in ends_all)
            assert torch.equal(first[:50], torch.arange(50))
            assert all(torch.equal(first, other) for other in rest)
        if mode == "binary":
            assert batch.edge_label.tolist() == [1.0] * 50 + [0.0] * 100
            score = (out[batch.edge_label_index[0]] * out[batch.edge_label_index[1]]).sum(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(score, batch.edge_label)
            loss.backward()
    again = [batch.n_id for batch in loader]
    assert all(torch.equal(a, b.n_id) for a, b in zip(again, loader, strict=True))


def test_negatives_follow_their_weights():
    data = graph()
    weight = torch.zeros(100)
    weight[17] = 1
    negatives = NegativeSampling("triplet", 3, dst_weight=weight)
    batch = next(iter(LinkNeighborLoader(data, [2], neg_sampling=negatives, batch_size=9)))
    assert (batch.n_id[batch.dst_neg_index] == 17).all()
    wrong = NegativeSampling("triplet", 3, dst_weight=weight[:5])
    with pytest.raises(InputError, match="neg_sampling"):
        next(iter(LinkNeighborLoader(data, [2], neg_sampling=wrong, batch_size=9)))


@pytest.mark.parametrize("disjoint", [False, True])
def test_hetero_batches_give_the_outputs_of_the_whole_graph(disjoint):
    data = hetero()
    torch.manual_seed(0)
    layers = [
        HeteroConv({kind: SAGEConv((8, 8), 8) for kind in data.edge_types}, aggr="sum")
        for _ in range(2)
    ]

    def run(batch: HeteroData) -> dict[str, torch.Tensor]:
        x = batch.x_dict
        for layer in layers:
            x = layer(x, batch.edge_index_dict)
        return x

    whole = run(data)
    loader = NeighborLoader(data, [-1, -1], "author", batch_size=7, disjoint=disjoint)
    for batch in loader:
        size = batch["author"].batch_size
        seeds = batch["author"].n_id[:size]
        assert torch.allclose(run(batch)["author"][:size], whole["author"][seeds], atol=1e-4)
        for kind in data.edge_types:
            assert torch.equal(batch[kind].edge_attr, batch[kind].e_id)
    kind = ("author", "wrote", "paper")
    for mode in ("binary", "triplet"):
        links = LinkNeighborLoader(
            data, [-1, -1], kind, neg_sampling=NegativeSampling(mode, 1), batch_size=40,
            disjoint=disjoint,
        )  # fmt: skip
        batch = next(iter(links))
        out = run(batch)
        if mode == "binary":
            source, target = batch[kind].edge_label_index
            assert batch[kind].edge_label.sum() == 40
        else:
            source, target = batch["author"].src_index, batch["paper"].dst_pos_index
            assert batch["paper"].dst_neg_index.shape == (40,)
        ends = torch.stack([batch["author"].n_id[source], batch["paper"].n_id[target]])
        assert torch.equal(ends[:, :40], data[kind].edge_index[:, :40])
        assert torch.allclose(out["author"][source], whole["author"][ends[0]], atol=1e-4)
        assert torch.allclose(out["paper"][target], whole["paper"][ends[1]], atol=1e-4)
    fanouts = {k: [1, 1] for k in data.edge_types}
    batch = next(iter(NeighborLoader(data, fanouts, ("paper", torch.tensor([3, 3])), batch_size=2)))
    assert batch["paper"].n_id[:2].tolist() == [3, 3]


def test_a_type_without_edges_can_be_a_seed():
    data = hetero()
    data["venue"].x = torch.zeros(4, 8)
    batch = next(iter(NeighborLoader(data, [2], ("venue", torch.tensor([3, 1])), batch_size=2)))
    assert batch["venue"].n_id.tolist() == [3, 1]
    assert batch["paper"].num_nodes == 0


def test_errors_name_the_argument():
    data = graph()
    with pytest.raises(InputError, match="subgraph_type"):
        NeighborSampler(data, [2], subgraph_type="all")
    with pytest.raises(InputError, match="num_neighbors"):
        NeighborSampler(data, [-3])
    with pytest.raises(InputError, match="num_neighbors"):
        NeighborSampler(data, {("a", "b", "c"): [2]})
    with pytest.raises(InputError, match="num_neighbors"):
        NeighborSampler(hetero(), {("author", "wrote", "paper"): [2]})
    with pytest.raises(InputError, match="edge_index"):
        NeighborSampler(Data(x=torch.zeros(3, 1)), [2])
    with pytest.raises(InputError, match="data"):
        NeighborSampler([1], [2])
    with pytest.raises(InputError, match="seed"):
        NeighborSampler(data, [2], seed=0.5)
    with pytest.raises(InputError, match="time_attr"):
        NeighborLoader(data, [2], time_attr="time")
    with pytest.raises(InputError, match="weight_attr"):
        LinkNeighborLoader(data, [2], weight_attr="w")
    with pytest.raises(InputError, match="seeds"):
        next(iter(NeighborLoader(data, [2], torch.tensor([100]))))
