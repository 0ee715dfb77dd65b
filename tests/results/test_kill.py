"""A run killed at any moment and started again ends like one that was never disturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

# One process imports everything by a short run and forks a child for each attempt: starting
# Python anew ten times would take longer than everything else here. One thread, so that forking
# is safe.
DRIVER = """
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from graphkit import recipes, results
from graphkit.cli import main

def start(runs):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(runs + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        main(["run", *sys.argv[2:], "--runs", runs])
    return child

base = sys.argv[1]
recipe = recipes.load(sys.argv[2])
results.run(recipe, seeds=1, overrides=["trainer.max_epochs=1"], runs=base + "/warm")
begin = time.perf_counter()
status = os.waitpid(start(base + "/calm"), 0)[1]
whole = time.perf_counter() - begin
assert status == 0, status
kills, chance = 0, random.Random(0)
while kills < 4:
    child = start(base + "/killed")
    time.sleep(whole * chance.uniform(0.1, 0.5))
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert status == 0, status
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
else:
    assert os.waitpid(start(base + "/killed"), 0)[1] == 0
print(json.dumps({"kills": kills, "whole": whole}))
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
        "demo/mpnn_vn", "trainer.max_epochs=6", "trainer.checkpoint_seconds=0", "--seeds", "2",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), *arguments],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["kills"] >= 2
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
