"""Gradient clipping by total norm or by value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from graphkit.errors import PluginError, nearest
from graphkit.train.hooks import TrainerPlugin


class GradClipPlugin(TrainerPlugin):
    """Clip slot: limit reduced gradients before the optimiser sees them.

    Args:
        max_norm: scale all gradients together so that their total norm is at most this.
        max_value: clamp every entry to ``[-max_value, max_value]``; instead of ``max_norm``.
        norm_type: which norm; ``float("inf")`` for the largest entry.
        parts: names of submodules that are clipped each on its own; other parameters are left.

    Raises:
        PluginError: both limits given, a limit is not positive, or the model lacks a part.
    """

    name = "grad_clip"
    can_reshard = True

    def __init__(
        self,
        max_norm: float | None = None,
        max_value: float | None = None,
        norm_type: float = 2.0,
        parts: Sequence[str] = (),
    ) -> None:
        if max_norm is not None and max_value is not None:
            raise PluginError("grad_clip: give max_norm or max_value, not both")
        if max_norm is None and max_value is None:
            max_norm = 1.0
        for key, limit in (("max_norm", max_norm), ("max_value", max_value)):
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise PluginError(f"grad_clip: {key} must be finite and above 0, got {limit}")
        self.max_norm, self.max_value, self.norm_type = max_norm, max_value, float(norm_type)
        self.parts = list(parts)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "max_norm": self.max_norm, "max_value": self.max_value, "norm_type": self.norm_type,
            **({"parts": self.parts} if self.parts else {}),
        }  # fmt: skip

    def transform_model(self, model: nn.Module, data: Any) -> nn.Module:
        known = [name for name, _ in model.named_modules()]
        for part in self.parts:
            if part not in known:
                raise PluginError(
                    f"grad_clip: the model has no part {part!r}{nearest(part, known)}"
                )
        return model

    def clip(self, parameters: Sequence[nn.Parameter]) -> None:
        if not self.parts:
            self._clip(parameters)
        for part in self.parts:
            self._clip(list(self.run.model.get_submodule(part).parameters()))

    def _clip(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.max_norm, self.norm_type)
        else:
            assert self.max_value is not None
            nn.utils.clip_grad_value_(parameters, self.max_value)
