"""Check the Triton kernels on a GPU and time them against PyG's path under ``torch.compile``.

    python benchmarks/gpu_kernels.py                       # 2M nodes, 50M edges, 64 features
    python benchmarks/gpu_kernels.py --nodes 100000 --edges 2000000 --json gpu.json

PyG's path gathers one row per edge and reduces with ``torch_geometric.utils.scatter`` and
``softmax``, compiled by inductor unless ``--peer eager`` is given; where it runs out of memory the
line says so. Ratios above 1 mean that graphkit is faster (or smaller). Memory is what a step needs
beyond its inputs; graphkit's sorted graph counts as one and has a line of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from graphkit.ops import CSR

Step = Callable[[], Tensor]
Case = tuple[Step, Step, list[Tensor]]  # graphkit's step, PyG's step, what has a gradient
SPEED, MEMORY = 2.0, 5.0  # what forward with backward is to reach, as ratios


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
    parser.add_argument("--heads", type=int, default=8, help="of attention")
    parser.add_argument("--dropout", type=float, default=0.0, help="of attention's weights")
    parser.add_argument("--peer", choices=["compile", "eager"], default="compile")
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--hubs", type=float, default=0.05, help="share of edges into 16 nodes")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--skip-check", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if arguments.features % arguments.heads:
        parser.error(f"--heads {arguments.heads}: wanted a divisor of {arguments.features}")
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
    from graphkit.ops import CSR, MESSAGES, REDUCES, aggregate, attention, backend, gated_aggregate

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
    edge, bias = torch.randn(edges, width, device="cuda"), torch.randn(edges, 4, device="cuda")
    weighing = {"heads": 4, "dropout": 0.3, "seed": torch.tensor([11])}
    judge("additive attention",
          lambda v, d, s, e, b: (attention(csr, v, d, s, e, bias=b, **weighing),),
          [x, gates[0][:, :4], gates[1][:, :4], edge[:, :4], bias])  # fmt: skip
    judge("gatv2 attention",
          lambda v, d, s, e, b, a: (
              attention(csr, v, d, s, e, score="gatv2", att=a, bias=b, **weighing),),
          [x, *gates[:2], edge, bias, torch.randn(width, device="cuda")])  # fmt: skip
    judge("dot attention",
          lambda v, d, s, e, b: (attention(csr, v, d, s, e, score="dot", bias=b, **weighing),),
          [x, *gates[:2], edge, bias])  # fmt: skip
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


def aggregations(csr: CSR, edge_index: Tensor, arguments: argparse.Namespace) -> dict[str, Case]:
    """Sums, maxima and gates, on both sides."""
    from torch_geometric.utils import scatter

    from graphkit.ops import aggregate, gated_aggregate

    source, target = edge_index
    n, edges = arguments.nodes, arguments.edges
    x, weight = _rows(n, arguments.features, arguments), _rows(edges, 1, arguments)
    dst, src, value = (_rows(n, arguments.features, arguments) for _ in range(3))

    def gated_by_scatter() -> Tensor:
        opened = torch.sigmoid(dst[target] + src[source])
        above = scatter(opened * value[source], target, 0, n, reduce="sum")
        return above / (scatter(opened, target, 0, n, reduce="sum") + 1e-6)

    return {
        "copy sum": (
            lambda: aggregate(csr, x),
            lambda: scatter(x[source], target, 0, n, reduce="sum"),
            [x],
        ),
        "scale sum": (
            lambda: aggregate(csr, x, weight, message="scale"),
            lambda: scatter(x[source] * weight, target, 0, n, reduce="sum"),
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


def attentions(csr: CSR, edge_index: Tensor, arguments: argparse.Namespace) -> dict[str, Case]:
    """The sums that GATConv, GATv2Conv and TransformerConv make of their projected features."""
    from torch_geometric.utils import scatter, softmax

    from graphkit.ops import attention

    source, target = edge_index
    n, width, heads = arguments.nodes, arguments.features, arguments.heads
    per_head, dropout = width // heads, arguments.dropout
    value, dst, src = (_rows(n, width, arguments) for _ in range(3))
    to, of = _rows(n, heads, arguments), _rows(n, heads, arguments)
    att = _rows(1, width, arguments)

    def by_head(rows: Tensor) -> Tensor:
        return rows.view(-1, heads, per_head)

    def weighted(score: Tensor, values: Tensor) -> Tensor:
        weight = F.dropout(softmax(score, target, num_nodes=n), dropout)
        messages = by_head(values[source]) * weight[..., None]
        return scatter(messages.flatten(1), target, 0, n, reduce="sum")

    def gatv2_by_scatter() -> Tensor:
        joined = F.leaky_relu(dst[target] + src[source], 0.2)
        return weighted((by_head(joined) * by_head(att)).sum(-1), src)

    def dot_by_scatter() -> Tensor:
        score = (by_head(dst[target]) * by_head(src[source])).sum(-1) * per_head**-0.5
        return weighted(score, value)

    options: Any = {"heads": heads, "dropout": dropout}
    return {
        "attention additive": (
            lambda: attention(csr, value, to, of, **options),
            lambda: weighted(F.leaky_relu(to[target] + of[source], 0.2), value),
            [value, to, of],
        ),
        "attention gatv2": (
            lambda: attention(csr, src, dst, src, score="gatv2", att=att, **options),
            gatv2_by_scatter,
            [dst, src, att],
        ),
        "attention dot": (
            lambda: attention(csr, value, dst, src, score="dot", **options),
            dot_by_scatter,
            [value, dst, src],
        ),
    }


def _rows(count: int, width: int, arguments: argparse.Namespace) -> Tensor:
    dtype = getattr(torch, arguments.dtype)
    return torch.randn(count, width, device="cuda", dtype=dtype).requires_grad_()


def compare(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Time forward, and forward with backward, of both sides."""
    from graphkit.ops import CSR

    n = arguments.nodes
    edge_index = random_graph(n, arguments.edges, arguments.hubs)

    def sort() -> Tensor:
        nonlocal csr
        csr = CSR.from_edge_index(edge_index.clone(), num_nodes=n)
        return csr.transpose().col

    csr: CSR | None = None
    sorting = measure(sort, 3)
    assert csr is not None
    print(f"{n:,} nodes, {arguments.edges:,} edges, {arguments.features} features", end=", ")
    print(f"{arguments.heads} heads, {arguments.dtype}, PyG: {arguments.peer}")
    held = sum(
        t.numel() * t.element_size()
        for side in (csr, csr.transpose())
        for t in (side.rowptr, side.col, side.eid)
        if t is not None
    )
    print(f"sorting the graph both ways, once:{_cell(sorting.milliseconds, 11)} ms", end="")
    print(f"{_cell(held / 2**20, 9)} MiB held")
    heads = f"{'case':32}{'graphkit ms':>13}{'PyG ms':>10}{'ratio':>8}"
    print(heads + f"{'MiB':>9}{'PyG MiB':>10}{'ratio':>8}")
    dtype = getattr(torch, arguments.dtype)
    grad = torch.randn(n, arguments.features, device="cuda", dtype=dtype)
    results: list[dict[str, object]] = []
    missed: list[str] = []
    for family in (aggregations, attentions):
        for name, case in family(csr, edge_index, arguments).items():
            if arguments.only not in name:
                continue
            for kind in ("forward", "+ backward"):
                mine, other = _both_sides(case, kind, grad, arguments)
                line = f"{name + ' ' + kind:32}{_cell(mine.milliseconds, 13)}"
                line += _cell(other.milliseconds, 10)
                line += _ratio(other.milliseconds, mine.milliseconds)
                line += f"{_cell(mine.peak_mib, 9)}{_cell(other.peak_mib, 10)}"
                print(line + _ratio(other.peak_mib, mine.peak_mib), flush=True)
                if kind != "forward" and not _reached(mine, other):
                    missed.append(name)
                results.append(
                    {"case": name, "kind": kind, "graphkit": asdict(mine), "pyg": asdict(other)}
                )
    goal = f"{SPEED:g} times PyG's speed in {100 / MEMORY:g} % of its memory, with backward"
    print(f"{goal}: " + (f"missed by {', '.join(missed)}" if missed else "reached by all"))
    return results


