"""Sampled neighbourhoods hold real edges, as many as asked for, each as likely as any other."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.utils import k_hop_subgraph

from graphkit.errors import InputError
from graphkit.ops import (
    CSR,
    available,
    backend,
    ego_subgraphs,
    hetero_neighbor_sample,
    neighbor_sample,
)

NAMES = [name for name in ("native", "reference") if available()[name] is None]


def graph(nodes: int = 80, edges: int = 500, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (2, edges), generator=g)
    return pairs, CSR.from_edge_index(pairs, num_nodes=nodes)


SEEDS = torch.tensor([3, 11, 42, 7])
CASES = {
    "plain": {},
    "replace": {"replace": True},
    "induced": {"directed": False},
    "disjoint": {"disjoint": True},
    "all": {"disjoint": True, "directed": False, "replace": True},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fanouts", [[2, 3], [-1], [4, -1, 0, 2], []])
def test_edges_are_real_and_counts_add_up(name, fanouts):
    pairs, csr = graph()
    out = neighbor_sample(csr, SEEDS, fanouts, seed=1, **CASES[name])
    assert torch.equal(out.node[:4], SEEDS)
    assert torch.equal(pairs[:, out.edge], out.node[torch.stack([out.row, out.col])])
    assert len(out.num_sampled_nodes) == len(fanouts) + 1
    assert sum(out.num_sampled_nodes) == out.node.numel()
    if "disjoint" in CASES[name]:
        assert torch.equal(out.batch[out.row], out.batch[out.col])
        assert torch.equal(out.batch[:4], torch.arange(4))
        assert torch.stack([out.node, out.batch]).unique(dim=1).size(1) == out.node.numel()
    else:
        assert out.node.unique().numel() == out.node.numel()
    if "directed" in CASES[name]:
        assert out.num_sampled_edges is None
        return
    assert sum(out.num_sampled_edges) == out.edge.numel()
    degree = csr.degree.long()[out.node]
    begin = 0
    for hop, fanout in enumerate(fanouts):
        end = begin + out.num_sampled_nodes[hop]
        drawn = torch.bincount(out.col, minlength=out.node.numel())[begin:end]
        wanted = degree[begin:end]
        if fanout >= 0 and CASES[name].get("replace"):
            wanted = torch.where(wanted > 0, fanout, 0)
        elif fanout >= 0:
            wanted = wanted.clamp(max=fanout)
        assert torch.equal(drawn, wanted)
        begin = end
    if not CASES[name].get("replace"):
        keys = torch.stack([out.edge, out.col])
        assert keys.unique(dim=1).size(1) == out.edge.numel()


@pytest.mark.parametrize("name", CASES)
def test_the_reference_and_any_number_of_threads_sample_alike(name):
    _, csr = graph(nodes=2000, edges=60000)
    seeds = torch.arange(0, 2000, 4)
    fanouts = [7, 60, 2]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = neighbor_sample(csr, seeds, fanouts, seed=9, **CASES[name])
        torch.set_num_threads(2)
        two = neighbor_sample(csr, seeds, fanouts, seed=9, **CASES[name])
        few = neighbor_sample(csr, seeds[:9], fanouts, seed=9, **CASES[name])
    finally:
        torch.set_num_threads(threads)
    with backend("reference"):
        other = neighbor_sample(csr, seeds[:9], fanouts, seed=9, **CASES[name])
    for pair in (zip(one, two, strict=True), zip(few, other, strict=True)):
        for a, b in pair:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("k", [1, 5, 49, 60, 99])
def test_every_neighbour_is_as_likely_as_any_other(k):
    tries = 3000
    hub = torch.stack([torch.arange(1, 101), torch.zeros(100, dtype=torch.long)])
    csr = CSR.from_edge_index(hub, num_nodes=101)
    seeds = torch.zeros(tries, dtype=torch.long)
    out = neighbor_sample(csr, seeds, [k], disjoint=True, seed=3)
    counts = torch.bincount(out.edge, minlength=100).double()
    assert counts.sum() == tries * k
    share = k / 100
    deviation = (counts / tries - share) / (share * (1 - share) / tries) ** 0.5
    assert deviation.abs().max() < 4.5
    assert 0.5 < float((deviation**2).mean()) < 1.6


def test_pairs_of_neighbours_are_equally_likely_too():
    star = torch.stack([torch.arange(1, 6), torch.zeros(5, dtype=torch.long)])
    csr = CSR.from_edge_index(star, num_nodes=6)
    out = neighbor_sample(csr, torch.zeros(20000, dtype=torch.long), [2], disjoint=True, seed=4)
    pairs = out.edge.view(-1, 2).sort(1).values
    counts = torch.bincount(pairs[:, 0] * 5 + pairs[:, 1], minlength=25)
    counts = counts[counts > 0].double()
    assert counts.numel() == 10
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 34  # 9 degrees of freedom, 99.99 %


def test_what_is_drawn_for_a_node_does_not_depend_on_the_other_seeds():
    _, csr = graph()
    alone = neighbor_sample(csr, torch.tensor([7]), [2], seed=5)
    among = neighbor_sample(csr, SEEDS, [2], seed=5)
    assert torch.equal(alone.edge, among.edge[among.col == 3])


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_full_fanout_is_the_k_hop_subgraph(hops):
    pairs, csr = graph(nodes=120, edges=200, seed=2)
    for directed in (True, False):
        nodes, _, _, mask = k_hop_subgraph(SEEDS, hops, pairs, num_nodes=120, directed=directed)
        out = neighbor_sample(csr, SEEDS, [-1] * hops, directed=directed)
        assert torch.equal(out.node.sort().values, nodes)
        if hops or not directed:
            assert torch.equal(out.edge.sort().values, mask.nonzero().view(-1))


def test_isolated_empty_duplicate_and_hub():
    hub = torch.stack([torch.arange(70000) + 2, torch.zeros(70000, dtype=torch.long)])
    csr = CSR.from_edge_index(hub, num_nodes=70002)
    out = neighbor_sample(csr, torch.tensor([1]), [3, 3])
    assert out.node.tolist() == [1]
    assert out.num_sampled_nodes == [1, 0, 0]
    out = neighbor_sample(csr, torch.empty(0, dtype=torch.long), [3])
    assert out.node.numel() == out.edge.numel() == 0
    out = neighbor_sample(csr, torch.tensor([0, 1, 0]), [2])
    assert out.node[:3].tolist() == [0, 1, 0]
    assert out.col.tolist() == [0, 0, 2, 2]
    assert torch.equal(out.edge[:2], out.edge[2:])
    assert out.num_sampled_nodes == [3, 2]
    out = neighbor_sample(csr, torch.tensor([0]), [20000], seed=1)
    assert out.edge.unique().numel() == 20000
    assert neighbor_sample(csr, torch.tensor([0]), [-1]).edge.numel() == 70000


def test_errors_name_the_argument():
    pairs, csr = graph()
    for seeds in (torch.tensor([80]), torch.tensor([-2]), torch.zeros(3), torch.zeros(2, 2).long()):
        with pytest.raises(InputError, match="seeds"):
            neighbor_sample(csr, seeds, [2])
        with pytest.raises(InputError, match="nodes"):
            ego_subgraphs(csr, seeds, 2)
    with pytest.raises(InputError, match="mask"):
        neighbor_sample(csr, torch.ones(80, dtype=torch.bool), [2])
    for wrong in (-2, 2**62):
        with pytest.raises(InputError, match="fanouts"):
            neighbor_sample(csr, SEEDS, [wrong], replace=True)
    with pytest.raises(InputError, match="csr"):
        neighbor_sample(CSR.from_edge_index(pairs, size=(90, 80)), SEEDS, [2])
    with pytest.raises(InputError, match="hops"):
        ego_subgraphs(csr, SEEDS, -1)
    far = CSR(csr.rowptr, csr.col + 1000, csr.eid, 80, 80)
    short = CSR(csr.rowptr * 3, csr.col, csr.eid, 80, 80)
    for name in NAMES:
        for broken in (far, short):
            with backend(name), pytest.raises(IndexError, match="col|rowptr"):
                neighbor_sample(broken, torch.arange(80), [-1])
            with backend(name), pytest.raises(IndexError, match="col|rowptr"):
                ego_subgraphs(broken, torch.arange(80), 1)


def hetero():
    g = torch.Generator().manual_seed(1)
    sizes = {"paper": 40, "author": 25}
    kinds = [("author", "wrote", "paper"), ("paper", "cites", "paper"), ("paper", "by", "author")]
    edges = {
        k: torch.stack([torch.randint(sizes[t], (150,), generator=g) for t in k[::2]])
        for k in kinds
    }
    csrs = {k: CSR.from_edge_index(e, size=(sizes[k[0]], sizes[k[2]])) for k, e in edges.items()}
    return edges, csrs


@pytest.mark.parametrize("name", CASES)
def test_types_are_sampled_each_on_its_own(name):
    edges, csrs = hetero()
    seeds = {"paper": torch.tensor([1, 5, 9])}
    out = hetero_neighbor_sample(csrs, seeds, [3, 2], seed=2, **CASES[name])
    for kind, pairs in edges.items():
        ends = torch.stack([out.node[kind[0]][out.row[kind]], out.node[kind[2]][out.col[kind]]])
        assert out.edge[kind].numel() > 0
        assert torch.equal(pairs[:, out.edge[kind]], ends)
        if out.batch is not None:
            source, target = out.batch[kind[0]], out.batch[kind[2]]
            assert torch.equal(source[out.row[kind]], target[out.col[kind]])
    assert out.num_sampled_nodes["author"][0] == 0
    for kind, nodes in out.node.items():
        assert sum(out.num_sampled_nodes[kind]) == nodes.numel()
    with backend("reference"):
        other = hetero_neighbor_sample(csrs, seeds, [3, 2], seed=2, **CASES[name])
    for a, b in zip(out[:4], other[:4], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_fanouts_by_type_and_their_errors():
    _, csrs = hetero()
    kinds = list(csrs)
    seeds = {"paper": torch.tensor([1])}
    out = hetero_neighbor_sample(csrs, seeds, {kinds[0]: [2], kinds[1]: [0], kinds[2]: [1]})
    assert [out.edge[k].numel() for k in kinds] == [2, 0, 0]
    with pytest.raises(InputError, match="cites"):
        hetero_neighbor_sample(csrs, seeds, {kinds[0]: [2], kinds[2]: [1]})
    with pytest.raises(InputError, match="hops"):
        hetero_neighbor_sample(csrs, seeds, {kinds[0]: [2], kinds[1]: [1, 1], kinds[2]: [1]})
    with pytest.raises(InputError, match="venue"):
        hetero_neighbor_sample(csrs, {"venue": torch.tensor([1])}, [2])


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_ego_networks_are_k_hop_subgraphs(hops):
    pairs, csr = graph(nodes=120, edges=200, seed=3)
    centres = torch.cat([torch.arange(120), torch.tensor([5, 5])])
    ego = ego_subgraphs(csr, centres, hops)
    assert torch.equal(pairs[:, ego.edge], ego.node[ego.edge_index])
    assert torch.equal(ego.node[ego.ptr[:-1]], centres)
    for i, centre in enumerate(centres.tolist()):
        nodes, _, _, mask = k_hop_subgraph(centre, hops, pairs, num_nodes=120)
        mine = slice(ego.ptr[i], ego.ptr[i + 1])
        own = slice(ego.edge_ptr[i], ego.edge_ptr[i + 1])
        assert torch.equal(ego.node[mine].sort().values, nodes)
        assert torch.equal(ego.edge[own].sort().values, mask.nonzero().view(-1))
        inside = ego.edge_index[:, own]
        assert ((inside >= ego.ptr[i]) & (inside < ego.ptr[i + 1])).all()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = ego_subgraphs(csr, centres, hops)
    finally:
        torch.set_num_threads(threads)
    with backend("reference"):
        other = ego_subgraphs(csr, centres, hops)
    for a, b, c in zip(ego, two, other, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert ego_subgraphs(csr, torch.empty(0, dtype=torch.long), 2).ptr.tolist() == [0]
