"""Summaries of one graph for several budgets: made, written, set in a table and drawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphkit.data import read_any_graph
from graphkit.errors import InputError
from graphkit.models import SSumM
from graphkit.models.ssumm.summary import check_suffix
from graphkit.results.progress import counting
from graphkit.results.tables import columns
from graphkit.storage import atomic_path


@dataclass(frozen=True)
class SummaryRow:
    """Figures of one summary.

    Attributes:
        budget: as it was asked for.
        supernodes, superedges, largest: of the summary, with its largest weight.
        bits, share: its exact size, and that over the graph's.
        re1, re2: reconstruction errors; see :class:`~graphkit.models.SummaryGraph`.
        seconds: of merging.
        iterations: that were begun.
    """

    budget: str
    supernodes: int
    superedges: int
    largest: int
    bits: float
    share: float
    re1: float
    re2: float
    seconds: float
    iterations: int


def fractions_of(text: str) -> list[float]:
    """Read ``0.1,0.2`` as numbers.

    Raises:
        InputError: something else, a number twice, or none.

    Example:
        >>> fractions_of("0.1,0.2")
        [0.1, 0.2]
    """
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"fractions: {text!r}, wanted numbers with commas between") from None
    if len(set(found)) != len(found):
        raise InputError(f"fractions: {text!r}, wanted each once")
    return found


def summarise_graph(
    graph: str,
    fractions: Sequence[float | None],
    *,
    bits: float | None = None,
    p: int = 1,
    seed: int = 0,
    out: Path = Path("summary.txt"),
    picture: Path | None = None,
    symmetrise: bool = False,
) -> Iterator[str]:
    """Summarise a graph once for each size, write every summary as soon as it is there, draw them.

    Args:
        graph: the path of a file, or the name of a data set of one graph.
        fractions: sizes, as shares of the graph's; ``[None]`` where ``bits`` is given.
        bits: one size in bits.
        p, seed: of :class:`~graphkit.models.SSumM`.
        out: the file; of several sizes each gets one of its own.
        picture: of errors against sizes; beside ``out`` by default where there are several sizes.
        symmetrise: take one-way edges of a data set for edges.

    Yields:
        Lines for people: a table, and the files that were written.

    Raises:
        InputError: an argument out of range, before any work, or a graph that is not there.
    """
    models = [SSumM(bits=bits, fraction=share, p=p, seed=seed) for share in fractions]
    check_suffix(out)
    if picture is not None:
        check_picture(picture)
    with counting("edges read") as tell:
        read = read_any_graph(graph, undirected=True, progress=tell)
    rows, files = [], outputs_of(out, fractions)
    for model, share, file in zip(models, fractions, files, strict=True):
        budget = f"{bits:,.0f} bits" if share is None else f"{share:g}"
        with counting(f"summary, {budget}") as tell:
            model.set_params(progress=_percent(tell))
            start = time.perf_counter()
            model.fit(read.csr, ids=read.ids, symmetrise=symmetrise)
            rows.append(row_of(model, budget, time.perf_counter() - start))
        model.summary_.save(file)
    yield from summary_lines(rows)
    yield from map(str, files)
    if picture is None and len(rows) > 1:
        picture = out.with_suffix(".png")
    if picture is not None:
        yield str(draw_sizes({graph: [(r.share, r.re1, r.re2) for r in rows]}, picture))


def row_of(model: SSumM, budget: str, seconds: float) -> SummaryRow:
    """The figures of a fitted model."""
    summary = model.summary_
    return SummaryRow(
        budget=budget, supernodes=summary.num_supernodes, superedges=summary.num_superedges,
        largest=summary.largest_weight, bits=summary.bits,
        share=summary.bits / summary.graph_bits, re1=summary.re1, re2=summary.re2,
        seconds=seconds, iterations=len(model.log_),
    )  # fmt: skip


def summary_lines(rows: Sequence[SummaryRow]) -> Iterator[str]:
    """Yield a table, one line per summary."""
    head = ("budget", "|S|", "|P|", "bits", "size", "RE1", "RE2", "seconds")
    cells = [
        (r.budget, f"{r.supernodes:,}", f"{r.superedges:,}", f"{r.bits:,.0f}", f"{r.share:.2%}",
         f"{r.re1:.4e}", f"{r.re2:.4e}", f"{r.seconds:.2f}")
        for r in rows
    ]  # fmt: skip
    yield from columns([head, *cells])


def check_picture(path: Path) -> None:
    """Refuse a picture of another kind before the work.

    Raises:
        InputError: neither ``.png`` nor ``.svg``.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"picture {path}: the name must end in .png or .svg")


def draw_sizes(
    lines: dict[str, Sequence[tuple[float, float, float]]], target: Path, *, title: str = ""
) -> Path:
    """Draw reconstruction errors against size.

    Args:
        lines: by their names, points (share of the graph's size, RE1, RE2).
        target: ``.png`` or ``.svg``.
        title: above it.

    Raises:
        InputError: another kind of picture.
        StorageError: it cannot be written.
    """
    check_picture(target)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for place, what in ((1, "RE1"), (2, "RE2")):
        axes = figure.add_subplot(1, 2, place)
        for name, points in lines.items():
            ordered = sorted(points)
            axes.plot(
                [100 * p[0] for p in ordered], [p[place] for p in ordered], marker="o",
                markersize=4, linewidth=1.6, label=name,
            )  # fmt: skip
        axes.set_xlabel("size, % of the graph's bits")
        axes.set_ylabel(what)
        axes.grid(alpha=0.25)
        errors = [point[place] for points in lines.values() for point in points]
        if errors and min(errors) > 0 and max(errors) > 20 * min(errors):
            axes.set_yscale("log")  # graphs whose errors differ by orders of magnitude
        else:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(fontsize="small", frameon=False)
    if title:
        figure.suptitle(title)
    with atomic_path(target) as temporary:
        # A date in the file would make equal pictures differ.
        stamp = {"Date": None} if target.suffix == ".svg" else {"Software": None}
        figure.savefig(temporary, format=target.suffix[1:], dpi=120, metadata=stamp)
    return target


def outputs_of(out: Path, budgets: Sequence[Any]) -> list[Path]:
    """One file per budget: ``summary.txt``, or ``summary_0.1.txt``, ``summary_0.2.txt``.

    Example:
        >>> [str(path) for path in outputs_of(Path("a/s.npz"), [0.1, 0.2])]
        ['a/s_0.1.npz', 'a/s_0.2.npz']
    """
    if len(budgets) == 1:
        return [out]
    return [out.with_name(f"{out.stem}_{budget}{out.suffix}") for budget in budgets]


def _percent(tell: Callable[..., None]) -> Callable[[float], None]:
    return lambda share: tell(round(100 * share), 100)