def _both_sides(
    case: Case, kind: str, grad: Tensor, arguments: argparse.Namespace
) -> tuple[Measured, Measured]:
    ours, theirs, inputs = case
    if arguments.peer == "compile":
        torch.compiler.reset()
        theirs = torch.compile(theirs)

    def wrap(step: Step) -> Step:
        def forward() -> Tensor:
            with torch.no_grad():
                return step()

        def both() -> Tensor:
            return torch.autograd.grad(step(), inputs, grad)[0]

        return forward if kind == "forward" else both

    return measure(wrap(ours), arguments.repeats), measure(wrap(theirs), arguments.repeats)


def _reached(mine: Measured, other: Measured) -> bool:
    """Whether graphkit meets the goal; a peer that runs out of memory has lost."""
    if mine.milliseconds is None or mine.peak_mib is None:
        return False
    if other.milliseconds is None or other.peak_mib is None:
        return True
    quick = other.milliseconds >= SPEED * mine.milliseconds
    return quick and other.peak_mib >= MEMORY * mine.peak_mib


def _cell(value: float | None, width: int) -> str:
    return f"{'no memory':>{width}}" if value is None else f"{value:{width}.2f}"


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{'-':>8}" if not theirs or not ours else f"{theirs / ours:8.2f}"


if __name__ == "__main__":
    sys.exit(main())
