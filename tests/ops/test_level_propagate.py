"""Levels against networkx, propagation against plain torch and closed forms, refusals."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from graphkit.errors import InputError
from graphkit.ops import CSR, Levels, available, backend, cpu, level_propagate, topological_levels

NAMES = [name for name in ("native", "reference") if available()[name] is None]
NATIVE = pytest.mark.skipif(cpu.kernels is None, reason=f"no native kernels: {cpu.why_missing}")
MESSAGES = ["copy", "scale", "add"]
REDUCES = ["sum", "mean", "min", "max"]


def dag(nodes: int = 30, edges: int = 80, seed: int = 0) -> torch.Tensor:
    """Edges in any order between nodes in any order, some twice, the last nodes isolated."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(max(nodes - 2, 1), (2, edges), generator=generator)
    ends = ends[:, ends[0] != ends[1]].sort(0).values
    ends = torch.cat([ends, ends[:, :5]], 1)
    name = torch.cat([torch.randperm(nodes - 2, generator=generator), torch.arange(nodes)[-2:]])
    return name[ends[:, torch.randperm(ends.size(1), generator=generator)]]


def inputs(edge_index, nodes, message, per_feature, *, width=3, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, width, dtype=dtype, generator=generator).requires_grad_()
    if message == "copy":
        return x, None
    shape = (edge_index.size(1), width) if per_feature else (edge_index.size(1),)
    return x, torch.randn(shape, dtype=dtype, generator=generator).requires_grad_()


def one_node_at_a_time(edge_index, x, edge, message, reduce):
    """The definition, in an order that networkx gives."""
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(x.size(0)))
    graph.add_edges_from(zip(*edge_index.tolist(), strict=True))
    h = dict(enumerate(x.unbind(0)))
    for i in nx.topological_sort(graph):
        into = (edge_index[1] == i).nonzero().view(-1)
        if not into.numel():
            continue
        values = torch.stack([h[int(j)] for j in edge_index[0, into]])
        if edge is not None:
            e = edge[into] if edge.dim() == 2 else edge[into, None]
            values = values * e if message == "scale" else values + e
        if reduce in ("min", "max"):
            h[i] = h[i] + (values.amin(0) if reduce == "min" else values.amax(0))
        else:
            h[i] = h[i] + getattr(values, reduce)(0)
    return torch.stack([h[i] for i in range(x.size(0))])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("per_feature", [False, True])
