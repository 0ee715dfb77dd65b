"""Stop when the validation figure no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from graphkit.errors import PluginError
from graphkit.train.hooks import Scope, Stop, TrainerPlugin


class EarlyStoppingPlugin(TrainerPlugin):
    """H8: end the training after ``patience`` evaluations (or epochs) without improvement.

    Args:
        patience: how long to wait for an improvement, at least 1.
        monitor: "metric" (the task's, in its own direction), "loss" (lower is better), or the name
            of another figure of the task (higher is better), all of the validation split.
        min_delta: improvements smaller than this do not count.
        counts: what patience is counted in: "evaluations", or "epochs", also those that are not
            evaluated.

    Raises:
        PluginError: an argument is out of range.
    """

    name = "early_stopping"
    can_reshard = True

    def __init__(
        self,
        patience: int = 20,
        monitor: str = "metric",
        min_delta: float = 0.0,
        counts: Literal["evaluations", "epochs"] = "evaluations",
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise PluginError(f"early_stopping: patience must be an integer >= 1, got {patience!r}")
        # The test figures decide nothing.
        named = isinstance(monitor, str) and monitor.isidentifier()
        if not named or monitor.startswith("test"):
            raise PluginError(
                "early_stopping: monitor must be 'metric', 'loss' or the name of a figure, got "
                f"{monitor!r}"
            )
        if not (math.isfinite(min_delta) and min_delta >= 0):
            raise PluginError(f"early_stopping: min_delta must be >= 0, got {min_delta}")
        if counts not in ("evaluations", "epochs"):
            raise PluginError(
                f"early_stopping: counts must be 'evaluations' or 'epochs', got {counts!r}"
            )
        self.patience, self.monitor, self.min_delta = patience, monitor, float(min_delta)
        self.counts = counts
        self._start("valid_loss", maximize=False)

    def _start(self, key: str, maximize: bool) -> None:
        self.key, self.maximize = key, maximize
        self.best: float | None = None
        self.waited = 0

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "patience": self.patience, "monitor": self.monitor, "min_delta": self.min_delta,
        }  # fmt: skip
        # Left out where it says nothing, so that older checkpoints can be taken up.
        return config if self.counts == "evaluations" else {**config, "counts": self.counts}

    def transform_model(self, model: nn.Module, data: Any) -> nn.Module:
        if self.monitor == "metric":
            self._start(f"valid_{data.metric}", bool(data.maximize))
        else:
            self._start(f"valid_{self.monitor}", maximize=self.monitor != "loss")
        return model

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> Stop | None:
        value = metrics.get(self.key)
        if value is None and "valid_loss" in metrics:
            known = [key.removeprefix("valid_") for key in metrics if key.startswith("valid_")]
            raise PluginError(
                f"early_stopping: the task has no figure {self.monitor!r}; it has "
                f"{', '.join(known)}"
            )
        if value is None and (self.counts == "evaluations" or self.best is None):
            return None
        gain = -math.inf if value is None else math.inf
        if value is not None and self.best is not None:
            gain = value - self.best if self.maximize else self.best - value
        if value is not None and gain > self.min_delta:
            self.best, self.waited = float(value), 0
            return None
        self.waited += 1
        if self.waited < self.patience:
            return None
        return Stop(
            f"{self.key} has not improved on {self.best:.6g} for {self.waited} {self.counts}"
        )

    def state_dict(self, scope: Scope) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited} if scope == "shared" else {}

    def load_state_dict(self, scope: Scope, state: dict[str, Any]) -> None:
        if state:
            self.best, self.waited = state["best"], int(state["waited"])
