"""From a recipe to the objects it names: data set, model, task, trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphkit.errors import PluginError, RecipeError, nearest
from graphkit.recipes.catalogue import path_of
from graphkit.recipes.schema import Recipe

# The data set decides these unless the recipe does.
_FROM_DATASET = ("in_channels", "out_channels", "edge_dim", "level")


def check_names(recipe: Recipe) -> None:
    """Refuse what can be refused before any data is read.

    Raises:
        DatasetNotFoundError: there is no data set of this name.
        RecipeError: there is no such model, or it has no such argument.
        PluginError: there is no such plugin.
    """
    from graphkit import data, models, plugins

    data.card(recipe.dataset.name)
    known = models.list_models()
    if recipe.model.name not in known:
        hint = nearest(recipe.model.name, known)
        raise RecipeError(
            f"recipe {recipe.name}: key 'model.name': unknown model {recipe.model.name!r}{hint}"
        )
    allowed = model_arguments(recipe.model.name)
    for key in recipe.model.arguments:
        if allowed is not None and key not in allowed:
            raise RecipeError(
                f"recipe {recipe.name}: unknown key 'model.{key}'{nearest(key, allowed)}; "
                f"{recipe.model.name} takes: {', '.join(sorted(allowed))}"
            )
    if recipe.start_from is not None:
        path_of(recipe.start_from.recipe)
    if trains_itself(recipe):
        _refuse_trainer_settings(recipe)
    available = plugins.list_plugins()
    for plugin in recipe.plugins:
        if plugin.name not in available:
            raise PluginError(
                f"recipe {recipe.name}: unknown plugin {plugin.name!r}"
                f"{nearest(plugin.name, available)}; there are: {', '.join(sorted(available))}"
            )


def trains_itself(recipe: Recipe) -> bool:
    """Whether the model of a recipe is an estimator, which the Trainer has nothing to do with."""
    from graphkit import models

    return issubclass(models.model_class(recipe.model.name), models.NodeEstimator)


def _refuse_trainer_settings(recipe: Recipe) -> None:
    plain = Recipe(name=recipe.name, dataset=recipe.dataset, model=recipe.model)
    for key in ("optimizer", "trainer", "plugins"):
        if getattr(recipe, key) != getattr(plain, key):
            raise RecipeError(
                f"recipe {recipe.name}: key {key!r} would have no effect: {recipe.model.name} "
                "trains itself; its learning rate and epochs are model.lr and model.epochs"
            )


def model_arguments(name: str) -> set[str] | None:
    """Return the keyword arguments of a registered model, None when it takes any."""
    from graphkit import models

    parameters = inspect.signature(models.model_class(name).__init__).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.name != "self"}


def load_dataset(recipe: Recipe) -> Any:
    """Load the data set of a recipe with its transforms."""
    from graphkit import data

    transforms = [t.model_dump() for t in recipe.dataset.transforms]
    options = dict(recipe.dataset.options)
    if transforms:
        options["transforms"] = transforms
    return data.load(recipe.dataset.name, **options)


def model_kwargs(recipe: Recipe, dataset: Any) -> dict[str, Any]:
    """Return the model's keyword arguments: those of the data set, then those of the recipe.

    Not every model wants to know all that a data set can say: it gets what it takes.
    """
    from graphkit.tasks import model_args

    found = {**dataset.model_args(), **model_args(dataset, recipe.task.model_extra or {})}
    allowed = model_arguments(recipe.model.name)
    if allowed is not None:
        found = {key: value for key, value in found.items() if key in allowed}
    return {**found, **recipe.model.arguments}


def build_model(recipe: Recipe, dataset: Any, seed: int) -> Any:
    """Create the model of a recipe with the initial weights that belong to a seed."""
    import torch

    from graphkit.models import create_model

    torch.manual_seed(seed)
    model = create_model(recipe.model.name, **model_kwargs(recipe, dataset))
    if dataset.level == "recommendation":
        # How a table is laid out, and so its first weights, may follow from the training pairs.
        model.prepare(dataset.interactions)  # type: ignore[operator]
    return model


def build_task(recipe: Recipe, dataset: Any) -> Any:
    """Create the task: loss, predictions, official metric."""
    from graphkit.tasks import create_task

    return create_task(dataset, **(recipe.task.model_extra or {}))


def build_trainer(
    recipe: Recipe,
    seed: int,
    run_dir: Path | None,
    progress: bool | Callable[..., None] = False,
) -> Any:
    """Create the trainer with the recipe's optimiser and plugins."""
    from graphkit.plugins import create_plugin
    from graphkit.train import Trainer

    settings = recipe.trainer.model_dump()
    optimizer = recipe.optimizer.model_dump(exclude_none=True)
    if not optimizer["groups"]:
        del optimizer["groups"]
    return Trainer(
        **settings,
        seed=seed,
        run_dir=run_dir,
        plugins=[create_plugin(p.name, **p.arguments) for p in recipe.plugins],
        optimizer=optimizer,
        progress=progress,
    )


def count_parameters(model: Any) -> int:
    """Count all learnable parameters, the figure that OGB and LRGB ask for."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
