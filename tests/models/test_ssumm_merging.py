"""The compiled merging against the definition in plain Python, merge by merge."""

from __future__ import annotations

import math
import sys

import networkx
import numpy as np
import pytest
import torch

from graphkit.errors import InputError
from graphkit.models.ssumm.simple_graph import simple_graph
from graphkit.ops import CSR, backend, summarise
from graphkit.ops.reference_summarise import ReferenceSummariser, entropy
from graphkit.ops.summarise import merged_of, summariser

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = 1 << 62


def graphs():
    made = [networkx.gnp_random_graph(n, q, seed=n) for n, q in ((12, 0.4), (30, 0.15), (45, 0.2))]
    made.append(networkx.barabasi_albert_graph(60, 3, seed=1))
    made.append(networkx.relaxed_caveman_graph(8, 7, 0.1, seed=2))
    made.append(networkx.complete_bipartite_graph(20, 17))
    made.append(networkx.disjoint_union(networkx.star_graph(20), networkx.empty_graph(6)))
    return [simple_graph(g) for g in made]


GRAPHS = graphs()


def plain(csr, budget, **options):
    with backend("reference"):
        return summariser(csr, budget, **options)


def recount(csr, owner):
    """Edges between and inside the parts, counted on the graph."""
    owner = torch.from_numpy(owner)
    ends = owner[torch.stack([csr.row(), csr.col])][:, csr.row() > csr.col]
    pairs, count = torch.unique(
        torch.stack([ends.amax(0), ends.amin(0)]), dim=1, return_counts=True
    )
    return {(int(a), int(b)): int(w) for (a, b), w in zip(pairs.T, count, strict=True)}


