"""Pairs of users and items: what is refused, how they are read, split and named."""

import warnings

import pandas
import pytest
import torch

from graphkit import data
from graphkit.data import recsys
from graphkit.data.interaction_files import read_lists, read_triples
from graphkit.data.interactions import Interactions, hold_out, hold_out_pairs, union
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError


def random_pairs(users=20, items=15, seed=0):
    mask = torch.rand(users, items, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[:, 0] = mask[0] = True
    return mask.nonzero().t()


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([[0, -1], [0, 1]], {}, "user -1 at position 1"),
        ([[0, 1], [0, 5]], {"num_users": 2, "num_items": 5}, "item 5 at position 1"),
        ([[0, 2], [0, 1]], {"num_users": 2, "num_items": 5}, r"user 2 .* wanted 0\.\.1"),
        ([[1, 1], [3, 3]], {}, "user 1 and item 3 are there more than once"),
        ([[0.0, 1.0], [0.0, 1.0]], {}, "wanted int64"),
        ([0, 1], {}, r"wanted an integer tensor \[2, E\]"),
    ],
)
def test_bad_pairs_are_refused(pairs, options, message):
    with pytest.raises(InputError, match=message):
        Interactions(torch.tensor(pairs), **options)


def test_repeats_are_dropped_on_request():
    pairs = Interactions(torch.tensor([[1, 0, 1], [3, 0, 3]]), dedupe=True)
    assert pairs.edge_index.tolist() == [[0, 1], [0, 3]]


def test_structure_is_that_of_the_dense_matrix():
    pairs = random_pairs()
    dense = torch.zeros(20, 15, dtype=torch.bool)
    dense[pairs[0], pairs[1]] = True
    order = torch.randperm(pairs.size(1), generator=torch.Generator().manual_seed(3))
    found = Interactions(pairs[:, order], 20, 15)
    assert torch.equal(found.edge_index, pairs)
    assert torch.equal(found.user_degree, dense.sum(1))
    assert torch.equal(found.item_degree, dense.sum(0))
    users, items = torch.arange(20)[:, None], torch.arange(15)
    assert torch.equal(found.contains(users, items), dense)
    ids = torch.tensor([7, 0, 7])
    again = torch.zeros(3, 15, dtype=torch.bool)
    again[found.seen(ids)] = True
    assert torch.equal(again, dense[ids])
    assert found.of(4).tolist() == dense[4].nonzero().flatten().tolist()
    assert torch.equal(found.users.degree.long(), found.user_degree)
    assert torch.equal(found.users.transpose().degree.long(), found.item_degree)


@pytest.mark.parametrize("split", [hold_out, hold_out_pairs])
def test_held_out_pairs_are_disjoint_seeded_and_complete(split):
    whole = Interactions(random_pairs(60, 40), 60, 40)
    left, right = split(whole, 0.1, 0)
    assert torch.equal(union(left, right).edge_index, whole.edge_index)
    assert torch.equal(split(whole, 0.1, 0)[1].edge_index, right.edge_index)
    assert not torch.equal(split(whole, 0.1, 1)[1].edge_index, right.edge_index)
    if split is hold_out:
        assert torch.equal(right.user_degree, (0.1 * whole.user_degree + 0.5).floor().long())
    else:
        assert right.num_pairs == whole.num_pairs // 10


def test_a_user_keeps_one_pair():
    whole = Interactions(torch.tensor([[0, 1, 1], [0, 0, 1]]))
    assert hold_out(whole, 0.9, 0)[0].user_degree.tolist() == [1, 1]
    with pytest.raises(InputError, match="too few to hold any out"):
        hold_out(whole, 0.1, 0)
    with pytest.raises(InputError, match="share: 1.0"):
        hold_out(whole, 1.0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n1\n2 3\n", "line 2: user 1 has no items"),
        ("0 1\n\n2 3\n", "line 2: is empty"),
        ("0 1\n1 -3\n", "line 2: '1 -3'"),
        ("0 1\n1 x\n", "line 2: '1 x'"),
        ("0 1\n1 " + "9" * 30 + "\n", "more than 18 digits"),
    ],
)
def test_bad_lists_name_the_line(tmp_path, text, message):
    path = tmp_path / "train.txt"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=message):
        read_lists(path)


def test_lists_and_triples(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"3 1 2 \r\n0 7\r\n")
    assert read_lists(tmp_path / "a.txt").tolist() == [[3, 3, 0], [1, 2, 7]]
    (tmp_path / "b.txt").write_text("4\t1\t1e+05\n1 2 anything at all\n")
    assert read_triples(tmp_path / "b.txt", first_id=1).tolist() == [[3, 0], [0, 1]]
    with pytest.raises(CorruptFileError, match="line 1: an id below 2"):
        read_triples(tmp_path / "b.txt", first_id=2)
    (tmp_path / "c.txt").write_text("4\n")
    with pytest.raises(CorruptFileError, match="line 1: '4'"):
        read_triples(tmp_path / "c.txt")


