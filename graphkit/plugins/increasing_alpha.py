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
        PluginError: the model has no ``set_alpha``.
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
        if not callable(getattr(model, "set_alpha", None)):
            raise PluginError(
                f"increasing_alpha: {type(model).__name__} has no set_alpha; wanted an NCN that "
                "completes, such as predictor='ncnc'"
            )
        self._set(model, 1)
        return model

    def on_epoch_end(self, metrics: Any) -> None:
        # Behind the epoch's evaluation. A resumed run has alpha among its buffers.
        self._set(self.run.model, int(metrics["epoch"]) + 1)

    @staticmethod
    def _set(model: Any, epoch: int) -> None:
        from graphkit.models.ncn import increasing_alpha  # models are not needed to list plugins

        model.set_alpha(increasing_alpha(epoch))
