"""A few hundred cases of ``make fuzz`` in every test run, on the kernels as they ship."""

import importlib.util
from pathlib import Path

import pytest
import torch

from graphkit.ops import cpu

_spec = importlib.util.spec_from_file_location(
    "fuzz_kernels", Path(__file__).with_name("fuzz_kernels.py")
)
fuzz_kernels = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_kernels)


@pytest.mark.skipif(cpu.kernels is None, reason="needs the compiled kernels")
@pytest.mark.parametrize("name", fuzz_kernels.TARGETS)
def test_random_and_corrupt_input_is_computed_or_refused(name):
    threads = torch.get_num_threads()
    try:
        refused = [fuzz_kernels.fuzz(name, seed) for seed in range(40)]
    finally:
        torch.set_num_threads(threads)
    assert not all(refused)
    if name != "batch_norm":  # it reads no indices
        assert any(refused)
