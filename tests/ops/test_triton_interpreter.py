"""Run the tests of the Triton kernels on the CPU, in a process that interprets them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    "name",
    [
        "test_triton_aggregate.py",
        "test_triton_attention.py",
        "test_triton_gated.py",
        "test_triton_sampled_logistic.py",
        "test_triton_selective_scan.py",
    ],
)
def test_the_interpreted_kernels_pass_their_tests(name):
    # Triton reads the variable when it is first imported, so it needs a process of its own; there
    # it must see no GPU, or the tensors would still have to travel to it.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    for key in [k for k in environment if k.startswith("PYTEST_")]:
        del environment[key]
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(HERE / name)]
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, done.stdout[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-2000:]
