"""NCNC's completion, switched on little by little."""

from __future__ import annotations

from typing import Any

from torch import nn

from graphkit.errors import PluginError
from graphkit.train.hooks import TrainerPlugin


class IncreasingAlphaPlugin(TrainerPlugin):
    r"""Raise the bound of NCNC's completion epoch by epoch (``--increasealpha`` of its code).

    Wang, Yang, Zhang: "Neural Common Neighbor with Completion for Link Prediction", ICLR 2024
    (arXiv 2302.00890). The epochs count from 1; the model's own ``alpha`` is not read:

    .. math:: \alpha_e = \mathrm{clip}(0.1 (e - 5), 0, 1)

    Raises:
        PluginError: the model has no ``increase_alpha``.
        InputError: the model does not complete.

    Example:
        >>> from graphkit.models import NCN
        >>> model = NCN(in_channels=4, predictor="ncnc")
        >>> float(IncreasingAlphaPlugin().transform_model(model, None).predictor.alpha)
        0.0
    """

    name = "increasing_alpha"
    can_reshard = True

    def transform_model(self, model: nn.Module, data: Any) -> nn.Module:
        if not callable(getattr(model, "increase_alpha", None)):
            raise PluginError(
                f"increasing_alpha: {type(model).__name__} has no increase_alpha; wanted an NCN "
                "that completes, such as predictor='ncnc'"
            )
        model.increase_alpha(1)  # type: ignore[operator]
        return model

    def on_epoch_end(self, metrics: Any) -> None:
        # Behind the epoch's evaluation. A resumed run has alpha among its buffers.
        model: Any = self.run.model
        model.increase_alpha(int(metrics["epoch"]) + 1)
