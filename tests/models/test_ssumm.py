"""SSumM's estimator, what a summary tells about itself, its queries and its files."""

from __future__ import annotations

import math
import sys
import tracemalloc

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from torch_geometric.data import Data

from graphkit.errors import CorruptFileError, InputError
from graphkit.models import SSumM, SummaryGraph, summarise
from graphkit.models.ssumm.simple_graph import simple_graph
from graphkit.ops import CSR

pytestmark = pytest.mark.usefixtures("one_thread")
K23 = [[0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]
K4 = [[a, b] for a in range(4) for b in range(a)]
PATH = [[0, 1], [1, 2], [2, 3]]
TRIANGLES = [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5], [2, 3]]


def made(owner, superedges, num_edges):
    ends = torch.tensor([e[:2] for e in superedges], dtype=torch.int64).reshape(-1, 2).T
    weight = torch.tensor([e[2] for e in superedges], dtype=torch.int64)
    return SummaryGraph(torch.tensor(owner), ends, weight, num_edges=num_edges)


def both_ways(edges):
    index = torch.tensor(edges).T
    return torch.cat([index, index.flip(0)], dim=1)


def dense_graph(edges, n):
    matrix = np.zeros((n, n))
    for a, b in edges:
        matrix[a, b] = matrix[b, a] = 1
    return matrix


def dense(summary):
    """A_hat by its definition, pair by pair."""
    n, owner = summary.num_nodes, summary.owner.tolist()
    found = {
        (int(a), int(b)): int(w)
        for (a, b), w in zip(summary.super_index.T, summary.weight, strict=True)
    }
    matrix = np.zeros((n, n))
    for u in range(n):
        for v in range(n):
            a, b = max(owner[u], owner[v]), min(owner[u], owner[v])
            size = owner.count(a)
            pairs = size * (size - 1) / 2 if a == b else size * owner.count(b)
            if u != v:
                matrix[u, v] = found.get((a, b), 0) / pairs
    return matrix


# edges, owner, superedges, bits of graph, summary and data, absolute and squared error, RE1, RE2
WORKED = {
    "identity": (PATH, [0, 1, 2, 3], [(1, 0, 1), (2, 1, 1), (3, 2, 1)], 12, 20, 0, 0, 0, 0, 0),
    "path in two": (
        PATH, [0, 0, 1, 1], [(0, 0, 1), (1, 0, 1), (1, 1, 1)], 12, 10, 3.2451, 3, 1.5, 0.25,
        0.102062,
    ),
    "without the middle": (
        PATH, [0, 0, 1, 1], [(0, 0, 1), (1, 1, 1)], 12, 8, 4, 2, 2, 0.166667, 0.117851,
    ),
    "clique": (K4, [0, 0, 0, 0], [(0, 0, 6)], 24, 2.5850, 0, 0, 0, 0, 0),
    "clique less one": (
        K4[:-1], [0, 0, 0, 0], [(0, 0, 5)], 20, 2.3219, 3.9001, 3.33333, 1.66667, 0.277778,
        0.107583,
    ),
    "bipartite": (K23, [0, 0, 1, 1, 1], [(1, 0, 6)], 27.8631, 9.5850, 0, 0, 0, 0, 0),
    "bipartite less one": (
        K23[:-1], [0, 0, 1, 1, 1], [(1, 0, 5)], 23.2193, 9.3219, 3.9001, 3.33333, 1.66667,
        0.166667, 0.064550,
    ),
    "triangles": (
        TRIANGLES, [0, 0, 0, 1, 1, 1], [(0, 0, 3), (1, 0, 1), (1, 1, 3)], 36.1895, 16.7549, 4.5293,
        3.55556, 1.77778, 0.118519, 0.044444,
    ),
    "without the bridge": (
        TRIANGLES, [0, 0, 0, 1, 1, 1], [(0, 0, 3), (1, 1, 3)], 36.1895, 13.1699, 5.1699, 2, 2,
        0.066667, 0.047140,
    ),
    "nothing": (TRIANGLES, [0] * 6, [], 36.1895, 0, 36.1895, 14, 14, 0.466667, 0.124722),
}  # fmt: skip


