"""Loss and official metric of a model on one split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from graphkit.train.rng import untouched_rng
from graphkit.train.world import World


def evaluate(
    model: nn.Module,
    task: Any,
    split: str,
    batches: Callable[[], Any],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, float]:
    """Return ``{"loss": ..., metric: ...}`` of ``model`` on ``split``.

    The model is put in eval mode and back, and the random stream is left as it was. The loss is
    the mean over batches weighted by their labelled targets.

    Args:
        model: what to evaluate.
        task: gives loss, predictions, targets and the official metric.
        split: "train", "valid" or "test".
        batches: called once; yields the batches of the split on the model's device.
        autocast: precision context of the run.
    """
    was_training = model.training
    model.eval()
    predictions, targets = [], []
    loss, weight = 0.0, 0.0
    try:
        with untouched_rng(), torch.no_grad():
            for batch in batches():
                with autocast():
                    out = task.apply(model, batch)
                    value = task.loss(out, batch, split)
                share = task.weight(batch, split)
                loss += float(value) * share
                weight += share
                guess = task.predictions(out, batch, split).detach().cpu()
                predictions.append(guess.float() if guess.is_floating_point() else guess)
                targets.append(task.target(batch, split).detach().cpu())
    finally:
        model.train(was_training)
    figures = task.evaluate(torch.cat(predictions), torch.cat(targets), split)
    return {"loss": loss / max(weight, 1e-12), **figures}


def share_figures(
    world: World, figures: dict[str, float] | None, keys: list[str]
) -> dict[str, float]:
    """Give every rank the figures that rank 0 computed, so that all take the same decisions."""
    if world.size == 1:
        assert figures is not None
        return figures
    values = torch.zeros(len(keys), dtype=torch.float64)
    if figures is not None:
        values = torch.tensor([figures[key] for key in keys], dtype=torch.float64)
    return dict(zip(keys, world.all_reduce(values).tolist(), strict=True))
