"""Targets of the fuzzer beyond the reductions: dense maps, scans, intersections, levels, memory."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from fuzz_source import BAD, DTYPES, Source, backward, leaf
from torch import Tensor

from graphkit import ops
from graphkit.ops import CSR, cpu
from graphkit.ops.levels import level_arrays

LENGTHS = (0, 0, 1, 2, 3, 31, 32, 33, 64, 65, 150, 300, 1100)
BELOW = (0.001, 0.1, 3.0)  # about the sizes of step sizes

linear = import_module("graphkit.ops.linear")  # the package's name is the function's


@contextmanager
def _set(place: Any, **values: Any) -> Any:
    before = {name: getattr(place, name) for name in values}
    for name, value in values.items():
        setattr(place, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(place, name, value)


def fuzz_linear(s: Source) -> None:
    rows, inputs, outputs = s.size() * s.random.choice([1, 1, 7]), s.width(), s.width()
    dtype = s.random.choice(DTYPES[:2])
    x = leaf(s, s.features(rows, inputs, dtype))
    weight = leaf(s, s.features(outputs, inputs, dtype))
    bias = leaf(s, s.features(outputs, 1, dtype)[:, 0]) if s.chance(0.5) else None
    with _set(linear, _own=True, _LEAST=0):  # even where torch's products are the quicker ones
        out = ops.linear(x, weight, bias)
        wanted = [t for t in (x, weight, bias) if t is not None and t.requires_grad]
        if wanted:
            torch.autograd.grad(out, wanted, s.features(rows, outputs, dtype), allow_unused=True)


def _sequences(s: Source) -> Tensor:
    lengths = [s.random.choice(LENGTHS) for _ in range(s.random.choice([0, 1, 1, 2, 5, 80]))]
    if len(lengths) > 5:
        lengths = [length % 40 for length in lengths]
    ptr = torch.tensor([0, *lengths]).cumsum(0)
    return ptr.to(s.random.choice([torch.int32, torch.int64]))


def _spoil(s: Source, index: Tensor) -> None:
    """Write a bad value, past torch's count of changes."""
    if index.numel():
        bad = s.random.choice([*BAD, 1, 40, 2000])
        if index.dtype == torch.int32:
            bad = max(min(bad, 2**31 - 1), -(2**31))
        index.view(-1).numpy()[s.random.randrange(index.numel())] = bad


def fuzz_selective_scan(s: Source) -> None:
    dtype = s.random.choice(DTYPES)
    wide = dtype if s.chance(0.3) else torch.promote_types(dtype, torch.float32)
    channels, states = s.random.choice([0, 1, 3, 4, 7, 16, 17]), s.random.choice([1, 2, 5, 8, 17])
    ptr = _sequences(s)
    steps, count = int(ptr[-1]), ptr.numel() - 1
    u, delta, z = (leaf(s, s.features(steps, channels, dtype)) for _ in range(3))
    b, c = (leaf(s, s.features(steps, states, dtype)) for _ in range(2))
    decay = leaf(s, -s.features(channels, states, wide).abs() * s.random.choice(BELOW))
    skip, bias = (leaf(s, s.features(channels, 1, wide)[:, 0]) for _ in range(2))
    initial = leaf(s, s.features(count, channels * states, wide).reshape(count, channels, states))
    given = [None if s.chance(0.3) else t for t in (skip, z, bias)]
    first = None if s.chance(0.3) else initial
    offsets: Tensor | None = ptr
    if s.chance(0.2):
        offsets, first = None, None
    elif s.chance(0.3):
        _spoil(s, ptr)
    out, last = ops.selective_scan(
        u, delta, decay, b, c, *given, seq_ptr=offsets, initial=first, reverse=s.chance(0.5),
        delta_softplus=s.chance(0.7), disc=s.random.choice(["euler", "zoh"]), return_last=True,
    )  # fmt: skip
    wanted = [t for t in (u, delta, decay, b, c, *given, first) if t is not None]
    wanted = [t for t in wanted if t.requires_grad]
    outs = [t for t in ((out, last), (out,), (last,))[s.random.randrange(3)] if t.requires_grad]
    if not wanted or not outs:
        return
    if s.chance(0.3):
        _spoil(s, ptr)
    grads = [torch.randn_like(t) if s.chance(0.5) else torch.ones(()).to(t).expand_as(t)
             for t in outs]  # fmt: skip
    torch.autograd.grad(outs, wanted, grads, allow_unused=True)