@pytest.mark.parametrize("name", WORKED)
def test_worked_figures(name):
    edges, owner, superedges, *wanted = WORKED[name]
    s = made(owner, superedges, len(edges))
    figures = (
        s.graph_bits, s.bits, s.data_bits, s.absolute_error, s.squared_error, s.re1, s.re2,
    )  # fmt: skip
    assert figures == pytest.approx(wanted, abs=6e-5)
    difference = dense_graph(edges, len(owner)) - dense(s)
    assert s.absolute_error == pytest.approx(np.abs(difference).sum(), abs=1e-9)
    assert s.squared_error == pytest.approx((difference**2).sum(), abs=1e-9)
    assert s.check(both_ways(edges)).num_edges == len(edges)


def fitted(n=60, q=0.12, fraction=0.4, p=2, seed=1):
    graph = networkx.gnp_random_graph(n, q, seed=seed)
    return graph, SSumM(fraction=fraction, p=p, seed=seed).fit(graph).summary_


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("p", [1, 2])
def test_figures_and_queries_equal_those_of_the_dense_matrix(seed, p):
    graph, summary = fitted(n=40 + 5 * seed, q=0.15, fraction=0.5, p=p, seed=seed)
    n = summary.num_nodes
    matrix, truth = dense(summary), networkx.to_numpy_array(graph, nodelist=range(n))
    assert summary.bits <= 0.5 * 2 * graph.number_of_edges() * math.log2(n)
    assert summary.absolute_error == pytest.approx(np.abs(truth - matrix).sum(), abs=1e-9)
    assert summary.squared_error == pytest.approx(((truth - matrix) ** 2).sum(), abs=1e-9)
    nodes = torch.arange(n)
    np.testing.assert_allclose(summary.adjacency(nodes[:, None], nodes[None, :]), matrix)
    np.testing.assert_allclose(summary.expected_degree(), matrix.sum(1), atol=1e-12)
    x = torch.randn(n, 3, dtype=torch.float64)
    np.testing.assert_allclose(summary.matvec(x), matrix @ x.numpy(), atol=1e-12)
    np.testing.assert_allclose(summary.matvec(x[:, 0]), matrix @ x[:, 0].numpy(), atol=1e-12)
    for u, tau in ((0, 0.0), (3, 0.4), (n - 1, 1.0)):
        near, value = summary.neighbours(u, tau)
        wanted = np.flatnonzero((matrix[u] >= tau) & (matrix[u] > 0))
        assert near.tolist() == wanted.tolist()
        np.testing.assert_allclose(value, matrix[u, wanted])
    edge_index, weight = summary.reconstruct()
    rebuilt = np.zeros((n, n))
    rebuilt[edge_index[0], edge_index[1]] = weight
    np.testing.assert_allclose(rebuilt, matrix)
    assert edge_index.size(1) == np.count_nonzero(matrix)


def test_ranks_are_those_of_the_reconstructed_graph():
    _, summary = fitted()
    matrix = dense(summary)
    weighted = networkx.from_numpy_array(matrix)
    n = summary.num_nodes
    wanted = networkx.pagerank(weighted, alpha=0.85, tol=1e-13, max_iter=1000)
    np.testing.assert_allclose(summary.pagerank(), [wanted[v] for v in range(n)], atol=1e-9)
    assert (matrix.sum(1) == 0).any()  # so dangling nodes were among them
    home = {v: float(v in (2, 5)) for v in range(n)}
    wanted = networkx.pagerank(
        weighted, alpha=0.8, personalization=home, dangling=home, tol=1e-13, max_iter=1000
    )
    walk = summary.random_walk_with_restart(torch.tensor([2, 5]), 0.2)
    np.testing.assert_allclose(walk, [wanted[v] for v in range(n)], atol=1e-9)
    found = summary.eigenvector_centrality()
    leading = np.linalg.eigvalsh(matrix)[-1]
    np.testing.assert_allclose(matrix @ found.numpy(), leading * found.numpy(), atol=1e-6)
    assert bool((found >= 0).all())


def test_features_pass_through_a_summary_with_gradients():
    _, summary = fitted(n=20, q=0.3)
    x = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(summary.matvec, (x,))
    low = summary.matvec(x.detach().float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), summary.matvec(x.detach()), rtol=1e-5, atol=1e-5)


