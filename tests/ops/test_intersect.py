"""Intersections against Python's sets and plain torch; values, gradients, refusals."""

from __future__ import annotations

import pytest
import torch

from graphkit.errors import InputError
from graphkit.ops import (
    CSR,
    aggregate,
    available,
    backend,
    common_neighbors,
    cpu,
    intersect,
    intersect_sum,
    sorted_rows,
)
from graphkit.ops.rows import disorder

NAMES = [name for name in ("native", "reference") if available()[name] is None]
KINDS = ["common", "difference"]
NATIVE = pytest.mark.skipif(cpu.kernels is None, reason=f"no native kernels: {cpu.why_missing}")


def graph(nodes=40, edges=500, seed=0, *, rows=None, dtype=torch.int32) -> CSR:
    """Many rows, some empty, one that holds most columns, one with a column twice and more."""
    generator = torch.Generator().manual_seed(seed)
    rows = nodes if rows is None else rows
    source = torch.randint(nodes, (edges,), generator=generator)
    target = torch.randint(rows - 3, (edges,), generator=generator)
    target[: edges // 4] = 2
    source[-6:], target[-6:] = 7, 4
    csr = sorted_rows(CSR.from_edge_index(torch.stack([source, target]), size=(nodes, rows)))
    if csr.col.dtype == dtype:
        return csr
    return CSR(csr.rowptr.to(dtype), csr.col.to(dtype), csr.eid.to(dtype), rows, nodes)


def draw_pairs(csr: CSR, other: CSR, count: int = 300, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ends = [torch.randint(g.num_rows, (count,), generator=generator) for g in (csr, other)]
    return torch.stack(ends)


def row_sets(csr: CSR) -> list[set[int]]:
    ptr = csr.rowptr.tolist()
    return [set(csr.col[a:b].tolist()) for a, b in zip(ptr, ptr[1:], strict=False)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("two_graphs", [False, True])
@pytest.mark.parametrize("dtypes", [("int32",) * 2, ("int64",) * 2, ("int32", "int64")])
def test_equals_python_sets(name, kind, two_graphs, dtypes):
    one, two = (getattr(torch, name) for name in dtypes)
    csr = graph(dtype=one)
    other = graph(edges=900, seed=5, rows=55, dtype=two) if two_graphs else csr
    pairs = draw_pairs(csr, other)
    with backend(name):
        found = intersect(csr, pairs, other if two_graphs else None, kind=kind)
    left, right = row_sets(csr), row_sets(other)
    for p, (i, j) in enumerate(pairs.t().tolist()):
        wanted = left[i] & right[j] if kind == "common" else left[i] - right[j]
        begin, end = found.ptr[p : p + 2].tolist()
        assert found.node[begin:end].tolist() == sorted(wanted)
    assert (found.entry_b is None) == (kind == "difference")
    sides = [(csr, found.entry, pairs[0])]
    if found.entry_b is not None:
        sides.append((other, found.entry_b, pairs[1]))
        count = (found.ptr[1:] - found.ptr[:-1]).long()
        assert torch.equal(common_neighbors(csr, pairs, other), count)
    for side, entry, rows in sides:
        assert torch.equal(side.col[entry].long(), found.node.long())
        assert torch.equal(side.row()[entry].long(), rows[found.pair()])
        starts_row = side.rowptr[side.row()[entry]] == entry
        assert (starts_row | (side.col[entry - 1] != side.col[entry])).all()  # the first of equals


def dense(csr: CSR) -> torch.Tensor:
    out = torch.zeros(csr.num_rows, csr.num_cols, dtype=torch.float64)
    out[csr.row().long(), csr.col.long()] = 1
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_and_gradients_equal_dense_algebra(name, kind, weighted):
    csr = graph()
    pairs = draw_pairs(csr, csr)
    generator = torch.Generator().manual_seed(3)
    wide = torch.randn(40, 10, dtype=torch.float64, generator=generator)
    x = wide[:, ::2].requires_grad_()  # not contiguous
    weight = torch.randn(40, dtype=torch.float64, generator=generator).requires_grad_()
    leaves = (x, weight) if weighted else (x,)
    one, two = dense(csr)[pairs[0]], dense(csr)[pairs[1]]
    member = one * two if kind == "common" else one * (1 - two)
    theirs = member @ (x * weight[:, None] if weighted else x)
    with backend(name):
        ours = intersect_sum(csr, pairs, *leaves, kind=kind)
        assert torch.allclose(ours, theirs, atol=1e-12)
        cotangent = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
        mine = torch.autograd.grad(ours, leaves, cotangent)
    for a, b in zip(mine, torch.autograd.grad(theirs, leaves, cotangent), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    csr = graph(nodes=9, edges=40)
    pairs = draw_pairs(csr, csr, 12)
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, dtype=torch.float64, requires_grad=True)

    def call(x, weight):
        return intersect_sum(csr, pairs, x, weight, kind=kind)

    assert torch.autograd.gradcheck(call, (x, weight))


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)]
)
def test_narrow_types_accumulate_in_float32(dtype, bound):
    csr = graph(nodes=2000, edges=8000)
    pairs = torch.tensor([[2, 2, 4], [2, 4, 2]])
    x = torch.rand(2000, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = torch.full((2000,), 0.5, dtype=dtype)
    exact = intersect_sum(csr, pairs, x.double(), weight.double())
    assert intersect_sum(csr, pairs, x, weight).dtype == dtype
    error = (intersect_sum(csr, pairs, x, weight).double() - exact).abs().max() / exact.abs().max()
    assert float(error) < bound


def test_overlap_and_residuals_of_a_worked_example():
    """Edges 0-2, 0-3, 1-2, 1-3, 1-4."""
    one_way = torch.tensor([[0, 0, 1, 1, 1], [2, 3, 2, 3, 4]])
    csr = sorted_rows(CSR.from_edge_index(torch.cat([one_way, one_way.flip(0)], 1), num_nodes=5))
    pairs = torch.tensor([[0, 2, 0], [1, 3, 4]])

    def lists(found):
        ptr = found.ptr.tolist()
        return [found.node[a:b].tolist() for a, b in zip(ptr, ptr[1:], strict=False)]

    assert lists(intersect(csr, pairs)) == [[2, 3], [0, 1], []]
    assert lists(intersect(csr, pairs, kind="difference")) == [[], [], [2, 3]]
    assert lists(intersect(csr, pairs.flip(0), kind="difference")) == [[4], [], [1]]


def test_completion_pools_a_score_per_found_node():
    csr = graph()
    pairs = draw_pairs(csr, csr)
    x = torch.randn(40, 4, dtype=torch.float64)
    rest = [intersect(csr, p, kind="difference") for p in (pairs, pairs.flip(0))]
    union = intersect_sum(csr, pairs, x)
    for found in rest:
        score = torch.ones(found.node.numel(), dtype=x.dtype)
        union = union + aggregate(found.csr, x, score, message="scale")
    member = (dense(csr)[pairs[0]] + dense(csr)[pairs[1]]).clamp(max=1)
    assert torch.allclose(union, member @ x, atol=1e-12)
    by_edge = torch.rand(500, dtype=x.dtype)
    found = intersect(csr, pairs)
    weight = by_edge[csr.eid[found.entry]]
    pooled = aggregate(found.csr, x, weight, message="scale")
    first = slice(int(found.ptr[1]))
    assert torch.allclose(pooled[0], weight[first] @ x[found.node[first]])


@NATIVE
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_and_hubs(kind):
    """Two rows of about 30,000 columns beside rows of ten: merging and searching."""
    generator = torch.Generator().manual_seed(2)
    nodes = 40_000
    source = torch.randint(nodes, (200_000,), generator=generator)
    target = torch.randint(nodes, (200_000,), generator=generator)
    target[:60_000], target[60_000:120_000] = 0, 1
    csr = sorted_rows(CSR.from_edge_index(torch.stack([source, target]), num_nodes=nodes))
    pairs = torch.randint(nodes, (2, 20_000), generator=generator)
    pairs[0, :60], pairs[1, 40:80] = 0, 1
    x = torch.randn(nodes, 3, generator=generator).requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = intersect(csr, pairs, kind=kind)
            out = intersect_sum(csr, pairs, x, kind=kind)
            (grad,) = torch.autograd.grad(out.square().sum(), x)
            results.append([found.ptr, found.node, found.entry, out, grad])
    finally:
        torch.set_num_threads(before)
    with backend("reference"):
        other = intersect(csr, pairs, kind=kind)
    assert all(torch.equal(a, b) for r in results[1:] for a, b in zip(results[0], r, strict=True))
    for a, b in zip(results[0], (other.ptr, other.node, other.entry), strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_empty_graphs_rows_and_pairs(name):
    with backend(name):
        for nodes, edges in ((0, []), (1, []), (1, [(0, 0)]), (3, [])):
            ends = torch.tensor(edges, dtype=torch.int64).view(-1, 2).t()
            csr = CSR.from_edge_index(ends.contiguous(), num_nodes=nodes)
            pairs = torch.zeros(2, 2 if nodes else 0, dtype=torch.int32)
            x = torch.ones(nodes, 2, requires_grad=True)
            for kind in KINDS:
                wanted = len(edges) * pairs.size(1) * (kind == "common")
                found = intersect(csr, pairs, kind=kind)
                assert found.ptr.numel() == pairs.size(1) + 1
                assert found.node.numel() == wanted
                out = intersect_sum(csr, pairs, x, kind=kind)
                assert out.shape == (pairs.size(1), 2)
                assert torch.autograd.grad(out.sum(), x)[0].sum() == 2 * wanted
            assert common_neighbors(csr, pairs).dtype == torch.int64


def test_pairs_of_any_layout_and_width():
    csr = graph()
    pairs = draw_pairs(csr, csr)
    wanted = common_neighbors(csr, pairs)
    strided = pairs.t().contiguous().t()
    assert torch.equal(common_neighbors(csr, strided), wanted)
    assert torch.equal(common_neighbors(csr, pairs.int()), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_rows_out_of_order_are_named(name):
    edge_index = torch.tensor([[0, 1, 3, 2, 1, 0], [0, 0, 1, 2, 2, 2]])
    csr = CSR.from_edge_index(edge_index, num_nodes=4)
    pairs = torch.tensor([[0], [1]])
    with backend(name):
        with pytest.raises(
            InputError, match=r"csr: row 2 has column 1 after column 2.*sorted_rows"
        ):
            intersect(csr, pairs)
        with pytest.raises(InputError, match="csr_b: row 2"):
            intersect_sum(sorted_rows(csr), pairs, torch.ones(4, 1), csr_b=csr)
        again = sorted_rows(csr)
        assert again.col.tolist() == [0, 1, 3, 0, 1, 2]
        assert torch.equal(edge_index[:, again.eid.long()], torch.stack([again.col, again.row()]))
        assert common_neighbors(csr.transpose(), pairs).tolist() == [2]


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=NATIVE)])
def test_the_first_disorder_is_found(native, monkeypatch):
    if not native:
        monkeypatch.setattr(cpu, "kernels", None)
    rowptr, col = torch.tensor([0, 0, 3, 3, 6, 6, 6]), torch.tensor([1, 2, 2, 0, 3, 3])
    assert disorder(rowptr, col, 4) is None
    assert disorder(rowptr, torch.tensor([1, 2, 2, 0, 3, 1]), 4) == (3, 5)
    assert disorder(rowptr, torch.tensor([1, 0, 2, 2, 1, 0]), 4) == (1, 1)
    assert disorder(torch.tensor([0, 0]), col[:0], 4) is None
    assert disorder(torch.tensor([0]), col[:0], 4) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"pairs": torch.tensor([[0], [40]])}, r"pairs: row 40 in pairs\[1, 0\]"),
        ({"pairs": torch.tensor([[3, -1], [3, 3]])}, r"pairs: row -1 in pairs\[0, 1\]"),
        ({"pairs": torch.zeros(3, 2, dtype=torch.int64)}, "pairs: shape"),
        ({"pairs": torch.zeros(2, 2)}, "pairs: torch.float32"),
        ({"pairs": [[0], [1]]}, "pairs: list"),
        ({"kind": "commun"}, "kind: 'commun'.*common"),
        ({"csr": torch.zeros(3)}, "csr: Tensor"),
        ({"csr_b": graph(nodes=41)}, "csr_b: 41 columns"),
        ({"x": torch.zeros(39, 2)}, "x: shape"),
        ({"x": torch.zeros(40, 2, dtype=torch.int64)}, "x: dtype"),
        ({"weight": torch.zeros(40, 1)}, "weight: shape"),
        ({"weight": torch.zeros(40, dtype=torch.float64)}, "weight: dtype"),
        ({"x": torch.zeros(40, 2, device="meta")}, "x: on meta"),
        ({"pairs": torch.zeros(2, 2, dtype=torch.int64, device="meta")}, "pairs: on meta"),
    ],
)
def test_bad_arguments_are_named(change, word):
    given = {"csr": graph(), "pairs": torch.tensor([[0], [1]]), "x": torch.zeros(40, 2), **change}
    with pytest.raises(InputError, match=word):
        intersect_sum(**given)


