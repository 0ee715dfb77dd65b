"""Training curves as a picture: loss and validation metric per epoch, the spread over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphkit.errors import InputError
from graphkit.storage import atomic_path

_MAX_BYTES = 256 * 1024 * 1024


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the epochs of one ``metrics.jsonl``; a torn last line, left by a kill, is skipped.

    Raises:
        InputError: the file is missing or is not a log of epochs.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: larger than {_MAX_BYTES} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: not JSON") from None
        if isinstance(row, dict) and "epoch" in row:
            rows.append(row)
    return rows


def seeds_of(folder: Path) -> list[Path]:
    """Return the logs of a run: of all its seeds, or of the one seed the folder is.

    Raises:
        InputError: there is no ``metrics.jsonl`` in the folder or its numbered subfolders.
    """
    single = folder / "metrics.jsonl"
    if single.is_file():
        return [single]
    found = sorted(folder.glob("[0-9]*/metrics.jsonl"), key=lambda p: (len(p.parent.name), p))
    if not found:
        raise InputError(
            f"{folder}: no metrics.jsonl here or in a seed's folder below; "
            "give a run folder such as runs/demo/gcn"
        )
    return found


def with_seconds(path: Path) -> list[dict[str, Any]]:
    """The epochs of one log, each with the training time until its end.

    Raises:
        InputError: there is no ``seconds.jsonl`` beside it.
    """
    taken = {row["epoch"]: row["seconds"] for row in read_metrics(path.with_name("seconds.jsonl"))}
    rows = [row for row in read_metrics(path) if row["epoch"] in taken]
    return [{**row, "seconds": taken[row["epoch"]]} for row in rows]


def draw(
    folders: Sequence[str | Path],
    target: str | Path,
    *,
    against: str = "epoch",
    metric: str | None = None,
) -> Path:
    """Draw one or several runs and write the picture.

    Each run is a line, the mean over its seeds, in a band from the lowest to the highest seed.

    Args:
        folders: run folders, or folders of single seeds.
        target: ``.png`` or ``.svg``.
        against: ``"epoch"``, or ``"seconds"`` of training, a line per seed.
        metric: draw the validation figure of this name alone, such as ``"recall@20"``.

    Raises:
        InputError: a folder holds no run, no run has the metric, or the picture's format is
            another.
        StorageError: the picture cannot be written.
    """
    target = Path(target)
    if target.suffix not in (".png", ".svg"):
        raise InputError(f"picture {target}: the name must end in .png or .svg")
    read = with_seconds if against == "seconds" else read_metrics
    logs = [[read(p) for p in seeds_of(Path(f))] for f in folders]
    runs = list(zip(_short_names([Path(f) for f in folders]), logs, strict=True))
    panels = _panels([row for seeds in logs for rows in seeds for row in rows[:1]])
    if not panels:
        raise InputError(f"{folders[0]}: the logs hold no figures yet")
    if metric is not None:
        known = [k for _, keys in panels for k in keys if k.startswith("valid_")]
        if f"valid_{metric}" not in known:
            names = ", ".join(k.removeprefix("valid_") for k in known)
            raise InputError(f"metric: no {metric!r} in the logs, which hold {names}")
        panels = [(metric, [f"valid_{metric}"])]

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, keys) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for name, seeds in runs:
            for key in keys:
                label = key if len(runs) == 1 else name if len(keys) == 1 else f"{name}: {key}"
                (_times if against == "seconds" else _line)(axes, seeds, key, label)
        axes.set_xlabel("seconds of training" if against == "seconds" else "epoch")
        axes.set_title(title)
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small", frameon=False)
    with atomic_path(target) as temporary:
        # A date in the file would make equal pictures differ.
        stamp = {"Date": None} if target.suffix == ".svg" else {"Software": None}
        figure.savefig(temporary, format=target.suffix[1:], dpi=120, metadata=stamp)
    return target


def _short_names(folders: list[Path]) -> list[str]:
    """The folders' names without the part of the path that all share."""
    parts = [folder.parts for folder in folders]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return [str(Path(*p[shared:])) for p in parts]


def _panels(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    keys = [
        key
        for key in dict.fromkeys(k for row in rows for k in row)
        # Test figures exist only for the epochs that were the best so far: no curve of their own.
        if not key.startswith("test") and any(isinstance(row.get(key), float) for row in rows)
    ]
    losses = [k for k in keys if "loss" in k]
    metrics = [k for k in keys if k not in losses and k.startswith(("train", "valid"))]
    return [(t, k) for t, k in (("loss", losses), ("metric", metrics)) if k]


def _line(axes: Any, seeds: list[list[dict[str, Any]]], key: str, label: str) -> None:
    by_epoch: dict[int, list[float]] = {}
    for rows in seeds:
        for row in rows:
            value = row.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                by_epoch.setdefault(int(row["epoch"]), []).append(float(value))
    if not by_epoch:
        return
    epochs = sorted(by_epoch)
    values = [by_epoch[e] for e in epochs]
    (line,) = axes.plot(
        epochs, [math.fsum(v) / len(v) for v in values], label=label,
        marker="o" if len(epochs) == 1 else None, linewidth=1.6,
    )  # fmt: skip
    if any(len(v) > 1 for v in values):
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.18, linewidth=0)


def _times(axes: Any, seeds: list[list[dict[str, Any]]], key: str, label: str) -> None:
    colour = None
    for rows in seeds:
        points = [(row["seconds"], row[key]) for row in rows if isinstance(row.get(key), float)]
        if points:
            (line,) = axes.plot(
                *zip(*points, strict=True), color=colour, linewidth=1.6,
                label=None if colour else label,
            )  # fmt: skip
            colour = line.get_color()
