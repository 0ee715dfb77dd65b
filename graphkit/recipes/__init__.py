"""Recipes: everything a leaderboard run needs, as data, with the published figure beside it."""

from __future__ import annotations

from graphkit.recipes.catalogue import load, names, path_of, variants
from graphkit.recipes.overrides import apply_overrides
from graphkit.recipes.schema import Published, Recipe

__all__ = ["Published", "Recipe", "apply_overrides", "load", "names", "path_of", "variants"]
