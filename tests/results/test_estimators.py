"""Models that train themselves, from a recipe to the record, the zoo and the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphkit import recipes, results, zoo
from graphkit.cli import main
from graphkit.errors import InputError
from graphkit.results import dry
from graphkit.results.estimators import FittedEstimator
from graphkit.results.leaderboard import tables
from graphkit.results.sweeps import draw_over, read_lines

STABLE = """
dataset: {name: demo-node}
model:
  name: stable
  metric: cosine
  jt: -0.5
  ct: -0.5
  embedding_channels: 8
  contrast_epochs: 5
  epochs: 20
seeds: 2
size: cpu
published:
- {label: somebody, metric: acc, value: 0.7, std: 0.01, source: nowhere}
variants:
  trusting:
    model: {alpha: 1.0}
    published:
    - {label: somebody, metric: acc, value: 0.6, source: nowhere}
"""
GCN = """
dataset: {name: demo-node}
model: {name: robust_gnn, conv: gcn, epochs: 20}
seeds: 2
size: cpu
"""
PROGNN = """
dataset: {name: demo-node}
model: {name: prognn_lowrank, rank: 10, keep_tail: true, epochs: 3, lr: 0.01}
seeds: 2
size: cpu
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("estimators")
    (folder / "stable.yaml").write_text(STABLE)
    (folder / "plain.yaml").write_text(GCN)
    for name in ("stable.yaml", "stable.yaml@trusting", "plain.yaml"):
        results.run(recipes.load(str(folder / name)), runs=folder / "runs")
    return folder / "runs" / "demo-node"


