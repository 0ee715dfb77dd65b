"""Run the benchmarks.

    python -m benchmarks                     # all, about ten minutes, below 16 GB
    python -m benchmarks --list
    python -m benchmarks --only gcn,four     # some, the rows of others stay as they are in results/
    python -m benchmarks --only "gat*"       # a trailing * matches the beginning of a name
    python -m benchmarks --only roofline     # what each op moves or computes per second, alone
    python -m benchmarks --scale 0.01        # a hundredth of the graph, to try the machinery

Every case runs in processes of its own: one that times both sides in turns, one per side that
takes its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", default="", help="comma-separated names of cases")
    parser.add_argument("--list", action="store_true", help="show the cases and stop")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the graph, 1 is full")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="instead of as many as fit in 12 s per side")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--worker", nargs=3, metavar=("TASK", "CASE", "FILE"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.scale <= 0 or arguments.threads < 1 or (arguments.repeats or 1) < 1:
        parser.error("--scale, --threads and --repeats must be positive")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.worker:
        return work(arguments)
    # The registry imports torch and both libraries, so a worker pays for it, and --list here.
    from benchmarks import report
    from benchmarks.cases import CASES, RATES, select, select_rates

    if arguments.list:
        for each in (*CASES.values(), *RATES.values()):
            print(f"{each.name:14} {each.title}")
        return 0
    cases, rates = list(select(arguments.only)), list(select_rates(arguments.only))
    if not cases and not rates:
        print(
            f"--only {arguments.only}: no such case; there are {', '.join((*CASES, *RATES))}",
            file=sys.stderr,
        )
        return 2
    begin = time.perf_counter()
    record: dict[str, Any] = {
        "environment": report.environment(arguments.threads),
        "graph": report.describe_graph(arguments.scale),
        "scale": arguments.scale,
        "rows": [],
        "rates": [],
    }
    for case in cases:
        timed = spawn("time", case.name, arguments)
        sizes = {}
        if case.memory and not arguments.no_memory:
            sizes = {
                side: spawn(f"memory-{side}", case.name, arguments) for side in ("ours", "peer")
            }
        for mode, row in timed.items():
            row = {
                "case": case.name,
                "title": case.title,
                "mode": mode,
                "goal": case.goals.get(mode),
                **row,
            }
            for side, found in sizes.items():
                row[f"{side}_bytes"] = found.get(mode)
            record["rows"].append(row)
            print(line_of(row), flush=True)
        record["seconds"] = time.perf_counter() - begin
        report.write(record, arguments.out)  # a run that is stopped keeps what it measured
    for rate in rates:
        found = spawn("rate", rate.name, arguments, rate.threads)
        row = {"case": rate.name, "title": rate.title, "goal": rate.goal, **found}
        record["rates"].append(row)
        print(report.rate_line(row), flush=True)
        record["seconds"] = time.perf_counter() - begin
        report.write(record, arguments.out)
    if not arguments.only:
        record["spmm"] = spawn("spmm", "-", arguments)
    record["seconds"] = time.perf_counter() - begin
    for path in report.write(record, arguments.out):
        print(path)
    return int(any("error" in row for row in (*record["rows"], *record["rates"])))


def line_of(row: dict[str, Any]) -> str:
    head = f"{row['case']:14} {row['mode']:17}"
    for word in ("error", "skipped"):
        if word in row:
            return f"{head} {word}: {row[word]}"
    ours, peer = row["ours_ms"]["median"], row["peer_ms"]["median"]
    line = f"{head} {ours:9.1f} ms {peer:9.1f} ms {row['ratio']:6.2f}x"
    if row.get("ours_bytes") is not None and row.get("peer_bytes"):
        line += f"  memory {row['ours_bytes'] / row['peer_bytes']:.1%}"
    return line


def spawn(
    task: str, case: str, arguments: argparse.Namespace, threads: int | None = None
) -> dict[str, Any]:
    """Run one task in a process of its own and return what it measured."""
    number = str(threads or arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [
            sys.executable, "-m", "benchmarks", "--worker", task, case, str(answer),
            "--scale", str(arguments.scale), "--threads", number,
        ]  # fmt: skip
        if arguments.repeats:
            command += ["--repeats", str(arguments.repeats)]
        environment = {**os.environ, "OMP_NUM_THREADS": number}
        done = subprocess.run(
            command, cwd=Path(__file__).parent.parent, env=environment, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode or not answer.exists():
            words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            if task == "rate":
                return {"error": words[-1]}
            return {"-": {"error": words[-1]}} if task == "time" else {}
        return dict(json.loads(answer.read_text(encoding="utf-8")))


def work(arguments: argparse.Namespace) -> int:
    import torch

    from benchmarks import measure, spmm
    from benchmarks.cases import CASES, RATES, Skipped

    torch.set_num_threads(arguments.threads)
    task, name, answer = arguments.worker
    found: dict[str, Any] = {}
    if task == "spmm":
        found = spmm.measure(arguments.scale)
    elif task == "rate":
        with torch.no_grad():
            work_of = RATES[name].build(arguments.scale)
            found = measure.rate_of(work_of, arguments.scale, arguments.repeats)
    else:
        case = CASES[name]
        try:
            modes = case.build(arguments.scale)
        except Skipped as reason:
            if task == "time":
                Path(answer).write_text(
                    json.dumps({"-": {"skipped": str(reason)}}), encoding="utf-8"
                )
            return 0
        if task != "time":
            # Load the code of both passes on a small input first: it is not the step's memory.
            for make in case.build(0.001).values():
                getattr(make(), task.removeprefix("memory-"))()
        for mode in modes:
            if task == "time":
                found[mode] = measure.time_pair(modes[mode](), arguments.repeats)
                continue
            # Fresh inputs per mode: nothing is remembered from the one before.
            pair = case.build(arguments.scale)[mode]()
            step = getattr(pair, task.removeprefix("memory-"))
            found[mode] = measure.extra_memory(step, pair.prepare)
    Path(answer).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
