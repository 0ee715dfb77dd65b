"""Result records against published figures, as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphkit import recipes
from graphkit.errors import CorruptFileError, InputError
from graphkit.recipes.schema import Published
from graphkit.results.progress import plus_minus
from graphkit.results.record import FORMAT, ResultRecord, read_json, read_record

_COLUMNS = (
    "method", "test", "test, other split", "valid", "n_runs", "split_kind", "parameters",
    "external data", "hardware", "source",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of a table: a figure of ours or a published one."""

    method: str
    value: float
    test: str
    valid: str
    n_runs: str
    split_kind: str
    parameters: str
    external_data: str
    hardware: str
    source: str
    ours: bool
    official: bool = True

    def cells(self) -> list[str]:
        """Return the texts in the order of the columns.

        A figure from another split stands in a column of its own: it cannot be compared.
        """
        official, other = (self.test, "") if self.official else ("", self.test)
        return [
            self.method, official, other, self.valid, self.n_runs, self.split_kind,
            self.parameters, self.external_data, self.hardware, self.source,
        ]  # fmt: skip


@dataclass
class Table:
    """The rows of one data set and metric, best first, official split before others."""

    dataset: str
    metric: str
    maximize: bool
    std_kind: str
    options: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def title(self) -> str:
        arrow = "higher is better" if self.maximize else "lower is better"
        chosen = f" ({self.options})" if self.options else ""
        return f"{self.dataset}{chosen}: {self.metric} ({arrow}; {self.std_kind} std)"


def collect(folders: Iterable[str | Path]) -> tuple[list[ResultRecord], list[str]]:
    """Find every result record below the folders.

    Args:
        folders: run folders, folders of them, or single ``result.json`` files.

    Returns:
        The records, and one line for each file that claims to be one and cannot be read.

    Raises:
        InputError: a folder does not exist.
    """
    records: list[ResultRecord] = []
    problems: list[str] = []
    for folder in map(Path, folders):
        if not folder.exists():
            raise InputError(f"{folder}: no such file or folder; give a folder of runs")
        files = [folder] if folder.is_file() else sorted(_result_files(folder))
        for path in files:
            try:
                if folder.is_dir() and read_json(path).get("format") != FORMAT:
                    continue  # the result of one seed, or another program's file
                records.append(read_record(path))
            except CorruptFileError as error:
                problems.append(str(error))
    return records, problems


def _result_files(folder: Path) -> Iterable[Path]:
    for parent, below, files in os.walk(folder):
        below[:] = sorted(d for d in below if d != "checkpoints" and not d.startswith("."))
        yield from (Path(parent) / f for f in files if f == "result.json")


def tables(records: Sequence[ResultRecord]) -> list[Table]:
    """Group records by data set and metric and put the published figures beside them."""
    grouped: dict[tuple[str, str, str], Table] = {}
    published: dict[tuple[str, str, str], dict[tuple[str, float], Published]] = {}
    for record in records:
        options = _options(record.config.get("dataset", {}))
        key = (record.dataset, options, record.metric)
        table = grouped.setdefault(
            key, Table(record.dataset, record.metric, record.maximize, record.std_kind, options)
        )
        table.rows.append(_our_row(record))
        found = published.setdefault(key, {})
        for entry in [*record.published, *_shipped(record.dataset, options)]:
            if entry.metric == record.metric and entry.split == "test":
                found.setdefault((entry.label, entry.value), entry)
    for key, table in grouped.items():
        table.rows += [_published_row(entry) for entry in published[key].values()]
        sign = -1 if table.maximize else 1
        table.rows.sort(key=lambda row: (not row.official, sign * row.value, row.method))
    return [grouped[key] for key in sorted(grouped)]


