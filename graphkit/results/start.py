"""What a run begins with, and what to do with a model that has nothing to train."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from graphkit.errors import InputError
from graphkit.recipes.catalogue import load
from graphkit.recipes.reading import read_yaml
from graphkit.recipes.schema import Recipe, validate
from graphkit.results import build
from graphkit.train.evaluation import evaluate
from graphkit.train.result import FitResult
from graphkit.train.state import peak_memory


def begin(recipe: Recipe, dataset: Any, task: Any, seed: int, runs: Path) -> tuple[Any, Any]:
    """Create the model of a seed; take over from the run that the recipe starts from.

    Args:
        recipe: overrides applied.
        dataset: the data of this seed.
        task: of this seed.
        seed: the seed.
        runs: the folder of all runs, where the earlier run is looked for.

    Returns:
        The model and the task.

    Raises:
        InputError: that run has not been finished, or its weights do not fit.
    """
    if recipe.start_from is None:
        return build.build_model(recipe, dataset, seed), task
    earlier = _earlier(recipe.start_from.recipe, dataset, seed, runs)
    if recipe.start_from.take == "node_embeddings":
        earlier.eval()
        with torch.no_grad():
            x = earlier.encode(task.node_features(), task.graph("valid"))
        task.use_node_input(x)
        return build.build_model(recipe, dataset, seed), task
    model = build.build_model(recipe, dataset, seed)
    model.warm_start(earlier)
    return model, task


def _earlier(name: str, dataset: Any, seed: int, runs: Path) -> Any:
    """The trained model of another recipe's run, with its best weights."""
    shipped = load(name)
    folder = runs / shipped.name / str(seed)
    weights = folder / "checkpoints" / "best.safetensors"
    if not (folder / "result.json").is_file() or not weights.is_file():
        raise InputError(
            f"start_from: {folder} holds no finished run; run `graphkit run {name}` first, with "
            "the same --runs and seeds"
        )
    config = read_yaml(folder / "config.yaml")
    recipe = validate(config["recipe"], shipped.name, str(folder / "config.yaml"))
    model = build.build_model(recipe, dataset, seed)
    model.load_state_dict(load_file(weights))
    return model


def measure(model: Any, task: Any) -> FitResult:
    """Evaluate a model without parameters, such as a link-prediction heuristic."""
    begun = time.monotonic()
    figures = {
        split: evaluate(model, task, split, lambda s=split: task.loader(s), nullcontext)  # type: ignore[misc]
        for split in ("valid", "test")
    }
    entry: dict[str, Any] = {"epoch": 0}
    for split, values in figures.items():
        entry.update({f"{split}_{key}": value for key, value in values.items()})
    valid, test = figures["valid"], figures["test"]
    return FitResult(
        best_epoch=0, epochs=0, valid=valid[task.metric], test=test[task.metric], metrics=entry,
        history=[entry], seconds=time.monotonic() - begun,
        peak_memory_bytes=peak_memory(torch.device("cpu")), skipped_batches=0, interrupted=False,
        selected={
            key: {"epoch": 0, "valid": valid[key], "test": test[key]} for key in task.metrics
        },
        model=model,
    )  # fmt: skip
