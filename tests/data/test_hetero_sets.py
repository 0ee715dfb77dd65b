"""Heterogeneous sets: their splits, both parts of the test set, and OGB's raw layout."""

from __future__ import annotations

import gzip
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphkit import data
from graphkit.data import hgb, ogb_hetero
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError

INFO = {
    "node.dat": {"node type": {"0": "author", "1": "paper"}},
    "link.dat": {
        "link type": {
            "0": {"start": 0, "end": 1, "meaning": "author-paper"},
            "1": {"start": 1, "end": 0, "meaning": "paper-author"},
            "2": {"start": 0, "end": 1, "meaning": "author-paper"},
        }
    },
}
AUTHORS, PAPERS = 60, 30


def archive(
    folder: Path, multilabel: bool = False, drop: str = "", add: str = "", third: bool = False
) -> Path:
    """A set of 60 authors of 3 classes: 40 to learn from, 20 test nodes of which 10 are public."""
    rng = np.random.default_rng(0)
    x = rng.random((AUTHORS, 2)).round(3)
    node = [f"{i}\ta{i}\t0\t{x[i, 0]},{x[i, 1]}" for i in range(AUTHORS)]
    node += [f"{AUTHORS + i}\tp{i}\t1" for i in range(PAPERS)]
    pairs = [(i, AUTHORS + i % PAPERS) for i in range(AUTHORS)]
    link = [f"{a}\t{p}\t0\t1.0" for a, p in pairs] + [f"{p}\t{a}\t1\t1.0" for a, p in pairs]

    if third:
        link.append(f"3\t{AUTHORS + 4}\t2\t1.0")

    def labels(ids: Any) -> str:
        values = [f"{i % 3},{(i + 1) % 3}" if multilabel and i % 2 else str(i % 3) for i in ids]
        return "\n".join(f"{i}\ta{i}\t0\t{v}" for i, v in zip(ids, values, strict=True))

    order = rng.permutation(AUTHORS)
    files = {
        "info.dat": json.dumps(INFO), "node.dat": "\n".join(node), "link.dat": "\n".join(link),
        "label.dat": labels(order[:40]), "label.dat.test": labels(order[40:]),
        "label.dat.test.half": labels(order[40:50]),
    }  # fmt: skip
    files.pop(drop, None)
    if add:
        files[add] = labels(order[40:])
    path = folder / "DBLP.zip"
    with zipfile.ZipFile(path, "w") as stream:
        for name, text in files.items():
            stream.writestr(f"DBLP/{name}", text)
    return path


def read(path: Path, multilabel: bool = False, **options: Any) -> data.GraphDataset:
    card = data.card("hgb-imdb" if multilabel else "hgb-dblp")
    card = card.model_copy(update={"num_tasks": 3})
    source = Source(path, path.parent, "0", {}, True)
    return data.GraphDataset(card, hgb.read(card, source, **options), "0", options)


def test_both_parts_of_the_test_set(tmp_path: Path) -> None:
    path = archive(tmp_path)
    half = read(path)
    assert {part: len(ids) for part, ids in half.splits.items()} == {
        "train": 32, "valid": 8, "test": 10,
    }  # fmt: skip
    store = half.hetero()["author"]
    assert int(store.test_mask.sum()) == 10
    assert int(store.test_full_mask.sum()) == 20
    assert bool((store.test_full_mask | ~store.test_mask).all())
    assert store.y.tolist() == [i % 3 for i in range(AUTHORS)]
    full = read(path, test="full").hetero()["author"]
    assert torch.equal(full.test_mask, store.test_full_mask)
    several = read(archive(tmp_path, multilabel=True), multilabel=True).hetero()["author"]
    assert several.y.shape == (AUTHORS, 3)
    assert several.y[1].tolist() == [0, 1, 1]
    assert not several.y.isnan().any()


def test_relations_of_one_name_stay_two(tmp_path: Path) -> None:
    graph = read(archive(tmp_path, third=True)).hetero()
    assert graph.edge_types == [
        ("author", "to", "paper"), ("paper", "to", "author"), ("author", "to_2", "paper"),
    ]  # fmt: skip
    assert graph["author", "to", "paper"].num_edges == AUTHORS
    assert graph["author", "to_2", "paper"].edge_index.tolist() == [[3], [4]]


def test_the_seed_draws_a_fifth_of_each_class(tmp_path: Path) -> None:
    path = archive(tmp_path)
    one, two = (read(path, valid_seed=seed) for seed in (1, 2))
    assert not torch.equal(one.splits["valid"], two.splits["valid"])
    for dataset in (one, two):
        labelled = torch.cat([dataset.splits["train"], dataset.splits["valid"]])
        sizes = torch.bincount(labelled % 3)
        valid = torch.bincount(dataset.splits["valid"] % 3, minlength=3)
        assert ((valid - sizes / 5).abs() < 1).all()
    parsed = hgb.read(one.card, Source(path, path.parent, "0", {}, True))
    again = hgb.redrawn(parsed, 2)
    assert all(torch.equal(again.splits[0][part], two.splits[part]) for part in two.splits)
    assert again.info["run_seed"] == 2
    several = archive(tmp_path, multilabel=True)
    splits = [read(several, True, valid_seed=seed).splits for seed in (1, 1, 2)]
    assert torch.equal(splits[0]["valid"], splits[1]["valid"])
    assert not torch.equal(splits[0]["valid"], splits[2]["valid"])


def test_scrambled_labels_are_no_ground_truth(tmp_path: Path) -> None:
    other_copy = archive(tmp_path, drop="label.dat.test.half", add="label.dat.test_full")
    for test in ("half", "full"):
        with pytest.raises(CorruptFileError, match="scrambled"):
            read(other_copy, test=test)
    with pytest.raises(InputError, match="'half' or 'full'"):
        read(archive(tmp_path), test="test_full")
    read(archive(tmp_path, add="label.dat.test_full"))  # beside the true ones it is not looked at