def _options(dataset: dict[str, Any]) -> str:
    """Graphs or splits chosen by options, and attacked graphs, have figures of their own."""
    words = [f"{key}={value}" for key, value in sorted((dataset.get("options") or {}).items())]
    steps = dataset.get("transforms") or []
    if steps:  # imports torch
        from graphkit.data.transforms import ATTACKS

        for step in steps:
            if step.get("name") in ATTACKS:
                given = {key: value for key, value in sorted(step.items()) if key != "name"}
                words.append(f"{step['name']}({', '.join(f'{k}={v}' for k, v in given.items())})")
    return ", ".join(words)


@lru_cache(maxsize=64)
def _shipped(dataset: str, options: str) -> list[Published]:
    files = recipes.names(f"{dataset}/*")
    loaded = [recipes.load(n) for name in files for n in (name, *recipes.variants(name))]
    found = [(_options(r.dataset.model_dump()), r.published) for r in loaded]
    return [entry for where, entries in found if where == options for entry in entries]


def _our_row(record: ResultRecord) -> Row:
    machine = record.environment.get("hardware", {})
    gpus = machine.get("gpus") or []
    where = gpus[0] if gpus else f"{machine.get('cpu', '?')}, {machine.get('threads', '?')} threads"
    changed = f" {' '.join(record.overrides)}" if record.overrides else ""
    return Row(
        method=record.method_name,
        value=record.test_mean,
        test=plus_minus(record.test_mean, record.test_std),
        valid=plus_minus(record.valid_mean, record.valid_std),
        n_runs=str(record.n_runs),
        split_kind=record.split_kind
        + ("" if record.data_kind == "official" else f" ({record.data_kind} features)"),
        parameters=f"{record.num_params:,}",
        external_data="yes" if record.external_data else "no",
        hardware=f"{where}, {record.wall_seconds / 60:.1f} min",
        source=f"graphkit run {record.recipe}{changed} --seeds {record.n_runs}",
        ours=True,
        official=record.split_kind in ("official", "protocol"),
    )


def _published_row(entry: Published) -> Row:
    return Row(
        method=entry.label,
        value=entry.value,
        test=plus_minus(entry.value, entry.std),
        valid="",
        n_runs="as reported",
        split_kind="official",
        parameters=f"{entry.params:,}" if entry.params else "",
        external_data="yes" if entry.external_data else "no",
        hardware="",
        source=f"published: {entry.source}" + ("" if entry.confirmed else " (unconfirmed)"),
        ours=False,
    )


def to_markdown(records: Sequence[ResultRecord]) -> str:
    """Render the tables as Markdown; our rows are bold."""
    lines = ["# Leaderboard", ""]
    for table in tables(records):
        lines += [f"## {_md(table.title)}", ""]
        lines.append("| " + " | ".join(_COLUMNS) + " |")
        lines.append("|" + "---|" * len(_COLUMNS))
        for row in table.rows:
            cells = [_md(cell) for cell in row.cells()]
            if row.ours:
                cells[0] = f"**{cells[0]}**"
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    if not records:
        lines += ["No result records found: `graphkit run demo/gcn` makes one.", ""]
    return "\n".join(lines)


def _md(text: str) -> str:
    # Names come from files that anybody may have written: no markup may come through.
    for char in "\\`*_[]<>|":
        text = text.replace(
            char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char]
        )
    return " ".join(text.split())


def to_html(records: Sequence[ResultRecord]) -> str:
    """Render the tables as one HTML page that loads nothing from elsewhere."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    context: dict[str, Any] = {
        "tables": [(t, _bars(t)) for t in tables(records)],
        "columns": _COLUMNS,
        "made": now,
        "count": len(records),
    }
    return environment.get_template("leaderboard.html.j2").render(context)


def _bars(table: Table) -> list[int]:
    """Return the length in percent of the bar behind each figure, best longest."""
    values = [row.value for row in table.rows]
    low, high = min(values), max(values)
    if low == high:
        return [100] * len(values)
    ranks = [(v - low) / (high - low) for v in values]
    return [round(100 * (0.15 + 0.85 * (r if table.maximize else 1 - r))) for r in ranks]