def test_samples_have_the_densities_of_their_superedges():
    _, summary = fitted(fraction=0.3)
    n, matrix = summary.num_nodes, dense(summary)
    mean = np.zeros((n, n))
    for seed in range(300):
        edges = summary.sample(seed=seed)
        here = np.zeros((n, n))
        here[edges[0], edges[1]] = 1
        assert here.sum() == edges.size(1)  # no pair twice
        assert (here == here.T).all()
        mean += here / 300
    # Sums over blocks: three standard deviations of a binomial mean, for all blocks together.
    total, variance = matrix.sum(), 2 * (matrix * (1 - matrix)).sum()
    assert abs(mean.sum() - total) < 3 * math.sqrt(variance / 300)
    assert np.abs(mean - matrix).max() < 5 * 0.5 / math.sqrt(300)
    assert torch.equal(summary.sample(seed=3), summary.sample(seed=3))


def test_every_form_of_a_graph_gives_the_same_summary():
    graph = networkx.gnp_random_graph(30, 0.2, seed=4)
    index = both_ways(list(graph.edges))
    matrix = networkx.to_scipy_sparse_array(graph, nodelist=range(30))
    repeated = torch.cat([index, index[:, :9], index.flip(0)[:, :5], torch.tensor([[3], [3]])], 1)
    zeros = scipy.sparse.coo_array(
        (np.append(matrix.data, 0.0), np.append(matrix.nonzero(), [[0], [29]], 1)), shape=(30, 30)
    )  # what is stored, but 0, is no edge
    forms = [
        graph, index, matrix, scipy.sparse.coo_matrix(matrix), CSR.from_edge_index(index, 30),
        Data(edge_index=index, num_nodes=30), zeros, repeated[:, torch.randperm(repeated.size(1))],
    ]  # fmt: skip
    found = [summarise(form, ratio=0.5, seed=2) for form in forms]
    single = index[:, : index.size(1) // 2]
    found.append(summarise(single, ratio=0.5, seed=2, symmetrise=True, num_nodes=30))
    weights = torch.rand(index.size(1))
    found.append(
        summarise(Data(edge_index=index, edge_weight=weights, num_nodes=30), ratio=0.5, seed=2,
                  ignore_weights=True)
    )  # fmt: skip
    for other in found[1:]:
        assert torch.equal(found[0].owner, other.owner)
        assert torch.equal(found[0].super_index, other.super_index)
        assert torch.equal(found[0].weight, other.weight)


def test_budgets_at_both_ends():
    graph = networkx.gnp_random_graph(40, 0.2, seed=5)
    graph.add_nodes_from(range(40, 45))
    edges = graph.number_of_edges()
    whole = (2 * edges + 45) * math.log2(45)
    identity = summarise(graph, target_bits=whole)
    assert identity.num_supernodes == 45
    assert identity.bits == pytest.approx(whole)
    assert identity.re1 == 0
    none = summarise(graph, target_bits=0)
    assert (none.num_supernodes, none.num_superedges, none.bits) == (1, 0, 0.0)
    assert none.absolute_error == 2 * edges
    for ratio in (0.02, 0.1, 0.3, 0.7, 1.0, 1.1):
        assert summarise(graph, ratio=ratio).bits <= ratio * 2 * edges * math.log2(45)


def test_estimator_manners():
    model = SSumM(fraction=0.5, p=2, seed=3)
    again = clone(model)
    assert again.get_params() == model.get_params()
    graph = networkx.karate_club_graph()
    summary = model.fit_transform(graph, ignore_weights=True)
    assert summary is model.summary_
    assert [row.iteration for row in model.log_] == list(range(1, len(model.log_) + 1))
    assert model.set_params(fraction=0.3).get_params()["fraction"] == 0.3
    with pytest.raises(InputError):
        model.set_params(p=3)
    assert model.get_params()["p"] == 2
    assert repr(SSumM(bits=100)) == (
        "SSumM(bits=100, p=1, iterations=20, num_hashes=10, max_group=500, seed=0, compat=False)"
    )


@pytest.mark.parametrize("suffix", ["txt", "npz", "safetensors"])
def test_files_give_back_what_was_written(tmp_path, suffix):
    _, summary = fitted()
    file = tmp_path / f"summary.{suffix}"
    summary.save(file)
    edges = summary.num_edges if suffix == "txt" else None
    back = SummaryGraph.load(file, num_edges=edges)
    for name in ("owner", "super_index", "weight"):
        assert torch.equal(getattr(back, name), getattr(summary, name)), name
    assert (back.bits, back.re1, back.re2) == (summary.bits, summary.re1, summary.re2)
    first = file.read_bytes()
    back.save(file)
    assert file.read_bytes() == first


def test_text_keeps_ids_of_its_own(tmp_path):
    ids = torch.tensor([7, 20, 3_000_000_000, 9_000_000_000])
    summary = summarise(both_ways(PATH), ratio=0.9, ids=ids)
    file = tmp_path / "s.txt"
    summary.save(file)
    back = SummaryGraph.load(file, own_ids=True)
    assert torch.equal(back.ids, ids)
    assert torch.equal(back.owner, summary.owner)
    with pytest.raises(InputError, match="own_ids"):
        SummaryGraph.load(file)
    with pytest.raises(InputError, match="check"):
        _ = back.re1
    assert back.check(both_ways(PATH)).re1 == summary.re1


HEAD, EDGES = "<Subnode of each supernode>", "<Superedge info>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1"), (f"{EDGES}\n", "line 1"), (f"{HEAD}\n1\t0\n", "cut off"),
        (f"{HEAD}\n1\t0\t1\n2\t1\n{EDGES}\n", "two supernodes"),
        (f"{HEAD}\n1\t0\t0\n{EDGES}\n", "two supernodes"),
        (f"{HEAD}\n1\t0\n1\t1\n{EDGES}\n", "twice"), (f"{HEAD}\n1\n{EDGES}\n", "without members"),
        (f"{HEAD}\n1\t0\t2\n{EDGES}\n", "no node 1"), (f"{HEAD}\n1\tx\n{EDGES}\n", "whole numbers"),
        (f"{HEAD}\n1\t0\n2\t1\n{EDGES}\n2\t3\t1\n", "no supernode 3"),
        (f"{HEAD}\n1\t0\n2\t1\n{EDGES}\n2\t1\t2\n", "1..1"),
        (f"{HEAD}\n1\t0\n2\t1\n{EDGES}\n2\t1\t0\n", "1..1"),
        (f"{HEAD}\n1\t0\n2\t1\n{EDGES}\n1\t1\t1\n", "of 0 pairs"),
        (f"{HEAD}\n1\t0\n2\t1\n{EDGES}\n2\t1\t1\n1\t2\t1\n", "twice"),
        (f"{HEAD}\n1\t0\n2\t1\n{EDGES}\n2\t1\n", "2 numbers"),
        (f"{HEAD}\n1\t-1\t0\n2\t1\n{EDGES}\n", "node -1 among"),
        (f"{HEAD}\n1\t0\n2\t1_0\n{EDGES}\n", "whole numbers"),
        (f"{HEAD}\n1\t0\n2\t{10**30}\n{EDGES}\n", "64 bits"), (f"{HEAD}\n{EDGES}\n", "0 nodes"),
    ],
)  # fmt: skip
def test_text_that_is_no_summary_is_refused(tmp_path, text, said):
    file = tmp_path / "s.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        SummaryGraph.load(file)