@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [
        ("hgb-acm", (726, 181, 1059, 2118), [56, 58, 67]),
        # A tenth of a gigabyte of text each:
        pytest.param("hgb-dblp", (974, 243, 1420, 2840), [48, 59, 63, 73], marks=pytest.mark.slow),
        pytest.param("hgb-imdb", (1097, 274, 1601, 3202), None, marks=pytest.mark.slow),
    ],
)
def test_held_sets_split_anew_for_each_run(
    data_root: Path, name: str, sizes: tuple[int, ...], classes: list[int] | None
) -> None:
    try:
        dataset = data.load(name)
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing).splitlines()[0])
    runs = [dataset.of_run(seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].splits["valid"], runs[1].splits["valid"])
    assert not torch.equal(runs[0].splits["valid"], runs[2].splits["valid"])
    assert torch.equal(runs[0].splits["test"], runs[2].splits["test"])
    store = runs[0].hetero()[runs[0].info["target"]]
    masks = (store.train_mask, store.val_mask, store.test_mask, store.test_full_mask)
    assert tuple(int(mask.sum()) for mask in masks) == sizes
    if classes is not None:
        assert sorted(torch.bincount(store.y[store.val_mask]).tolist()) == classes
    fixed = data.load(name, valid_seed=3)
    assert torch.equal(fixed.of_run(7).splits["valid"], fixed.splits["valid"])
    assert fixed.of_run(7).info["run_seed"] == 7


def test_a_seed_of_the_split_leaves_runs_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hgb").mkdir()
    archive(tmp_path / "hgb")
    small = data.card("hgb-dblp").model_copy(update={"sha256": {}})
    monkeypatch.setattr(sys.modules["graphkit.data.load"], "read_card", lambda name: small)
    fixed = data.load("hgb-dblp", root=tmp_path, valid_seed=3, cache=False)
    for seed in (1, 2):
        run = fixed.of_run(seed)
        assert run.info["run_seed"] == seed
        assert all(torch.equal(run.splits[part], fixed.splits[part]) for part in fixed.splits)
    with pytest.raises(InputError, match="split_seed: hgb-dblp has published test nodes; valid_se"):
        data.load("hgb-dblp", root=tmp_path, split_seed=3, cache=False)


# -- OGB's heterogeneous layout -------------------------------------------------------------------


def _gz(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as stream:
        stream.write(text)


def mag(folder: Path) -> Path:
    raw = folder / "raw"
    _gz(raw / "num-node-dict.csv.gz", "author,institution,paper\n3,2,4\n")
    _gz(raw / "triplet-type-list.csv.gz",
        "author,affiliated_with,institution\nauthor,writes,paper\npaper,cites,paper\n")  # fmt: skip
    _gz(raw / "node-feat/paper/node-feat.csv.gz", "0.5,1\n0,2\n1,1\n-1,0\n")
    _gz(raw / "relations/author___affiliated_with___institution/edge.csv.gz", "0,1\n2,0\n")
    _gz(raw / "relations/author___writes___paper/edge.csv.gz", "0,0\n1,3\n2,2\n2,1\n")
    _gz(raw / "relations/paper___cites___paper/edge.csv.gz", "0,3\n1,2\n")
    _gz(raw / "node-label/paper/node-label.csv.gz", "7\n0\n348\n1\n")
    for part, ids in (("train", "0\n2\n"), ("valid", "1\n"), ("test", "3\n")):
        _gz(folder / f"split/time/paper/{part}.csv.gz", ids)
    return folder


def test_ogb_hetero(tmp_path: Path) -> None:
    card = data.card("ogbn-mag")
    parsed = ogb_hetero.read(card, Source(mag(tmp_path), tmp_path, "0", {}, True))
    dataset = data.GraphDataset(card, ogb_hetero.redrawn(parsed, 4), "0", {})
    assert dataset.info["run_seed"] == 4
    graph = dataset.hetero()
    assert {kind: graph[kind].num_nodes for kind in graph.node_types} == {
        "paper": 4, "author": 3, "institution": 2,
    }  # fmt: skip
    assert graph["paper"].x[3].tolist() == [-1, 0]
    assert graph["author", "writes", "paper"].edge_index.tolist() == [[0, 1, 2, 2], [0, 3, 2, 1]]
    assert graph["paper"].y.tolist() == [7, 0, 348, 1]
    assert graph["paper"].train_mask.tolist() == [True, False, True, False]
    assert dataset.graphs[0].num_nodes == 9
    assert dataset.evaluate(torch.tensor([7, 0]), torch.tensor([7, 1])) == {"acc": 0.5}


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("raw/relations/author___writes___paper/edge.csv.gz", "3,0\n", "names node 3 of 'author'"),
        ("raw/relations/author___writes___paper/edge.csv.gz", "0,x\n", "no integers"),
        ("raw/node-label/paper/node-label.csv.gz", "349\n0\n0\n0\n", "wanted 0..348"),
        ("raw/node-feat/paper/node-feat.csv.gz", "1,2\n", "1 rows for 4 nodes"),
        ("split/time/paper/test.csv.gz", "9\n", "wanted 0..3"),
    ],
)
def test_ogb_hetero_files_that_do_not_fit(
    tmp_path: Path, path: str, text: str, message: str
) -> None:
    _gz(mag(tmp_path) / path, text)
    with pytest.raises(CorruptFileError, match=message):
        ogb_hetero.read(data.card("ogbn-mag"), Source(tmp_path, tmp_path, "0", {}, True))
