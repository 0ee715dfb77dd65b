"""Full ranking: exact, masked, in blocks; figures to the digit."""

import pytest
import torch

from graphkit.data import Interactions
from graphkit.errors import InputError
from graphkit.ops import top_items
from graphkit.tasks.ranking import figures, ranked_hits

pytestmark = pytest.mark.usefixtures("one_thread")


def by_sorting(scores, k):
    return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]


@pytest.mark.parametrize("items", [5, 63, 64, 700, 2561, 4096])
@pytest.mark.parametrize("levels", [2, 40, 10**9])
def test_top_items_are_those_of_a_stable_sort(items, levels):
    scores = (torch.randint(-levels, levels, (30, items)) / 7.0).float()
    scores[0] = 0.0
    scores[1, ::2], scores[1, 1::2] = 0.0, -0.0
    for k in {1, min(20, items), min(items, 33)}:
        assert torch.equal(top_items(scores.clone(), k), by_sorting(scores, k))
    mask = torch.rand(30, items) < 0.3
    mask[:, :2] = False
    found = top_items(scores.clone(), 2, mask.nonzero(as_tuple=True))
    assert torch.equal(found, by_sorting(scores.masked_fill(mask, -torch.inf), 2))
    assert not mask.gather(1, found).any()


def test_top_items_refuse_what_would_be_wrong_silently():
    scores = torch.zeros(2, 300)
    with pytest.raises(InputError, match="k: 301"):
        top_items(scores, 301)
    rows, items = torch.ones(299, dtype=torch.int64), torch.arange(299)
    with pytest.raises(InputError, match="row 1 has 1 of 300 that are not masked"):
        top_items(scores, 2, (rows, items))
    for bad in (torch.nan, torch.inf):
        broken = torch.zeros(2, 3000)
        broken[1, 2999] = bad
        with pytest.raises(InputError, match="row 1 has values that are NaN or infinite"):
            top_items(broken, 5)
    assert top_items(torch.zeros(0, 3), 2).shape == (0, 2)


def test_worked_figures():
    hits = torch.zeros(1, 20, dtype=torch.bool)
    hits[0, [0, 2]] = True
    found = figures(hits, torch.tensor([3]), [20], "ultragcn", 1)
    assert found["ndcg@20"] == pytest.approx(1.5 / 2.1309298, abs=1e-7)
    assert found["recall@20"] == pytest.approx(2 / 3)
    assert found["precision@20"] == pytest.approx(0.1)
    assert found["map@20"] == pytest.approx((1 + 2 / 3) / 3)
    assert found["hit@20"] == 1.0
    hits[0, :10], hits[0, 10:] = True, False
    assert figures(hits, torch.tensor([30]), [20], "graphhash", 1)["capped_recall@20"] == 0.5
    assert figures(hits, torch.tensor([30]), [20], "ultragcn", 1)["recall@20"] == 1 / 3


def test_conventions_differ_in_users_and_denominators():
    hits = torch.tensor([[True, False], [True, True]])
    sizes = torch.tensor([1, 4])
    all_users = figures(hits, sizes, [2, 1], "ultragcn", 4)
    tested = figures(hits, sizes, [2], "lightgcn", 4)
    capped = figures(hits, sizes, [2], "graphhash", 4)
    assert all_users["recall@2"] == (1 + 0.5) / 4
    assert all_users["recall@1"] == (1 + 0.25) / 4
    assert tested["recall@2"] == (1 + 0.5) / 2
    assert capped["capped_recall@2"] == 1.0
    assert "recall@2" not in capped
    precision, recall = tested["precision@2"], tested["recall@2"]
    assert tested["f1@2"] == pytest.approx(2 * precision * recall / (precision + recall))
    with pytest.raises(InputError, match="without held-out items"):
        figures(hits, torch.tensor([1, 0]), [2], "graphhash", 4)
    with pytest.raises(InputError, match="shape"):
        figures(hits, sizes, [3], "graphhash", 4)


def toy(users=30, items=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(users, items, generator=generator)
    held = Interactions((draw < 0.05).nonzero().t(), users, items)
    known = Interactions((draw > 0.9).nonzero().t(), users, items)
    vectors = torch.randn(users + items, 8, generator=generator)
    return held, known, vectors[:users], vectors[users:]


def test_blocks_and_relabelling_change_nothing():
    held, known, left, right = toy()

    def score(ids):
        return left[ids] @ right.t()

    whole, sizes = ranked_hits(score, held, known, 20)
    for block in (1, 7):
        assert torch.equal(ranked_hits(score, held, known, 20, block=block)[0], whole)
    order, back = torch.randperm(400), torch.empty(400, dtype=torch.int64)
    back[order] = torch.arange(400)
    renamed = [
        Interactions(torch.stack([p.edge_index[0], back[p.edge_index[1]]]), 30, 400)
        for p in (held, known)
    ]
    right = right[order]
    again, _ = ranked_hits(score, *renamed, 20)
    assert torch.equal(again, whole)
    assert torch.equal(sizes, held.user_degree[held.user_degree > 0])


def test_known_items_are_never_hits_and_k_has_a_limit():
    held, _, left, right = toy()
    hits, _ = ranked_hits(lambda ids: left[ids] @ right.t(), held, held, 20)
    assert not hits.any()
    everything = Interactions(
        torch.cartesian_prod(torch.arange(30), torch.arange(390)).t(), 30, 400
    )
    with pytest.raises(InputError, match="knows all but 10 of 400"):
        ranked_hits(lambda ids: left[ids] @ right.t(), held, everything, 20)
    with pytest.raises(InputError, match="shape"):
        ranked_hits(lambda ids: left, held, held, 20)
