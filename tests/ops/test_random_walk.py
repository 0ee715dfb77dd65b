"""Walks take edges, with the probabilities that their papers give them."""

from __future__ import annotations

import pytest
import torch

from graphkit.errors import InputError
from graphkit.ops import CSR, available, backend, random_walk, sorted_rows

NAMES = [name for name in ("native", "reference") if available()[name] is None]


def graph(nodes: int = 60, edges: int = 240, seed: int = 0, both: bool = False):
    g = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (2, edges), generator=g)
    if both:
        pairs = torch.cat([pairs, pairs.flip(0)], 1)
    return pairs, CSR.from_edge_index(pairs, num_nodes=nodes)


OPTIONS = {
    "uniform": {},
    "node2vec": {"p": 0.3, "q": 3.0},
    "node2vec_extreme": {"p": 1e-4, "q": 1e4},
    "restart": {"restart": 0.3},
    "restart_node2vec": {"restart": 0.2, "p": 4.0, "q": 0.2},
    "repelled": {"alpha": 2.0},
    "repelled_hard": {"alpha": 60.0, "restart": 0.1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_step_is_an_edge_a_stay_or_a_restart(name):
    pairs, csr = graph(nodes=60, edges=120)
    start = torch.arange(60).repeat(3)
    nodes, edges = random_walk(csr, start, 12, seed=5, return_edges=True, **OPTIONS[name])
    assert nodes.shape == (180, 13)
    assert torch.equal(nodes[:, 0], start)
    here, there = nodes[:, :-1], nodes[:, 1:]
    took = edges >= 0
    assert took.any()
    assert torch.equal(pairs[:, edges[took]], torch.stack([here[took], there[took]]))
    dead_end = torch.bincount(pairs[0], minlength=60)[here] == 0
    restarted = there == start[:, None] if "restart" in OPTIONS[name] else torch.zeros_like(took)
    assert ((there == here) & dead_end | restarted)[~took].all()
    assert not took[dead_end].any()
    assert torch.equal(nodes, random_walk(csr, start, 12, seed=5, **OPTIONS[name]))
    assert not torch.equal(nodes, random_walk(csr, start, 12, seed=6, **OPTIONS[name]))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_reference_and_any_number_of_threads_walk_alike(name):
    _, csr = graph()
    start = torch.arange(60).repeat(20)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = random_walk(csr, start, 8, seed=-3, return_edges=True, **OPTIONS[name])
        torch.set_num_threads(2)
        two = random_walk(csr, start, 8, seed=-3, return_edges=True, **OPTIONS[name])
    finally:
        torch.set_num_threads(threads)
    with backend("reference"):
        other = random_walk(csr, start[:200], 8, seed=-3, return_edges=True, **OPTIONS[name])
    for a, b, c in zip(one, two, other, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[:200], c)


def frequencies(nodes: torch.Tensor, size: int) -> torch.Tensor:
    return torch.bincount(nodes, minlength=size).double() / nodes.numel()


def chi_square(nodes: torch.Tensor, expected: torch.Tensor) -> float:
    observed = torch.bincount(nodes, minlength=expected.numel()).double()
    wanted = expected * nodes.numel()
    assert observed[wanted == 0].sum() == 0
    seen = wanted > 0
    return float(((observed - wanted)[seen] ** 2 / wanted[seen]).sum())


def test_steps_are_uniform_over_edges_also_repeated_ones():
    target = torch.tensor([1, 2, 3, 4, 4])  # node 4 by two edges
    csr = CSR.from_edge_index(torch.stack([torch.zeros_like(target), target]), num_nodes=5)
    steps = random_walk(csr, torch.zeros(40000, dtype=torch.long), 1, seed=1)[:, 1]
    # 3 degrees of freedom: the 99.99 % point is 21.1.
    assert chi_square(steps, torch.tensor([0, 0.2, 0.2, 0.2, 0.4]).double()) < 21


@pytest.mark.parametrize(("p", "q"), [(0.25, 4.0), (4.0, 0.25), (1e-4, 1.0), (1.0, 300.0)])
def test_node2vec_has_the_transition_probabilities_of_the_paper(p, q):
    # 0 - 1, and 1 - 2, 3, 4; 2 and 3 are also neighbours of 0.
    one_way = torch.tensor([[0, 1, 1, 1, 0, 0], [1, 2, 3, 4, 2, 3]])
    both = torch.cat([one_way, one_way.flip(0)], 1)
    csr = CSR.from_edge_index(both, num_nodes=5)
    walks = random_walk(csr, torch.zeros(90000, dtype=torch.long), 2, p=p, q=q, seed=2)
    second = walks[walks[:, 1] == 1, 2]
    weight = torch.tensor([1 / p, 0, 1, 1, 1 / q]).double()
    assert second.numel() > 20000
    expected = weight / weight.sum()
    expected = torch.where(expected * second.numel() < 3, 0.0, expected)  # too rare to count
    kept = second[expected[second] > 0]
    assert kept.numel() > 0.999 * second.numel()
    assert chi_square(kept, expected / expected.sum()) < 25


def test_restart_probability():
    chain = torch.stack([torch.arange(30), torch.arange(1, 31)])
    csr = CSR.from_edge_index(chain, num_nodes=31)
    walks = random_walk(csr, torch.zeros(2000, dtype=torch.long), 20, restart=0.25, seed=3)
    returned = (walks[:, 1:] == 0).double().mean()
    assert abs(float(returned) - 0.25) < 0.01
    assert (random_walk(csr, torch.tensor([4]), 5, restart=1.0) == 4).all()


def test_self_repulsion_spreads_the_visits():
    pairs, csr = graph(nodes=40, edges=100, seed=7, both=True)
    degree = torch.bincount(pairs[1], minlength=40).double()
    expected = degree / degree.sum()
    start = torch.nonzero(degree).view(-1)[:10]

    def deviation(alpha: float) -> float:
        walks = random_walk(csr, start, 2000, alpha=alpha, seed=4)
        visits = torch.stack([frequencies(w, 40) for w in walks])
        return float(((visits - expected) ** 2).sum(1).mean())

    plain, repelled, strongly = deviation(0), deviation(2), deviation(10)
    assert repelled < 0.6 * plain
    assert strongly < 0.6 * repelled


def test_first_repelled_step_has_the_given_probabilities():
    # From 0 to 1 and back: the second step from 0 has seen 1 once, and 0 twice.
    both = torch.tensor([[0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0]])
    csr = CSR.from_edge_index(both, num_nodes=4)
    walks = random_walk(csr, torch.zeros(30000, dtype=torch.long), 3, alpha=3.0, seed=8)
    third = walks[walks[:, 1] == 1, 3]
    weight = torch.tensor([0, 2.0**-3, 1, 1]).double()  # ((1 + 1) / 1)^-3
    assert chi_square(third, weight / weight.sum()) < 20


def test_rows_are_sorted_where_they_must_be():
    pairs, csr = graph(seed=9)
    shuffled = csr.transpose()  # as the source-sorted graph's transpose it keeps its own order
    again = sorted_rows(csr)
    assert torch.equal(again.row(), csr.row())
    key = again.row().long() * 60 + again.col
    assert (key[1:] >= key[:-1]).all()
    eid = again.eid.long()
    assert torch.equal(pairs[:, eid], torch.stack([again.col, again.row()]).long())
    assert sorted_rows(shuffled) is shuffled


def test_a_huge_row_and_no_walks():
    hub = torch.stack([torch.zeros(50000, dtype=torch.long), torch.arange(1, 50001)])
    csr = CSR.from_edge_index(hub, num_nodes=50001)
    steps = random_walk(csr, torch.zeros(5000, dtype=torch.long), 1, seed=1)[:, 1]
    assert steps.min() >= 1
    assert steps.unique().numel() > 4500
    assert abs(float(steps.double().mean()) - 25000) < 1000
    assert random_walk(csr, torch.empty(0, dtype=torch.long), 3).shape == (0, 4)
    assert random_walk(csr, torch.tensor([3]), 0).tolist() == [[3]]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"start": torch.tensor([60])}, "60"),
        ({"start": torch.tensor([-1])}, "-1"),
        ({"start": torch.tensor([0.5])}, "start"),
        ({"length": -1}, "length"),
        ({"p": 0.0}, "p:"),
        ({"q": -2.0}, "q:"),
        ({"restart": 1.5}, "restart"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": 1.0, "q": 2.0}, "alpha"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_arguments_are_named_in_errors(arguments, word):
    _, csr = graph()
    given = {"start": torch.tensor([0]), "length": 2, **arguments}
    with pytest.raises(InputError, match=word):
        random_walk(csr, given.pop("start"), given.pop("length"), **given)


def test_bipartite_and_corrupt_graphs():
    pairs, csr = graph()
    with pytest.raises(InputError, match="csr"):
        random_walk(CSR.from_edge_index(pairs, size=(60, 61)), torch.tensor([0]), 2)
    broken = CSR(csr.rowptr, csr.col + 1000, csr.eid, 60, 60)
    broken._transposed = broken
    for name in NAMES:
        with backend(name), pytest.raises(IndexError, match="col"):
            random_walk(broken, torch.arange(60), 3)
        with backend(name), pytest.raises(IndexError, match="col"):
            random_walk(broken, torch.arange(60), 3, alpha=1.0)
