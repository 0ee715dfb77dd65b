"""``graphkit run --dry``: what would run, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from graphkit.recipes.overrides import apply_overrides
from graphkit.recipes.schema import Recipe
from graphkit.results import build
from graphkit.results.estimate import estimate
from graphkit.results.progress import plus_minus, readable
from graphkit.results.run_folder import RunFolder


def describe(
    recipe: Recipe, overrides: Sequence[str], seeds: int | None, runs: str | Path
) -> Iterator[str]:
    """Yield the lines of the report; nothing is trained and nothing is written.

    Raises:
        GraphkitError: whatever the run itself would refuse.
    """
    recipe = apply_overrides(recipe, overrides)
    build.check_names(recipe)
    folder = RunFolder(runs, recipe, list(overrides))
    yield f"{recipe.name}  hash {recipe.hash[:12]}"
    if recipe.note:
        yield f"note        {recipe.note}"
    dataset = build.load_dataset(recipe)
    sizes = " / ".join(f"{len(dataset.splits[k]):,}" for k in ("train", "valid", "test"))
    yield f"data        {dataset.name}, {dataset.split_kind} split, train/valid/test {sizes}"
    settings = " ".join(f"{k}={v}" for k, v in recipe.model.arguments.items())
    yield f"model       {recipe.model.name} {settings}"
    alone = build.trains_itself(recipe)
    if not alone:
        chosen = recipe.optimizer.model_dump(exclude_none=True)
        yield f"optimizer   {' '.join(f'{k}={v}' for k, v in chosen.items())}"
    for plugin in recipe.plugins:
        settings = " ".join(f"{k}={v}" for k, v in plugin.arguments.items())
        yield f"plugin      {plugin.name} {settings}"
    found = estimate(recipe, dataset)
    yield f"parameters  {found.num_params:,}"
    yield (
        f"memory      about {readable(found.total_bytes)} beside the libraries: "
        f"{readable(found.activations_bytes)} for a batch, {readable(found.weights_bytes)} for "
        f"weights and optimiser, {readable(found.data_bytes)} for the data"
    )
    steps = 1
    if "propagation" in (recipe.task.model_extra or {}):
        size = recipe.trainer.batch_size or build.build_task(recipe, dataset).batch_size
        # Several views are trained on the nodes of all parts.
        several = (recipe.task.model_extra or {}).get("views", 1) > 1
        parts = dataset.splits.values() if several else [dataset.splits["train"]]
        steps = -(-sum(len(ids) for ids in parts) // size)
    if dataset.level == "graph":
        batch_size = recipe.trainer.batch_size or 32
        steps = -(-len(dataset.splits["train"]) // batch_size)
    if dataset.level in ("link", "recommendation") and found.num_params:
        task = build.build_task(recipe, dataset)
        if dataset.level == "recommendation":
            task.prepare(build.build_model(recipe, dataset, 0))
        steps = len(task.loader("train", batch_size=recipe.trainer.batch_size or task.batch_size))
    if recipe.start_from is not None:
        yield f"begins with {recipe.start_from.take} of {recipe.start_from.recipe}, the same seed"
    if alone:
        yield "training    by the model itself, as its settings say"
    else:
        yield f"training    {recipe.trainer.max_epochs} epochs of {steps:,} steps"
    for seed in recipe.seed_list(seeds):
        result = folder.finished(seed)
        state = "to run"
        if result is not None:
            state = f"finished: test {result.test:.4f}"
        elif (folder.seed_path(seed) / "checkpoints").exists():
            state = "stopped earlier, would continue"
        yield f"seed {seed:<6} {state}"
    for entry in recipe.published:
        doubt = "" if entry.confirmed else ", unconfirmed"
        yield (
            f"published   {entry.label}: {entry.split} {entry.metric} "
            f"{plus_minus(entry.value, entry.std)} ({entry.source}{doubt})"
        )
    yield f"results in  {folder.path}"
