"""Everything that random numbers depend on, as one value that can be saved and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from graphkit.errors import InputError


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (CPU and all CUDA devices).

    Args:
        seed: the seed of the run, at least 0.
        rank: worker number; workers get different streams, so their dropout masks differ.

    Raises:
        InputError: the seed is negative or not an integer.

    Example:
        >>> seed_everything(0); first = torch.rand(1).item()
        >>> seed_everything(0); torch.rand(1).item() == first
        True
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed: expected an integer of at least 0, got {seed!r}")
    mixed = (seed + rank * 0x9E3779B1) % (1 << 32)
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def capture_rng(cuda: bool | None = None) -> dict[str, Any]:
    """Return the states of the Python, NumPy, torch CPU and CUDA generators.

    The value holds only lists, numbers and tensors, so ``torch.load(weights_only=True)`` reads it.

    Args:
        cuda: include CUDA generators; default: when CUDA has been used.
    """
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    if cuda is None:
        cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": [version, list(internal), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Put back what :func:`capture_rng` returned.

    Example:
        >>> state = capture_rng(); first = torch.rand(1).item()
        >>> restore_rng(state); torch.rand(1).item() == first
        True
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Run a block without any effect on the random numbers drawn after it.

    Evaluation uses it: whether the test set is looked at must not change the training.
    """
    state = capture_rng()
    try:
        yield
    finally:
        restore_rng(state)