def test_record_and_run_folder(runs):
    record = results.read_record(runs / "stable")
    assert record.method_name == "STABLE"
    assert record.n_runs == 2
    assert record.model_args["in_channels"] == 16
    assert "edge_dim" not in record.model_args
    assert record.test_mean > 0.5
    assert all(r.epochs == 20 and 1 <= r.best_epoch <= 20 for r in record.per_seed)
    rows = [json.loads(line) for line in (runs / "stable/0/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert set(rows[0]) == {"epoch", "train_loss", "valid_loss", "valid_acc"}
    best = rows[record.per_seed[0].best_epoch - 1]
    assert best["valid_acc"] == pytest.approx(record.per_seed[0].valid)
    assert (runs / "stable" / "curves.png").is_file()
    assert results.read_record(runs / "plain").method_name == "GCN"


def test_finished_seeds_are_kept_and_others_added(runs, tmp_path):
    recipe = recipes.load(str(runs.parent.parent / "stable.yaml"))
    first = results.run(recipe, seeds=1, runs=tmp_path)
    both = results.run(recipe, seeds=2, runs=tmp_path)  # the embedding is trained again
    whole = results.read_record(runs / "stable")
    assert both.per_seed[0] == first.per_seed[0]
    assert [r.test for r in both.per_seed] == [r.test for r in whole.per_seed]


def test_zoo_measures_the_same_figure(runs, tmp_path):
    folder = zoo.save_run(runs / "stable", tmp_path / "zoo", seed=1)
    found = zoo.evaluate(folder)
    assert all(result.agrees for result in found)
    test = next(r.value for r in found if r.metric.split == "test")
    assert test == pytest.approx(results.read_record(runs / "stable").per_seed[1].test)


def test_prognn_runs_from_a_recipe_and_its_graph_goes_to_the_zoo(tmp_path):
    (tmp_path / "learnt.yaml").write_text(PROGNN)
    record = results.run(recipes.load(str(tmp_path / "learnt.yaml")), runs=tmp_path / "runs")
    assert record.method_name == "Pro-GNN-lowrank"
    assert record.n_runs == 2
    run = tmp_path / "runs" / "demo-node" / "learnt"
    folder = zoo.save_run(run, tmp_path / "zoo", seed=1)
    assert zoo.from_pretrained(folder).graph.shape == (600, 600)
    assert all(result.agrees for result in zoo.evaluate(folder))


def test_dry_run_says_who_trains(runs, tmp_path):
    recipe = recipes.load(str(runs.parent.parent / "stable.yaml"))
    lines = list(dry.describe(recipe, [], None, tmp_path))
    assert any("by the model itself" in line for line in lines)
    assert not any(line.startswith("optimizer") for line in lines)


def test_sets_of_many_graphs_are_refused(tmp_path):
    from graphkit import data
    from graphkit.models import RobustGNN
    from graphkit.tasks import create_task

    demo = data.load("demo")
    with pytest.raises(InputError, match="wants one graph"):
        FittedEstimator().fit(RobustGNN(5, 2), demo, create_task(demo), 0, tmp_path)


def test_figures_against_a_setting(runs, tmp_path, capsys):
    records = results.collect([runs])[0]
    (measured, published) = read_lines(records, "model.alpha")["demo-node, acc"]
    assert set(measured) == {"STABLE"}  # GCN has no such setting
    means = {r.config["model"].get("alpha"): r.test_mean for r in records}
    assert {k: v[0] for k, v in measured["STABLE"].items()} == {1.0: means[1.0]}
    assert published == {"somebody": {1.0: (0.6, 0.0)}}
    with pytest.raises(InputError, match="second record of STABLE"):
        read_lines(records, "model.epochs")
    with pytest.raises(InputError, match="no record has a number"):
        read_lines(records, "model.nothing")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        draw_over([runs], "model.alpha", tmp_path / "a.pdf")
    with pytest.raises(SystemExit) as done:
        main(["plot", str(runs), "--over", "model.alpha", "--out", str(tmp_path / "a.svg")])
    assert done.value.code == 0
    assert "a.svg" in capsys.readouterr().out
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_figures_against_the_rate_of_an_own_attack(tmp_path):
    text = GCN.replace("{name: demo-node}", "{name: demo-node, transforms: [{name: %s, rate: %s}]}")
    text = text.replace("epochs: 20", "epochs: 2").replace("seeds: 2", "seeds: 1")
    for attack, rate in (("DICE", 0.1), ("DICE", 0.3), ("RandomAttack", 0.1)):
        path = tmp_path / f"{attack.lower()}{int(100 * rate)}.yaml"
        path.write_text(text % (attack, rate))
        results.run(recipes.load(str(path)), runs=tmp_path / "runs")
    records = results.collect([tmp_path / "runs"])[0]
    panels = read_lines(records, "dataset.transforms.0.rate")
    assert set(panels) == {"demo-node DICE, acc", "demo-node RandomAttack, acc"}
    assert set(panels["demo-node DICE, acc"][0]["GCN"]) == {0.1, 0.3}
    by_name = read_lines(records, "dataset.transforms.DICE.rate")
    assert by_name == {"demo-node DICE, acc": panels["demo-node DICE, acc"]}
    with pytest.raises(InputError, match="no record has a number"):
        read_lines(records, "dataset.transforms.1.rate")
    # Attacked graphs are not ranked with each other, nor with the clean one.
    attacked = {table.options for table in tables(records)}
    assert attacked == {"DICE(rate=0.1)", "DICE(rate=0.3)", "RandomAttack(rate=0.1)"}
    drawn = draw_over([tmp_path / "runs"], "dataset.transforms.0.rate", tmp_path / "rates.png")
    assert drawn.stat().st_size > 5000


def test_leaderboard_keeps_options_apart():
    from graphkit.results.leaderboard import _shipped

    five = {e.label: e.value for e in _shipped("robust-cora", "attack=metattack, rate=0.05")}
    ten = {e.label: e.value for e in _shipped("robust-cora", "attack=metattack, rate=0.1")}
    assert five["GCN"] == 0.7655
    assert ten["GCN"] == 0.7039
    assert set(five) == {
        "GCN", "GAT", "GCN-Jaccard", "GCN-SVD", "Pro-GNN", "Pro-GNN-fs", "STABLE"
    }  # fmt: skip
    assert _shipped("robust-cora", "") == []
