"""Show a run: a live bar with the time left on a terminal, one plain line per step when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from graphkit.recipes.schema import Recipe
from graphkit.results.record import ResultRecord, SeedResult

if TYPE_CHECKING:
    from graphkit.train.progress import ProgressEvent


class Reporter:
    """What a run tells while it goes; this one says nothing."""

    def start(
        self, recipe: Recipe, dataset: Any, num_params: int, seeds: list[int], folder: Path
    ) -> None:
        """The run begins, or is taken up again."""

    def seed_start(self, seed: int) -> None:
        """One training run begins."""

    def event(self, event: ProgressEvent) -> None:
        """The trainer's message: a step or an epoch is done."""

    def seed_end(self, result: SeedResult, *, again: bool = True) -> None:
        """One training run is done; ``again`` is False when it had been finished before."""

    def end(self, record: ResultRecord, folder: Path) -> None:
        """All seeds are done; ``folder`` holds the record."""

    def close(self) -> None:
        """Leave the terminal as it was."""


SilentReporter = Reporter


class ConsoleReporter(Reporter):
    """Progress for people: a bar on a terminal, plain lines otherwise.

    Args:
        stream: where to write; standard output by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        self.live = stream.isatty()
        # A pipe has no width; 80 columns would cut paths and figures.
        self.console = Console(file=stream, width=None if self.live else 160, highlight=False)
        self._bar: Progress | None = None
        self._metric = "metric"
        self._figures = ""
        self._seed = 0
        self._said = 0.0

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def start(
        self, recipe: Recipe, dataset: Any, num_params: int, seeds: list[int], folder: Path
    ) -> None:
        self._metric = dataset.metric
        splits = dataset.splits
        parts = [part for part in ("train", "valid", "test") if part in splits]
        sizes = " / ".join(f"{len(splits[part]):,}" for part in parts)
        self._say(f"{recipe.name}: {num_params:,} parameters, {len(seeds)} seeds -> {folder}")
        self._say(
            f"{dataset.name}: {'/'.join(parts)} {sizes}, {dataset.split_kind} split, "
            f"metric {dataset.metric}"
        )
        if recipe.num_params is not None and recipe.num_params != num_params:
            self._say(f"note: the recipe's file counts {recipe.num_params:,} parameters")
        if dataset.card.reader == "lrgb" and num_params > 500_000:
            self._say("note: more than 500,000 parameters, the budget of LRGB for new entries")

    def seed_start(self, seed: int) -> None:
        self._seed, self._said, self._figures = seed, time.monotonic(), ""
        if self.live:
            self._bar = Progress(
                TextColumn("seed {task.fields[seed]}"), BarColumn(),
                TextColumn("{task.fields[at]}"),
                TextColumn("{task.fields[figures]}"), TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=self.console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._bar.add_task("", total=None, seed=seed, at="", figures="", left="")

    def event(self, event: ProgressEvent) -> None:
        if event.kind == "start" and event.resumed:
            self._say(f"seed {self._seed}: continuing after epoch {event.epoch}")
        if event.kind == "epoch":
            self._figures = _figures(event.metrics, self._metric)
        at = f"epoch {event.epoch}/{event.max_epochs}"
        if self._bar is not None:
            done = event.epoch + event.step / max(event.steps_per_epoch, 1)
            left = "" if event.eta_seconds is None else f"{_clock(event.eta_seconds)} left"
            self._bar.update(
                self._bar.task_ids[0], completed=done, total=event.max_epochs, at=at,
                figures=self._figures, left=left,
            )  # fmt: skip
        elif event.kind == "epoch":
            last = event.epoch >= event.max_epochs
            if last or time.monotonic() - self._said >= 5:
                # A log of a long run stays readable: at most one line in five seconds.
                self._said = time.monotonic()
                left = "" if event.eta_seconds is None else f", {_clock(event.eta_seconds)} left"
                self._say(f"seed {self._seed} {at}: {self._figures}{left}")

    def seed_end(self, result: SeedResult, *, again: bool = True) -> None:
        self.close()
        how = f"{result.seconds:.1f} s" if again else "finished earlier"
        at = f" at epoch {result.best_epoch} of {result.epochs}" if result.epochs else ""
        self._say(
            f"seed {result.seed}: test {self._metric} {result.test:.4f}, "
            f"valid {result.valid:.4f}{at} ({how})"
        )

    def end(self, record: ResultRecord, folder: Path) -> None:
        self.console.print(result_table(record))
        pictures = ", ".join(str(path) for path in sorted(folder.glob("*.png")))
        self._say(f"record {folder / 'result.json'}" + (f", pictures {pictures}" * bool(pictures)))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _figures(row: Mapping[str, Any], metric: str) -> str:
    shown = [
        f"{key.replace('_', ' ')} {value:.4f}"
        for key, value in row.items()
        if isinstance(value, float) and ("loss" in key or metric in key)
    ]
    return "  ".join(shown[:4])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plus_minus(mean: float, std: float | None) -> str:
    """Write ``mean ± std``, or the mean alone when there is no deviation to give."""
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def result_table(record: ResultRecord) -> Table:
    """Return the closing table: our figure beside the published ones."""
    figures = record.figures()
    table = Table(title=f"{record.dataset}, {', '.join(figures)} ({record.split_kind} split)")
    several = ("metric",) if len(figures) > 1 else ()
    for name in ("method", *several, "test", "valid", "runs", "parameters", "source"):
        table.add_column(name, overflow="fold")
    minutes = record.wall_seconds / 60
    for metric, figure in figures.items():
        which = (metric,) if several else ()
        table.add_row(
            record.method_name,
            *which,
            plus_minus(figure.test_mean, figure.test_std),
            plus_minus(figure.valid_mean, figure.valid_std),
            str(record.n_runs),
            f"{record.num_params:,}",
            f"this run, {minutes:.1f} min",
        )
        for p in record.published:
            if p.split != "test" or p.metric != metric:
                continue
            table.add_row(
                p.label,
                *which,
                plus_minus(p.value, p.std),
                "",
                "",
                f"{p.params:,}" if p.params else "",
                "published: " + p.source + ("" if p.confirmed else " (unconfirmed)"),
            )
    return table


def readable(size: int | float | None) -> str:
    """Write a number of bytes for people.

    Example:
        >>> readable(1536), readable(3 * 2**30)
        ('1.5 KiB', '3.0 GiB')
    """
    if size is None:
        return "unknown"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


@contextmanager
def counting(what: str) -> Iterator[Callable[..., None]]:
    """A counter on a terminal for work that tells ``done`` and, if it knows, ``total``.

    Example:
        >>> with counting("edges read") as tell:
        ...     tell(5)
        ...     tell(10, 10)
    """
    with Progress(
        TextColumn(what), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn(),
        console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=None)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)