def fuzz_sampled_logistic(s: Source) -> None:
    users, items, width = s.size(), s.size(), s.width()
    pairs = s.random.choice([0, 1, 5, 60, 400]) if users and items else 0
    dtype = s.random.choice([torch.int32, torch.int64])
    negatives, near = s.random.choice([1, 2, 15, 16, 17, 100]), s.random.choice([0, 1, 10, 33])

    def ids(limit: int, *shape: int) -> Tensor:
        drawn = torch.randint(max(limit, 1), shape, generator=s.torch).to(dtype)
        if s.chance(0.1):
            _spoil(s, drawn)
        return drawn

    kind = s.random.choice(DTYPES[:2])
    user, item = (leaf(s, s.features(n, width, kind)) for n in (users, items))
    beta = [s.features(n, 1, kind)[:, 0].abs() for n in (users, items)]
    shape = (negatives,) if s.chance(0.3) else (pairs, negatives)
    loss = ops.sampled_logistic(
        user, item, ids(users, pairs), ids(items, pairs), ids(items, *shape), beta_user=beta[0],
        beta_item=beta[1], weights=(0.5, 1.0, 0.5, 1.0), negative_weight=3.0,
        neighbours=ids(items, items, near), neighbour_weights=s.features(items, near, kind).abs(),
        decay=s.random.choice([0.0, 0.1]),
    )  # fmt: skip
    wanted = [t for t in (user, item) if t.requires_grad]
    if wanted:
        torch.autograd.grad(loss, wanted)


def _pairs(s: Source, limits: tuple[int, int]) -> Tensor:
    count = s.random.choice([0, 1, 2, 17, 300])
    if not all(limits):
        count = 0
    sides = [torch.randint(max(limit, 1), (count,), generator=s.torch) for limit in limits]
    pairs = torch.stack(sides).to(s.random.choice([torch.int32, torch.int64]))
    if count and s.chance(0.15):
        _spoil(s, pairs)
    return pairs.t().contiguous().t() if s.chance(0.3) else pairs


def _uneven(s: Source, cols: int) -> CSR:
    """Short rows and long ones."""
    rows = s.size()
    edges = s.random.choice([0, 5, 300, 3000]) if rows and cols else 0
    row = (torch.rand(edges, generator=s.torch) ** 4 * rows).long()
    col = torch.randint(max(cols, 1), (edges,), generator=s.torch)
    dtype = s.random.choice([torch.int32, torch.int64])
    return CSR.from_edge_index(torch.stack([col, row]).to(dtype), size=(cols, rows))


def fuzz_intersect(s: Source) -> None:
    cols = s.size()
    csr = other = _uneven(s, cols)
    if s.chance(0.3):
        other = _uneven(s, cols)
    same = other is csr
    if s.chance(0.8):
        csr, other = ops.sorted_rows(csr), ops.sorted_rows(other)
    if s.chance(0.5):  # order and range of the columns have been looked at before they change
        ops.common_neighbors(csr, torch.empty(2, 0, dtype=torch.int64), other)
    for _ in range(s.random.choice([0, 0, 0, 1, 1, 6])):
        s.corrupt(s.random.choice([csr, other]))
    if s.chance(0.2):  # few values in any order, among them what the kernels use as "none"
        col = s.random.choice([csr, other]).col
        top = torch.iinfo(col.dtype).max // 2
        values = torch.tensor([-1, -2, 0, 1, 2, 3, -top - 1, top + 1]).to(col.dtype)
        picked = torch.randint(values.numel(), col.shape, generator=s.torch)
        col.numpy()[:] = values[picked].numpy()
    pairs = _pairs(s, (csr.num_rows, other.num_rows))
    kind, csr_b = s.random.choice(["common", "difference"]), None if same else other
    match s.random.randrange(3):
        case 0:
            found = ops.intersect(csr, pairs, csr_b, kind=kind)
            ops.aggregate(found.csr, s.features(csr.num_cols, 3, torch.float32))
        case 1:
            ops.common_neighbors(csr, pairs, csr_b)
        case 2:
            dtype = s.random.choice(DTYPES)
            x = leaf(s, s.features(csr.num_cols, s.width(), dtype))
            weight = leaf(s, s.features(csr.num_cols, 1, dtype)[:, 0]) if s.chance(0.5) else None
            out = ops.intersect_sum(csr, pairs, x, weight, csr_b, kind=kind)
            backward(s, out, [t for t in (x, weight) if t is not None], csr)


def _acyclic(s: Source) -> CSR:
    """Mostly without a cycle."""
    nodes = s.size()
    edges = s.random.choice([0, 1, 9, 70, 500, 3000]) if nodes > 1 else 0
    ends = torch.randint(max(nodes, 1), (2, edges), generator=s.torch)
    if s.chance(0.9):
        ends = ends[:, ends[0] != ends[1]].sort(0).values
    names = torch.randperm(nodes, generator=s.torch) if s.chance(0.5) else torch.arange(nodes)
    dtype = s.random.choice([torch.int32, torch.int64])
    csr = CSR.from_edge_index(names[ends].to(dtype), num_nodes=nodes)
    csr.transpose()
    return csr


