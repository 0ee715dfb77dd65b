"""Test figures of many runs against one of their settings, such as the strength of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphkit.errors import InputError
from graphkit.results.leaderboard import collect
from graphkit.results.record import ResultRecord
from graphkit.storage import atomic_path

# setting -> (mean, deviation)
Line = dict[float, tuple[float, float]]


def read_lines(
    records: Sequence[ResultRecord], key: str
) -> dict[str, tuple[dict[str, Line], dict[str, Line]]]:
    """Group records by data set and by method.

    Settings of the model are no part of the method's name: published ones change with ``key``.

    Args:
        records: of runs that differ in the setting.
        key: where it stands in a recipe, such as ``"dataset.options.rate"``, or, in a list, by
            position or name, ``"dataset.transforms.DICE.rate"``.

    Returns:
        For each data set and metric the measured lines and the published ones, by method.

    Raises:
        InputError: no record has the setting, or one method has two records for one value.
    """
    found: dict[str, tuple[dict[str, Line], dict[str, Line]]] = {}
    for record in records:
        value = _look_up(record.config, key)
        if value is None:
            continue
        title = " ".join([record.dataset, *_given(record.config.get("dataset", {}), key)])
        for metric, figure in record.figures().items():
            measured, published = found.setdefault(f"{title}, {metric}", ({}, {}))
            line = measured.setdefault(record.method_name, {})
            if value in line:
                raise InputError(
                    f"{record.recipe}: a second record of {record.method_name} for {key}="
                    f"{value:g}; give folders with one run for each"
                )
            line[value] = (figure.test_mean, figure.test_std or 0.0)
            for entry in record.published:
                if entry.metric == metric and entry.split == "test":
                    published.setdefault(entry.label, {})[value] = (entry.value, entry.std or 0.0)
    if not found:
        raise InputError(f"over: no record has a number at {key!r}")
    return found


def _look_up(config: Any, key: str) -> float | None:
    for part in key.split("."):
        config = _inside(config, part)
    number = isinstance(config, int | float) and not isinstance(config, bool)
    return float(config) if number else None


def _inside(config: Any, part: str) -> Any:
    """What is below a key, or at a position or name of a list, as overrides address it."""
    if isinstance(config, list):
        named = [i for i in config if isinstance(i, dict) and i.get("name") == part]
        if named:
            return named[0]
        return config[int(part)] if part.isdecimal() and int(part) < len(config) else None
    return config.get(part) if isinstance(config, dict) else None


def _given(dataset: dict[str, Any], key: str) -> list[str]:
    """Options and transforms of a data set in words, without the setting that is swept."""
    above, _, last = key.rpartition(".")
    parts = [("dataset.options", "", dict(dataset.get("options") or {}))]
    for number, step in enumerate(dataset.get("transforms") or []):
        named = dict(step)
        name = str(named.pop("name", "?"))
        swept = above in (f"dataset.transforms.{number}", f"dataset.transforms.{name}")
        parts.append((above if swept else "", name, named))
    words = []
    for place, name, settings in parts:
        if place == above:
            settings.pop(last, None)
        words += [name] if name else []
        words += [f"{k}={v}" for k, v in sorted(settings.items())]
    return words


def draw_over(folders: Sequence[str | Path], key: str, target: str | Path) -> Path:
    """Draw the mean test figure of every method against a setting, the deviation as error bars.

    Published figures are dashed. One panel for each data set.

    Args:
        folders: with the runs, at any depth.
        key: see :func:`read_lines`.
        target: ``.png`` or ``.svg``.

    Raises:
        InputError: nothing to draw, or the picture's format is another.
        StorageError: the picture cannot be written.
    """
    target = Path(target)
    if target.suffix not in (".png", ".svg"):
        raise InputError(f"picture {target}: the name must end in .png or .svg")
    panels = read_lines(collect(folders)[0], key)

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for index, title in enumerate(sorted(panels)):
        axes = figure.add_subplot(1, len(panels), index + 1)
        measured, published = panels[title]
        methods = sorted({*measured, *published})
        for lines, style in ((measured, "-"), (published, "--")):
            for method, line in sorted(lines.items()):
                label = method if style == "-" else f"{method} (published)"
                _bars(axes, line, label, style, f"C{methods.index(method)}")
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel(key.rpartition(".")[2])
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small", frameon=False)
    with atomic_path(target) as temporary:
        # A date in the file would make equal pictures differ.
        stamp = {"Date": None} if target.suffix == ".svg" else {"Software": None}
        figure.savefig(temporary, format=target.suffix[1:], dpi=120, metadata=stamp)
    return target


def _bars(axes: Any, line: Line, label: str, style: str, color: str) -> None:
    places = sorted(line)
    axes.errorbar(
        places, [line[p][0] for p in places], yerr=[line[p][1] for p in places], label=label,
        color=color, linestyle=style, marker="o" if style == "-" else None, capsize=3, markersize=4,
        linewidth=1.6 if style == "-" else 1.0, alpha=1.0 if style == "-" else 0.6,
    )  # fmt: skip