def held_files(folder, train, test):
    base = folder / "recsys" / "yelp2018"
    base.mkdir(parents=True)
    (base / "train.txt").write_text(train)
    (base / "test.txt").write_text(test)


def test_a_foreign_file_under_a_known_name_is_refused(tmp_path):
    held_files(tmp_path, "0 1 2\n", "0 3\n")
    with pytest.raises(CorruptFileError, match="SHA-256"):
        data.load("yelp2018", root=tmp_path)


def test_tested_pairs_must_not_be_learnt_from():
    pairs = random_pairs()
    with pytest.raises(InputError, match="1 of 1 test pairs are training pairs"):
        data.from_interactions(pairs, pairs[:, 5:6], k=2)
    demo = data.load("demo-rec")
    parsed = recsys.parsed_pairs(pairs, pairs[:, 5:6])
    with pytest.raises(InputError, match="1 of 1 test pairs are training pairs"):
        recsys.RecommendationDataset(demo.card, parsed, "", {})


def test_official_selection_is_said_out_loud():
    with pytest.warns(UserWarning, match="chooses the epoch on the TEST pairs"):
        official = data.load("demo-rec", protocol="official")
    assert official.split_kind == "test-selected"
    assert official.held["valid"] is official.held["test"]
    assert official.of_run(3) is official
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.load("demo-rec").protocol == "heldout"


@pytest.mark.parametrize("protocol", ["heldout", "ninth"])
def test_protocols_hold_out_of_the_training_pairs_only(protocol):
    dataset = data.load("demo-rec", protocol=protocol)
    train, valid, test = dataset.interactions, dataset.held["valid"], dataset.held["test"]
    assert torch.equal(union(train, valid).edge_index, dataset.known["test"].edge_index)
    assert dataset.known["valid"] is train
    assert not dataset.known["test"].contains(*test.edge_index).any()
    other = dataset.of_run(1)
    assert not torch.equal(other.held["valid"].edge_index, valid.edge_index)
    assert torch.equal(other.of_run(0).held["valid"].edge_index, valid.edge_index)
    share = 1 / 9 if protocol == "ninth" else 0.1
    assert valid.num_pairs == pytest.approx(share * (train.num_pairs + valid.num_pairs), rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "offical"}, "did you mean 'official'"),
        ({"convention": "mine"}, "convention: 'mine' is not one of"),
        ({"k": 0}, "k: 0"),
        ({"split": 1}, "leave them out"),
        ({"cutoff": 5}, "cutoff: demo-rec has no such option"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        data.load("demo-rec", **options)


def test_own_pairs_from_csv_keep_their_ids(tmp_path):
    frame = pandas.DataFrame(
        {
            "when": range(40),
            "who": [f"user {k % 4}" for k in range(40)],
            "what": [100 + k // 4 for k in range(40)],
        }
    )
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    own = data.from_interactions(tmp_path / "pairs.csv", user="who", item="what", k=3)
    assert (own.num_users, own.num_items, own.metric) == (4, 10, "recall@3")
    assert own.user_ids.tolist() == [f"user {k}" for k in range(4)]
    assert own.item_ids.tolist() == list(range(100, 110))
    assert {key: len(value) for key, value in own.splits.items()} == {
        "train": 28, "valid": 4, "test": 8,
    }  # fmt: skip
    with pytest.raises(InputError, match="user: no column 'whom'"):
        data.from_interactions(tmp_path / "pairs.csv", user="whom")
    frame.loc[7, "what"] = None
    with pytest.raises(InputError, match="row 7 of column 'what' is missing"):
        data.from_interactions(frame, user="who", item="what")
    (tmp_path / "pairs.bin").write_text("")
    with pytest.raises(InputError, match="wanted .csv"):
        data.from_interactions(tmp_path / "pairs.bin")
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        data.from_interactions(tmp_path / "none.csv")


def test_parquet_or_a_clear_reason(tmp_path):
    path = tmp_path / "pairs.parquet"
    frame = pandas.DataFrame({"user": [0, 0, 0, 1, 1, 1] * 3, "item": range(18)})
    try:
        frame.to_parquet(path)
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(InputError, match="needs pyarrow"):
            data.from_interactions(path)
        return
    assert data.from_interactions(path, k=2).num_items == 18


def test_ids_from_one_are_noticed():
    from graphkit.data.interactions import warn_of_first_ids

    train, test = (Interactions(torch.tensor(p), 3, 4) for p in ([[1, 2], [1, 2]], [[1], [3]]))
    with pytest.warns(UserWarning, match="no (user|item) has the id 0") as found:
        warn_of_first_ids(train, test)
    assert len(found) == 2


@pytest.mark.parametrize("name", ["amazon-book", "amazon-electronics"])
def test_sets_that_are_not_at_hand_say_how_to_get_them(name, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="How to get it: take data/"):
        data.load(name, root=tmp_path)
