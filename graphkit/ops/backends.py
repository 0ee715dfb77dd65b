"""Which implementation runs an op: native kernels, torch_scatter, or plain torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from graphkit.errors import InputError, nearest
from graphkit.ops import cpu

NAMES = ("native", "torch_scatter", "reference")
_chosen: ContextVar[str | None] = ContextVar("graphkit_backend", default=None)


def available() -> dict[str, str | None]:
    """Map each backend to ``None`` when it works here, else to the reason why it does not.

    Example:
        >>> available()["reference"] is None
        True
    """
    return {
        "native": cpu.why_missing,
        "triton": _why_no_triton(),
        "torch_scatter": _why_no_torch_scatter(),
        "reference": None,
    }


def _why_no_torch_scatter() -> str | None:
    found = importlib.util.find_spec("torch_scatter")
    if found is None:
        return "not installed: pip install graphkit[scatter]"
    if found.name != "torch_scatter":  # graphkit.compat runs on this very module
        return f"{found.name} stands in for it"
    return None


def _why_no_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install graphkit[gpu]"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the ops inside the block on one backend.

    Args:
        name: ``"native"`` (C++ on the CPU, Triton on a GPU), ``"torch_scatter"`` or
            ``"reference"`` (plain torch, any device).

    Raises:
        InputError: the name is unknown, or that backend does not work here.

    Example:
        >>> with backend("reference"):
        ...     current(torch.device("cpu"))
        'reference'
    """
    if name not in NAMES:
        raise InputError(
            f"backend: {name!r} is not one of {', '.join(NAMES)}{nearest(name, NAMES)}"
        )
    reason = available()[name]
    if name == "native" and reason and _why_no_triton() is None:
        reason = None
    if reason:
        raise InputError(f"backend: {name!r} is not available here: {reason}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def current(device: torch.device) -> str:
    """What runs ops on ``device``: ``native``, ``triton``, ``torch_scatter`` or ``reference``."""
    # A compiled graph outlives the block that it was traced in, so it takes no notice of the block.
    chosen = None if torch.compiler.is_compiling() else _chosen.get()
    if chosen in ("torch_scatter", "reference"):
        return chosen
    if device.type == "cpu":
        return "native" if cpu.kernels is not None else "reference"
    if device.type == "cuda" and _why_no_triton() is None:
        return "triton"
    return "reference"
