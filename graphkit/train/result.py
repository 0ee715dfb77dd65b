"""What a finished (or interrupted) training returns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn


@dataclass
class FitResult:
    """Figures of one training run, taken at the epoch with the best validation metric.

    Attributes:
        best_epoch: epoch (counted from 1) with the best validation metric; 0 if none was evaluated.
        epochs: epochs finished.
        valid: validation metric at ``best_epoch``.
        test: test metric at ``best_epoch``.
        metrics: all figures at ``best_epoch``, as in its entry of the history.
        selected: for each metric its own best epoch (where the task says ``one_epoch``, that of the
            first metric), with ``epoch``, ``valid`` and ``test``.
        history: one dict per epoch.
        seconds: training time, summed over the parts of a resumed run.
        peak_memory_bytes: largest memory of the process (CPU) or of the device (CUDA).
        skipped_batches: training batches that were left out (one graph under BatchNorm).
        interrupted: stopped by SIGINT or SIGTERM; the same call continues it.
        stop_reason: what a plugin said when it ended the run early.
        device: where the run took place.
        model: the model to hand out, with the weights of the best epoch.
    """

    best_epoch: int
    epochs: int
    valid: float | None
    test: float | None
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    seconds: float
    peak_memory_bytes: int
    skipped_batches: int
    interrupted: bool
    stop_reason: str = ""
    selected: dict[str, dict[str, float]] = field(default_factory=dict)
    device: str = "cpu"
    model: nn.Module | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the model, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