@NATIVE
def test_a_corrupt_graph_is_refused_not_followed():
    pairs = torch.tensor([[0], [1]])
    for rowptr, col in (([0, 1, 2], [0, 10**12]), ([0, 10**12, 2], [0, 1]), ([-4, 1, 2], [0, 1])):
        csr = CSR(torch.tensor(rowptr), torch.tensor(col), None, 2, 2)
        with pytest.raises(IndexError, match=r"col|rowptr"):
            intersect(csr, pairs)


@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_whole(weighted):
    torch._dynamo.reset()
    csr = graph()
    pairs = draw_pairs(csr, csr)
    x = torch.randn(40, 6, requires_grad=True)
    weight = torch.randn(40, requires_grad=True) if weighted else None
    leaves = [x, weight] if weighted else [x]

    def call(rowptr, col, pairs, *leaves):
        again = sorted_rows(CSR(rowptr, col, None, 40, 40))
        count = common_neighbors(again, pairs)
        return intersect_sum(again, pairs, *leaves) * count[:, None]

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    ours, theirs = (f(csr.rowptr, csr.col, pairs, *leaves) for f in (compiled, call))
    assert torch.allclose(ours, theirs, atol=1e-4)
    grads = [torch.autograd.grad(out.sum(), leaves) for out in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-2, rtol=1e-4)