@pytest.mark.parametrize("index", range(len(GRAPHS)))
@pytest.mark.parametrize(("p", "compat"), [(1, False), (2, False), (2, True)])
def test_every_merge_agrees_with_the_definition_and_with_a_recount(index, p, compat):
    csr = GRAPHS[index]
    n, edges = csr.num_rows, csr.num_entries // 2
    options = {"p": p, "iterations": 4, "max_group": 16, "seed": 3, "compat": compat}
    native, reference = summariser(csr, 0.0, **options), plain(csr, 0.0, **options)
    assert isinstance(reference, ReferenceSummariser)
    assert not isinstance(native, ReferenceSummariser)
    done = False
    while not done:
        done = native.advance(ALL, 1)
        assert reference.advance(ALL, 1) == done
        owner = native.owners()
        np.testing.assert_array_equal(owner, reference.owners())
        table = native.blocks()
        found = {(int(a), int(b)): int(w) for a, b, w, _ in table.T}
        assert found == recount(csr, owner)
        order = np.lexsort((table[1], table[0]))
        np.testing.assert_array_equal(table[:, order], reference.blocks())
        assert native.num_supernodes() == len(set(owner.tolist()))
        assert native.num_superedges() == int(table[3].sum())
        largest = int((table[2] * table[3]).max(initial=0))
        assert native.largest_weight() == largest
        for a in set(owner.tolist()):
            assert native.cost(int(a)) == pytest.approx(reference.cost(int(a)), abs=1e-7)
        # Every block in its chosen form makes up the size and the data.
        size = np.bincount(owner)
        base = 2 * math.log2(native.num_supernodes()) + math.log2(max(largest, 1))
        total = 0.0
        for a, b, w, joined in table.T.tolist():
            pairs = size[a] * (size[a] - 1) // 2 if a == b else size[a] * size[b]
            total += base + entropy(int(pairs), w) if joined else 2 * math.log2(n) * w
        costs = sum(native.cost(int(a)) for a in set(owner.tolist()))
        off_loop = 2 * total - sum(
            (base + entropy(int(size[a] * (size[a] - 1) // 2), w) if j else 2 * math.log2(n) * w)
            for a, b, w, j in table.T.tolist() if a == b
        )  # fmt: skip
        assert costs == pytest.approx(off_loop, rel=1e-9)
    assert [tuple(r) for r in native.rounds()] == [pytest.approx(r) for r in reference.rounds()]
    assert sum(w for _, _, w, _ in native.blocks().T) == edges


@pytest.mark.parametrize("index", range(len(GRAPHS)))
@pytest.mark.parametrize("share", [0.9, 0.3, 0.05, 0.0])
def test_what_is_left_agrees_and_fits(index, share):
    csr = GRAPHS[index]
    budget = share * csr.num_entries * math.log2(csr.num_rows)
    for p in (1, 2):
        options = {"p": p, "seed": 5, "iterations": 5}
        native = summarise(csr, budget, **options)
        with backend("reference"):
            reference = summarise(csr, budget, **options)
        assert torch.equal(native.owner, reference.owner)
        assert torch.equal(native.super_index, reference.super_index)
        assert torch.equal(native.weight, reference.weight)
        count, largest = len(native.weight), int(native.weight.max()) if len(native.weight) else 1
        log_s = math.log2(int(native.owner.max()) + 1)
        bits = count * (2 * log_s + math.log2(largest)) + csr.num_rows * log_s
        assert bits <= budget


def first_reductions(edges, n):
    both = torch.tensor(edges).T
    return plain(simple_graph(both, num_nodes=n, symmetrise=True), 0.0, p=2)


def test_worked_reductions():
    path = first_reductions([[0, 1], [1, 2]], 3)
    assert path.reduction(0, 2) == pytest.approx(0.5)
    assert path.reduction(0, 1) == pytest.approx(0.0)
    complete = first_reductions([[a, b] for a in range(4) for b in range(a)], 4)
    for a in range(4):
        for b in range(a):
            assert complete.reduction(a, b) == pytest.approx(0.4)
    edges = [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5], [2, 3]]
    triangles = first_reductions(edges, 6)
    wanted = {(0, 1): 1 / 3, (1, 2): 1 / 4, (2, 3): 0.0, (0, 4): 0.0}
    for pair, rho in wanted.items():
        assert triangles.reduction(*pair) == pytest.approx(rho, abs=1e-12)


@pytest.mark.parametrize(
    ("members", "published"), [(2, 0), (3, 1), (4, 1), (5, 2), (16, 2), (17, 3)]
)
def test_fruitless_rounds_that_end_a_group(members, published):
    # All nodes of a complete graph have one closed neighbourhood: they are one group.
    csr = simple_graph(networkx.complete_graph(members))
    for compat, wanted in ((True, published), (False, max(published, 1))):
        state = plain(csr, 0.0, compat=compat, iterations=1)
        state.advance(ALL, 1)
        assert [len(group) for group in state.groups] == [members]
        assert state.limit == wanted
        assert (state.merges == 0) == (wanted == 0)  # the published code leaves pairs alone


def test_equal_closed_neighbourhoods_share_every_shingle():
    state = plain(simple_graph(networkx.relaxed_caveman_graph(6, 6, 0.05, seed=1)), 0.0)
    assert isinstance(state, ReferenceSummariser)
    sets = [
        frozenset([v, *state.col[state.rowptr[v] : state.rowptr[v + 1]].tolist()])
        for v in range(state.n)
    ]
    alike = [(a, b) for a in range(state.n) for b in range(a) if sets[a] == sets[b]]
    assert alike
    for level in range(10):
        shingle = state.shingle(level)
        assert all(shingle[a] == shingle[b] for a, b in alike)
        assert len(set(shingle.values())) > 3


def test_threads_and_slices_do_not_change_the_summary():
    csr = simple_graph(networkx.barabasi_albert_graph(8_000, 4, seed=3))
    budget = 0.3 * csr.num_entries * math.log2(csr.num_rows)
    one = summarise(csr, budget, seed=7)
    torch.set_num_threads(2)  # the fixture sets it back
    two = summarise(csr, budget, seed=7)
    state = summariser(csr, budget, seed=7)
    while not state.advance(1000, 7):
        assert 0.0 <= state.progress() <= 1.0
    state.finish()
    for other in (two, merged_of(state)):
        assert torch.equal(one.owner, other.owner)
        assert torch.equal(one.super_index, other.super_index)
        assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.owner, summarise(csr, budget, seed=8).owner)


def test_progress_ascends_to_one(monkeypatch):
    monkeypatch.setattr(sys.modules["graphkit.ops.summarise"], "_SLICE", 500)
    told = []
    summarise(GRAPHS[2], 0.0, progress=told.append)
    assert len(set(told)) > 3
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("name", ["native", "reference"])
@pytest.mark.parametrize(
    ("rowptr", "col"),
    [
        ([0, 1, 1], [1]), ([0, 1, 2], [0, 1]), ([0, 1, 2], [1, 5]), ([0, 1, 2], [1, -1]),
        ([0, 2, 4], [1, 1, 0, 0]), ([0, 3, 2], [1, 0]), ([0, 2, 3, 4], [2, 1, 0, 0]),
    ],
)  # fmt: skip
def test_rows_that_are_no_simple_graph_are_refused(name, rowptr, col):
    n = len(rowptr) - 1
    with backend(name), pytest.raises(InputError, match="symmetric|col"):
        summarise(CSR(torch.tensor(rowptr), torch.tensor(col), None, n, n), 1.0)
