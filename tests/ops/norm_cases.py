"""What the tests of batch_norm and layer_norm share."""

from __future__ import annotations

import pytest
from torch import Tensor

from graphkit.ops import cpu

needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="no native kernels")


def assert_near(ours: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """Each tensor within ``tolerance`` of the largest value of the wanted one, plus one."""
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b.double()).abs().max() <= tolerance * (1 + b.abs().max().double())
