"""SSumM beside its published code: ``python -m benchmarks.summaries``.

Runs ego-Facebook, as-caida and email-Enron at the budgets of the published code's own runs,
compares errors at equal exact size, draws error against size on all graphs, and measures seconds
per edge on the SNAP graphs and on one power law at four sizes. The graphs are looked for below
``GRAPHKIT_DATA/summarisation``. Writes JSON, a table and three pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.graphs import power_law_edges
from benchmarks.report import environment
from graphkit.data import read_graph_file
from graphkit.models import SSumM
from graphkit.ops import CSR
from graphkit.results.summaries import draw_sizes, row_of
from graphkit.storage import atomic_write_text

# Exact size in percent, RE1 and RE2 of runs of the published code, by graph and p.
PUBLISHED = {
    ("ego-Facebook", 1): [
        (9.880, 6.810e-3, 1.665e-5), (19.932, 5.469e-3, 1.524e-5), (29.269, 4.682e-3, 1.432e-5),
        (39.941, 3.835e-3, 1.322e-5), (49.831, 3.190e-3, 1.231e-5), (58.110, 2.787e-3, 1.152e-5),
    ],
    ("ego-Facebook", 2): [
        (9.927, 8.541e-3, 1.663e-5), (19.840, 6.483e-3, 1.522e-5), (29.617, 5.451e-3, 1.440e-5),
        (39.715, 4.046e-3, 1.309e-5), (49.842, 3.544e-3, 1.257e-5), (59.258, 3.143e-3, 1.197e-5),
    ],
    ("as-caida", 1): [(19.999, 1.0701e-4, 3.888e-7), (39.999, 7.362e-5, 2.842e-7)],
    ("as-caida", 2): [(19.999, 1.2098e-4, 3.861e-7), (39.149, 1.1214e-4, 3.127e-7)],
    ("email-Enron", 1): [(20.000, 2.1127e-4, 3.802e-7), (39.807, 1.6107e-4, 3.128e-7)],
    ("email-Enron", 2): [(19.656, 4.0942e-4, 4.001e-7), (39.817, 1.9459e-4, 3.202e-7)],
}  # fmt: skip
PUBLISHED_SECONDS = (
    "about 4.5 s of CPU on ego-Facebook, 4.2 to 5.5 s on as-caida and 5.2 to 10.7 s on email-Enron"
)
FILES = {
    "ego-Facebook": "ego_facebook.txt", "as-caida": "snap/as-caida20071105.txt.gz",
    "email-Enron": "snap/email-Enron.txt.gz",
}  # fmt: skip
FRACTIONS = dict.fromkeys(FILES, (0.2, 0.4)) | {"ego-Facebook": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
CURVES = ("ca-AstroPh", "soc-Epinions1", "web-NotreDame")
CURVE_FRACTIONS = (0.1, 0.2, 0.4, 0.6)
POWER_LAW_EDGES = (1_250_000, 2_500_000, 5_000_000, 10_000_000)
LINEAR = (
    "as-caida20071105", "p2p-Gnutella31", "email-Enron", "ca-AstroPh", "soc-Epinions1",
    "web-NotreDame",
)  # fmt: skip


def published_at(points: list[tuple[float, float, float]], size: float, which: int) -> float:
    """The published code's error at a size, on the line through its two nearest runs.

    Example:
        >>> published_at([(10.0, 3.0, 0.0), (20.0, 2.0, 0.0), (40.0, 1.0, 0.0)], 30.0, 1)
        1.5
    """
    near = sorted(sorted(points, key=lambda p: abs(p[0] - size))[:2])
    (x0, *_), (x1, *_) = near
    y0, y1 = near[0][which], near[1][which]
    return y0 + (y1 - y0) * (size - x0) / (x1 - x0)


def measure(csr: CSR, fraction: float, p: int, seed: int) -> dict[str, Any]:
    """One run; what is timed is ``fit`` on a graph that has been read."""
    model = SSumM(fraction=fraction, p=p, seed=seed)
    start = perf_counter()
    model.fit(csr)
    row = asdict(row_of(model, f"{fraction:g}", perf_counter() - start))
    return row | {"seed": seed, "p": p, "edges": model.summary_.num_edges}


def compare(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """All runs whose figures the published code has, with its error at equal size."""
    rows = []
    for name, file in FILES.items():
        csr = read_graph_file(folder / file).csr
        for p in (1, 2):
            for fraction in FRACTIONS[name]:
                for seed in range(seeds):
                    row = measure(csr, fraction, p, seed) | {"graph": name, "fraction": fraction}
                    points = PUBLISHED[name, p]
                    for which, key in ((1, "re1"), (2, "re2")):
                        row[f"published_{key}"] = published_at(points, 100 * row["share"], which)
                    rows.append(row)
                print(f"{name} p={p} {fraction}: {row['re1']:.4e} {row['re2']:.4e}", flush=True)
    return rows


def curves(folder: Path) -> list[dict[str, Any]]:
    """Error against size, seed 0, on graphs that the published code has no figures of."""
    rows = []
    for name in CURVES:
        csr = read_graph_file(folder / "snap" / f"{name}.txt.gz").csr
        for p in (1, 2):
            for fraction in CURVE_FRACTIONS:
                rows.append(measure(csr, fraction, p, 0) | {"graph": name, "fraction": fraction})
            print(f"{name} p={p}: {rows[-1]['seconds']:.2f} s", flush=True)
    return rows


def linearity(folder: Path, largest: int) -> list[dict[str, Any]]:
    """Seconds per edge at fraction 0.4, the better of two runs, on graphs of several sizes."""
    rows = [
        _per_edge(name, read_graph_file(folder / "snap" / f"{name}.txt.gz").csr, 2)
        for name in LINEAR
    ]
    for wanted in POWER_LAW_EDGES:
        if wanted <= largest:
            nodes = wanted // 10
            drawn = power_law_edges(nodes, 2 * wanted)
            rows.append(_per_edge("power law", CSR.from_edge_index(drawn, nodes), 1))
    return rows


def _per_edge(name: str, csr: CSR, repeats: int) -> dict[str, Any]:
    run = min((measure(csr, 0.4, 1, 0) for _ in range(repeats)), key=lambda row: row["seconds"])
    seconds, edges = run["seconds"], run["edges"]
    print(f"{name}: {edges:,} edges, {seconds:.2f} s", flush=True)
    return {
        "graph": name, "nodes": csr.num_rows, "edges": edges, "iterations": run["iterations"],
        "seconds": seconds, "per_edge": seconds / edges,
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    about = report["environment"]
    lines = [
        "# Summaries by SSumM beside the published code", "",
        f"{about['date']}, {about['cpu']}, {about['threads']} threads, load "
        f"{about['load_before']}, commit {about['commit']}. Mean over "
        f"{report['seeds']} seeds, ± their standard deviation. The published code's errors are "
        "brought to equal exact size on the line through its two nearest runs. Those runs took "
        f"{PUBLISHED_SECONDS}, on a loaded machine of two cores.", "",
        "| graph | p | fraction | size | supernodes | superedges | RE1 | published | RE2 | "
        "published | ratio | seconds |", "|---" * 12 + "|",
    ]  # fmt: skip
    groups: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for row in report["runs"]:
        groups.setdefault((row["graph"], row["p"], row["fraction"]), []).append(row)
    for (name, p, fraction), rows in groups.items():
        mean = {
            key: statistics.fmean(row[key] for row in rows)
            for key in (
                "share", "supernodes", "superedges", "re1", "re2", "published_re1",
                "published_re2", "seconds",
            )
        }  # fmt: skip
        std = {
            key: statistics.stdev(row[key] for row in rows) if len(rows) > 1 else 0.0
            for key in ("re1", "re2")
        }
        ratio = mean[f"re{p}"] / mean[f"published_re{p}"]
        lines.append(
            f"| {name} | {p} | {fraction} | {mean['share']:.2%} | {mean['supernodes']:,.0f} | "
            f"{mean['superedges']:,.0f} | {mean['re1']:.4e} ± {std['re1']:.0e} | "
            f"{mean['published_re1']:.4e} | {mean['re2']:.4e} ± {std['re2']:.0e} | "
            f"{mean['published_re2']:.4e} | "
            f"{ratio:.3f} | {mean['seconds']:.2f} |"
        )
    lines += [
        "", "`ratio` is RE1 for p = 1 and RE2 for p = 2, over the published code's.", "",
        "| graph, seed 0 | p | size | RE1 | RE2 | seconds |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in report["curves"]:
        lines.append(
            f"| {row['graph']} | {row['p']} | {row['share']:.2%} | {row['re1']:.4e} | "
            f"{row['re2']:.4e} | {row['seconds']:.2f} |"
        )
    lines += [
        "",
        "The time per edge depends on how many iterations a budget needs, from few on graphs that "
        "summarise well to all 20, and on how many pairs are tried in them.",
        "",
        "| graph | nodes | edges | iterations | seconds at 0.4 | microseconds per edge | "
        "and iteration |",
        "|---" * 7 + "|",
    ]
    for row in report["linearity"]:
        lines.append(
            f"| {row['graph']} | {row['nodes']:,} | {row['edges']:,} | {row['iterations']} | "
            f"{row['seconds']:.2f} | {1e6 * row['per_edge']:.2f} | "
            f"{1e6 * row['per_edge'] / row['iterations']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def picture(rows: list[dict[str, Any]], target: Path) -> None:
    """Errors against size on ego-Facebook, seed 0, ours and the published code's."""
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for p in (1, 2):
        points = PUBLISHED["ego-Facebook", p]
        lines[f"published code, p={p}"] = [(size / 100, a, b) for size, a, b in points]
        lines[f"graphkit, p={p}"] = [
            (row["share"], row["re1"], row["re2"])
            for row in rows
            if (row["graph"], row["p"], row["seed"]) == ("ego-Facebook", p, 0)
        ]
    draw_sizes(lines, target, title="ego-Facebook")