def test_other_files_are_refused(tmp_path):
    for name in ("s.npz", "s.safetensors"):
        (tmp_path / name).write_bytes(b"not an archive at all")
        with pytest.raises(CorruptFileError, match="not a summary"):
            SummaryGraph.load(tmp_path / name)
    np.savez(tmp_path / "t.npz", owner=np.zeros(3, np.int64))
    with pytest.raises(CorruptFileError, match="not a summary"):
        SummaryGraph.load(tmp_path / "t.npz")
    with pytest.raises(InputError, match="no such file"):
        SummaryGraph.load(tmp_path / "none.txt")
    _, summary = fitted(n=20)
    with pytest.raises(InputError, match="ends in"):
        summary.save(tmp_path / "s.pkl")


@pytest.mark.parametrize("suffix", ["txt", "npz", "safetensors"])
def test_files_of_absurd_size_are_refused(tmp_path, suffix, monkeypatch):
    _, summary = fitted(n=20)
    file = tmp_path / f"s.{suffix}"
    summary.save(file)
    size = file.stat().st_size
    if suffix == "npz":  # what it unpacks to counts too
        size = max(size, sum(array.nbytes + 128 for array in np.load(file).values()))
    assert SummaryGraph.load(file, max_bytes=size).num_nodes == 20
    with pytest.raises(InputError, match=f"s.{suffix} holds .* max_bytes={size - 1}"):
        SummaryGraph.load(file, max_bytes=size - 1)
    monkeypatch.setitem(sys.modules["graphkit.models.ssumm.summary"]._MAX_BYTES, f".{suffix}", 9)
    with pytest.raises(InputError, match="max_bytes=9"):
        SummaryGraph.load(file)


