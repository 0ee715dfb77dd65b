"""Embedding and regression as one model: protocol, zoo, pictures, refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from sklearn.metrics import f1_score

from graphkit import data, recipes, results
from graphkit.data.locate import data_roots
from graphkit.data.mat_network import label_split
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError
from graphkit.models import EmbeddingClassifier, FastRP
from graphkit.results.sweeps import draw_over, read_lines
from graphkit.tasks.node_embedding import label_rate_sweep

TINY = {"name": "fastrp", "dim": 16, "weights": [0.0, 1.0, 1.0], "seed": 1}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two communities of 60 nodes, written as the held files are."""
    rng = np.random.default_rng(0)
    side = np.arange(120) % 2
    near = rng.random((120, 120)) < np.where(side[:, None] == side, 0.2, 0.02)
    upper = np.triu(near, 1)
    labels = np.stack([side == 0, side == 1, rng.random(120) < 0.2], 1)
    folder = tmp_path_factory.mktemp("root")
    (folder / "embedding").mkdir()
    content = {
        "network": scipy.sparse.csc_matrix((upper | upper.T).astype(float) + np.eye(120)),
        "group": scipy.sparse.csc_matrix(labels.astype(float)),
    }
    scipy.io.savemat(folder / "embedding/blogcatalog.mat", content)
    return folder


def load(network: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> data.GraphDataset:
    card = data.card("blogcatalog").model_copy(
        update={"sha256": {}, "num_tasks": 3, "name": "tiny", "official_size": {}}
    )
    monkeypatch.setattr(sys.modules["graphkit.data.load"], "read_card", lambda name: card)
    return data.load("tiny", root=network, cache=False, **options)


def test_figures_are_those_of_the_sweep(network, monkeypatch):
    dataset = load(network, monkeypatch, share=0.3)
    graph = dataset.graphs[0]
    assert graph.num_edges == int(graph.edge_index.size(1))
    assert not (graph.edge_index[0] == graph.edge_index[1]).any()
    embedding = FastRP(**{k: v for k, v in TINY.items() if k != "name"}).fit_transform(
        graph.edge_index
    )
    rate = label_rate_sweep(embedding, graph.y.numpy().astype(int), [0.3], repeats=2, C=1.0)[0]
    previous = None
    for seed in (0, 1):
        split = dataset.of_run(seed).splits
        model = EmbeddingClassifier(3, TINY, C=1.0)
        model.fit(
            torch.empty(120, 0), graph.edge_index, graph.y, split["train"],
            split["test"][:0], seed=seed, previous=previous,
        )  # fmt: skip
        assert previous is None or model.embedding_ is previous.embedding_
        previous = model
        truth, given = graph.y[split["test"]], model.logits_[split["test"]] > 0
        assert f1_score(truth, given, average="micro") == pytest.approx(rate.micro[seed])
        assert f1_score(truth, given, average="macro") == pytest.approx(rate.macro[seed])
        figures = dataset.evaluate(truth, model.logits_[split["test"]])
        assert figures == pytest.approx({"f1_micro": rate.micro[seed], "f1": rate.macro[seed]})
        assert rate.micro[seed] > 0.7


def test_labelled_nodes_are_judged_out_of_sample(network, monkeypatch):
    graph = load(network, monkeypatch, share=0.5).graphs[0]
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    known = order[:60]
    noise = torch.zeros(120, 2)
    noise[torch.arange(120), torch.randint(2, (120,), generator=torch.Generator())] = 1.0
    wide = {**TINY, "dim": 128}
    given = EmbeddingClassifier(2, wide, C=1e4).fit(
        torch.empty(120, 0), graph.edge_index, noise, known, known[:0]
    )
    apart = EmbeddingClassifier(2, wide, C=1e4).fit(
        torch.empty(120, 0), graph.edge_index, noise, known, order[60:]
    )
    right = [
        ((m.logits_ > 0).float() == noise)[known].all(1).float().mean() for m in (given, apart)
    ]
    assert right[1] == 1.0  # 60 nodes in 128 dimensions are learnt by heart
    assert right[0] < 0.75


def test_split_of_a_run(network, monkeypatch):
    dataset = load(network, monkeypatch)
    first, second = dataset.of_run(0).splits, dataset.of_run(1).splits
    assert len(first["train"]) == 12
    assert torch.cat([first["train"], first["test"]]).sort().values.tolist() == list(range(120))
    assert not torch.equal(first["train"], second["train"])
    assert torch.equal(dataset.of_run(0).splits["train"], first["train"])
    pinned = load(network, monkeypatch, split_seed=1)
    assert torch.equal(pinned.of_run(5).splits["train"], second["train"])


def test_refusals(network, monkeypatch, tmp_path):
    for share in (0.0, 1.0, True):
        with pytest.raises(InputError, match="share"):
            load(network, monkeypatch, share=share)
    with pytest.raises(InputError, match="share"):
        label_split(5, 0.1, 0)
    with pytest.raises(InputError, match=r"embedding\.name: 'fastrb'.*fastrp"):
        EmbeddingClassifier(3, {"name": "fastrb"})
    with pytest.raises(InputError, match="walk_count"):
        EmbeddingClassifier(3, {"name": "walks", "walk_count": 3})
    with pytest.raises(InputError, match="merge"):
        EmbeddingClassifier(3, {"name": "fastrp", "merge": "concat"})
    with pytest.raises(InputError, match="C"):
        EmbeddingClassifier(3, C=0.0)
    graph, ids = load(network, monkeypatch).graphs[0], torch.arange(12)
    with pytest.raises(InputError, match="y: "):
        EmbeddingClassifier(4, TINY).fit(torch.empty(120, 0), graph.edge_index, graph.y, ids, ids)
    for wrong in (-1, 3):
        with pytest.raises(InputError, match="wanted 0..2"):
            EmbeddingClassifier(3, TINY).fit(
                torch.empty(120, 0), graph.edge_index, torch.full((120,), wrong), ids, ids
            )
    (tmp_path / "embedding").mkdir()
    scipy.io.savemat(tmp_path / "embedding/blogcatalog.mat", {"network": np.eye(3)})
    with pytest.raises(CorruptFileError, match="group"):
        load(tmp_path, monkeypatch)
    (tmp_path / "embedding/blogcatalog.mat").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="blogcatalog.mat"):
        load(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="share: '0.1'"):
        load(network, monkeypatch, share="0.1")
    with pytest.raises(InputError, match="split_seed: -1"):
        load(network, monkeypatch, split_seed=-1)


