"""NCN's graphs: hidden target links, dropped edges, refusals (arXiv 2302.00890)."""

from __future__ import annotations

import pytest
import torch
from ncn_cases import dense, random_graph, random_links, row_sets, undirected

from graphkit.errors import InputError
from graphkit.models.ncn import TrainingEdges, adjacency, drop_adj
from graphkit.models.ncn.adjacency import own_transpose
from graphkit.ops import CSR, aggregate, is_symmetric, sorted_rows


class TestTargetLinkRemoval:
    def test_a_batch_is_invisible_both_ways_and_back_in_the_next_step(self) -> None:
        links = random_links()
        edges = TrainingEdges(links, 24)
        for batch in torch.randperm(60).split(17):
            seen = row_sets(edges.without(batch))
            hidden = {tuple(link) for link in links[:, batch].t().tolist()}
            for i, j in links.t().tolist():
                there = (i, j) not in hidden
                assert (j in seen[i]) == there
                assert (i in seen[j]) == there
        assert row_sets(edges.whole) == row_sets(random_graph())

    def test_the_result_is_what_a_new_graph_would_be(self) -> None:
        links = random_links()
        batch = torch.arange(60) % 4 == 0
        rest = links[:, ~batch]
        built = adjacency(torch.cat([rest.flip(0), rest], dim=1), 24)
        seen = TrainingEdges(links, 24).without(batch.nonzero().view(-1))
        assert torch.equal(seen.rowptr, built.rowptr)
        assert torch.equal(seen.col, built.col)
        assert adjacency(seen, 24) is seen  # it needs no check
        assert is_symmetric(seen)
        assert sorted_rows(seen) is seen
        fresh = CSR(seen.rowptr, seen.col, None, 24, 24)
        assert is_symmetric(fresh)

    def test_of_a_link_listed_twice_the_other_copy_stays(self) -> None:
        links = torch.tensor([[0, 1, 2], [1, 2, 1]])  # the second and third are one link
        edges = TrainingEdges(links, 3)
        assert row_sets(edges.whole) == [{1}, {0, 2}, {1}]
        assert edges.whole.num_entries == 4
        assert row_sets(edges.without(torch.tensor([2]))) == [{1}, {0, 2}, {1}]
        assert row_sets(edges.without(torch.tensor([1, 2]))) == [{1}, {0}, set()]
        assert row_sets(edges.without(torch.tensor([0]))) == [set(), {2}, {1}]
        dedup = TrainingEdges(links, 3, dedup=True)
        assert row_sets(dedup.without(torch.tensor([2]))) == [{1}, {0}, set()]

    def test_nothing_and_everything(self) -> None:
        edges = TrainingEdges(random_links(), 24)
        assert row_sets(edges.without(torch.arange(0))) == row_sets(edges.whole)
        assert edges.without(torch.arange(60)).num_entries == 0
        assert TrainingEdges(random_links()[:, :0], 24).without(torch.arange(0)).num_entries == 0

    @pytest.mark.parametrize(
        ("links", "word"),
        [
            (torch.tensor([[0, 1], [1, 1]]), "positives: link 1 is a self-loop"),
            (torch.tensor([[0], [3]]), "node id 3"),
            (torch.tensor([[-1], [1]]), "negative node id -1"),
            (torch.zeros(2, 2), "edge_index: dtype"),
            (torch.zeros(4, dtype=torch.int64), "edge_index: shape"),
        ],
    )
    def test_bad_links_are_named(self, links: torch.Tensor, word: str) -> None:
        with pytest.raises(InputError, match=word):
            TrainingEdges(links, 3)

    @pytest.mark.parametrize(
        ("batch", "word"),
        [
            (torch.tensor([60]), r"batch: position 60, wanted 0\.\.59"),
            (torch.tensor([-1]), "batch: position -1"),
            (torch.tensor([0.0]), "batch: torch.float32"),
            (torch.ones(60, dtype=torch.bool), "batch: torch.bool"),
        ],
    )
    def test_bad_positions_are_named(self, batch: torch.Tensor, word: str) -> None:
        with pytest.raises(InputError, match=word):
            TrainingEdges(random_links(), 24).without(batch)


