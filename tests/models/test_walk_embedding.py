"""DeepWalk and node2vec: what the walks say, what the vectors keep, refusals."""

from __future__ import annotations

import networkx
import pytest
import torch

from graphkit.errors import InputError
from graphkit.models import WalkEmbedding
from graphkit.models.graph_input import read_graph
from graphkit.models.walk_embedding import Walks

pytest.importorskip("gensim", reason="gensim is not installed")
SMALL = {"dim": 16, "walks": 10, "length": 12, "window": 3}


def two_cliques() -> networkx.Graph:
    return networkx.barbell_graph(8, 0)


@pytest.mark.parametrize("options", [{}, {"p": 0.25, "q": 4.0}, {"negatives": 0}])
def test_nodes_of_one_clique_lie_together(options: dict[str, float]) -> None:
    z = WalkEmbedding(**SMALL, **options, lr=0.1).fit_transform(two_cliques())
    z = torch.nn.functional.normalize(z - z.mean(0))
    alike = z @ z.t()
    same = torch.block_diag(torch.ones(8, 8), torch.ones(8, 8)).bool()
    assert alike[same].mean() > alike[~same].mean() + 0.5


def test_the_same_seed_gives_the_same_vectors_and_another_one_others() -> None:
    first, again = (WalkEmbedding(**SMALL, seed=3).fit_transform(two_cliques()) for _ in range(2))
    assert torch.equal(first, again)
    other = WalkEmbedding(**SMALL, seed=4).fit_transform(two_cliques())
    assert not torch.equal(first, other)


def test_every_node_starts_every_round_and_walks_follow_edges() -> None:
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 0]])  # one way: a ring, and 3 into it
    read = read_graph(edges)
    told: list[tuple[int, int]] = []
    model = WalkEmbedding(
        dim=4, walks=3, length=6, progress=lambda done, total: told.append((done, total))
    )
    walks = list(Walks(model, read.csr.transpose(), torch.arange(4)))
    assert len(walks) == 12
    assert sorted(walk[0] for walk in walks[:4]) == [0, 1, 2, 3]
    assert {len(walk) for walk in walks} == {6}
    step = {0: 1, 1: 2, 2: 0, 3: 0}
    assert all(step[a] == b for walk in walks for a, b in zip(walk, walk[1:], strict=False))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nodes_without_neighbours_are_zero_and_columns_are_standard() -> None:
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    plain = WalkEmbedding(**SMALL).fit_transform(edges, num_nodes=5)
    assert (plain[3:] == 0).all()
    assert (plain[:3] != 0).any(1).all()
    scaled = WalkEmbedding(**SMALL, standardize=True).fit_transform(edges, num_nodes=5)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(16), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("dim", {"dim": 0}),
        ("walks", {"walks": 1.5}),
        ("length", {"length": 1}),
        ("length", {"length": 5.5}),
        ("negatives", {"negatives": 1.5}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**32}),
        ("negatives", {"negatives": -1}),
        ("p", {"p": 0.0}),
        ("q", {"q": float("nan")}),
        ("downsample", {"downsample": 1.0}),
        ("workers", {"workers": True}),
    ],
)
def test_arguments_out_of_range_are_refused(argument: str, given: dict[str, float]) -> None:
    with pytest.raises(InputError, match=argument):
        WalkEmbedding(**given)


def test_weights_and_graphs_without_edges_are_refused() -> None:
    with pytest.raises(InputError, match="edge_weight"):
        WalkEmbedding().fit(torch.tensor([[0, 1], [1, 0]]), edge_weight=torch.tensor([2.0, 2.0]))
    with pytest.raises(InputError, match="no edge"):
        WalkEmbedding().fit(torch.empty(2, 0, dtype=torch.int64), num_nodes=3)


@pytest.mark.timeout(60)
def test_an_error_on_a_walk_ends_the_training() -> None:
    def stop(done: int, total: int) -> None:
        raise RuntimeError(f"stopped at {done} of {total}")

    # word2vec draws from another thread: it must neither wait for ever nor hide the error.
    with pytest.raises(RuntimeError, match="stopped at 1 of 10"):
        WalkEmbedding(**SMALL, progress=stop).fit(two_cliques())
