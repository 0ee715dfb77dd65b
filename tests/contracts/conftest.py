import pytest
import torch

from graphkit.ops import cpu


@pytest.fixture(autouse=True)
def _restore_threads():
    """Small inputs gain nothing from threads; tests that set a number leave no trace."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def native():
    if cpu.kernels is None:
        pytest.skip(f"native CPU kernels: {cpu.why_missing}")
    before = cpu.kernels.isa()
    yield cpu.kernels
    cpu.kernels.use_isa(before)
