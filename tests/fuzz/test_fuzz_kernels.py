"""A few hundred cases of ``make fuzz`` in every test run, on the kernels as they ship."""

import fuzz_kernels
import pytest
import torch

from graphkit.ops import cpu

NO_INDICES = ("batch_norm", "layer_norm", "linear", "kept_memory")


@pytest.mark.skipif(cpu.kernels is None, reason="needs the compiled kernels")
@pytest.mark.parametrize("name", fuzz_kernels.TARGETS)
def test_random_and_corrupt_input_is_computed_or_refused(name):
    threads = torch.get_num_threads()
    try:
        refused = [fuzz_kernels.fuzz(name, seed) for seed in range(40)]
    finally:
        torch.set_num_threads(threads)
    assert not all(refused)
    if name not in NO_INDICES:
        assert any(refused)
