"""Change a recipe from the command line: ``optimizer.lr=1e-3 plugins.lr_schedule.patience=5``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphkit.errors import RecipeError
from graphkit.recipes.reading import MAX_BYTES, parse_yaml
from graphkit.recipes.schema import Recipe, suggest, validate

_FIXED = ("name", "published", "num_params", "note", "size")


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split ``a.b=value`` into its path and its typed value (read as YAML).

    Raises:
        RecipeError: there is no ``=``, no key, or the value is not YAML.

    Example:
        >>> parse_override("optimizer.lr=1e-3")
        (['optimizer', 'lr'], 0.001)
        >>> parse_override("model.virtual_node=null")
        (['model', 'virtual_node'], None)
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override {text!r}: write it as key=value, as in optimizer.lr=0.01")
    if len(value) > MAX_BYTES:
        raise RecipeError(f"override {key!r}: the value is longer than {MAX_BYTES} bytes")
    return parts, parse_yaml(value, f"override {key!r}")


def apply_overrides(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """Return the recipe with ``key=value`` settings applied.

    A list element is addressed by its position or, where elements have a name, by that name.

    Args:
        recipe: the recipe as it stands in its file.
        overrides: texts like ``trainer.max_epochs=3``.

    Raises:
        RecipeError: an unknown key (with the nearest one), or a value of the wrong kind.

    Example:
        >>> from graphkit import recipes
        >>> changed = apply_overrides(recipes.load("demo/gcn"), ["trainer.max_epochs=3"])
        >>> changed.trainer.max_epochs
        3
    """
    overrides = list(overrides)
    if not overrides:
        return recipe
    content = recipe.model_dump(mode="json", exclude={"name"}, exclude_unset=True)
    for text in overrides:
        parts, value = parse_override(text)
        if parts[0] in _FIXED:
            raise RecipeError(f"override {text!r}: {parts[0]!r} describes the recipe and is fixed")
        if parts[:2] == ["dataset", "name"]:
            raise RecipeError(
                f"override {text!r}: the published figures belong to {recipe.dataset.name}; "
                "copy the recipe to a file of your own and change the data set there"
            )
        if parts[0] not in Recipe.model_fields:
            raise RecipeError(f"override {text!r}: unknown key {parts[0]!r}{suggest(parts[0])}")
        _assign(content, parts, value, text)
    given = " ".join(overrides)
    return validate(content, recipe.name, f"override {given}")


def _assign(content: Any, parts: list[str], value: Any, text: str) -> None:
    node = content
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            index = _position(node, part, text)
            if last:
                node[index] = value
            node = node[index]
        elif isinstance(node, dict):
            if last:
                node[part] = value
            else:
                node = node.setdefault(part, {})
        else:
            above = ".".join(parts[:depth])
            raise RecipeError(f"override {text!r}: {above!r} is a plain value and has no {part!r}")


def _position(items: list[Any], part: str, text: str) -> int:
    named = [i["name"] for i in items if isinstance(i, dict) and "name" in i]
    if part in named:
        return next(n for n, i in enumerate(items) if isinstance(i, dict) and i.get("name") == part)
    if part.isdecimal() and len(part) < 9 and int(part) < len(items):
        return int(part)
    choices = ", ".join(named) or f"positions 0 to {len(items) - 1}"
    raise RecipeError(f"override {text!r}: no element {part!r} in the list, which has: {choices}")