def test_equals_the_definition(name, message, reduce, per_feature):
    edge_index = dag()[:, :-5]
    if reduce in ("min", "max"):  # torch shares the gradient of ties among them
        key = edge_index[0] * 30 + edge_index[1]
        edge_index = torch.stack([key.unique() // 30, key.unique() % 30])
    x, edge = inputs(edge_index, 30, message, per_feature)
    leaves = [x] if edge is None else [x, edge]
    theirs = one_node_at_a_time(edge_index, x, edge, message, reduce)
    with backend(name):
        csr = CSR.from_edge_index(edge_index, num_nodes=30)
        ours = level_propagate(csr, x, edge, message=message, reduce=reduce)
        assert torch.allclose(ours, theirs, atol=1e-12)
        cotangent = torch.linspace(-1, 1, 90, dtype=x.dtype).view(30, 3)
        mine = torch.autograd.grad(ours, leaves, cotangent)
    for a, b in zip(mine, torch.autograd.grad(theirs, leaves, cotangent), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("reduce", REDUCES)
def test_gradcheck(message, reduce):
    edge_index = dag(9, 14)
    x, edge = inputs(edge_index, 9, message, True, width=2)
    csr = CSR.from_edge_index(edge_index, num_nodes=9)

    def call(*tensors):
        return level_propagate(csr, *tensors, message=message, reduce=reduce)

    if reduce in ("min", "max") and message == "copy":
        edge_index = edge_index.unique(dim=1)  # equal values have no derivative
        csr = CSR.from_edge_index(edge_index, num_nodes=9)
    assert torch.autograd.gradcheck(call, (x,) if edge is None else (x, edge))


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_longest_paths(name):
    for seed in range(4):
        edge_index = dag(seed=seed)
        graph = nx.DiGraph(list(zip(*edge_index.tolist(), strict=True)))
        wanted = {}
        for depth, nodes in enumerate(nx.topological_generations(graph)):
            wanted.update(dict.fromkeys(nodes, depth))
        with backend(name):
            level = topological_levels(edge_index, 30)
            levels = Levels.of(CSR.from_edge_index(edge_index.int(), num_nodes=30))
        assert level.tolist() == [wanted.get(i, 0) for i in range(30)]
        assert torch.equal(levels.level, level)
        assert len(levels) == levels.num_levels == int(level.max()) + 1
        assert torch.equal(levels.order, torch.argsort(level, stable=True))
        for depth, (nodes, edges) in enumerate(levels):
            assert torch.equal(nodes, (level == depth).nonzero().view(-1))
            assert torch.equal(nodes, levels.nodes(depth))
            assert torch.equal(edges, levels.edges(depth))
            into = (level[edge_index[1]] == depth).nonzero().view(-1)
            assert torch.equal(edges.sort().values, into)
            assert (edge_index[1, edges].diff() >= 0).all()


def test_linear_propagation_solves_a_triangular_system():
    edge_index = dag(nodes=60, edges=300)
    x, weight = inputs(edge_index, 60, "scale", False, width=4)
    weight = weight.detach() * 0.3
    matrix = torch.zeros(60, 60, dtype=x.dtype)
    matrix.index_put_((edge_index[1], edge_index[0]), weight, accumulate=True)
    wanted = torch.linalg.solve(torch.eye(60, dtype=x.dtype) - matrix, x)
    csr = CSR.from_edge_index(edge_index, num_nodes=60)
    assert torch.allclose(level_propagate(csr, x, weight), wanted, atol=1e-10)


def test_arrival_times_and_the_critical_path():
    # 0 -> 1 -> 3 and 0 -> 2 -> 3; the way over 2 is the slow one.
    edge_index = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
    delay = torch.tensor([1.0, 2.0, 1.0, 5.0], requires_grad=True)
    start = torch.zeros(4, 1, requires_grad=True)
    csr = CSR.from_edge_index(edge_index, num_nodes=4)
    late = level_propagate(csr, start, delay, message="add", reduce="max")
    assert late.flatten().tolist() == [0.0, 1.0, 2.0, 7.0]
    late[3].backward()
    assert delay.grad.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert start.grad.flatten().tolist() == [1.0, 0.0, 1.0, 1.0]
    early = level_propagate(csr, start, delay, message="add", reduce="min")
    assert early.flatten().tolist() == [0.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("name", NAMES)
def test_ties_go_to_the_first_edge_also_among_copies(name):
    edge_index = torch.tensor([[2, 0, 0, 1], [3, 3, 3, 3]])
    x = torch.tensor([[1.0], [1.0], [0.0], [0.0]], requires_grad=True)
    weight = torch.ones(4, requires_grad=True)
    with backend(name):
        csr = CSR.from_edge_index(edge_index, num_nodes=4)
        out = level_propagate(csr, x, weight, reduce="max")
        grads = torch.autograd.grad(out[3].sum(), [x, weight])
    assert grads[0].flatten().tolist() == [1.0, 0.0, 0.0, 1.0]
    assert grads[1].tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduce", ["min", "max"])
def test_a_nan_wins_and_reaches_what_lies_behind_it(name, reduce):
    edge_index = torch.tensor([[0, 1, 2, 3], [3, 3, 3, 4]])
    x = torch.tensor([[1.0], [float("nan")], [2.0], [0.0], [0.0], [5.0]])
    with backend(name):
        out = level_propagate(CSR.from_edge_index(edge_index, num_nodes=6), x, reduce=reduce)
    assert out.isnan().flatten().tolist() == [False, True, False, True, True, False]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduce", REDUCES)
def test_empty_single_and_isolated(name, reduce):
    with backend(name):
        for nodes in (0, 1, 4):
            csr = CSR.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), num_nodes=nodes)
            x = torch.arange(2.0 * nodes).view(nodes, 2).requires_grad_()
            out = level_propagate(csr, x, reduce=reduce)
            assert torch.equal(out, x)
            assert out.data_ptr() != x.data_ptr() or not nodes
            assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.ones(nodes, 2))
            assert len(Levels.of(csr)) == min(nodes, 1)
            assert topological_levels(csr).tolist() == [0] * nodes
            weight = torch.zeros(0, 2, requires_grad=True)
            scaled = level_propagate(csr, x, weight, reduce=reduce)
            assert torch.autograd.grad(scaled.sum(), weight)[0].shape == (0, 2)


@NATIVE
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("reduce", REDUCES)
def test_any_number_of_threads_and_a_hub(message, reduce):
    """Few and large levels, which are what threads share."""
    generator = torch.Generator().manual_seed(4)
    layers, size, edges = 6, 1500, 24_000
    ends = torch.randint(size, (2, edges), generator=generator)
    ends[1, :4000] = 3
    ends[0, -4000:] = 5
    step = torch.randint(layers - 1, (edges,), generator=generator)
    ends += torch.stack([step, step + 1]) * size
    nodes = layers * size
    x, edge = inputs(ends, nodes, message, False, width=16, dtype=torch.float32)
    leaves = [x] if edge is None else [x, edge]
    csr = CSR.from_edge_index(ends.int(), num_nodes=nodes)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = level_propagate(csr, x, edge, message=message, reduce=reduce)
            results.append([out, *torch.autograd.grad(out.mean(), leaves)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for r in results[1:] for a, b in zip(results[0], r, strict=True))
    wide = [t.detach().double() for t in leaves]
    with backend("reference"):
        exact = level_propagate(csr, *wide, message=message, reduce=reduce)
    error = (results[0][0].detach().double() - exact).abs().max() / exact.abs().max()
    assert float(error) < 1e-5


def test_a_long_chain():
    nodes = 3000
    chain = torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)]).flip(1)
    csr = CSR.from_edge_index(chain, num_nodes=nodes)
    assert topological_levels(csr).tolist() == list(range(nodes))
    x = torch.ones(nodes, 1, dtype=torch.float64, requires_grad=True)
    out = level_propagate(csr, x)
    assert torch.equal(out.detach(), torch.arange(1.0, nodes + 1, dtype=torch.float64)[:, None])
    out[-1].backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_computed_in_float32(dtype):
    edge_index = dag()
    x, edge = inputs(edge_index, 30, "scale", False)
    csr = CSR.from_edge_index(edge_index, num_nodes=30)
    narrow = [(t.detach() * 0.5).to(dtype).requires_grad_() for t in (x, edge)]
    out = level_propagate(csr, *narrow, reduce="mean")
    assert out.dtype == dtype
    exact = level_propagate(csr, *(t.detach().float() for t in narrow), reduce="mean")
    assert torch.equal(out, exact.to(dtype))
    assert all(g.dtype == dtype for g in torch.autograd.grad(out.sum(), narrow))