class TestDropAdj:
    def test_entries_are_kept_independently_at_the_asked_rate(self) -> None:
        csr = random_graph(nodes=80, links=2500)
        torch.manual_seed(0)
        dropped, value = drop_adj(csr, 0.3)
        assert value == pytest.approx(1 / 0.7)
        rate = dropped.num_entries / csr.num_entries
        assert abs(rate - 0.7) < 4 * (0.21 / csr.num_entries) ** 0.5  # four standard errors
        before, after = dense(csr), dense(dropped)
        assert bool((after <= before).all())
        # Both directions of a link stay together with probability 0.49.
        together = float((after * after.t()).sum() / before.sum())
        assert abs(together - 0.49) < 4 * (0.25 / 2500) ** 0.5

    def test_the_sum_is_right_on_average(self) -> None:
        csr = random_graph()
        x = torch.randn(24, 2, dtype=torch.float64)
        torch.manual_seed(0)
        draws = torch.stack(
            [aggregate(c, x) * v for c, v in (drop_adj(csr, 0.4) for _ in range(2000))]
        )
        error = draws.std(0) / 2000**0.5
        assert bool(((draws.mean(0) - aggregate(csr, x)).abs() <= 4.5 * error + 1e-12).all())

    def test_evaluation_and_tiny_rates_change_nothing(self) -> None:
        csr = random_graph()
        assert drop_adj(csr, 0.9, training=False) == (csr, 1.0)
        assert drop_adj(csr, 1e-7) == (csr, 1.0)

    def test_dropped_rows_are_still_in_order(self) -> None:
        dropped, _ = drop_adj(random_graph(), 0.5)
        assert sorted_rows(dropped) is dropped
        assert not dropped.derived.get("is_symmetric")


class TestAdjacency:
    def test_all_forms_of_a_graph_are_the_same(self) -> None:
        csr = random_graph()
        edge_index = torch.stack([csr.row(), csr.col]).long()
        shuffled = edge_index[:, torch.randperm(edge_index.size(1))]
        coo = torch.sparse_coo_tensor(shuffled, torch.ones(shuffled.size(1)), (24, 24))
        given = (shuffled, CSR.from_edge_index(shuffled, 24), coo, coo.to_sparse_csr())
        for form in given:
            found = adjacency(form, 24)
            assert torch.equal(found.rowptr, csr.rowptr)
            assert torch.equal(found.col, csr.col)
            assert found.eid is None
        assert adjacency(shuffled, 24) is adjacency(shuffled, 24)

    def test_symmetrise_makes_simple_undirected_graphs(self) -> None:
        one_way = torch.tensor([[0, 0, 1, 2], [1, 1, 2, 1]])
        assert row_sets(adjacency(one_way, 4, symmetrise=True)) == [{1}, {0, 2}, {1}, set()]
        weighted = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).to_sparse()
        assert row_sets(adjacency(weighted, 2, symmetrise=True)) == [{1}, {0}]

    @pytest.mark.parametrize(
        ("adj", "word"),
        [
            (torch.tensor([[0, 1], [1, 2]]), "adj: edge . -> . has no reverse.*symmetrise=True"),
            (undirected((0, 1), (0, 1)), "adj: edge . -> . is listed twice.*symmetrise=True"),
            (
                torch.tensor([[0, 0, 1], [1, 1, 0]]),
                "adj: edge 0 -> 1 has no reverse",
            ),
            (torch.tensor([[0, 1, 2], [1, 0, 2]]), "adj: a self-loop at node 2"),
            (torch.tensor([[0.0, 0.5], [0.5, 0.0]]).to_sparse(), r"adj: shape \[2, 2\]"),
            (2 * (1 - torch.eye(3)).to_sparse(), "adj: weight 2 at .*symmetrise=True"),
            (CSR.from_edge_index(undirected((0, 1)), 2), "adj: 2 x 2, wanted 3 nodes"),
            ([[0, 1], [1, 0]], "adj: list"),
            (torch.zeros(2, 2), "edge_index: dtype"),
        ],
    )
    def test_what_is_no_simple_undirected_graph_is_named(self, adj: object, word: str) -> None:
        with pytest.raises(InputError, match=word):
            adjacency(adj, 3)  # type: ignore[arg-type]

    def test_a_self_loop_is_refused_even_where_directions_are_mended(self) -> None:
        with pytest.raises(InputError, match="self-loop at node 1"):
            adjacency(torch.tensor([[1], [1]]), 2, symmetrise=True)

    def test_the_view_sums_and_derives_as_the_graph_does(self) -> None:
        csr = random_graph()
        x = torch.randn(24, 3, dtype=torch.float64, requires_grad=True)
        seed = torch.randn(24, 3, dtype=torch.float64)
        for reduce in ("sum", "mean", "max"):
            grads = [
                torch.autograd.grad((aggregate(g, x, reduce=reduce) * seed).sum(), x)[0]
                for g in (csr, own_transpose(csr))
            ]
            torch.testing.assert_close(*grads)
        dropped, _ = drop_adj(csr, 0.5)
        assert own_transpose(dropped) is dropped
