"""FastRP: closed forms, invariants, the documented vectors of Neo4j's library, refusals."""

from __future__ import annotations

import math
from typing import Any

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch_geometric.data import Data

from graphkit.errors import InputError
from graphkit.models import FastRP, fastrp_powers
from graphkit.models import fastrp as fastrp_module
from graphkit.ops import CSR, available, backend, random_signs

NAMES = ["Dan", "Annie", "Matt", "Jeff", "Brie", "Elsa", "John"]
LINKS = [(0, 1), (0, 2), (1, 2), (1, 3), (1, 4), (2, 4), (4, 5), (4, 3), (6, 3)]
WEIGHT = {(2, 4): 3.5, (4, 3): 2.0}
AGE = [18.0, 12.0, 22.0, 51.0, 45.0, 65.0, 64.0]
# The library's documented outputs: embeddingDimension 4, randomSeed 42, the rest default.
UNWEIGHTED = {
    "Annie": [0.517145, -0.414807, -0.545457, -1.741045],
    "Brie": [0.418404, -0.441520, 0.231529, -1.567716],
    "Dan": [0.261213, -0.613845, -0.369675, -1.776240],
    "Elsa": [0.555676, -0.355830, 0.308483, -1.565361],
    "Jeff": [0.685679, -0.324789, -0.381153, -1.576550],
    "John": [1.0, -0.089087, -0.445435, -0.890871],
    "Matt": [0.273798, -0.496523, -0.303110, -1.812219],
}
WEIGHTED = {
    "Annie": [0.034561, -0.292939, 0.095255, -1.965296],
    "Brie": [0.102368, -0.299186, 0.546609, -1.288153],
    "Dan": [-0.090904, -0.446583, 0.327595, -1.687794],
    "Elsa": [0.077649, -0.262191, 0.561081, -1.288074],
    "Jeff": [0.168627, -0.277569, 0.416613, -1.372815],
    "John": [0.524722, -0.045596, 0.342338, -0.911922],
    "Matt": [0.052326, -0.315184, 0.478141, -1.423907],
}


def both_ways(links: list[tuple[int, int]]) -> Tensor:
    one = torch.tensor(links).t()
    return torch.cat([one, one.flip(0)], dim=1)


def random_graph(n: int = 120, degree: float = 6.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(n, (2, int(n * degree)), generator=generator)
    pairs = pairs[:, pairs[0] < pairs[1]].unique(dim=1)
    return torch.cat([pairs, pairs.flip(0)], dim=1)


def dense(edge_index: Tensor, n: int) -> Tensor:
    a = torch.zeros(n, n, dtype=torch.float64)
    a[edge_index[0], edge_index[1]] = 1.0
    return a


def plain(dim: int, weights: list[float], **options: Any) -> FastRP:
    return FastRP(dim, weights=weights, normalize_rows=False, standardize=False, **options)


# -- the projection -------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [1 / 3, 0.01])
def test_entries_have_the_promised_shares(density: float) -> None:
    r = random_signs(torch.arange(4000), (0, 300), density=density, seed=3)
    count = r.numel()
    sigma = math.sqrt(density * (1 - density) / count)
    assert abs(float((r != 0).double().mean()) - density) < 5 * sigma
    assert abs(float(r.double().mean())) < 5 * math.sqrt(density / count)
    assert set(r.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_lengths_are_kept_on_average() -> None:
    d, n = 512, 2000
    s = math.sqrt(n)
    r = random_signs(torch.arange(n), (0, d), density=1 / s, seed=1) * math.sqrt(s / d)
    x = torch.randn(200, n, generator=torch.Generator().manual_seed(0))
    ratio = (x @ r).square().sum(1) / x.square().sum(1)
    assert abs(float(ratio.mean()) - 1) < 0.05


@pytest.mark.parametrize("name", ["native", "reference"])
def test_entries_depend_on_seed_id_and_column_only(name: str) -> None:
    if name not in available():
        pytest.skip("no compiled kernels")
    ids = torch.tensor([5, 0, 2**40, 7])
    with backend("reference"):
        whole = random_signs(ids, (0, 9), density=0.5, seed=-4)
    with backend(name):
        assert torch.equal(random_signs(ids, (0, 9), density=0.5, seed=-4), whole)
        for first, last in ((0, 0), (1, 2), (2, 7), (3, 9), (8, 9)):
            part = random_signs(ids[1:], (first, last), density=0.5, seed=-4)
            assert torch.equal(part, whole[1:, first:last])
        assert not torch.equal(random_signs(ids, (0, 9), density=0.5, seed=4), whole)


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("ids", {"ids": torch.zeros(2)}),
        ("ids", {"ids": torch.zeros(2, 1, dtype=torch.long)}),
        ("columns", {"columns": (-1, 2)}),
        ("columns", {"columns": (3, 2)}),
        ("density", {"density": 1.5}),
        ("seed", {"seed": 0.5}),
    ],
)
def test_projections_that_make_no_sense_are_refused(argument: str, given: dict[str, Any]) -> None:
    call = {"ids": torch.arange(3), "columns": (0, 2), **given}
    with pytest.raises(InputError, match=argument):
        random_signs(call.pop("ids"), call.pop("columns"), **call)