@pytest.mark.parametrize("reduce", REDUCES)
def test_layouts_and_index_types(reduce):
    edge_index = dag()
    x, edge = inputs(edge_index, 30, "add", True)
    csr = CSR.from_edge_index(edge_index, num_nodes=30)
    wanted = level_propagate(csr, x, edge, message="add", reduce=reduce)
    grads = torch.autograd.grad(wanted.square().sum(), [x, edge])
    wide = CSR(csr.rowptr.long(), csr.col.long(), csr.eid.long(), 30, 30)
    y, e = (t.detach().t().contiguous().t().requires_grad_() for t in (x, edge))
    out = level_propagate(wide, y, e, message="add", reduce=reduce)
    assert torch.equal(out, wanted)
    for a, b in zip(grads, torch.autograd.grad(out.square().sum(), [y, e]), strict=True):
        assert torch.equal(a, b)
    # Without eid the entries are the edges.
    plain = CSR(csr.rowptr, csr.col, None, 30, 30)
    ordered = edge.detach()[csr.eid].requires_grad_()
    out = level_propagate(plain, x, ordered, message="add", reduce=reduce)
    assert torch.equal(out, wanted)
    (found,) = torch.autograd.grad(out.square().sum(), ordered)
    assert torch.equal(found, grads[1][csr.eid])


