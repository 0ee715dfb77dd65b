"""Link-prediction heuristics: their definitions, blocks, refusals, and the gate on Cora."""

import statistics

import pytest
import torch
from link_cases import NODES, TinyLinks

from graphkit import data
from graphkit.errors import DatasetNotFoundError, InputError
from graphkit.models import LinkHeuristic
from graphkit.tasks import create_task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_heuristics_are_their_definitions():
    dataset = TinyLinks()
    edges = dataset.graphs.edge_index
    dense = torch.zeros(NODES, NODES, dtype=torch.float64)
    dense[edges[0], edges[1]] = 1
    degree = dense.sum(1)
    walk = dense / degree.clamp(min=1)[None, :]
    eye = torch.eye(NODES, dtype=torch.float64)
    rank = 0.15 * torch.linalg.inv(eye - 0.85 * walk)  # column i: PageRank from i
    two, b = dense @ dense, 0.005
    wanted = {
        "cn": two,
        "aa": dense @ torch.diag(1 / degree.clamp(min=2).log()) @ dense,
        "ra": dense @ torch.diag(1 / degree.clamp(min=1)) @ dense,
        "katz": b * dense + b**2 * two + b**3 * two @ dense,
        "ppr": rank + rank.t(),
    }
    pairs = torch.combinations(torch.arange(NODES)).t()
    pairs = pairs[:, (degree[pairs] > 0).all(0)]
    for kind, matrix in wanted.items():
        heuristic = LinkHeuristic(kind, iterations=200).fit(edges, NODES)
        scores = heuristic.predict(pairs).double()
        assert torch.allclose(scores, matrix[pairs[0], pairs[1]], rtol=1e-4, atol=1e-6), kind
        assert torch.allclose(heuristic.predict(pairs.flip(0)).double(), scores, rtol=1e-4)


@pytest.mark.parametrize("kind", ["cn", "aa", "ra", "katz", "ppr"])
def test_heuristics_take_no_pairs_and_refuse_what_is_no_node(kind):
    heuristic = LinkHeuristic(kind).fit(TinyLinks().graphs.edge_index, NODES)
    assert heuristic.predict(torch.zeros(2, 0, dtype=torch.int64)).shape == (0,)
    for pairs, message in (
        (torch.tensor([[0, 3], [1, -1]]), r"pairs: node -1 in pairs\[1, 1\], wanted 0..59"),
        (torch.tensor([[NODES], [0]]), "pairs: node 60"),
        (torch.zeros(2, 1), "pairs: torch.float32, wanted int64 or int32"),
        (torch.zeros(3, 1, dtype=torch.int64), r"pairs: shape \[3, 1\], wanted \[2, B\]"),
        ([[0], [1]], "pairs: list"),
    ):
        with pytest.raises(InputError, match=message):
            heuristic.predict(pairs)


def test_heuristics_work_in_blocks(monkeypatch):
    edges, pairs = TinyLinks().graphs.edge_index, torch.randint(NODES, (2, 100))
    whole = LinkHeuristic("katz").fit(edges, NODES).predict(pairs)
    monkeypatch.setattr("graphkit.models.link_heuristics._ELEMENTS", 7 * NODES)
    assert torch.equal(LinkHeuristic("katz").fit(edges, NODES).predict(pairs), whole)


@pytest.mark.parametrize("kind", ["cm", ""])
def test_unknown_heuristics_are_refused(kind):
    with pytest.raises(InputError, match="is not one of cn, aa, ra, katz, ppr"):
        LinkHeuristic(kind)
    with pytest.raises(InputError, match="call fit"):
        LinkHeuristic().predict(torch.zeros(2, 1, dtype=torch.int64))


def test_gate_common_neighbours_on_cora(tmp_path, monkeypatch):
    """Without this figure (33.92 in the paper) no trained one may be believed."""
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path))
    try:
        cora = data.load("cora-link")
    except DatasetNotFoundError as missing:
        pytest.skip(f"cora is not at hand: {str(missing).splitlines()[0]}")
    values = []
    for run in range(10):
        task = create_task(cora.of_run(run))
        batch = next(iter(task.loader("test")))
        scores = task.apply(LinkHeuristic("cn"), batch)
        values.append(task.evaluate(scores, task.target(batch))["hits@100"])
    assert 0.325 <= statistics.fmean(values) <= 0.355
