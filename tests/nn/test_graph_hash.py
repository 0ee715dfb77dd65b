"""GraphHash: the clustering against its definition, and what the estimator refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from graphkit.errors import InputError
from graphkit.models import GraphHash
from graphkit.nn.embedding import bipartite_modularity, cluster_pairs, codes_of_size, resolve

BLOCKS = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]])
CHAIN = torch.tensor(
    [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 1, 0, 1, 1, 2, 2, 3, 2, 3]]
)  # rows 1100, 1100, 0110, 0011, 0011


def random_pairs(seed: int, users: int = 30, items: int = 20, share: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(users, items, generator=generator) < share).nonzero().t().contiguous()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.9])
def test_two_blocks_are_found(gamma):
    found = GraphHash(gamma).fit(BLOCKS)
    assert found.user_codes_.tolist() == [0, 0, 1, 1]
    assert found.item_codes_.tolist() == [0, 0, 1, 1]
    assert found.modularity_ == pytest.approx(1 - gamma / 2, abs=1e-12)
    assert found.num_clusters_ == 2


@pytest.mark.parametrize("gamma", [2.0, 3.0])
def test_large_resolution_leaves_singletons(gamma):
    found = GraphHash(gamma).fit(BLOCKS)
    assert (found.num_user_codes_, found.num_item_codes_) == (4, 4)
    assert found.num_clusters_ == 8


def test_the_worked_chain():
    found = GraphHash(0.5).fit(CHAIN)
    assert found.user_codes_.tolist() == [0, 0, 0, 1, 1]
    assert found.item_codes_.tolist() == [0, 0, 1, 1]
    assert found.modularity_ == pytest.approx(0.65, abs=1e-12)


def dense_modularity(matrix, labels, gamma):
    m = matrix.sum()
    expected = gamma * np.outer(matrix.sum(1), matrix.sum(0)) / m
    same = labels[: len(matrix)][:, None] == labels[len(matrix) :][None]
    return ((matrix - expected) * same).sum() / m


@pytest.mark.parametrize("seed", range(4))
def test_accepted_moves_gain_what_they_say(seed):
    """The gain by which Louvain moves a node is the change of the modularity it reports."""
    gamma = 1.5
    pairs = random_pairs(seed)
    matrix = np.zeros((30, 20))
    matrix[pairs[0], pairs[1]] = 1
    n, m = 50, matrix.sum()
    sym = np.zeros((n, n))
    sym[:30, 30:] = matrix
    sym = (sym + sym.T) / (2 * m)
    out_w = np.r_[matrix.sum(1) / m, np.zeros(20)]
    in_w = np.r_[np.zeros(30), matrix.sum(0) / m]
    labels = np.arange(n)
    moves = 0
    for _ in range(3):
        for x in range(n):
            own = labels[x]
            others = sorted(set(labels[sym[x] > 0]) - {own})
            best, where = 0.0, None
            for c in others:
                gain = 0.0
                for cluster, sign in ((c, 1), (own, -1)):
                    members = (labels == cluster) & (np.arange(n) != x)
                    gain += sign * (
                        2 * sym[x, members].sum()
                        - gamma * out_w[x] * in_w[members].sum()
                        - gamma * in_w[x] * out_w[members].sum()
                    )
                if gain > best + 1e-15:
                    best, where = gain, c
            if where is None:
                continue
            before = dense_modularity(matrix, labels, gamma)
            labels[x] = where
            after = dense_modularity(matrix, labels, gamma)
            assert after - before == pytest.approx(best, abs=1e-5)
            users, items = (
                torch.from_numpy(labels[:30].copy()),
                torch.from_numpy(labels[30:].copy()),
            )
            assert bipartite_modularity(pairs, users, items, gamma) == pytest.approx(
                after, abs=1e-12
            )
            moves += 1
    assert moves > 20
    # The engine goes on to coarser graphs, so it is at least as good as these local moves.
    assert cluster_pairs(pairs, 30, 20, gamma).modularity >= after - 0.01


@pytest.mark.parametrize("gamma", [0.5, 2.0, 8.0])
def test_codes_are_compact_and_repeatable(gamma):
    pairs = random_pairs(7)
    first, second = GraphHash(gamma).fit(pairs), GraphHash(gamma).fit(pairs.clone())
    for codes, size, again in (
        (first.user_codes_, first.num_user_codes_, second.user_codes_),
        (first.item_codes_, first.num_item_codes_, second.item_codes_),
    ):
        assert torch.equal(codes, again)
        assert torch.equal(codes.unique(), torch.arange(size))
        assert size <= len(codes)


def test_ids_without_pairs_share_a_row():
    found = GraphHash(1.0).fit(BLOCKS, num_users=7, num_items=4)
    assert found.user_codes_.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert (found.num_user_codes_, found.unseen_user_, found.unseen_item_) == (3, 2, None)
    assert found.modularity_ == pytest.approx(0.5)
    reserved = GraphHash(1.0, reserve_unseen=True).fit(BLOCKS)
    assert (reserved.num_item_codes_, reserved.unseen_item_) == (3, 2)
    assert reserved.assign_new([[], [2]], "item").tolist() == [2, 1]


def test_new_ids_join_the_majority():
    found = GraphHash(1.0).fit(BLOCKS, num_users=5, num_items=4)
    given = [[0, 1, 2], torch.tensor([2, 3]), [], [0, 2]]
    assert found.assign_new(given, "user").tolist() == [0, 1, 2, 0]
    # The unseen user says nothing.
    assert found.assign_new([[4, 2]], "item").tolist() == [1]
    with pytest.raises(InputError, match=r"neighbours\[0\].*wanted 0\.\.3"):
        found.assign_new([[4]], "user")
    with pytest.raises(InputError, match="not fitted"):
        GraphHash().assign_new([[0]], "user")


def test_repeated_pairs_are_weights():
    twice = torch.cat([BLOCKS, BLOCKS[:, :4]], 1)
    weight = torch.tensor([2.0] * 4 + [1.0] * 4)
    one, two = GraphHash(1.2).fit(twice), GraphHash(1.2).fit(BLOCKS, weight=weight)
    assert one.modularity_ == pytest.approx(two.modularity_)
    assert torch.equal(one.user_codes_, two.user_codes_)


def test_a_table_size_is_found_by_bisection():
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(0, 12, (2000,), generator=generator)
    users = group * 25 + torch.randint(0, 25, (2000,), generator=generator)
    items = group * 20 + torch.randint(0, 20, (2000,), generator=generator)
    pairs = torch.stack([users, items]).unique(dim=1)
    found = GraphHash.for_rows(pairs, 120, num_users=300, num_items=240, tolerance=0.15)
    assert abs(found.num_user_codes_ + found.num_item_codes_ - 120) <= 18
    assert "rows" in repr(found)


@pytest.mark.parametrize("gamma", [0, -1.0, float("nan"), float("inf"), True, "5"])
def test_resolution_must_be_positive(gamma):
    with pytest.raises(InputError, match="resolution.*positive"):
        GraphHash(gamma)


def test_refusals():
    with pytest.raises(InputError, match="at least one pair"):
        GraphHash(1.0).fit(torch.empty(2, 0, dtype=torch.int64))
    with pytest.raises(InputError, match="graph is empty"):
        cluster_pairs(torch.empty(2, 0, dtype=torch.int64), 3, 3, 1.0)
    with pytest.raises(InputError, match=r"weight.*at least 0"):
        GraphHash(1.0).fit(BLOCKS, weight=-torch.ones(8))
    with pytest.raises(InputError, match=r"user 3, wanted 0\.\.2"):
        GraphHash(1.0).fit(BLOCKS, num_users=3, num_items=4)
    with pytest.raises(InputError, match="item -1"):
        GraphHash(1.0).fit(torch.tensor([[0], [-1]]), num_users=3, num_items=4)
    with pytest.raises(InputError, match=r"rows: 9, wanted 2\.\.8"):
        GraphHash.for_rows(BLOCKS, 9)


def test_held_out_pairs_must_not_be_clustered():
    held = torch.tensor([[0, 3], [3, 3]])
    with pytest.raises(InputError, match="user 3 with item 3 is held out"):
        GraphHash(1.0).fit(BLOCKS, held_out=held)
    GraphHash(1.0).fit(BLOCKS, held_out=held[:, :1])
    seen = SimpleNamespace(num_users=4, num_items=4, edge_index=BLOCKS, held_out=held)
    with pytest.raises(InputError, match="held out"):
        resolve({"method": "graph", "gamma": 1.0}, seen, "user")


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("rows", [1, 2, 17, 40])
def test_a_table_gets_exactly_the_rows_asked_for(side, rows):
    pairs = random_pairs(3, 90, 60)
    sizes = {"user": 95, "item": 61}  # some ids without pairs
    codes, number = codes_of_size(pairs, 95, 61, side, rows, tolerance=0.3)
    assert number == rows
    assert torch.equal(codes.unique(), torch.arange(rows))
    assert len(codes) == sizes[side]
    unseen = codes[90:] if side == "user" else codes[60:]
    assert len(unseen.unique()) == 1
    if rows > 1:
        assert int((codes == unseen[0]).sum()) == len(unseen)


def test_clusters_that_are_too_many_join_where_their_pairs_lead():
    # Three blocks; the third has one pair of its own and two that lead to the second.
    extra = torch.tensor([[4, 4, 4], [4, 2, 3]])
    pairs = torch.cat([BLOCKS, extra], 1)
    whole = cluster_pairs(pairs, 5, 5, 3.0)
    assert whole.num_user_codes > 2
    codes, number = codes_of_size(pairs, 5, 5, "user", 2, tolerance=0.9)
    assert number == 2
    assert (codes == codes[2]).tolist() == [False, False, True, True, True]
    with pytest.raises(InputError, match=r"rows: 6, wanted 1\.\.5 for 5 users"):
        codes_of_size(pairs, 5, 5, "user", 6)
    with pytest.raises(InputError, match="side: 'users'"):
        codes_of_size(pairs, 5, 5, "users", 2)


@pytest.mark.parametrize("method", ["graph", "double_graph", "frequency", "random", "double"])
def test_a_quarter_is_a_quarter_whatever_the_method(method):
    pairs = random_pairs(2, 60, 44)
    seen = SimpleNamespace(num_users=60, num_items=44, edge_index=pairs)
    for side, rows in (("user", 15), ("item", 11)):
        assert resolve({"method": method, "fraction": 0.25}, seen, side).num_rows == rows
        assert resolve({"method": method, "rows": 9}, seen, side).num_rows == 9
