"""CPU inputs give the same bits when torch's default device is another one.

With a GPU as default the kernels would read its addresses; ``meta`` stands for it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from op_cases import CASES, random_graph
from torch import Tensor

from graphkit import ops
from graphkit.ops import CSR

NODES, EDGES, WIDTH, HEADS = 12, 60, 8, 4
FLOWS = ("source_to_target", "target_to_source")
LARGE = 1100  # rows of 2048 float32 in more than the 8 MB from which memory is kept
# Names that compute nothing from tensors.
OTHER = {
    "MESSAGES", "REDUCES", "SCALERS", "available", "backend", "current", "empty_cache",
    "kept_bytes", "EgoSubgraphs", "HeteroNeighborSample", "Intersection", "NeighborSample",
}  # fmt: skip


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu")


def ints(limit: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(limit, shape, generator=torch.Generator().manual_seed(seed), device="cpu")


GRAPH = random_graph(NODES, NODES, EDGES).edge_index
PAIRS = ints(NODES, 2, 9, seed=1)
UPWARD = GRAPH.sort(dim=0).values[:, GRAPH[0] != GRAPH[1]].contiguous()
SIMPLE = torch.unique(torch.cat([UPWARD, UPWARD.flip(0)], 1), dim=1)
PTR = torch.tensor([0, 3, 3, NODES])
NODE, EDGE, VECTOR = floats(NODES, WIDTH), floats(EDGES, WIDTH, seed=1), floats(WIDTH, seed=2)
QUERY, KEY = floats(NODES, WIDTH, seed=3), floats(NODES, WIDTH, seed=4)
BY_HEAD = [floats(n, HEADS, seed=5 + n) for n in (NODES, NODES, EDGES)]
FEW = ints(NODES, 5, seed=2)
MASK = floats(EDGES) > 0


def graph(edge_index: Tensor = GRAPH) -> CSR:
    """Sorted and transposed under the device of the call: a tensor of its own is not remembered."""
    return CSR.from_edge_index(edge_index.clone(), num_nodes=NODES)


def rows() -> CSR:
    return ops.sorted_rows(graph())


def csr() -> list[Any]:
    both = [CSR.from_edge_index(GRAPH.clone(), num_nodes=NODES, flow=flow) for flow in FLOWS]
    parts = [[c, c.transpose(), c.row(), c.degree, c.edge_index(), repr(c)] for c in both]
    return [parts, CSR.from_ptr(PTR), CSR.from_ptr(PTR).row()]


def walks() -> list[Any]:
    options: list[dict[str, float]] = [{}, {"p": 0.5, "q": 2.0}, {"alpha": 1.0}, {"restart": 0.5}]
    return [ops.random_walk(graph(), FEW, 6, seed=3, return_edges=True, **o) for o in options]


def samples() -> list[Any]:
    kind = ("node", "to", "node")
    found: list[Any] = [ops.hetero_neighbor_sample({kind: graph()}, {"node": FEW}, [2, 2], seed=3)]
    for directed in (True, False):
        for disjoint in (True, False):
            how = {"directed": directed, "disjoint": disjoint, "replace": directed}
            found.append(ops.neighbor_sample(graph(), FEW, [3, 2], seed=3, **how))
            found.append(ops.neighbor_sample(graph(), FEW, [], **how))
    return found


def attention(score: str, dropout: float) -> Callable[..., Any]:
    def call(*given: Tensor) -> Any:
        value, dst, src, edge, *att = given
        return ops.attention(
            graph(), value, dst, src, edge, score=score, heads=HEADS, dropout=dropout,
            att=att[0] if att else None,
        )  # fmt: skip

    return call


def logistic(user: Tensor, item: Tensor) -> Tensor:
    return ops.sampled_logistic(
        user, item, FEW, FEW, ints(NODES, 5, 3), beta_user=NODE[:, 0].abs(),
        beta_item=NODE[:, 1].abs(), weights=(0.3, 1.1, 0.2, 0.9), neighbours=ints(NODES, NODES, 2),
        neighbour_weights=NODE[:, :2].abs(), decay=0.05,
    )  # fmt: skip


def batch_norm(x: Tensor, *affine: Tensor) -> list[Tensor]:
    mean, var = torch.zeros_like(VECTOR), torch.ones_like(VECTOR)
    trained = ops.batch_norm(x, *affine, mean, var, training=True, relu=True)
    return [trained, mean, var, ops.batch_norm(x, *affine, mean, var, training=False)]


def scan(*given: Tensor) -> Any:
    return ops.selective_scan(*given, seq_ptr=PTR, return_last=True)


def scaled(x: Tensor) -> Tensor:
    averages = ops.average_degrees(torch.bincount(graph().degree))
    return ops.aggregate(graph(), x, reduce="mean", scalers=ops.SCALERS, avg_degree=averages)


# Name of the op, and of the variant: what is differentiated, and a call of it.
CALLS: dict[str, tuple[list[Tensor], Callable[..., Any]]] = {
    "CSR": ([], csr),
    "aggregate large": ([floats(LARGE, 2048)], lambda x: ops.aggregate(CSR.from_edge_index(
        ints(LARGE, 2, LARGE), num_nodes=LARGE), x, reduce=["mean", "max", "std"])),
    "aggregate scaled": ([NODE], scaled),
    "average_degrees": ([], lambda: ops.average_degrees(torch.bincount(graph().degree))),
    "attention dot": ([NODE, QUERY, KEY, EDGE], attention("dot", 0.0)),
    "attention dot dropout": ([NODE, QUERY, KEY, EDGE], attention("dot", 0.5)),
    "attention additive dropout": ([NODE, *BY_HEAD], attention("additive", 0.5)),
    "attention gatv2": ([NODE, QUERY, KEY, EDGE, VECTOR], attention("gatv2", 0.0)),
    "batch_norm": ([NODE, VECTOR, VECTOR], batch_norm),
    "common_neighbors": ([], lambda: ops.common_neighbors(rows(), PAIRS)),
    "cooccurrence": ([], lambda: ops.cooccurrence(graph(), 4)),
    "cooccurrence self": ([], lambda: ops.cooccurrence(graph(), 4, include_self=True)),
    "dense_logistic": ([NODE, KEY], lambda u, i: ops.dense_logistic(
        u, i, NODE[:, 0].abs(), excluded=(PAIRS[0], PAIRS[1]))),
    "dropout": ([NODE], lambda x: ops.dropout(x, 0.5, relu=True)),
    "edge_softmax": ([EDGE], lambda e: ops.edge_softmax(graph(), e)),
    "ego_subgraphs": ([], lambda: ops.ego_subgraphs(graph(), FEW, 2)),
    "gated_aggregate": ([NODE, QUERY, KEY, EDGE], lambda *t: ops.gated_aggregate(graph(), *t)),
    "hetero_neighbor_sample": ([], samples),
    "intersect": ([], lambda: ops.intersect(rows(), PAIRS)),
    "intersect difference": ([], lambda: ops.intersect(rows(), PAIRS, kind="difference")),
    "intersect_sum": ([NODE, NODE[:, 0]], lambda x, w: ops.intersect_sum(rows(), PAIRS, x, w)),
    "is_symmetric": ([], lambda: [ops.is_symmetric(ops.sorted_rows(graph(e))) for e in
                                  (GRAPH, SIMPLE)]),
    "keep_entries": ([], lambda: ops.keep_entries(rows(), MASK)),
    "layer_norm": ([NODE, VECTOR, VECTOR], lambda *t: ops.layer_norm(*t, p=0.5, relu=True)),
    "level_propagate": ([NODE, floats(UPWARD.size(1))], lambda *t: ops.level_propagate(
        graph(UPWARD), *t)),
    "level_propagate max": ([NODE, floats(UPWARD.size(1))], lambda *t: ops.level_propagate(
        graph(UPWARD), *t, message="add", reduce="max")),
    "linear": ([NODE, floats(5, WIDTH), floats(5)], ops.linear),
    "neighbor_sample": ([], samples),
    "random_signs": ([], lambda: ops.random_signs(FEW, (1, 9), density=0.4, seed=3)),
    "random_walk": ([], walks),
    "sampled_logistic": ([NODE, KEY], logistic),
    "segment": ([NODE], lambda x: ops.segment(x, PTR, ["mean", "min", "var"])),
    "selective_scan": ([NODE, QUERY, -floats(WIDTH, 3).abs(), floats(NODES, 3), floats(NODES, 3),
                        VECTOR, KEY, VECTOR], scan),
    "sorted_rows": ([], rows),
    "summarise": ([], lambda: ops.summarise(graph(SIMPLE), 60.0, iterations=3)),
    "top_items": ([], lambda: ops.top_items(floats(6, 700), 3, (ints(6, 5), ints(700, 5)))),
    "topological_levels": ([], lambda: ops.topological_levels(UPWARD.clone(), NODES)),
    "Levels": ([], lambda: ops.Levels.of(graph(UPWARD))),
}  # fmt: skip


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a result; a number is one of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (int, float)):
        yield torch.tensor(value, dtype=torch.float64, device="cpu")
    elif isinstance(value, CSR):
        yield from tensors([value.rowptr, value.col, value.eid])
    elif value is not None and not isinstance(value, str):
        if not isinstance(value, (list, tuple)):
            value = list((value if isinstance(value, dict) else vars(value)).values())
        for part in value:
            yield from tensors(part)


def found(leaves: list[Tensor], call: Callable[..., Any]) -> list[Tensor]:
    """Outputs and gradients."""
    torch.manual_seed(7)
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    outputs = list(tensors(call(*leaves)))
    if not leaves:
        return outputs
    ends = [o for o in outputs if o.requires_grad]
    # Not the sum's gradient, which is 0 for a normalised output.
    gradients = torch.autograd.grad(ends, leaves, [o.detach().cos() for o in ends])
    return [*(o.detach() for o in outputs), *gradients]


def compare(leaves: list[Tensor], call: Callable[..., Any]) -> None:
    wanted = found(leaves, call)
    with torch.device("meta"):
        ours = found(leaves, call)
    assert len(ours) == len(wanted) > 0
    for a, b in zip(ours, wanted, strict=True):
        assert a.device.type == "cpu" == b.device.type
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_the_default_device_does_not_matter(name, backend, request):
    if backend == "native":
        request.getfixturevalue("native")
    with ops.backend(backend):
        compare(*CALLS[name])


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_nor_for_any_variant_of_aggregation(name, backend, request):
    if backend == "native":
        request.getfixturevalue("native")
    case, given = CASES[name], random_graph(NODES, NODES, EDGES)
    leaves = list(case.make(given.csr(), 0))
    with ops.backend(backend):
        compare(leaves, lambda *t: case.call(graph(), *t))


def test_every_public_op_is_called():
    assert {name.split()[0] for name in CALLS} | OTHER == set(ops.__all__)
