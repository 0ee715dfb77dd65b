"""Plain-text tables of the command line: recipes, data sets, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphkit.errors import CheckpointError, InputError
from graphkit.recipes.schema import Recipe
from graphkit.results.progress import plus_minus, readable

if TYPE_CHECKING:
    from graphkit.zoo.config import ZooConfig


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows with their columns aligned; the last one is left ragged.

    Example:
        >>> list(columns([["a", "b"], ["long", "c"]]))
        ['a     b', 'long  c']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()


def recipe_lines(found: Sequence[Recipe]) -> Iterator[str]:
    """Yield one line per recipe: name, size, epochs, seeds, published figure."""
    from graphkit.recipes import variants

    rows = [["recipe", "size", "parameters", "epochs", "seeds", "variants", "published (test)"]]
    for recipe in found:
        entry = next((p for p in recipe.published if p.split == "test"), None)
        figure = ""
        if entry is not None:
            doubt = "" if entry.confirmed else " (unconfirmed)"
            figure = f"{entry.label} {entry.metric} {plus_minus(entry.value, entry.std)}{doubt}"
        rows.append(
            [
                recipe.name,
                recipe.size,
                f"{recipe.num_params:,}" if recipe.num_params else "",
                str(recipe.model.arguments.get("epochs", recipe.trainer.max_epochs)),
                str(len(recipe.seed_list())),
                " ".join("@" + name.rpartition("@")[2] for name in variants(recipe.name)),
                figure,
            ]
        )
    return columns(rows)


def dataset_lines(pattern: str) -> Iterator[str]:
    """Yield one line per data set: name, task, metric, size, whether its files are here."""
    from graphkit.data.cards import card, names

    found = names(pattern if any(c in pattern for c in "*?[") else f"*{pattern}*")
    if not found:
        raise InputError(f"no data set matches {pattern!r}; `graphkit data list` shows all")
    rows = [["data set", "here", "level", "task", "metric", "split", "size", "title"]]
    for name in found:
        about = card(name)
        rows.append(
            [
                name,
                "yes" if is_here(name) else "no",
                about.level,
                about.task,
                about.metric,
                about.split_kind,
                readable(about.size_bytes),
                about.title,
            ]
        )
    return columns(rows)


def is_here(name: str) -> bool:
    """Say whether files of a data set lie below a data root; they are not read."""
    from graphkit.data.cards import card, datasets_folder
    from graphkit.data.locate import data_roots

    about = card(name)
    roots = [datasets_folder()] if about.reader == "embedded" else data_roots()
    for root in roots:
        for layout in about.layouts:
            folder, _, needed = layout.partition("|")
            if (root / folder / needed).exists():
                return True
    return False


def zoo_lines(
    found: Sequence[tuple[Path, ZooConfig | CheckpointError]],
) -> Iterator[str]:
    """Yield one line per zoo folder: path, architecture, parameters, measured figure."""
    if not found:
        yield "no checkpoints found; `graphkit zoo save RUN FOLDER` makes one from a run"
        return
    rows = [["folder", "recipe", "architecture", "parameters", "measured"]]
    for path, config in found:
        if isinstance(config, CheckpointError):
            rows.append([str(path), "", "", "", f"unreadable: {config}"])
            continue
        figure = next((m for m in config.metrics if m.split == "test"), None)
        measured = f"{figure.dataset} {figure.name} {figure.value:.4f}" if figure else ""
        rows.append(
            [
                str(path), config.recipe or "", config.architecture, f"{config.num_params:,}",
                measured,
            ]
        )  # fmt: skip
    yield from columns(rows)