def fuzz_level_propagate(s: Source) -> None:
    csr, width, dtype = _acyclic(s), s.width(), s.random.choice(DTYPES)
    if s.chance(0.3):
        ops.topological_levels(csr)  # found before the graph is spoilt
    if s.chance(0.3):
        s.corrupt(csr)
    message = s.random.choice(["copy", "scale", "add"])
    edge = None
    if message != "copy":
        edge = s.features(csr.num_entries, width, dtype)
        edge = leaf(s, edge if s.chance(0.5) else torch.ones(csr.num_entries, dtype=dtype))
    x = leaf(s, s.features(csr.num_cols, width, dtype))
    if s.chance(0.1):
        _spoil(s, level_arrays(csr)[s.random.randrange(3)])
    out = ops.level_propagate(
        csr, x, edge, message=message, reduce=s.random.choice(["sum", "mean", "min", "max"])
    )
    backward(s, out, [t for t in (x, edge) if t is not None], csr)


def fuzz_topological_levels(s: Source) -> None:
    csr = _acyclic(s)
    if s.chance(0.5):
        s.corrupt(csr)
    ops.topological_levels(csr)
    if s.chance(0.5):
        for _ in ops.Levels.of(csr):
            pass


def fuzz_hetero_neighbor_sample(s: Source) -> None:
    sizes = {"a": s.size(), "b": s.size()}
    csrs = {}
    for source, target in (("a", "a"), ("a", "b"), ("b", "a")):
        cols, rows = sizes[source], sizes[target]
        edges = s.random.choice([0, 9, 300]) if rows and cols else 0
        ends = [torch.randint(max(n, 1), (edges,), generator=s.torch) for n in (cols, rows)]
        csrs[source, "to", target] = CSR.from_edge_index(torch.stack(ends), size=(cols, rows))
    if s.chance(0.3):
        s.corrupt(s.random.choice(list(csrs.values())))
    seeds = {t: torch.randint(max(n, 1), (min(n, 9),), generator=s.torch) for t, n in sizes.items()}
    if s.chance(0.2):
        _spoil(s, seeds["a"])
    ops.hetero_neighbor_sample(
        csrs, seeds, [s.random.choice([0, 1, 3, -1]) for _ in range(s.random.choice([0, 1, 3]))],
        replace=s.chance(0.5), directed=s.chance(0.5), disjoint=s.chance(0.5),
        seed=s.random.getrandbits(64),
    )  # fmt: skip


def fuzz_summarise(s: Source) -> None:
    nodes = s.size()
    edges = s.random.choice([1, 9, 70, 500]) if nodes > 1 else 0
    ends = torch.randint(max(nodes, 1), (2, edges), generator=s.torch)
    both = torch.cat([ends, ends.flip(0)], dim=1)[:, (ends[0] != ends[1]).repeat(2)]
    csr = ops.sorted_rows(CSR.from_edge_index(both.unique(dim=1), num_nodes=nodes))
    if s.chance(0.4):
        s.corrupt(csr)
    ops.summarise(
        csr, s.random.choice([0.0, 10.0, 300.0, 5000.0]), p=s.random.choice([1, 2]),
        iterations=s.random.choice([1, 2, 20]), num_hashes=s.random.choice([1, 3]),
        max_group=s.random.choice([2, 5, 500]), effort=s.random.choice([1, 4]),
        seed=s.random.getrandbits(64), compat=s.chance(0.3),
    )  # fmt: skip


def fuzz_kept_memory(s: Source) -> None:
    """Every output in memory that is kept, with little room for it, freed in any order."""
    if cpu.kernels is None:
        return
    x = torch.ones(1)
    try:
        with _set(cpu, LARGE=1):
            cpu.kernels.set_kept_limit(s.random.choice([1, 4 << 20, 64 << 20]))
            held = []
            for _ in range(s.random.choice([1, 5, 30])):
                size = s.random.choice([1, 7, 1 << 16, 1 << 19, (1 << 19) + 1, 1 << 20])
                held.append(cpu.empty(x, (size,)).fill_(s.random.random()))
                if s.chance(0.5):
                    held.pop(s.random.randrange(len(held)))
                if s.chance(0.1):
                    ops.empty_cache()
            csr = s.graph()
            ops.aggregate(csr, s.features(csr.num_cols, s.width(), torch.float32))
    finally:
        cpu.kernels.set_kept_limit(cpu._limit_of_kept_memory())
