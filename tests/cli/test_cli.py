"""The command line: one clear line and exit code 2 for a mistake, useful output otherwise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from graphkit import cli, recipes

SHORT = ["trainer.max_epochs=2", "trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRAPHKIT_DATA", raising=False)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo/gnc"], "did you mean 'demo/gcn'"),
        (["run", "nowhere/gcn"], "no recipe 'nowhere/gcn'"),
        (["run", "missing.yaml"], "missing.yaml: cannot be read"),
        (["run", "demo/gcn", "lr=0.1"], "did you mean 'optimizer.lr'"),
        (["run", "demo/gcn", "trainer.max_epoch=3"], "did you mean 'trainer.max_epochs'"),
        (["run", "demo/gcn", "model.hiden_channels=3"], "did you mean 'hidden_channels'"),
        (["run", "demo/gcn", "optimizer.lr=nan"], "optimizer.lr"),
        (["run", "demo/gcn", "--seeds", "0"], "seeds: got 0"),
        (["run", "demo/gcn", "--seeds", "many"], "--seeds"),
        (["run", "ogbg-molhiv/gin_vn"], "ogbg-molhiv"),
        (["run", "demo/gcn", "--runs", "/proc/nowhere"], "choose another with --runs"),
        (["recipes", "show", "x"], "no recipe 'x'"),
        (["recipes", "list", "xyzzy"], "no recipe matches"),
        (["data", "show", "ogbg-molhv"], "did you mean 'ogbg-molhiv'"),
        (["data", "list", "xyzzy"], "no data set matches"),
        (["data", "where", "ogbg-molhiv"], "ogbg-molhiv"),
        (["leaderboard", "--runs", "nowhere"], "no such file or folder"),
        (["leaderboard", "export", "nowhere"], "cannot be read"),
        (["zoo", "eval", "nowhere"], "does not exist"),
        (["zoo", "save", "nowhere", "out"], "nowhere"),
        (["plot", "nowhere"], "no metrics.jsonl"),
        (["unknown"], "unknown"),
        (["run"], "Missing argument"),
    ],
)
def test_mistake_is_one_clear_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    start = time.perf_counter()
    assert call(*arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    # The first mistake may pay for importing torch and PyG; the check itself takes no time.
    assert time.perf_counter() - start < 20
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(recipes.schema.RecipeError):
        cli.main(["run", "demo/gnc", "--debug"])


def test_main_job_from_run_to_leaderboard_and_zoo(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call("run", "demo/mpnn_vn", *SHORT, "--seeds", "2") == 0
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "runs/demo/mpnn_vn/result.json").read_text())
    assert f"{record['test_mean']:.4f} ± {record['test_std']:.4f}" in shown
    assert f"{record['num_params']:,}" in shown
    assert "\x1b[" not in shown, "no terminal codes in a pipe"

    assert call("run", "demo/mpnn_vn", *SHORT, "--seeds", "2") == 0
    assert "finished earlier" in capsys.readouterr().out

    assert call("leaderboard") == 0
    assert f"{record['test_mean']:.4f}" in capsys.readouterr().out
    assert call("leaderboard", "--out", "board") == 0
    assert "<table>" in (tmp_path / "board/leaderboard.html").read_text()
    assert call("leaderboard", "export", "runs/demo/mpnn_vn") == 2
    assert "cannot be submitted" in capsys.readouterr().err

    assert call("plot", "runs/demo/mpnn_vn", "--out", "c.svg") == 0
    assert (tmp_path / "c.svg").stat().st_size > 1000

    assert call("zoo", "save", "runs/demo/mpnn_vn", "zoo/small") == 0
    assert call("zoo", "list") == 0
    assert "zoo/small" in capsys.readouterr().out
    assert call("zoo", "eval", "zoo/small") == 0
    assert capsys.readouterr().out.count("agrees") == 2
    config = json.loads((tmp_path / "zoo/small/config.json").read_text())
    best = max(record["per_seed"], key=lambda r: r["valid"])
    test = next(m for m in config["metrics"] if m["split"] == "test")
    assert test["value"] == pytest.approx(best["test"], abs=1e-6)

    test["value"] += 1e-5
    (tmp_path / "zoo/small/config.json").write_text(json.dumps(config))
    assert call("zoo", "eval", "zoo/small") == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_recipes_are_listed_with_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipes", "list", "molhiv") == 0
    shown = capsys.readouterr().out
    line = next(s for s in shown.splitlines() if s.startswith("ogbg-molhiv/gin_vn"))
    assert "0.7707 ± 0.0149" in line
    assert "3,336,606" in line
    assert "full" in line
    assert "peptides" not in shown
    assert call("recipes", "show", "ogbg-molhiv/gin_vn") == 0
    assert "OGB leaderboard" in capsys.readouterr().out


def test_data_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "list", "demo*") == 0
    assert re.search(r"^demo +yes +graph", capsys.readouterr().out, re.M)
    assert call("data", "show", "demo") == 0
    assert "licence" in capsys.readouterr().out
    assert call("data", "prepare", "demo") == 0
    assert "600" in capsys.readouterr().out
    assert call("data", "where") == 0
    assert "cache" in capsys.readouterr().out


def test_doctor_names_what_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    code = call("doctor")
    shown = capsys.readouterr().out
    assert code == (1 if "BAD" in shown else 0)
    for word in ("torch", "native", "reference", "threads", "openmp", "cache"):
        assert word in shown


def test_doctor_finds_a_bad_data_root(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHKIT_DATA", "/no/such/folder")
    assert call("doctor") == 1
    assert "GRAPHKIT_DATA is /no/such/folder" in capsys.readouterr().out


def test_help_and_version_do_not_import_torch() -> None:
    script = (
        "import sys\n"
        "from graphkit import cli\n"
        "for arguments in (['--version'], ['--help'], ['recipes', 'list'], ['run', 'demo/gnc']):\n"
        "    try:\n"
        "        cli.main(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^graphkit \d+\.\d+", done.stdout)


def test_broken_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m graphkit.cli recipes list | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("recipe")
    assert done.stderr == ""
