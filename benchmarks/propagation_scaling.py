"""RpHGNN's precomputation at four sizes of one graph: time and memory over the edges.

    python -m benchmarks.propagation_scaling               # up to eight million edges, some minutes
    python -m benchmarks.propagation_scaling --edges 20000 # a small largest size, to try it

Each size runs in a process of its own. A line through the origin and the largest size shows what
"linear in the edges" would be; the exponent of a fit in logarithms says how near the times are.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

from benchmarks.report import environment

RESULTS = Path(__file__).parent / "results"
SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
EDGES_PER_PAPER = 16  # 3 of authors, 1 of the venue, 4 of citations, 8 of terms


def academic(papers: int, seed: int = 0) -> Any:
    """Papers, authors, venues and terms, whose numbers and edges grow with the papers."""
    import torch
    from torch_geometric.data import HeteroData

    generator = torch.Generator().manual_seed(seed)
    sizes = {"paper": papers, "author": papers // 2, "venue": papers // 64, "term": papers // 4}
    data = HeteroData()
    for kind, size in sizes.items():
        data[kind].num_nodes = size
    data["paper"].x = torch.randn(papers, 64, generator=generator)
    for relation, other, each in (
        ("by", "author", 3), ("in", "venue", 1), ("cites", "paper", 4), ("has", "term", 8),
    ):  # fmt: skip
        ends = torch.randint(sizes[other], (papers * each,), generator=generator)
        start = torch.arange(papers).repeat_interleave(each)
        data["paper", relation, other].edge_index = torch.stack([start, ends])
    return data


def measure(papers: int, threads: int, answers: Any) -> None:
    """Time one size; called in a fresh process."""
    import resource

    import torch

    from graphkit.models import RpHGNNPropagation

    torch.set_num_threads(threads)
    data = academic(papers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    groups: list[Any] = []
    for _ in range(3):
        groups.clear()  # not in the peak twice
        start = time.perf_counter()
        groups = RpHGNNPropagation(iterations=3, embedding_size=64, seed=1).fit_transform(
            data, "paper"
        )
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers.put(
        {
            "papers": papers,
            "edges": papers * EDGES_PER_PAPER,
            "seconds": min(seconds),
            "all_seconds": seconds,
            "result_mb": sum(g.numel() * 2 for g in groups) / 2**20,
            "extra_mb": (peak - before) / 1024,
        }
    )


def exponent(rows: list[dict[str, Any]]) -> float:
    """Slope of time over edges in logarithms, by least squares; 1 is linear."""
    x = [math.log(row["edges"]) for row in rows]
    y = [math.log(row["seconds"]) for row in rows]
    middle = sum(x) / len(x)
    across = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / across


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time over edges, with the line that linear growth would follow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    edges = [row["edges"] / 1e6 for row in rows]
    axis.plot(edges, [row["seconds"] for row in rows], "o-", label="measured")
    slope = rows[-1]["seconds"] / edges[-1]
    axis.plot([0, edges[-1]], [0, slope * edges[-1]], "--", color="gray", label="linear")
    axis.set_xlabel("edges in millions")
    axis.set_ylabel("seconds of precomputation")
    axis.set_title(f"RpHGNN, 3 iterations: time ~ edges^{exponent(rows):.2f}", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edges", type=int, default=8_000_000, help="of the largest size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for share in SHARES:
        answers = context.Queue()
        papers = max(64, int(chosen.edges * share) // EDGES_PER_PAPER)
        process = context.Process(target=measure, args=(papers, chosen.threads, answers))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{papers} papers: the process ended with {process.exitcode}")
        rows.append(answers.get())
        print(json.dumps(rows[-1]))
    chosen.out.mkdir(parents=True, exist_ok=True)
    content = {
        "environment": environment(chosen.threads), "exponent": exponent(rows), "sizes": rows
    }  # fmt: skip
    target = chosen.out / "propagation_scaling.json"
    target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draw(rows, chosen.out / "propagation_scaling.png")
    print(f"exponent {exponent(rows):.3f}; {target}")


if __name__ == "__main__":
    main()
