"""Exponential moving average of the weights, which is what gets evaluated and exported."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import PluginError
from graphkit.train.hooks import Scope, TrainerPlugin


class EMAPlugin(TrainerPlugin):
    """Average weights over steps: ``a <- d a + (1 - d) theta``; evaluate and export ``a``.

    Buffers (BatchNorm statistics) are those of the trained model. A new phase of training begins
    a new average.

    Args:
        decay: d, in [0, 1).
        warmup: use ``min(decay, (1 + t) / (10 + t))`` at step t, so that the first steps are
            forgotten soon.

    Raises:
        PluginError: decay is outside [0, 1).
    """

    name = "ema"
    can_reshard = True

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
            raise PluginError(f"ema: decay must lie in [0, 1), got {decay!r}")
        self.decay, self.warmup = float(decay), bool(warmup)
        self.steps = 0
        self.phase = 0
        self.average: nn.Module | None = None
        self._averaged: list[Tensor] = []
        self._live: list[Tensor] = []

    @property
    def config(self) -> dict[str, Any]:
        return {"decay": self.decay, "warmup": self.warmup}

    def transform_model(self, model: nn.Module, data: Any) -> nn.Module:
        self.steps, self.phase, self.average = 0, 0, None
        return model

    def _follow(self, model: nn.Module) -> None:
        """Make the averaged copy; late, because plugins after this one may change the model."""
        self.average = copy.deepcopy(model).eval()
        for parameter in self.average.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self._averaged = list(self.average.parameters())
        self._live = list(model.parameters())

    def after_step(self, model: nn.Module) -> None:
        if self.average is None or self.phase != self.run.phase:
            self.phase, self.steps = self.run.phase, 0
            self._follow(model)
        self.steps += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, [p.detach() for p in self._live], 1 - decay)

    def export(self, model: nn.Module) -> nn.Module:
        if self.average is None:
            return model
        with torch.no_grad():
            for own, live in zip(self.average.buffers(), model.buffers(), strict=True):
                own.copy_(live)
        return self.average

    def state_dict(self, scope: Scope) -> dict[str, Any]:
        if scope == "rank" or self.average is None:
            return {}
        weights = {key: value.detach() for key, value in self.average.named_parameters()}
        return {"steps": self.steps, "phase": self.phase, "weights": weights}

    def load_state_dict(self, scope: Scope, state: dict[str, Any]) -> None:
        if not state:
            return
        self.steps, self.phase = int(state["steps"]), int(state["phase"])
        self._follow(self.run.model)
        assert self.average is not None
        with torch.no_grad():
            for key, parameter in self.average.named_parameters():
                parameter.copy_(state["weights"][key])
