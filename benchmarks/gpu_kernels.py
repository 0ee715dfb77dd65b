"""Check the Triton kernels on a GPU and time them against PyG's scatter path.

    python benchmarks/gpu_kernels.py                       # 2M nodes, 50M edges, 64 features
    python benchmarks/gpu_kernels.py --nodes 100000 --edges 2000000 --json gpu.json

PyG's path gathers one row per edge and reduces with ``torch_geometric.utils.scatter``; where that
runs out of memory the line says so. Ratios above 1 mean that graphkit is faster (or smaller).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

Step = Callable[[], Tensor]


@dataclass
class Measured:
    """Milliseconds (median) and peak memory beyond the inputs; None where memory ran out."""

    milliseconds: float | None
    peak_mib: float | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=2_000_000)
    parser.add_argument("--edges", type=int, default=50_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--hubs", type=float, default=0.05, help="share of edges into 16 nodes")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--skip-check", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_kernels: torch sees no CUDA GPU here; run this on a machine that has one")
        return 2
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("gpu_kernels: TRITON_INTERPRET=1 would time the interpreter; unset it")
        return 2
    import triton

    print(f"{torch.cuda.get_device_name()}  torch {torch.__version__}  triton {triton.__version__}")
    if not arguments.skip_check and not check():
        return 1
    results = compare(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def random_graph(nodes: int, edges: int, hubs: float) -> Tensor:
    """Uniform sources; a share of the edges points at 16 nodes, the rest anywhere."""
    torch.manual_seed(0)
    edge_index = torch.randint(0, nodes, (2, edges), device="cuda")
    heavy = int(edges * hubs)
    edge_index[1, :heavy] %= min(16, nodes)
    return edge_index


def check() -> bool:
    """Kernels against the float64 definition, and twice for the same bits."""
    from graphkit.ops import CSR, MESSAGES, REDUCES, aggregate, backend, gated_aggregate

    nodes, edges, width = 3_000, 60_000, 48
    csr = CSR.from_edge_index(random_graph(nodes, edges, 0.2), num_nodes=nodes)
    lookup = torch.randint(0, 5, (edges,), device="cuda")
    worst, failures = 0.0, 0

    def judge(name: str, step: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> None:
        nonlocal worst, failures

        def results(dtype: torch.dtype) -> list[Tensor]:
            given = [t.to(dtype, copy=True).requires_grad_() for t in inputs]
            outs = step(*given)
            torch.manual_seed(1)
            grads = [torch.randn(o.shape, dtype=torch.float64, device="cuda") for o in outs]
            grads = [g.to(dtype) for g in grads]
            return [*outs, *torch.autograd.grad(outs, given, grads)]

        with backend("reference"):
            wanted = results(torch.float64)
        # Rounding to float32 may crown another winner of min and max: those in float64 only.
        extrema = "min" in name or "max" in name
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
            if extrema and dtype == torch.float32:
                continue
            first, second = results(dtype), results(dtype)
            error = max(
                float((a.double() - b).abs().max() / b.abs().max().clamp(min=1))
                for a, b in zip(first, wanted, strict=True)
            )
            worst = max(worst, error)
            same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
            if not error <= tolerance or not same:
                failures += 1
                bits = "repeat" if same else "differ"
                print(f"FAILED {name} {dtype}: error {error:.1e}, bits {bits}")

    x = torch.randn(nodes, width, device="cuda")
    for message in MESSAGES:
        rows = {"copy": None, "scale": torch.randn(edges, 4, device="cuda")}.get(
            message, torch.randn(edges, width, device="cuda")
        )
        inputs = [x] if rows is None else [x, rows]
        for reduce in (*REDUCES, REDUCES):
            judge(
                f"{message} {reduce}",
                lambda *t, m=message, r=reduce: (aggregate(csr, *t, message=m, reduce=r),),
                inputs,
            )
        if rows is not None:
            judge(
                f"{message} sum and max with a table",
                lambda *t, m=message: (
                    aggregate(csr, *t, lookup=lookup, message=m, reduce=["sum", "max"]),
                ),
                [x, rows[:5]],
            )
    gates = [torch.randn(nodes, width, device="cuda") for _ in range(3)]
    judge("gated", lambda *t: gated_aggregate(csr, *t)[:1], gates)
    judge("gated with edges", lambda *t: gated_aggregate(csr, *t),
          [*gates, torch.randn(edges, width, device="cuda")])  # fmt: skip
    print(f"check: {failures} failures, largest relative error {worst:.1e}")
    return failures == 0


def measure(step: Step, repeats: int) -> Measured:
    """Median time by CUDA events after two warm-ups, and the memory above what was held before."""
    try:
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        peak = torch.cuda.max_memory_allocated() - before
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return Measured(None, None)
    return Measured(sorted(times)[len(times) // 2], peak / 2**20)


def compare(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Time forward, and forward with backward, of both sides."""
    from torch_geometric.utils import scatter

    from graphkit.ops import CSR, aggregate, gated_aggregate

    n, width, dtype = arguments.nodes, arguments.features, getattr(torch, arguments.dtype)
    edge_index = random_graph(n, arguments.edges, arguments.hubs)
    source, target = edge_index
    csr = CSR.from_edge_index(edge_index, num_nodes=n)
    csr.transpose()

    def rows(count: int) -> Tensor:
        return torch.randn(count, width, device="cuda", dtype=dtype).requires_grad_()

    x, weight = rows(n), torch.rand(arguments.edges, device="cuda", dtype=dtype).requires_grad_()
    dst, src, value = rows(n), rows(n), rows(n)

    def gated_by_scatter() -> Tensor:
        opened = torch.sigmoid(dst[target] + src[source])
        above = scatter(opened * value[source], target, 0, n, reduce="sum")
        return above / (scatter(opened, target, 0, n, reduce="sum") + 1e-6)

    cases: dict[str, tuple[Step, Step, list[Tensor]]] = {
        "copy sum": (
            lambda: aggregate(csr, x),
            lambda: scatter(x[source], target, 0, n, reduce="sum"),
            [x],
        ),
        "scale sum": (
            lambda: aggregate(csr, x, weight, message="scale"),
            lambda: scatter(x[source] * weight[:, None], target, 0, n, reduce="sum"),
            [x, weight],
        ),
        "copy max": (
            lambda: aggregate(csr, x, reduce="max"),
            lambda: scatter(x[source], target, 0, n, reduce="max"),
            [x],
        ),
        "gated": (
            lambda: gated_aggregate(csr, dst, src, value)[0],
            gated_by_scatter,
            [dst, src, value],
        ),
    }
    results: list[dict[str, object]] = []
    print(f"{n:,} nodes, {arguments.edges:,} edges, {width} features, {arguments.dtype}")
    heads = f"{'case':22}{'graphkit ms':>13}{'PyG ms':>10}{'ratio':>8}"
    print(heads + f"{'MiB':>9}{'PyG MiB':>10}{'ratio':>8}")
    grad = torch.randn(n, width, device="cuda", dtype=dtype)
    for name, (ours, theirs, inputs) in cases.items():

        def forward(step: Step) -> Step:
            def run() -> Tensor:
                with torch.no_grad():
                    return step()

            return run

        def both(step: Step, inputs: list[Tensor] = inputs) -> Step:
            return lambda: torch.autograd.grad(step(), inputs, grad)[0]

        for kind, wrap in (("forward", forward), ("+ backward", both)):
            mine = measure(wrap(ours), arguments.repeats)
            other = measure(wrap(theirs), arguments.repeats)
            line = f"{name + ' ' + kind:22}{_cell(mine.milliseconds, 13)}"
            line += _cell(other.milliseconds, 10) + _ratio(other.milliseconds, mine.milliseconds)
            line += f"{_cell(mine.peak_mib, 9)}{_cell(other.peak_mib, 10)}"
            print(line + _ratio(other.peak_mib, mine.peak_mib), flush=True)
            results.append(
                {"case": name, "kind": kind, "graphkit": asdict(mine), "pyg": asdict(other)}
            )
    return results


def _cell(value: float | None, width: int) -> str:
    return f"{'no memory':>{width}}" if value is None else f"{value:{width}.2f}"


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{'-':>8}" if not theirs or not ours else f"{theirs / ours:8.2f}"


if __name__ == "__main__":
    sys.exit(main())
