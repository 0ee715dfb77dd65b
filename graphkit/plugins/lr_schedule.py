"""Learning-rate schedules: constant, step, plateau on the validation loss, cosine with warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from graphkit.errors import PluginError, nearest
from graphkit.train.hooks import Scope, TrainerPlugin

_SCHEDULES = ("constant", "step", "plateau", "cosine")


class LRSchedulePlugin(TrainerPlugin):
    """Schedule slot: the learning rate of the next step, from how far the run has come.

    - ``constant``: the optimiser's rate.
    - ``step``: times ``gamma`` every ``step_size`` epochs, or after each epoch in ``milestones``.
    - ``plateau``: times ``factor`` when the validation LOSS has not fallen (by a ten-thousandth
      of itself) for more than ``patience`` evaluations, never below ``min_lr``.
    - ``cosine``: half a cosine from the optimiser's rate down to ``min_lr`` over the run.

    Every schedule can begin with a linear warm-up over ``warmup_epochs``.

    Args:
        schedule: one of the above.
        warmup_epochs: length of the warm-up, whole or fractional epochs.
        min_lr: lowest rate of plateau and cosine.
        factor: what plateau multiplies by, in (0, 1).
        patience: evaluations without improvement that plateau tolerates.
        step_size: epochs between two reductions of ``step``.
        gamma: what ``step`` multiplies by, in (0, 1].
        milestones: epochs after which ``step`` reduces; instead of ``step_size``.

    Raises:
        PluginError: unknown schedule, or a value out of range.
    """

    name = "lr_schedule"
    can_reshard = True

    def __init__(
        self,
        schedule: str = "cosine",
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        factor: float = 0.5,
        patience: int = 10,
        step_size: int = 30,
        gamma: float = 0.1,
        milestones: Sequence[int] | None = None,
    ) -> None:
        if schedule not in _SCHEDULES:
            raise PluginError(
                f"lr_schedule: unknown schedule {schedule!r}"
                f"{nearest(str(schedule), _SCHEDULES)}; one of "
                f"{', '.join(_SCHEDULES)}"
            )
        checks = {
            "warmup_epochs": (warmup_epochs, 0 <= warmup_epochs < math.inf, ">= 0"),
            "min_lr": (min_lr, 0 <= min_lr < math.inf, ">= 0"),
            "factor": (factor, 0 < factor < 1, "in (0, 1)"),
            "patience": (patience, patience >= 0, ">= 0"),
            "step_size": (step_size, step_size >= 1, ">= 1"),
            "gamma": (gamma, 0 < gamma <= 1, "in (0, 1]"),
        }
        for key, (value, good, wanted) in checks.items():
            if not good:
                raise PluginError(f"lr_schedule: {key} must be {wanted}, got {value}")
        self.schedule, self.warmup_epochs, self.min_lr = (
            schedule,
            float(warmup_epochs),
            float(min_lr),
        )
        self.factor, self.patience = float(factor), int(patience)
        self.step_size, self.gamma = int(step_size), float(gamma)
        self.milestones = None if milestones is None else sorted(int(epoch) for epoch in milestones)
        self._forget()

    def _forget(self) -> None:
        self.scale, self.best, self.waited, self.phase = 1.0, math.inf, 0, 0

    @property
    def config(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule, "warmup_epochs": self.warmup_epochs, "min_lr": self.min_lr,
            "factor": self.factor, "patience": self.patience, "step_size": self.step_size,
            "gamma": self.gamma, "milestones": self.milestones,
        }  # fmt: skip

    def transform_model(self, model: nn.Module, data: Any) -> nn.Module:
        self._forget()
        return model

    def lr(self, base_lr: float) -> float:
        done = self.run.progress
        if done < self.warmup_epochs:
            first = 1 / max(self.run.steps_per_epoch, 1)
            return base_lr * min((done + first) / self.warmup_epochs, 1.0)
        if self.schedule == "step":
            return base_lr * self.gamma ** self._reductions(done)
        if self.schedule == "plateau":
            return max(base_lr * self.scale, min(self.min_lr, base_lr))
        if self.schedule == "cosine":
            length = max(self.run.phase_epochs - self.warmup_epochs, 1e-12)
            share = min((done - self.warmup_epochs) / length, 1.0)
            low = min(self.min_lr, base_lr)
            return low + (base_lr - low) * 0.5 * (1 + math.cos(math.pi * share))
        return base_lr

    def _reductions(self, done: float) -> int:
        # A fraction of a step of slack: progress is a quotient, and 3 epochs may read 2.9999999.
        epochs = math.floor(done + 1e-9)
        if self.milestones is not None:
            return sum(epochs >= milestone for milestone in self.milestones)
        return epochs // self.step_size

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
        loss = metrics.get("valid_loss")
        if self.schedule != "plateau" or loss is None:
            return
        if self.phase != self.run.phase:
            self._forget()
            self.phase = self.run.phase
        if loss < self.best * (1 - 1e-4):
            self.best, self.waited = float(loss), 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0

    def state_dict(self, scope: Scope) -> dict[str, Any]:
        if scope == "rank":
            return {}
        return {
            "scale": self.scale, "best": self.best, "waited": self.waited, "phase": self.phase,
        }  # fmt: skip

    def load_state_dict(self, scope: Scope, state: dict[str, Any]) -> None:
        if state:
            self.scale, self.best = float(state["scale"]), float(state["best"])
            self.waited, self.phase = int(state["waited"]), int(state["phase"])
