"""What every op must stand: graphs that are awkward in one way each, and one entry per op variant.

A new message, reduce or op adds an entry here and is then held to all checks of
``test_op_contract.py``. ``COVERS`` names the custom ops; a custom op that is missing fails a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.ops import CSR, MESSAGES, REDUCES, aggregate, edge_softmax, gated_aggregate

COVERS = {
    "graphkit::aggregate",
    "graphkit::aggregate_backward",
    "graphkit::gated_aggregate",
    "graphkit::gated_aggregate_backward",
    "graphkit::csr_sort",
    "graphkit::csr_transpose",
    # Arguments of its own, so checks of its own: tests/ops/test_attention.py.
    "graphkit::attention",
    "graphkit::attention_backward",
    # tests/ops/test_intersect.py
    "graphkit::intersect",
    "graphkit::common_neighbors",
    "graphkit::intersect_sum",
    "graphkit::intersect_sum_backward",
    # tests/ops/test_level_propagate.py
    "graphkit::topological_levels",
    "graphkit::level_propagate",
    "graphkit::level_propagate_backward",
    "graphkit::selective_scan",  # tests/ops/test_selective_scan.py
    "graphkit::selective_scan_backward",
    "graphkit::sampled_logistic",  # tests/ops/test_sampled_logistic.py
    "graphkit::sampled_logistic_backward",
}
HUB_DEGREE = 16384  # longer rows are cut into pieces (graphkit/ops/cpu/parallel.h)
WIDTH = 12
HEADS = 4
TABLE_ROWS = 5


@dataclass(frozen=True)
class Graph:
    """An edge_index and its sizes: ``(sources, destinations)``."""

    edge_index: Tensor
    size: tuple[int, int]

    def csr(self) -> CSR:
        return CSR.from_edge_index(self.edge_index, size=self.size)


def random_graph(sources: int, destinations: int, edges: int, seed: int = 0) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    size = (sources, destinations)
    ends = [torch.randint(0, limit, (edges,), generator=generator) for limit in size]
    return Graph(torch.stack(ends), size)


def hub_graph(edges: int = 24_000) -> Graph:
    """Row 3 receives, and source 5 sends, more than ``HUB_DEGREE`` edges."""
    graph = random_graph(37, 37, edges)
    graph.edge_index[1, : edges * 3 // 4] = 3
    graph.edge_index[0, edges // 4 :] = 5
    return graph


def _graph(pairs: list[tuple[int, int]], size: tuple[int, int]) -> Graph:
    return Graph(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t().contiguous(), size)


SMALL_GRAPHS: dict[str, Graph] = {
    "random": random_graph(30, 30, 200),
    "bipartite": random_graph(9, 21, 90),
    "empty": _graph([], (0, 0)),
    "no_sources": _graph([], (0, 4)),
    "no_destinations": _graph([], (4, 0)),
    "no_edges": _graph([], (5, 5)),
    "one_node": _graph([], (1, 1)),
    "one_self_loop": _graph([(0, 0)], (1, 1)),
    "self_loops": _graph([(i, i) for i in range(6)], (6, 6)),
    "duplicates": _graph([(0, 1)] * 5 + [(2, 1)] * 3 + [(1, 0)] * 2, (3, 3)),
    "isolated_first_and_last": _graph([(2, 3), (3, 2), (2, 4), (4, 2), (3, 4)], (8, 8)),
    "descending": _graph([(9 - i, 8 - i) for i in range(9)], (10, 10)),
}
GRAPHS: dict[str, Graph] = {**SMALL_GRAPHS, "hub": hub_graph()}


@dataclass(frozen=True)
class OpCase:
    """One variant of one op.

    ``make(csr, seed)`` gives the float64 tensors it takes (all differentiable) and
    ``call(csr, *tensors)`` its outputs.
    """

    name: str
    make: Callable[[CSR, int], tuple[Tensor, ...]]
    call: Callable[..., tuple[Tensor, ...]]
    message: str = ""
    reduces: tuple[str, ...] = ()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lookup_of(csr: CSR) -> Tensor:
    """Edge rows of a table, kept with the graph so that equal calls share one tensor."""
    kept = csr.derived.get("test lookup")
    if kept is None:
        kept = torch.arange(csr.num_entries, device=csr.col.device) * 7 % TABLE_ROWS
        csr.derived["test lookup"] = kept
    assert isinstance(kept, Tensor)
    return kept


def _aggregate_case(message: str, layout: str, reduces: tuple[str, ...]) -> OpCase:
    by_table = layout.startswith("table")

    def make(csr: CSR, seed: int) -> tuple[Tensor, ...]:
        x = normal(csr.num_cols, WIDTH, seed=seed)
        rows = TABLE_ROWS if by_table else csr.num_entries
        if layout == "none":
            return (x,)
        if layout.endswith("weight"):
            return x, normal(rows, seed=seed + 1)
        return x, normal(rows, HEADS if layout.endswith("heads") else WIDTH, seed=seed + 1)

    def call(csr: CSR, *tensors: Tensor) -> tuple[Tensor, ...]:
        lookup = lookup_of(csr) if by_table else None
        out = aggregate(csr, *tensors, lookup=lookup, message=message, reduce=list(reduces))
        return (out,)

    return OpCase(f"{message}-{layout}-{'+'.join(reduces)}", make, call, message, reduces)


def _gated_case(with_edge: bool, normalize: bool) -> OpCase:
    def make(csr: CSR, seed: int) -> tuple[Tensor, ...]:
        rows = [csr.num_rows, csr.num_cols, csr.num_cols] + [csr.num_entries] * with_edge
        return tuple(normal(n, WIDTH, seed=seed + i) for i, n in enumerate(rows))

    def call(csr: CSR, *tensors: Tensor) -> tuple[Tensor, ...]:
        out, edge = gated_aggregate(csr, *tensors, normalize=normalize)
        return (out,) if edge is None else (out, edge)

    name = f"gated-{'edge' if with_edge else 'no_edge'}-{'mean' if normalize else 'sum'}"
    return OpCase(name, make, call)


LAYOUTS = {
    "copy": ("none",),
    "scale": ("weight", "heads", "table_weight", "table_heads"),
    **dict.fromkeys(("mul", "add", "add_relu"), ("edge", "table")),
}
REDUCE_SETS = (*((r,) for r in REDUCES), ("mean", "min", "max", "std"), ("sum", "var"))


def _cases() -> Iterator[OpCase]:
    for message in MESSAGES:
        for layout in LAYOUTS[message]:
            for reduces in REDUCE_SETS:
                yield _aggregate_case(message, layout, reduces)
    for with_edge in (True, False):
        for normalize in (True, False):
            yield _gated_case(with_edge, normalize)
    yield OpCase(
        "edge_softmax",
        lambda csr, seed: (normal(csr.num_entries, WIDTH, seed=seed),),
        lambda csr, score: (edge_softmax(csr, score),),
    )


CASES: dict[str, OpCase] = {case.name: case for case in _cases()}
# One case for each kind of kernel, for checks that are too slow to run on all.
CORE = [
    CASES[name]
    for name in (
        "copy-none-sum", "copy-none-mean+min+max+std", "scale-heads-mean", "mul-table-sum+var",
        "scale-table_heads-sum", "add_relu-edge-sum", "add_relu-table-max", "gated-edge-mean",
        "gated-no_edge-mean",
    )
]  # fmt: skip


def run(
    case: OpCase, csr: CSR, tensors: tuple[Tensor, ...], seed: int = 100
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of all inputs for one fixed cotangent."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    outputs = list(case.call(csr, *leaves))
    cotangents = [normal(*o.shape, seed=seed + i).to(o.dtype) for i, o in enumerate(outputs)]
    gradients = list(torch.autograd.grad(outputs, leaves, cotangents))
    return [o.detach() for o in outputs], gradients