def test_stored_zeros_are_neither_edges_nor_labels(monkeypatch, tmp_path):
    (tmp_path / "embedding").mkdir()
    file = tmp_path / "embedding/blogcatalog.mat"
    ring = scipy.sparse.coo_matrix((np.ones(20), (range(20), np.roll(range(20), 1)))).tocsc()
    labels = scipy.sparse.csc_matrix(np.eye(20, 3))
    ring.data[:5], labels.data[0] = 0.0, 0.0
    scipy.io.savemat(file, {"network": ring, "group": labels})
    graph = load(tmp_path, monkeypatch, share=0.5).graphs[0]
    assert (graph.edge_index.size(1), int(graph.y.sum())) == (30, 2)
    labels.data[0] = np.nan
    scipy.io.savemat(file, {"network": ring, "group": labels})
    with pytest.raises(CorruptFileError, match="group has a value"):
        load(tmp_path, monkeypatch)


def test_recipe_to_record_and_picture(network, monkeypatch, tmp_path):
    load(network, monkeypatch)
    monkeypatch.setattr("graphkit.data.card", lambda name: None)
    monkeypatch.setenv("GRAPHKIT_DATA", str(network))
    for share in (0.2, 0.5):
        recipe = recipes.load("blogcatalog/fastrp")
        record = results.run(
            recipe, seeds=2, runs=tmp_path / str(share),
            overrides=[f"dataset.options.share={share}", "model.embedding.dim=16"],
        )  # fmt: skip
        assert record.method_name == "FastRP 16"
        assert set(record.other_metrics) == {"f1_micro", "f1"}
        assert set(record.figures()) == {"f1_micro", "f1"}
    folder = [tmp_path / "0.2", tmp_path / "0.5"]
    lines = read_lines(
        [results.read_record(f / "blogcatalog/fastrp") for f in folder], "dataset.options.share"
    )
    assert set(lines) == {"tiny, f1_micro", "tiny, f1"}
    assert all(set(measured["FastRP 16"]) == {0.2, 0.5} for measured, _ in lines.values())
    picture = draw_over(folder, "dataset.options.share", tmp_path / "rates.png")
    assert picture.stat().st_size > 5000


def test_other_estimators_want_validation_nodes(network, monkeypatch, tmp_path):
    from graphkit.models import RobustGNN
    from graphkit.results.estimators import FittedEstimator
    from graphkit.tasks import create_task

    dataset = load(network, monkeypatch)
    with pytest.raises(InputError, match="no validation nodes"):
        FittedEstimator().fit(RobustGNN(4, 3), dataset, create_task(dataset), 0, tmp_path)


@pytest.mark.parametrize("name", ["blogcatalog", "ppi-network", "dblp-network"])
def test_held_networks_are_as_their_cards_say(name):
    try:
        dataset = data.load(name)
    except DatasetNotFoundError:
        pytest.skip(f"{name} is not below GRAPHKIT_DATA ({data_roots()})")
    card = dataset.card
    assert dataset.graphs.num_nodes == card.published["nodes"]
    assert dataset.graphs.edge_index.size(1) == 2 * card.published["edges_once"]
    assert int(dataset.graphs.y.sum()) == card.published["labels"]
    assert {k: len(v) for k, v in dataset.splits.items()} == card.split_sizes