@pytest.mark.parametrize("name", NAMES)
def test_a_cycle_is_refused_and_a_node_on_it_named(name):
    # 0 -> 1 -> 2 -> 3 -> 1, and 4, 5 behind it.
    edge_index = torch.tensor([[0, 1, 2, 3, 3, 4], [1, 2, 3, 1, 4, 5]])
    with backend(name):
        for reorder in (torch.arange(6), torch.tensor([5, 4, 3, 2, 1, 0])):
            ends = reorder[edge_index]
            with pytest.raises(InputError, match=r"csr: node \d is on a cycle \(5 nodes") as caught:
                topological_levels(ends, 6)
            assert int(str(caught.value).split()[2]) in reorder[1:4].tolist()
        loop = CSR.from_edge_index(torch.tensor([[0, 1], [1, 1]]), num_nodes=3)
        with pytest.raises(InputError, match=r"node 1 is on a cycle \(1 node"):
            level_propagate(loop, torch.ones(3, 1))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"message": "scaled"}, "message: 'scaled'.*scale"),
        ({"reduce": "std"}, "reduce: 'std'"),
        ({"message": "add", "edge": None}, "edge: missing with message=add"),
        ({"message": "copy"}, "edge: given with message=copy"),
        ({"x": torch.zeros(4, 2)}, "x: shape"),
        ({"x": torch.zeros(3)}, "x: shape"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, "x: dtype"),
        ({"x": torch.zeros(3, 2, device="meta")}, "x: on meta"),
        ({"edge": torch.zeros(3)}, "edge: shape"),
        ({"edge": torch.zeros(2, 3)}, "edge: shape"),
        ({"edge": torch.zeros(2, dtype=torch.float64)}, "edge: dtype"),
        ({"csr": torch.zeros(2, 2)}, "csr: Tensor"),
        ({"csr": CSR.from_edge_index(torch.tensor([[0, 1], [1, 2]]), size=(3, 4))}, "csr: 4 x 3"),
    ],
)
def test_bad_arguments_are_named(change, word):
    csr = CSR.from_edge_index(torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
    given = {"csr": csr, "x": torch.zeros(3, 2), "edge": torch.zeros(2), **change}
    with pytest.raises(InputError, match=word):
        level_propagate(**given)


@NATIVE
def test_a_corrupt_graph_is_refused_not_followed():
    x = torch.ones(3, 2, requires_grad=True)
    good = CSR.from_edge_index(torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
    for rowptr, col in (([0, 0, 1, 2], [0, 10**12]), ([0, 0, 10**12, 2], [0, 1])):
        csr = CSR(torch.tensor(rowptr), torch.tensor(col), None, 3, 3)
        with pytest.raises(IndexError, match=r"col|rowptr"):
            level_propagate(csr, x)
    broken = CSR(good.rowptr, good.col, good.eid + 7, 3, 3)
    with pytest.raises(IndexError, match="eid"):
        level_propagate(broken, x, torch.ones(2))


@pytest.mark.parametrize(("message", "reduce"), [("scale", "sum"), ("add", "max")])
def test_compiles_whole(message, reduce):
    torch._dynamo.reset()
    edge_index = dag()
    x, edge = inputs(edge_index, 30, message, True, dtype=torch.float32)

    def call(edge_index, x, edge):
        csr = CSR.from_edge_index(edge_index, num_nodes=30)
        return level_propagate(csr, x, edge, message=message, reduce=reduce).relu()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for run in (compiled, call):
        out = run(edge_index, x, edge)
        results.append([out, *torch.autograd.grad(out.sum(), [x, edge])])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(InputError, match="cycle"):
        compiled(torch.cat([edge_index, edge_index.flip(0)], 1), x, torch.cat([edge, edge]))


@NATIVE
@pytest.mark.parametrize(
    ("message", "reduce"), [("copy", "mean"), ("scale", "max"), ("add", "sum")]
)
def test_opcheck(message, reduce):
    edge_index = dag(10, 20)
    x, edge = inputs(edge_index, 10, message, reduce == "max")
    csr = CSR.from_edge_index(edge_index, num_nodes=10)
    back = csr.transpose()
    structure = (csr.rowptr, csr.col, back.rowptr, back.col)
    torch.library.opcheck(torch.ops.graphkit.topological_levels, structure)
    _, order, ptr = torch.ops.graphkit.topological_levels(*structure)
    arguments = (
        x, edge, csr.rowptr, csr.col, csr.eid, back.rowptr, back.col, back.eid, order, ptr,
        message, reduce,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.graphkit.level_propagate, (*arguments, True))
    with torch.no_grad():
        out, winner = torch.ops.graphkit.level_propagate(*arguments, True)
    backward = (
        torch.randn_like(out), out, winner, None if edge is None else edge.detach(), csr.rowptr,
        back.rowptr, back.col, back.eid, order, ptr, message, reduce, edge is not None,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.graphkit.level_propagate_backward, backward)