def test_text_is_read_in_no_more_memory_than_its_numbers(tmp_path):
    count = 200_000
    file = tmp_path / "s.txt"
    members = "\t".join(map(str, range(count)))  # one supernode: a single long line
    file.write_text(f"{HEAD}\n0\t{members}\n{EDGES}\n0\t0\t7\n")
    tracemalloc.start()
    summary = SummaryGraph.load(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (summary.num_nodes, summary.largest_weight) == (count, 7)
    assert peak < 8 * file.stat().st_size


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exactly one"), ({"bits": 1, "fraction": 0.5}, "exactly one"),
        ({"fraction": 0.0}, "fraction"), ({"fraction": "0.5"}, "fraction"),
        ({"fraction": -1.0}, "fraction"),
        ({"fraction": float("nan")}, "fraction"), ({"bits": -1}, "bits"),
        ({"bits": float("nan")}, "bits"), ({"bits": float("inf")}, "bits"),
        ({"fraction": 0.5, "p": 3}, "p: 3"), ({"fraction": 0.5, "p": 1.5}, "p: 1.5"),
        ({"fraction": 0.5, "p": 1.0}, "p: 1.0"), ({"fraction": 0.5, "effort": 1001}, "effort"),
        ({"fraction": 0.5, "iterations": 2**40}, "iterations"),
        ({"fraction": 0.5, "num_hashes": 2**40}, "num_hashes"),
        ({"fraction": 0.5, "max_group": 2**70}, "max_group"),
        ({"fraction": 0.5, "iterations": 0}, "iterations"),
        ({"fraction": 0.5, "num_hashes": True}, "num_hashes"),
        ({"fraction": 0.5, "max_group": 1}, "max_group"),
        ({"fraction": 0.5, "effort": 0}, "effort"), ({"fraction": 0.5, "seed": 0.5}, "seed"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        SSumM(**settings)


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (torch.tensor([[0, 1], [1, 2]]), "symmetrise"),
        (networkx.DiGraph([(0, 1), (1, 2)]), "symmetrise"),
        (networkx.karate_club_graph(), "ignore_weights"),
        (scipy.sparse.csr_matrix(np.array([[0, 2.0], [2.0, 0]])), "ignore_weights"),
        (torch.tensor([[0, -1], [-1, 0]]), "-1"), (torch.empty(2, 0, dtype=torch.int64), "0 edges"),
        (torch.tensor([[0], [0]]), "0 edges"), (networkx.empty_graph(1), "1 nodes"),
        (CSR(torch.tensor([0, 1, 2]), torch.tensor([1, 7]), None, 2, 2), "0..1"),
        (CSR(torch.tensor([0, 2, 1]), torch.tensor([1, 0]), None, 2, 2), "rowptr"),
        ([(0, 1)], "wanted an edge_index"),
    ],
)  # fmt: skip
def test_graphs_that_are_not_simple_are_refused(graph, said):
    with pytest.raises(InputError, match=said):
        SSumM(fraction=0.5).fit(graph)


