"""Random splits of links: the counts of the protocols, no leaks, negatives that are no links."""

import itertools

import pytest
import torch

from graphkit import data
from graphkit.data.link_split import link_keys, non_links, seeded, split_links
from graphkit.errors import DatasetNotFoundError, InputError


def graph(nodes=60, links=300, seed=0):
    every = torch.tensor(list(itertools.combinations(range(nodes), 2))).t()
    order = torch.randperm(every.size(1), generator=torch.Generator().manual_seed(seed))
    return every[:, order[:links]]


def sizes(links):
    return [links[key].size(1) for key in ("train/edge", "valid/edge", "valid/edge_neg",
                                           "test/edge", "test/edge_neg")]  # fmt: skip


@pytest.mark.parametrize(
    ("total", "wanted"),
    [
        (5278, [3696, 527, 1055, 1055, 1055]),  # Cora
        (4552, [3187, 455, 910, 910, 910]),  # CiteSeer
        (44324, [31028, 4432, 8864, 8864, 8864]),  # PubMed
    ],
)
def test_counts_of_the_70_10_20_protocol(total, wanted):
    nodes = 2000
    keys = torch.randperm(nodes * nodes, generator=torch.Generator().manual_seed(0))[: 3 * total]
    ends = torch.stack([keys // nodes, keys % nodes])
    ends = ends[:, ends[0] < ends[1]][:, :total]
    assert ends.size(1) == total
    assert sizes(split_links(ends, nodes, "70/10/20", 0)) == wanted


@pytest.mark.parametrize(
    ("protocol", "wanted"),
    [("85/5/10", [255, 15, 15, 30, 30]), ("90/10", [243, 27, 27, 30, 30])],
)
def test_counts_of_the_other_protocols(protocol, wanted):
    assert sizes(split_links(graph(), 60, protocol, 0)) == wanted


@pytest.mark.parametrize("protocol", ["70/10/20", "85/5/10", "90/10"])
@pytest.mark.parametrize("seed", [0, 7])
def test_parts_are_disjoint_and_negatives_are_no_links(protocol, seed):
    edges = graph()
    links = split_links(edges, 60, protocol, seed)
    true = [link_keys(links[f"{part}/edge"], 60) for part in ("train", "valid", "test")]
    assert torch.equal(torch.cat(true).sort().values, link_keys(edges, 60))
    false = torch.cat([links["valid/edge_neg"], links["test/edge_neg"]], dim=1)
    assert (false[0] < false[1]).all()
    keys = link_keys(false, 60)
    assert keys.numel() == false.size(1)
    assert not torch.isin(keys, link_keys(edges, 60)).any()


def test_the_run_index_decides_the_split():
    one, again, other = (split_links(graph(), 60, "70/10/20", seed) for seed in (3, 3, 4))
    for key, value in one.items():
        assert torch.equal(value, again[key])
        assert not torch.equal(value, other[key])


def test_direction_order_and_repeats_of_the_input_do_not_matter():
    edges = graph()
    mixed = torch.cat([edges.flip(0), edges], dim=1)[:, torch.randperm(600)]
    one, other = split_links(edges, 60, "70/10/20", 1), split_links(mixed, 60, "70/10/20", 1)
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("count", [5, 40])
def test_non_links_are_uniform(directed, count):
    # 10 nodes, 20 links: 25 pairs (or 70 ordered ones) are free. Each is drawn equally often.
    edges = graph(10, 20)
    keys = link_keys(torch.cat([edges, edges.flip(0)], 1) if directed else edges, 10, directed)
    free = 90 - 40 if directed else 25
    count = min(count, free)
    seen = torch.zeros(100)
    draws = 2000
    for n in range(draws):
        pairs = non_links(keys, 10, count, seeded(n), directed=directed)
        drawn = pairs[0] * 10 + pairs[1]
        assert len(drawn.unique()) == count
        seen[drawn] += 1
    hit = seen[seen > 0]
    assert hit.numel() == free
    share = count / free
    error = (share * (1 - share) / draws) ** 0.5
    assert (hit / draws - share).abs().max() <= 5 * error + 1e-9


def test_what_cannot_be_split_is_refused():
    with pytest.raises(InputError, match="did you mean '70/10/20'"):
        split_links(graph(), 60, "70/10/2", 0)
    with pytest.raises(InputError, match="too few"):
        split_links(graph()[:, :3], 60, "70/10/20", 0)
    with pytest.raises(InputError):
        split_links(graph() + 5, 60, "70/10/20", 0)
    with pytest.raises(InputError, match=r"edge_index|dtype|int"):
        split_links(graph().float(), 60, "70/10/20", 0)
    with pytest.raises(InputError, match="split_seed"):
        split_links(graph(), 60, "70/10/20", -1)
    complete = torch.tensor(list(itertools.combinations(range(12), 2))).t()
    with pytest.raises(InputError, match="without a link"):
        split_links(complete, 12, "70/10/20", 0)


@pytest.mark.parametrize("name", ["cora-link", "citeseer-link", "pubmed-link"])
def test_each_run_of_planetoid_has_its_own_split(name, data_root):
    try:
        first = data.load(name)
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing))
    whole = data.load(name.removesuffix("-link")).graphs
    other = first.of_run(1)
    assert not torch.equal(first.links["test/edge"], other.links["test/edge"])
    assert torch.equal(other.links["test/edge"], data.load(name, split_seed=1).links["test/edge"])
    assert first.split_kind == "protocol"
    assert torch.equal(first.graphs.x, whole.x)
    full = link_keys(whole.edge_index, whole.num_nodes)
    for dataset in (first, other):
        true = [dataset.links[f"{part}/edge"] for part in ("train", "valid", "test")]
        assert torch.equal(link_keys(torch.cat(true, 1), whole.num_nodes), full)
        false = torch.cat([dataset.links["valid/edge_neg"], dataset.links["test/edge_neg"]], 1)
        keys = link_keys(false, whole.num_nodes)
        assert keys.numel() == 2 * first.card.split_sizes["test"]
        assert not torch.isin(keys, full).any()


def test_a_seed_that_is_asked_for_is_kept(data_root):
    fixed = data.load("seal-usair", split_seed=2, split_name="90/10")
    assert fixed.of_run(5) is fixed
    assert len(fixed.splits["test"]) == 212
    assert len(fixed.splits["valid"]) == 191


def test_official_splits_are_not_redrawn():
    demo = data.load("demo-link")
    assert demo.of_run(3) is demo
    with pytest.raises(InputError, match="official split"):
        data.load("demo-link", split_seed=1)
