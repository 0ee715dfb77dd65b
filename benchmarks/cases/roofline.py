"""What each op moves or computes per second, beside a large copy: no peer, one number per op.

Bytes are counted as benchmarks/spmm.py does: rows that are gathered once per use, indices, outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.cases.registry import Work, graph_inputs, register_rate
from benchmarks.graphs import FEATURES
from graphkit import ops
from graphkit.ops import CSR

SEEDS, FANOUTS = 1024, [10, 10]


def _graph(scale: float) -> tuple[Tensor, CSR]:
    x, edge_index = graph_inputs(scale)
    return x, CSR.from_edge_index(edge_index, num_nodes=x.size(0))


def _size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _gathered(x: Tensor, csr: CSR) -> int:
    """A row of x for every entry, and the graph."""
    return csr.num_entries * x.size(1) * x.element_size() + _size(csr.rowptr, csr.col)


@register_rate("roofline_sum", "sum over neighbours (SpMM)", "roofline")
def _sum(scale: float) -> Work:
    x, csr = _graph(scale)
    return Work(lambda: ops.aggregate(csr, x), _gathered(x, csr) + _size(x))


@register_rate("roofline_four", "mean, min, max and std in one pass", "roofline")
def _four(scale: float) -> Work:
    x, csr = _graph(scale)
    reduces = ["mean", "min", "max", "std"]
    return Work(lambda: ops.aggregate(csr, x, reduce=reduces), _gathered(x, csr) + 4 * _size(x))


@register_rate("roofline_gated", "gated sum with edge states", "roofline")
def _gated(scale: float) -> Work:
    x, csr = _graph(scale)
    edge = torch.randn(csr.num_entries, FEATURES)
    # Two rows gathered, an edge's row read and one written; its place in edge_index; per node two.
    moved = 2 * _gathered(x, csr) + 2 * _size(edge) + 2 * _size(x)
    moved += 0 if csr.eid is None else _size(csr.eid)
    return Work(lambda: ops.gated_aggregate(csr, x, x, x, edge), moved)


@register_rate("roofline_attention", "additive attention, 8 heads of 16", "roofline")
def _attention(scale: float) -> Work:
    x, csr = _graph(scale)
    heads = 8
    dst, src = x[:, :heads].contiguous(), x[:, heads : 2 * heads].contiguous()
    scores = csr.num_entries * heads * x.element_size()
    moved = _gathered(x, csr) + scores + _size(x, dst)
    return Work(lambda: ops.attention(csr, x, dst, src, heads=heads, score="additive"), moved)


@register_rate("roofline_batch_norm", "batch norm with ReLU, training", "roofline")
def _batch_norm(scale: float) -> Work:
    x, _ = graph_inputs(scale)
    # The sums are known only when all of x was read: it is read again to be written.
    return Work(
        lambda: ops.batch_norm(x, None, None, None, None, training=True, relu=True), 3 * _size(x)
    )


@register_rate("roofline_linear", "dense map of 128 by 128", "roofline")
def _linear(scale: float) -> Work:
    x, _ = graph_inputs(scale)
    weight, bias = torch.randn(FEATURES, FEATURES), torch.randn(FEATURES)
    return Work(lambda: ops.linear(x, weight, bias), 2 * x.numel() * FEATURES, "flop")


@register_rate(
    "roofline_selective_scan", "selective scan, 64 sequences of 256, 128 x 16 states", "roofline"
)
def _selective_scan(scale: float) -> Work:
    torch.manual_seed(0)
    sequences, steps, states = max(2, int(64 * scale)), 256, 16
    u, delta, b, c = (
        torch.randn(sequences * steps, n) for n in (FEATURES, FEATURES, states, states)
    )
    decay = -torch.arange(1.0, states + 1).repeat(FEATURES, 1)
    ptr = torch.arange(sequences + 1) * steps
    return Work(
        lambda: ops.selective_scan(u, delta, decay, b, c, seq_ptr=ptr), _size(u, delta, b, c, u)
    )


@register_rate("roofline_intersect", "intersections of a million random pairs", "roofline")
def _intersect(scale: float) -> Work:
    x, csr = _graph(scale)
    csr = ops.sorted_rows(csr)
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randint(x.size(0), (2, max(1000, int(1_000_000 * scale))), generator=generator)
    found = ops.intersect(csr, pairs)
    width = csr.col.element_size()
    # Both rows of a pair, where they begin and end, the pair itself, and what is found.
    moved = int(csr.degree.long()[pairs].sum()) * width + 2 * pairs.numel() * width + _size(pairs)
    moved += _size(found.ptr, found.node, found.entry, found.entry)
    return Work(lambda: ops.intersect(csr, pairs), moved)


@register_rate("roofline_level_propagate", "late arrival times along a DAG", "roofline")
def _level_propagate(scale: float) -> Work:
    x, edge_index = graph_inputs(scale)
    ends = edge_index[:, edge_index[0] < edge_index[1]]
    csr = CSR.from_edge_index(ends, num_nodes=x.size(0))
    delay = torch.rand(csr.num_entries)
    moved = _gathered(x, csr) + _size(delay) + 2 * _size(x)
    moved += 0 if csr.eid is None else _size(csr.eid)
    return Work(lambda: ops.level_propagate(csr, x, delay, message="add", reduce="max"), moved)


def _sample(scale: float) -> tuple[CSR, Tensor]:
    x, csr = _graph(scale)
    generator = torch.Generator().manual_seed(2)
    return csr, torch.randperm(x.size(0), generator=generator)[:SEEDS]


@register_rate("roofline_neighbor_sample", "1,024 seeds, fan-outs 10 and 10", "roofline")
def _neighbor_sample(scale: float) -> Work:
    csr, seeds = _sample(scale)
    out = ops.neighbor_sample(csr, seeds, FANOUTS)
    width = csr.col.element_size()
    # A column and an edge id per sampled edge, both ends of each expanded row, and the result.
    moved = out.edge.numel() * 2 * width + 2 * width * sum(out.num_sampled_nodes[:-1])
    moved += _size(out.node, out.row, out.col, out.edge)
    return Work(lambda: ops.neighbor_sample(csr, seeds, FANOUTS), moved)


@register_rate("roofline_random_walk", "a uniform walk of 20 steps from every node", "roofline")
def _random_walk(scale: float) -> Work:
    x, csr = _graph(scale)
    start, length = torch.arange(x.size(0)), 20
    steps, width = start.numel() * length, csr.col.element_size()
    moved = steps * (3 * width + start.element_size()) + 2 * _size(start)
    return Work(lambda: ops.random_walk(csr, start, length), moved)


@register_rate(
    "sampling", "neighbour sampling on one thread, 1,024 seeds, fan-outs 10 and 10", "sampling",
    goal=3e6, threads=1,
)  # fmt: skip
def _sampling(scale: float) -> Work:
    """Other seeds and another random stream at every step, as in training."""
    csr, _ = _sample(scale)
    order = torch.randperm(csr.num_rows, generator=torch.Generator().manual_seed(3))
    batches = [batch for batch in order.split(SEEDS) if batch.numel() == SEEDS][:8] or [order]
    edges = [
        ops.neighbor_sample(csr, b, FANOUTS, seed=i).edge.numel() for i, b in enumerate(batches)
    ]

    def step() -> None:
        for i, batch in enumerate(batches):
            ops.neighbor_sample(csr, batch, FANOUTS, seed=i)

    return Work(step, sum(edges), "edges")
