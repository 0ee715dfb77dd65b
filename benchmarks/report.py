"""What a run leaves behind: JSON with everything, a Markdown table, a bar chart."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from graphkit.ops import cpu

_PACKAGES = ("graphkit", "torch", "torch-geometric", "torch-scatter", "numpy")


def environment(threads: int) -> dict[str, Any]:
    """Machine class, versions, date: what a figure means nothing without."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "isa": cpu.kernels.isa() if cpu.kernels is not None else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or None if done.returncode == 0 else None


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``cpu.json``, ``cpu.md`` and ``cpu.png`` into ``folder``; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    record = with_earlier_rows(record, folder / "cpu.json")
    paths = [folder / f"cpu.{suffix}" for suffix in ("json", "md", "png")]
    paths[0].write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(record), encoding="utf-8")
    draw(record, paths[2])
    return [path for path in paths if path.exists()]


def with_earlier_rows(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add the rows of cases that this run left out, as the last run that had them measured them.

    Only rows of the same machine class, number of threads and scale stand side by side.
    """
    about = record["environment"]
    run = {"date": about["date"], "commit": about["commit"], "load_before": about["load_before"]}
    tables = {
        key: [{**row, "run": run} for row in record.get(key, [])] for key in ("rows", "rates")
    }
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {**record, **tables}
    same = earlier.get("scale") == record["scale"] and all(
        earlier.get("environment", {}).get(key) == about[key] for key in ("cpu", "threads", "isa")
    )
    if not same:
        return {**record, **tables}
    then = {key: earlier["environment"].get(key) for key in run}
    for key, rows in tables.items():
        taken = {row["case"] for row in rows}
        kept = [{"run": then, **r} for r in earlier.get(key, []) if r["case"] not in taken]
        tables[key] = kept + rows
    if "spmm" not in record and "spmm" in earlier:
        record = {**record, "spmm": earlier["spmm"]}
    return {**record, **tables}


def markdown(record: dict[str, Any]) -> str:
    about = record["environment"]
    packages = ", ".join(f"{name} {found or 'absent'}" for name, found in about["versions"].items())
    lines = [
        "# graphkit against PyG on the CPU",
        "",
        f"{about['date']}; {about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, "
        f"{about['threads']} threads, kernels for {about['isa']}; Python {about['python']}, "
        f"{packages}. Date, commit and the load before each run stand in its rows.",
        "",
        f"Graph: {record['graph']}. Medians, with quartiles in brackets; both sides in turns in "
        "one process. Extra memory: peak resident set of the first step, above inputs and outputs "
        "(benchmarks/measure.py says how). Command: `python -m benchmarks`.",
        "",
        "| case | mode | graphkit ms | peer ms | ratio | wanted | graphkit MB | peer MB | share "
        "| commit, load |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        if "error" in row or "skipped" in row:
            said = f"failed: {row['error']}" if "error" in row else f"skipped: {row['skipped']}"
            lines.append(f"| {row['title']} | {row['mode']} | {said} ||||||||")
            continue
        wanted = f">= {row['goal']:g}" if row["goal"] else ""
        lines.append(
            f"| {row['title']} | {row['mode']} | {_time(row['ours_ms'])} | {_time(row['peer_ms'])} "
            f"| {row['ratio']:.2f} | {wanted} | {_memory(row)} "
            f"| {row['run']['date'][:10]} {row['run']['commit']}, {row['run']['load_before']} |"
        )
    if record.get("rates"):
        lines += [
            "",
            "Rates. Bytes are what an op must move: rows that it gathers, indices and outputs, "
            "each once per use, so that rows which the caches hold can lift a share above what "
            "memory gives. A copy counts read and write. Medians, with quartiles in brackets.",
            "",
            "| op | ms | rate | a copy | share | wanted | threads | commit, load |",
            "|---|---|---|---|---|---|---|---|",
            *(_rate_row(row) for row in record["rates"]),
        ]
    if spmm := record.get("spmm"):
        lines += [
            "",
            f"Sum over neighbours: {spmm['spmm_gb_per_s']:.1f} GB/s of gathered rows, indices and "
            f"output; a large copy: {spmm['copy_gb_per_s']:.1f} GB/s ({spmm['share']:.2f} of it).",
        ]
    return "\n".join(lines) + "\n"


def _rate_row(row: dict[str, Any]) -> str:
    about = f"{row['run']['date'][:10]} {row['run']['commit']}, {row['run']['load_before']}"
    if "error" in row:
        return f"| {row['title']} | failed: {row['error']} |||||| {about} |"
    copy = _per_second(row["copy_per_second"], "bytes") if "share" in row else ""
    share = f"{row['share']:.2f}" if "share" in row else ""
    wanted = f">= {_per_second(row['goal'], row['unit'])}" if row["goal"] else ""
    return (
        f"| {row['title']} | {_time(row['ms'])} | {_per_second(row['per_second'], row['unit'])} "
        f"| {copy} | {share} | {wanted} | {row['threads']} | {about} |"
    )


def _per_second(rate: float, unit: str) -> str:
    if unit in ("bytes", "flop"):
        return f"{rate / 1e9:.1f} {'GB' if unit == 'bytes' else 'GFLOP'}/s"
    return f"{rate / 1e6:.2f} million {unit}/s"


def rate_line(row: dict[str, Any]) -> str:
    head = f"{row['case']:24}"
    if "error" in row:
        return f"{head} error: {row['error']}"
    line = f"{head} {row['ms']['median']:9.2f} ms  {_per_second(row['per_second'], row['unit'])}"
    return line + (f", {row['share']:.2f} of a copy" if "share" in row else "")


def _time(timing: dict[str, Any]) -> str:
    low, high = timing["quartiles"]
    return f"{timing['median']:.1f} [{low:.1f}, {high:.1f}]"


def _memory(row: dict[str, Any]) -> str:
    ours, peer = row.get("ours_bytes"), row.get("peer_bytes")
    if ours is None or peer is None:
        return "| |"
    share = f"{ours / peer:.1%}" if peer else ""
    return f"{ours / 2**20:.0f} | {peer / 2**20:.0f} | {share}"


def draw(record: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in record["rows"] if "ratio" in row]
    if not rows:
        return
    labels = [f"{row['title']}\n{row['mode']}" for row in rows]
    figure, axis = plt.subplots(figsize=(9, 0.55 * len(rows) + 1.6))
    positions = range(len(rows))
    axis.barh(positions, [row["ratio"] for row in rows], color="#3b6ea5", height=0.6)
    for position, row in zip(positions, rows, strict=True):
        axis.text(row["ratio"], position, f" {row['ratio']:.1f}x", va="center", fontsize=8)
        if row["goal"]:
            axis.plot([row["goal"]] * 2, [position - 0.4, position + 0.4], color="#c44e52", lw=2)
    axis.axvline(1, color="black", lw=0.8)
    axis.set_yticks(list(positions), labels, fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.12, y=0.01)
    about = record["environment"]
    axis.set_xlabel("times faster than the peer, PyG unless named (medians); red: wanted")
    axis.set_title(f"{about['cpu']}, {about['threads']} threads, {about['date']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def describe_graph(scale: float) -> str:
    from benchmarks.cases import graph_inputs

    x, edge_index = graph_inputs(scale)
    degree = torch.bincount(edge_index[1], minlength=x.size(0))
    return (
        f"power law, {x.size(0):,} nodes, {edge_index.size(1):,} directed edges, largest degree "
        f"{int(degree.max()):,}, {int((degree == 0).sum()):,} isolated nodes, F = {x.size(1)}, "
        "float32"
    )