@pytest.mark.parametrize("ids", [[1, 2], [1, 2, 2, 3], [1.0, 2.0, 3.0, 4.0]])
def test_names_that_do_not_fit_are_refused(ids):
    with pytest.raises(InputError, match="ids"):
        SSumM(fraction=0.5).fit(both_ways(PATH), ids=torch.tensor(ids))
    with pytest.raises(InputError, match="ids: list"):
        SSumM(fraction=0.5).fit(both_ways(PATH), ids=ids)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "target_bits, ratio: None, None"), ({"ratio": -1}, "ratio: -1"),
        ({"target_bits": 3, "ratio": 0.5}, "target_bits, ratio: 3, 0.5"),
        ({"target_bits": float("nan")}, "target_bits: nan"), ({"ratio": "all"}, "ratio: 'all'"),
    ],
)  # fmt: skip
def test_one_call_names_its_own_arguments(given, said):
    with pytest.raises(InputError, match=f"^{said}"):
        summarise(both_ways(PATH), **given)


def test_ids_beyond_the_number_of_nodes_are_refused():
    with pytest.raises(InputError, match="5"):
        SSumM(fraction=0.5).fit(torch.tensor([[0, 5], [5, 0]]), num_nodes=3)


def test_queries_refuse_what_they_cannot_answer():
    _, s = fitted(n=20, q=0.3)
    for call, said in (
        (lambda: s.adjacency(0, 20), "20"), (lambda: s.adjacency(-1, 2), "-1"),
        (lambda: s.neighbours(0, 1.5), "tau"), (lambda: s.matvec(torch.ones(19)), "x:"),
        (lambda: s.matvec(torch.ones(20, dtype=torch.int64)), "x:"),
        (lambda: s.matvec(np.ones(20)), "x: ndarray"),
        (lambda: s.neighbours(torch.tensor([0, 1])), "u: 2 nodes"),
        (lambda: s.pagerank(1.0), "damping"), (lambda: s.pagerank(iterations=1), "iterations"),
        (lambda: s.random_walk_with_restart(0, 0.0), "restart"),
        (lambda: s.random_walk_with_restart(torch.tensor([], dtype=torch.int64)), "nodes"),
        (lambda: s.reconstruct(limit=1), "limit"), (lambda: s.sample(seed=-1), "seed"),
        (lambda: s.eigenvector_centrality(iterations=1), "iterations"),
        (lambda: s.eigenvector_centrality(iterations=0), "at least 1"),
        (lambda: s.pagerank(iterations=0), "at least 1"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            call()


def test_check_finds_a_wrong_count():
    wrong = made([0, 0, 1, 1], [(0, 0, 1), (1, 0, 2)], 3)
    with pytest.raises(InputError, match="has 1 edges"):
        wrong.check(both_ways(PATH))
    with pytest.raises(InputError, match="5 nodes"):
        wrong.check(both_ways(K23))
    with pytest.raises(InputError, match="num_edges"):
        made([0, 0, 1, 1], [(0, 0, 1), (1, 0, 2)], 2)
    assert made([0, 0, 1, 1], [(0, 0, 1), (1, 0, 2)], 4).absolute_error == 6
    with pytest.raises(InputError, match="num_edges: 5, wanted at most 4"):
        made([0, 0, 1, 1], [(0, 0, 1), (1, 0, 2)], 5)  # a pair is left for the fourth alone


def test_narrow_ids_of_many_supernodes_and_views_are_taken(tmp_path):
    count = 100_000
    # As int32, the numbers of these two superedges are equal: they differ by 2^32.
    ends = torch.tensor([[90_000, 47_050], [7, 32_711]], dtype=torch.int32)
    weight = torch.ones(4, dtype=torch.int32)[::2]
    owner = torch.arange(count).repeat_interleave(2)[::2]
    summary = SummaryGraph(owner, ends, weight, num_edges=2)
    assert summary.adjacency(7, 90_000) == summary.adjacency(32_711, 47_050) == 1
    summary.save(tmp_path / "s.safetensors")
    assert torch.equal(SummaryGraph.load(tmp_path / "s.safetensors").super_index, ends.long())


def test_simple_graph_sorts_and_merges():
    csr = simple_graph(torch.tensor([[2, 0, 1, 1, 0, 2], [0, 2, 1, 2, 2, 1]]))
    assert csr.rowptr.tolist() == [0, 1, 2, 4]
    assert csr.col.tolist() == [2, 2, 0, 1]