# -- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "beta", "wanted"),
    [
        ([1.0], 0.0, [[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]]),
        ([0.0, 1.0], 0.0, [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]),
        # L is (d_j / 2m)^-1 here: 2m = 4 times the form with d_j^-1.
        ([1.0], -1.0, [[0.0, 2, 0], [2, 0, 2], [0, 2, 0]]),
    ],
)
def test_a_path_of_three_nodes(
    weights: list[float], beta: float, wanted: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = lambda self, first, last: (torch.eye(3) * math.sqrt(3 / self.s))[:, first:last]  # noqa: E731
    monkeypatch.setattr(fastrp_powers.Start, "entries", unit)
    model = plain(3, weights, beta=beta)
    z = model.fit_transform(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
    torch.testing.assert_close(z, torch.tensor(wanted))


@pytest.mark.parametrize("matrix", ["trans", "adj"])
@pytest.mark.parametrize("projection", ["sparse", "gaussian"])
def test_without_norms_it_is_the_dense_polynomial(matrix: str, projection: str) -> None:
    n, d, weights, beta = 120, 24, [0.5, 0.0, 2.0], -0.4
    edges = random_graph(n)
    model = plain(d, weights, beta=beta, input_matrix=matrix, projection=projection, seed=9)
    a = dense(edges, n)
    degree = a.sum(1)
    p = a / degree.clamp(min=1)[:, None] if matrix == "trans" else a
    s = math.sqrt(n)
    if projection == "sparse":
        r = random_signs(torch.arange(n), (0, d), density=1 / s, seed=9).double() * math.sqrt(s / d)
    else:
        r = fastrp_powers.gaussian(torch.arange(n), 0, d, 9).double() / math.sqrt(d)
    scale = torch.where(degree > 0, (degree / degree.sum()).clamp(min=1e-9) ** beta, 0.0)
    u, wanted = scale[:, None] * r, torch.zeros(n, d, dtype=torch.float64)
    for w in weights:
        u = p @ u
        wanted += w * u
    torch.testing.assert_close(model.fit_transform(edges).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "gds"])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_of_columns_change_nothing(
    variant: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = random_graph(150)
    weight = torch.rand(edges.size(1)) if weighted else None
    options: dict[str, Any] = {"variant": variant, "seed": 2}
    if variant == "gds":
        options |= {"self_influence": 0.3, "beta": -0.5}
    model = FastRP(136, **options)
    whole = model.fit_transform(edges, edge_weight=weight)
    monkeypatch.setattr(fastrp_module, "_SMALL", 0)
    torch.testing.assert_close(
        model.fit_transform(edges, edge_weight=weight), whole, rtol=2e-4, atol=2e-5
    )


@pytest.mark.parametrize("weights", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_vectors_that_the_graph_data_science_library_documents(
    weights: dict[tuple[int, int], float] | None,
) -> None:
    model = FastRP(4, variant="gds", rng="gds", seed=42)
    value = (
        None if weights is None else torch.tensor([weights.get(e, 1.0) for e in LINKS]).repeat(2)
    )
    z = model.fit_transform(both_ways(LINKS), edge_weight=value)
    wanted = UNWEIGHTED if weights is None else WEIGHTED
    torch.testing.assert_close(z, torch.tensor([wanted[name] for name in NAMES]), rtol=0, atol=2e-6)


def test_a_property_of_the_graph_data_science_library() -> None:
    model = FastRP(2, variant="gds", rng="gds", seed=42, property_ratio=1.0, weights=[1.0])
    z = model.fit_transform(both_ways(LINKS), x=torch.tensor(AGE)[:, None])
    torch.testing.assert_close(z, torch.tensor([[0.0, -1.0]]).expand(7, 2))


def test_features_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = both_ways(LINKS)
    x = torch.randn(7, 5)
    model = FastRP(8, variant="gds", property_ratio=0.5, weights=[], self_influence=1.0, seed=3)
    z = model.fit_transform(edges, x=x)
    torch.testing.assert_close(torch.linalg.vector_norm(z, dim=1), torch.ones(7))
    vectors = random_signs(torch.arange(5), (4, 8), density=1 / 3, seed=4) * math.sqrt(3 / 8)
    start = torch.cat(
        [random_signs(torch.arange(7), (0, 4), density=1 / 3, seed=3) * math.sqrt(3 / 8),
         x @ vectors], dim=1
    )  # fmt: skip
    torch.testing.assert_close(z, start / torch.linalg.vector_norm(start, dim=1, keepdim=True))
    # Given, but not asked for: ignored.
    without = FastRP(8, variant="gds", seed=3)
    assert torch.equal(without.fit_transform(edges, x=x), without.fit_transform(edges))


# -- invariants -----------------------------------------------------------------------------------


def test_beta_means_nothing_where_all_degrees_are_equal() -> None:
    ring = torch.stack([torch.arange(20), (torch.arange(20) + 1) % 20])
    edges = torch.cat([ring, ring.flip(0)], dim=1)
    one, other = (FastRP(16, beta=b).fit_transform(edges) for b in (0.0, -0.9))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_odd_powers_of_a_bipartite_graph_see_the_other_side_only() -> None:
    left, right = torch.randint(10, (60,)), torch.randint(10, 22, (60,))
    edges = torch.cat([torch.stack([left, right]), torch.stack([right, left])], dim=1)
    ids = torch.arange(22)
    changed = torch.cat([ids[:10] + 1000, ids[10:]])
    model = plain(16, [1.0, 0.0, 2.0])
    one, other = (model.fit_transform(edges, node_ids=i, num_nodes=22) for i in (ids, changed))
    assert torch.equal(one[:10], other[:10])
    assert not torch.equal(one[10:], other[10:])


@pytest.mark.parametrize("variant", ["paper", "gds"])
def test_twins_are_equal_and_names_do_not_matter(variant: str) -> None:
    edges = torch.cat([random_graph(60), both_ways([(60, 3), (60, 8), (61, 3), (61, 8)])], dim=1)
    model = FastRP(32, variant=variant)
    z = model.fit_transform(edges)
    assert torch.equal(z[60], z[61])
    perm = torch.randperm(62, generator=torch.Generator().manual_seed(1))
    renamed = model.fit_transform(perm[edges], node_ids=torch.argsort(perm))
    torch.testing.assert_close(renamed[perm], z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "gds"])
@pytest.mark.parametrize("beta", [0.0, -0.5, -1.0])
def test_a_node_without_edges_is_zero(variant: str, beta: float) -> None:
    edges = random_graph(40)
    z = FastRP(16, variant=variant, beta=beta, standardize=False).fit_transform(edges, num_nodes=42)
    assert torch.isfinite(z).all()
    assert not z[40:].any()
    alone = FastRP(16, variant=variant).fit_transform(torch.empty(2, 0, dtype=torch.long))
    assert alone.shape == (0, 16)


@pytest.mark.parametrize("factor", [1e-20, 1e-5, 1e20])
@pytest.mark.parametrize("options", [{"variant": "gds"}, {"input_matrix": "adj"}], ids=str)
def test_the_unit_of_the_weights_does_not_matter(options: dict[str, Any], factor: float) -> None:
    edges = random_graph(60)
    weight = torch.rand(edges.size(1), generator=torch.Generator().manual_seed(0)) + 0.1
    model = FastRP(16, weights=[1.0, 1.0, 1.0, 1.0], **options)
    one = model.fit_transform(edges, edge_weight=weight)
    other = model.fit_transform(edges, edge_weight=weight * factor)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_numbers_beyond_float32_are_refused_rather_than_nan() -> None:
    edges = random_graph(60)
    for beta in (-100.0, 100.0):
        with pytest.raises(InputError, match=f"beta: {beta}"):
            FastRP(8, beta=beta).fit(edges)
    with pytest.raises(InputError, match="weights, edge_weight"):
        FastRP(8, weights=[1e39]).fit(edges)
    heavy = plain(8, [0.0, 1.0], input_matrix="adj")
    with pytest.raises(InputError, match="weights, edge_weight"):
        heavy.fit(edges, edge_weight=torch.full((edges.size(1),), 1e30))


def test_nothing_larger_than_the_result_is_made_beside_it() -> None:
    edges = random_graph(2000)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        z = FastRP(64).fit_transform(edges)
    largest = max(event.cpu_memory_usage for event in seen.events())
    assert z.numel() * 4 <= largest <= 1.2 * z.numel() * 4


def test_a_value_of_zero_in_a_matrix_is_no_edge() -> None:
    matrix = scipy.sparse.csr_array(([1.0, 1.0, 0.0], ([0, 1, 1], [1, 0, 2])), shape=(3, 3))
    z = FastRP(8, variant="gds").fit_transform(matrix)
    wanted = FastRP(8, variant="gds").fit_transform(torch.tensor([[0, 1], [1, 0]]), num_nodes=3)
    torch.testing.assert_close(z, wanted)
    assert matrix.nnz == 3  # the caller's own stays


def test_arrays_and_lists_are_taken() -> None:
    edges, x = both_ways(LINKS), np.ones((7, 2))
    model = FastRP(8, variant="gds", property_ratio=0.5)
    given = {"x": x, "node_ids": list(range(7))}
    assert torch.equal(
        model.fit_transform(edges, **given), model.fit_transform(edges, x=x.tolist())
    )
    assert FastRP(8, seed=np.int64(3)).seed == 3
    assert FastRP(8).fit_transform(networkx.Graph()).shape == (0, 8)


def test_results_do_not_depend_on_the_number_of_threads(one_thread: None) -> None:
    edges = random_graph(3000, 40)
    one = FastRP(64).fit_transform(edges)
    torch.set_num_threads(2)
    assert torch.equal(FastRP(64).fit_transform(edges), one)


def test_columns_are_standardised() -> None:
    z = FastRP(32).fit_transform(random_graph(200)).double()
    torch.testing.assert_close(z.mean(0), torch.zeros(32).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(32).double(), atol=1e-4, rtol=0)


def test_concatenated_powers_are_what_the_sum_adds_up() -> None:
    edges, w = random_graph(80), [0.5, 2.0, 1.0]
    parts = FastRP(16, merge="concat", weights=[1.0] * 3).fit_transform(edges)
    assert parts.shape == (80, 48)
    total = sum(weight * parts[:, 16 * i : 16 * i + 16] for i, weight in enumerate(w))
    z = FastRP(16, weights=w, standardize=False).fit_transform(edges)
    torch.testing.assert_close(z, total, rtol=1e-4, atol=1e-5)


def test_every_form_of_graph_gives_the_same_embedding() -> None:
    graph = networkx.karate_club_graph()
    for _, _, attributes in graph.edges(data=True):
        attributes.clear()
    edges = torch.tensor(list(graph.to_directed().edges)).t()
    wanted = FastRP(16).fit_transform(edges)
    matrix = networkx.to_scipy_sparse_array(graph, nodelist=range(34))
    for form in (graph, matrix, CSR.from_edge_index(edges, 34, flow="target_to_source")):
        torch.testing.assert_close(FastRP(16).fit_transform(form), wanted, rtol=1e-4, atol=1e-5)


def test_a_directed_graph_looks_where_edges_leave_to() -> None:
    # 0 -> 1 -> 2: node 1 is seen by 0 only, and 2, without edges of its own, by nobody.
    z = plain(64, [1.0]).fit_transform(torch.tensor([[0, 1], [1, 2]]))
    assert z[0].any()
    assert not z[1:].any()


def test_parameters_are_those_of_scikit_learn() -> None:
    from sklearn.base import clone

    model = FastRP(16, beta=-0.2, seed=5)
    copy = clone(model).set_params(dim=8)
    assert copy.get_params() == {**model.get_params(), "dim": 8}
    assert copy.fit_transform(random_graph(30)).shape == (30, 8)


def test_progress_counts_products() -> None:
    seen: list[tuple[int, int]] = []
    FastRP(8, progress=lambda done, total: seen.append((done, total))).fit(random_graph(30))
    assert seen == [(i + 1, 4) for i in range(4)]


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("dim", {"dim": 0}),
        ("dim", {"dim": 2.5}),
        ("seed", {"seed": 0.5}),
        ("seed", {"seed": None}),
        ("beta", {"beta": "strong"}),
        ("weights", {"weights": 1.0}),
        ("weights", {"weights": "12"}),
        ("self_influence", {"variant": "gds", "self_influence": None}),
        ("weights", {"weights": []}),
        ("weights", {"weights": [1.0, float("nan")]}),
        ("beta", {"beta": float("inf")}),
        ("variant", {"variant": "neo4j"}),
        ("variant", {"self_influence": 1.0}),
        ("variant", {"variant": "gds", "merge": "concat"}),
        ("property_ratio", {"variant": "gds", "property_ratio": 1.5}),
        ("self_influence", {"variant": "gds", "self_influence": -1.0}),
        ("rng", {"rng": "mersenne"}),
        ("input_matrix", {"input_matrix": "laplacian"}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(argument: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=argument):
        FastRP(**given)


def test_set_params_refuses_and_changes_nothing() -> None:
    model = FastRP(8)
    with pytest.raises(InputError, match="dim"):
        model.set_params(dim=0)
    assert model.get_params()["dim"] == 8


@pytest.mark.parametrize(
    ("argument", "graph", "given"),
    [
        ("edge_index", torch.tensor([[0, 5], [1, 0]]), {"num_nodes": 3}),
        ("edge_index", torch.tensor([[0.0], [1.0]]), {}),
        ("graph", CSR.from_edge_index(torch.tensor([[0], [1]]), size=(2, 3)), {}),
        ("graph", np.eye(3), {}),
        ("edge_index: node ids up to 1099511627776", torch.tensor([[0, 2**40], [2**40, 0]]), {}),
        ("edge_index: node ids", Data(edge_index=torch.tensor([[0, 2**40], [2**40, 0]])), {}),
        ("graph: the attribute weight", networkx.Graph([(0, 1, {"weight": "x"})]), {}),
        ("graph: the attribute weight", networkx.Graph([(0, 1, {"weight": None})]), {}),
        ("edge_weight: str", torch.tensor([[0, 1], [1, 0]]), {"edge_weight": "ab"}),
        ("edge_weight", torch.tensor([[0, 1], [1, 0]]), {"edge_weight": torch.tensor([1.0, -1.0])}),
        ("edge_weight", torch.tensor([[0], [1]]), {"edge_weight": torch.tensor([float("nan")])}),
        ("edge_weight", torch.tensor([[0], [1]]), {"edge_weight": torch.ones(2)}),
        ("node_ids", torch.tensor([[0], [1]]), {"node_ids": torch.arange(5)}),
    ],
)
def test_graphs_that_do_not_fit_are_refused(argument: str, graph: Any, given: Any) -> None:
    with pytest.raises(InputError, match=argument):
        FastRP(8).fit(graph, **given)


@pytest.mark.parametrize("x", [None, "no", torch.ones(3, 2), torch.full((7, 2), float("inf"))])
def test_features_that_do_not_fit_are_refused(x: Tensor | None) -> None:
    with pytest.raises(InputError, match="x:"):
        FastRP(8, variant="gds", property_ratio=0.5).fit(both_ways(LINKS), x=x)