def test_sets_compile_where_sizes_may_depend_on_data():
    torch._dynamo.reset()
    csr = graph()
    pairs = draw_pairs(csr, csr)

    def call(rowptr, col, pairs):
        found = intersect(CSR(rowptr, col, None, 40, 40), pairs)
        return found.ptr, found.node * 2, found.entry

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        ours = torch.compile(call, fullgraph=True, backend="aot_eager")(csr.rowptr, csr.col, pairs)
    for a, b in zip(ours, call(csr.rowptr, csr.col, pairs), strict=True):
        assert torch.equal(a, b)


def test_a_compiled_graph_is_checked_when_it_runs():
    torch._dynamo.reset()

    def call(rowptr, col, pairs):
        return common_neighbors(CSR(rowptr, col, None, 2, 2), pairs)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    rowptr, col = torch.tensor([0, 2, 2]), torch.tensor([0, 1])
    pairs = torch.tensor([[0], [0]])
    assert compiled(rowptr, col, pairs).tolist() == [2]
    with pytest.raises(InputError, match="row 0"):
        compiled(rowptr, col.flip(0), pairs)
    if cpu.kernels is not None:
        with pytest.raises(IndexError, match="row 2 of a graph of 2 rows"):
            compiled(rowptr, col, pairs + 2)


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind):
    csr, other = graph(nodes=12, edges=60), graph(nodes=12, edges=60, seed=4)
    pairs = draw_pairs(csr, other, 20)
    sets = (csr.rowptr, csr.col, other.rowptr, other.col, pairs, 12, kind == "difference")
    x = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.graphkit.intersect, sets)
    torch.library.opcheck(torch.ops.graphkit.common_neighbors, sets)
    torch.library.opcheck(torch.ops.graphkit.intersect_sum, (x, weight, *sets))
    torch.library.opcheck(torch.ops.graphkit.intersect_sum, (x, None, *sets))
    grad = torch.randn(20, 3, dtype=torch.float64)
    backward = (grad, x.detach(), weight.detach(), *sets)
    torch.library.opcheck(torch.ops.graphkit.intersect_sum_backward, backward)


@NATIVE
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(4, 100), (100, 4), (30, 31), (2, 500)])
def test_a_row_that_changed_after_it_was_looked_at_stays_inside(lengths, kind, dtype):
    ptr = torch.tensor([0, lengths[0], sum(lengths), sum(lengths) + 3], dtype=dtype)
    csr = CSR(ptr, torch.zeros(int(ptr[-1]), dtype=dtype), None, 3, 5)
    pair = torch.tensor([[0], [1]])
    intersect(csr, pair, kind=kind)
    top = torch.iinfo(dtype).max // 2
    values = torch.tensor([-1, -2, 0, 1, 2, 3, -top - 1, top + 1]).to(dtype)
    most = lengths[0] if kind == "difference" else min(lengths)
    for seed in range(20):
        picked = torch.randint(8, csr.col.shape, generator=torch.Generator().manual_seed(seed))
        csr.col.numpy()[:] = values[picked].numpy()
        found = intersect(csr, pair, kind=kind)
        assert found.node.numel() <= most
        assert (found.entry < lengths[0]).all()
