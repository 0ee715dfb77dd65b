"""How a run tells where it is: a bar on a terminal, lines in a pipe, or a function of yours."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ProgressEvent:
    """One message of a run.

    Attributes:
        kind: "start", "step" (at most ten a second), "epoch" or "end".
        epoch: epochs finished before this message.
        max_epochs: epochs in the whole run.
        step: batches done in this epoch.
        steps_per_epoch: batches in an epoch.
        metrics: the entry of the history for "epoch", else empty.
        best: best validation figure so far.
        eta_seconds: estimated time left, once known.
        resumed: the run continues from a checkpoint.
    """

    kind: Literal["start", "step", "epoch", "end"]
    epoch: int
    max_epochs: int
    step: int = 0
    steps_per_epoch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    best: float | None = None
    eta_seconds: float | None = None
    resumed: bool = False


Listener = Callable[[ProgressEvent], None]


class PlainProgress:
    """One line per epoch, for logs and pipes; at most one line per ``every`` seconds."""

    def __init__(self, every: float = 1.0) -> None:
        self.every = every
        self._last = float("-inf")

    def __call__(self, event: ProgressEvent) -> None:
        if event.kind == "start" and event.resumed:
            print(f"continuing from the checkpoint after epoch {event.epoch}", flush=True)
        now = time.monotonic()
        last_epoch = event.kind == "epoch" and event.epoch >= event.max_epochs
        if event.kind == "epoch" and (last_epoch or now - self._last >= self.every):
            self._last = now
            print(describe(event), flush=True)


class BarProgress:
    """A rich bar with the figures of the last epoch and the time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")
        )
        self._task: Any = None
        self._text = ""

    def __call__(self, event: ProgressEvent) -> None:
        if event.kind == "start":
            self._bar.start()
            self._task = self._bar.add_task("training", total=event.max_epochs, text="")
        if self._task is None:
            return
        if event.kind == "epoch":
            self._text = describe(event)
        done = event.epoch + event.step / max(event.steps_per_epoch, 1)
        self._bar.update(
            self._task, completed=done, total=event.max_epochs,
            text=self._text or f"epoch {event.epoch + 1}/{event.max_epochs}",
        )  # fmt: skip
        if event.kind == "end":
            self._bar.stop()


def describe(event: ProgressEvent) -> str:
    """Write an "epoch" message in one line.

    Example:
        >>> describe(ProgressEvent("epoch", 2, 10, metrics={"train_loss": 0.5}, eta_seconds=65.0))
        'epoch 2/10  train_loss 0.5000  1:05 left'
    """
    parts = [f"epoch {event.epoch}/{event.max_epochs}"]
    for key, value in event.metrics.items():
        if isinstance(value, float) and key != "lr":
            parts.append(f"{key} {value:.4f}")
    if event.best is not None:
        parts.append(f"best {event.best:.4f}")
    if event.eta_seconds is not None:
        minutes, seconds = divmod(round(event.eta_seconds), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        parts.append(f"{clock} left")
    return "  ".join(parts)


def make_listener(progress: bool | Listener, rank: int) -> Listener:
    """Choose bar, plain lines, silence or the caller's function; only rank 0 speaks."""
    if rank != 0 or progress is False:
        return lambda event: None
    if callable(progress):
        return progress
    return BarProgress() if sys.stdout.isatty() else PlainProgress()
