"""A run killed at any moment and started again ends like one that was never disturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

# Starting Python anew for every attempt would take longer than everything else here: the parent
# imports what a run needs, runs nothing itself (a process that has run kernels must not fork), and
# forks a child for each attempt.
DRIVER = """
import faulthandler, os, random, signal, sys, time
from pathlib import Path
faulthandler.enable()
import lightning_fabric, matplotlib.backends.backend_agg, matplotlib.figure, ogb.graphproppred
import sklearn.metrics, torch, torch_geometric.data
from graphkit import data, models, plugins, results, tasks, train
from graphkit.cli import main
base = sys.argv[1]

def start(name):
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    os.dup2(os.open(base + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    code = 1
    try:
        main(["run", *sys.argv[2:], "--runs", base + "/" + name])
    except SystemExit as stop:
        code = stop.code or 0
    os._exit(code)

assert os.waitpid(start("calm"), 0)[1] == 0
folder, chance = Path(base, "killed", sys.argv[2]), random.Random(0)
for epochs in (0, 2, 7, 10):
    child = start("killed")
    while sum(p.read_bytes().count(10) for p in folder.glob("*/metrics.jsonl")) < epochs:
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "ended too early"
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
assert os.waitpid(start("killed"), 0)[1] == 0
"""


def _figures(record: dict[str, Any]) -> Any:
    per_seed = [
        {k: r[k] for k in ("seed", "test", "valid", "best_epoch", "epochs")}
        for r in record["per_seed"]
    ]
    means = {k: v for k, v in record.items() if k.startswith(("test_", "valid_"))}
    return per_seed, means, record["recipe_hash"], record["num_params"]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_killed_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    arguments = [
        "demo/mpnn_vn", "trainer.max_epochs=6", "trainer.checkpoint_seconds=0.05",
        "trainer.accelerator=cpu", "--seeds", "2",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), *arguments],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    calm, killed = (tmp_path / name / "demo" / "mpnn_vn" for name in ("calm", "killed"))
    records = [json.loads((f / "result.json").read_text()) for f in (calm, killed)]
    assert _figures(records[0]) == _figures(records[1])
    for seed in ("0", "1"):
        logs = [(f / seed / "metrics.jsonl").read_bytes() for f in (calm, killed)]
        assert logs[0] == logs[1]
        one, other = (
            load_file(f / seed / "checkpoints" / "best.safetensors") for f in (calm, killed)
        )
        assert one.keys() == other.keys()
        assert all(one[k].numpy().tobytes() == other[k].numpy().tobytes() for k in one)
