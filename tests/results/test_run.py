"""Running a recipe: same digits twice, finished seeds kept, folders guarded, faults named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file

from graphkit import data, recipes, results
from graphkit.errors import (
    DatasetNotFoundError,
    GraphkitError,
    InputError,
    PluginError,
    RecipeError,
    StorageError,
)
from graphkit.recipes.schema import Recipe
from graphkit.results import build, curves, dry
from graphkit.results.progress import Reporter
from graphkit.results.record import ResultRecord

SHORT = ["trainer.max_epochs=2", "trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ResultRecord]:
    runs = tmp_path_factory.mktemp("runs")
    record = results.run(recipes.load("demo/gcn"), seeds=2, overrides=SHORT, runs=runs)
    return runs, record


def tensor_bytes(path: Path) -> dict[str, bytes]:
    # The file's header is a hash map of the format's library: its order is free.
    return {k: v.numpy().tobytes() for k, v in load_file(path).items()}


def figures(record: ResultRecord) -> list[tuple[float, float, int]]:
    return [(r.test, r.valid, r.best_epoch) for r in record.per_seed]


def test_run_folder_holds_everything(finished: tuple[Path, ResultRecord]) -> None:
    runs, record = finished
    folder = runs / "demo" / "gcn"
    for seed in (0, 1):
        for name in ("config.yaml", "metrics.jsonl", "result.json", "curves.png"):
            assert (folder / str(seed) / name).is_file()
        assert (folder / str(seed) / "checkpoints" / "best.safetensors").is_file()
        config = yaml.safe_load((folder / str(seed) / "config.yaml").read_text())
        assert config["recipe"]["trainer"]["max_epochs"] == 2
        assert config["seed"] == seed
    assert results.read_record(folder) == record
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_record_tells_what_was_done(finished: tuple[Path, ResultRecord]) -> None:
    _, record = finished
    demo = data.load("demo")
    model = build.build_model(recipes.load("demo/gcn"), demo, 0)
    assert record.num_params == sum(p.numel() for p in model.parameters())
    assert record.dataset_sha256 == demo.sha256
    assert record.seeds == [0, 1]
    assert record.n_runs == 2
    assert record.overrides == SHORT
    assert record.wall_seconds > 0
    assert record.peak_memory_bytes is not None
    assert record.peak_memory_bytes > 10**7
    assert record.deterministic
    place = record.environment
    assert place["versions"]["torch"] == torch.__version__
    assert place["hardware"]["cores"] >= 1
    assert {"os", "git_commit", "ops_backend"} <= set(place)
    logs = (finished[0] / "demo/gcn/0/metrics.jsonl").read_text().splitlines()
    best = json.loads(logs[record.per_seed[0].best_epoch - 1])
    assert best["test_rocauc"] == record.per_seed[0].test
    assert best["valid_rocauc"] == max(json.loads(line)["valid_rocauc"] for line in logs)


def test_second_run_gives_the_same_digits(
    finished: tuple[Path, ResultRecord], tmp_path: Path
) -> None:
    again = results.run(recipes.load("demo/gcn"), seeds=2, overrides=SHORT, runs=tmp_path)
    assert figures(again) == figures(finished[1])
    one, other = (r / "demo/gcn/0/checkpoints/best.safetensors" for r in (finished[0], tmp_path))
    assert tensor_bytes(one) == tensor_bytes(other)


class _Seeds(Reporter):
    def __init__(self) -> None:
        self.trained: list[int] = []

    def seed_start(self, seed: int) -> None:
        self.trained.append(seed)


def test_finished_seeds_are_not_trained_again(finished: tuple[Path, ResultRecord]) -> None:
    runs, record = finished
    seen = _Seeds()
    more = results.run(recipes.load("demo/gcn"), seeds=3, overrides=SHORT, runs=runs, reporter=seen)
    assert seen.trained == [2]
    assert figures(more)[:2] == figures(record)
    fewer = results.run(recipes.load("demo/gcn"), seeds=2, overrides=SHORT, runs=runs)
    assert fewer.test_mean == record.test_mean


def test_damaged_seed_result_is_made_again(finished: tuple[Path, ResultRecord]) -> None:
    runs, record = finished
    (runs / "demo/gcn/1/result.json").write_text("{")
    again = results.run(recipes.load("demo/gcn"), seeds=2, overrides=SHORT, runs=runs)
    assert figures(again) == figures(record)


def test_other_settings_in_the_same_folder_are_refused(
    finished: tuple[Path, ResultRecord],
) -> None:
    runs, record = finished
    with pytest.raises(RecipeError) as caught:
        results.run(recipes.load("demo/gcn"), overrides=["optimizer.lr=0.5", *SHORT], runs=runs)
    assert "optimizer.lr: 0.005 there, 0.5 asked for" in str(caught.value)
    assert "--restart" in str(caught.value)
    assert results.read_record(runs / "demo/gcn").test_mean == record.test_mean


def test_restart_throws_away_the_run_and_nothing_else(tmp_path: Path) -> None:
    recipe, short = recipes.load("demo-node/gcn"), ["trainer.max_epochs=1"]
    results.run(recipe, seeds=2, overrides=short, runs=tmp_path)
    folder = tmp_path / "demo-node" / "gcn"
    (folder / "my-notes.txt").write_text("keep")
    record = results.run(
        recipe, seeds=1, overrides=["trainer.max_epochs=2"], runs=tmp_path, restart=True
    )
    assert record.per_seed[0].epochs == 2
    assert (folder / "my-notes.txt").read_text() == "keep"
    assert not (folder / "1" / "result.json").exists()


def test_two_processes_cannot_share_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "demo" / "gcn"
    folder.mkdir(parents=True)
    with FileLock(str(folder / ".lock")), pytest.raises(StorageError, match="another graphkit run"):
        results.run(recipes.load("demo/gcn"), overrides=SHORT, runs=tmp_path)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError, match="choose another with --runs"):
        results.run(recipes.load("demo/gcn"), overrides=SHORT, runs=tmp_path / "runs")


def _own(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "mine.yaml").write_text(text)
    return recipes.load(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "dataset: {name: demmo}\nmodel: {name: mpnn_vn}",
            DatasetNotFoundError,
            "did you mean 'demo'",
        ),
        ("dataset: {name: demo}\nmodel: {name: mpnn_nv}", RecipeError, "did you mean 'mpnn_vn'"),
        (
            "dataset: {name: demo}\nmodel: {name: mpnn_vn, hiden_channels: 8}",
            RecipeError,
            "'model.hiden_channels'; did you mean 'hidden_channels'",
        ),
        (
            "dataset: {name: demo}\nmodel: {name: mpnn_vn}\nplugins: [{name: emma}]",
            PluginError,
            "did you mean 'ema'",
        ),
        (
            "dataset: {name: demo}\nmodel: {name: mpnn_vn}\noptimizer: {name: Adm}",
            GraphkitError,
            "Adm",
        ),
        (
            "dataset: {name: demo}\nmodel: {name: mpnn_vn}\ntask: {los: l1}",
            GraphkitError,
            "los",
        ),
    ],
)
def test_wrong_names_are_refused_before_work(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        results.run(_own(tmp_path, text), runs=tmp_path / "runs")
    assert message in str(caught.value)
    assert not list(tmp_path.glob("runs/**/metrics.jsonl"))


@pytest.mark.parametrize("seeds", [0, -1, 10**6])
def test_number_of_seeds(tmp_path: Path, seeds: int) -> None:
    with pytest.raises(InputError, match="seeds"):
        results.run(recipes.load("demo/gcn"), seeds=seeds, runs=tmp_path)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    lines = list(dry.describe(recipes.load("demo/mpnn_vn"), ["trainer.max_epochs=7"], 4, tmp_path))
    text = "\n".join(lines)
    counted = build.count_parameters(
        build.build_model(recipes.load("demo/mpnn_vn"), data.load("demo"), 0)
    )
    assert f"{counted:,}" in text
    assert "7 epochs of 14 steps" in text
    assert sum(line.startswith("seed") for line in lines) == 4
    assert list(tmp_path.iterdir()) == []


def test_curves_of_several_runs(finished: tuple[Path, ResultRecord], tmp_path: Path) -> None:
    folder = finished[0] / "demo" / "gcn"
    svg = curves.draw([folder, folder / "0"], tmp_path / "both.svg").read_text()
    assert svg.startswith("<?xml")
    alone = curves.draw([folder, folder / "0"], tmp_path / "a.svg", metric="rocauc").read_text()
    assert "rocauc" in alone
    assert "train_loss" not in alone
    with pytest.raises(InputError, match=r"metric: no 'auc'.*rocauc"):
        curves.draw([folder], tmp_path / "a.svg", metric="auc")
    timed = curves.draw([folder], tmp_path / "timed.svg", against="seconds").read_text()
    assert timed.startswith("<?xml")
    assert timed != curves.draw([folder], tmp_path / "one.svg").read_text()
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        curves.draw([folder], tmp_path / "x.pdf")
    with pytest.raises(InputError, match=r"no metrics\.jsonl"):
        curves.draw([tmp_path], tmp_path / "x.png")
    with pytest.raises(StorageError):
        curves.draw([folder], folder / "result.json" / "x.png")


def test_torn_last_line_of_a_log_is_skipped(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"epoch": 1, "train_loss": 0.5}\n{"epoch": 2, "tra')
    assert len(curves.read_metrics(log)) == 1
    log.write_text('{"epoch": 1, "tra\n{"epoch": 2, "train_loss": 0.5}\n')
    with pytest.raises(InputError, match="line 1"):
        curves.read_metrics(log)