def curve_picture(report: dict[str, Any], target: Path) -> None:
    """Errors against size on the graphs that the published code has no figures of."""
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in report["curves"]:
        points = lines.setdefault(f"{row['graph']}, p={row['p']}", [])
        points.append((row["share"], row["re1"], row["re2"]))
    draw_sizes(lines, target, title="seed 0")


def scaling_picture(rows: list[dict[str, Any]], target: Path) -> None:
    """Time over edges on both scales' logarithms, with the slope that linear growth has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.subplots()
    law = [row for row in rows if row["graph"] == "power law"]
    for row in rows:
        if row["graph"] != "power law":
            axes.plot(row["edges"], row["seconds"], "o", label=row["graph"])
    edges = [row["edges"] for row in law]
    axes.plot(edges, [row["seconds"] for row in law], "s-", color="black", label="power law")
    if law:
        ends = [min(row["edges"] for row in rows), edges[-1]]
        line = [law[-1]["seconds"] * each / edges[-1] for each in ends]
        axes.plot(ends, line, "--", color="gray", label="linear")
    axes.set(xscale="log", yscale="log", xlabel="edges", ylabel="seconds at 40 % of the bits")
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(target, dpi=120, metadata={"Software": None})


def main() -> None:
    """Run everything and write the table, its figures and three pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--largest", type=int, default=POWER_LAW_EDGES[-1], help="edges of the largest power law"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    folder = Path(os.environ.get("GRAPHKIT_DATA", ".")) / "summarisation"
    if not folder.is_dir():
        raise SystemExit(f"{folder}: not there; set GRAPHKIT_DATA to the folder above it")
    torch.set_num_threads(chosen.threads)
    report: dict[str, Any] = {
        "environment": environment(chosen.threads), "seeds": chosen.seeds,
        "runs": compare(folder, chosen.seeds), "curves": curves(folder),
        "linearity": linearity(folder, chosen.largest),
    }  # fmt: skip
    atomic_write_text(chosen.out / "summaries.json", json.dumps(report, indent=1) + "\n")
    atomic_write_text(chosen.out / "summaries.md", table(report))
    picture(report["runs"], chosen.out / "summaries.png")
    curve_picture(report, chosen.out / "summary_curves.png")
    scaling_picture(report["linearity"], chosen.out / "summary_scaling.png")
    print(table(report))


if __name__ == "__main__":
    main()
