"""Measure a zoo model again and compare with the figure on its card."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphkit.errors import CheckpointError, RecipeError
from graphkit.recipes.schema import Recipe, validate
from graphkit.results import build
from graphkit.zoo.checkpoint import load_config
from graphkit.zoo.config import Metric, ZooConfig
from graphkit.zoo.hub import from_pretrained

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Evaluation:
    """A figure measured now beside the card's."""

    metric: Metric
    value: float

    @property
    def agrees(self) -> bool:
        return abs(self.value - self.metric.value) <= TOLERANCE


def evaluate(folder: str | os.PathLike[str]) -> list[Evaluation]:
    """Load a zoo folder, evaluate it on its recipe's data set and compare with its card.

    Raises:
        CheckpointError: the folder is damaged, or names no recipe or no figure to compare with.
        DatasetNotFoundError: the data set is not there.
    """
    config = load_config(folder)
    if not config.metrics or not config.run:
        raise CheckpointError(
            f"zoo folder {folder}: the card holds no measured figure with its recipe; "
            "nothing to compare with"
        )
    recipe = recipe_of(config, Path(folder))
    for metric in config.metrics:
        if metric.dataset != recipe.dataset.name:
            raise CheckpointError(
                f"zoo folder {folder}: a figure for {metric.dataset}, but the recipe is for "
                f"{recipe.dataset.name}"
            )
    model = from_pretrained(folder)
    # Where each seed has its own split, another's test links may be what this model learnt from.
    dataset = build.load_dataset(recipe).of_run(config.seed or 0)
    task = build.build_task(recipe, dataset)
    found = {
        split: measure(model, dataset, task, split, recipe.trainer.batch_size)
        for split in dict.fromkeys(m.split for m in config.metrics)
    }
    results = []
    for metric in config.metrics:
        if metric.name not in found[metric.split]:
            raise CheckpointError(
                f"zoo folder {folder}: the card's metric is {metric.name!r}, {dataset.name} is "
                f"judged by {dataset.metric!r}"
            )
        results.append(Evaluation(metric, found[metric.split][metric.name]))
    return results


def recipe_of(config: ZooConfig, folder: Path) -> Recipe:
    """Return the recipe that a configuration carries, overrides applied.

    Raises:
        CheckpointError: it is not a recipe.
    """
    try:
        return validate(
            dict(config.run), config.recipe or "zoo/model", f"{folder}/config.json: run"
        )
    except RecipeError as error:
        raise CheckpointError(str(error)) from None


def measure(
    model: torch.nn.Module, dataset: Any, task: Any, split: str, batch_size: int | None
) -> dict[str, float]:
    """Evaluate a model on one split as the trainer does; returns the loss and the metric."""
    from graphkit.train.evaluation import evaluate as evaluate_split

    def batches() -> Any:
        return task.loader(split, batch_size=batch_size or task.batch_size)

    return evaluate_split(model, task, split, batches, nullcontext)
