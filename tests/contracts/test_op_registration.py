"""The custom ops behave under autograd, fake tensors and compilation, on one OpenMP pool."""

import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from op_cases import CORE, GRAPHS, random_graph

from graphkit.ops import CSR, aggregate, gated_aggregate

pytestmark = pytest.mark.usefixtures("native")
OPS = torch.ops.graphkit
# The transpose of a one-element graph and the empty graph take early returns of their own.
SHAPES = ["random", "bipartite", "no_edges", "one_self_loop"]


def structure(csr: CSR) -> tuple:
    back = csr.transpose()
    return csr.rowptr, csr.col, csr.eid, back.rowptr, back.col, back.eid


def aggregate_arguments(csr, message, reduces, dtype=torch.float64, by_table=False):
    entries = csr.num_entries
    x = torch.randn(csr.num_cols, 4, dtype=dtype, requires_grad=True)
    rowptr, col, eid, rowptr_t, col_t, eid_t = structure(csr)
    edge = None
    if message != "copy":
        rows = 3 if by_table else entries
        edge = torch.randn(rows, 2 if message == "scale" else 4, dtype=dtype, requires_grad=True)
    if by_table:
        eid, eid_t = eid % 3, eid_t % 3
    return x, edge, rowptr, col, eid, rowptr_t, col_t, eid_t, message, reduces, by_table, True


def gated_arguments(csr, with_edge, normalize):
    rows = [csr.num_rows, csr.num_cols, csr.num_cols]
    tensors = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in rows]
    edge = torch.randn(csr.num_entries, 4, dtype=torch.float64, requires_grad=True)
    return *tensors, edge if with_edge else None, *structure(csr), normalize, 1e-6, True


@pytest.mark.parametrize("graph", SHAPES)
@pytest.mark.parametrize(
    ("message", "reduces", "by_table"),
    [
        ("copy", "sum", False),
        ("copy", "mean,min,max,std", False),
        ("scale", "mean", False),
        ("add_relu", "sum", True),
        ("mul", "var", False),
    ],
)
def test_opcheck_aggregate(graph, message, reduces, by_table):
    arguments = aggregate_arguments(GRAPHS[graph].csr(), message, reduces, by_table=by_table)
    torch.library.opcheck(OPS.aggregate, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_opcheck_aggregate_dtypes(dtype):
    # Numeric agreement of half types is the contract's business; here the registrations are.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = aggregate_arguments(GRAPHS["random"].csr(), "add", "sum,max", dtype)
    torch.library.opcheck(OPS.aggregate, arguments, test_utils=tests)


@pytest.mark.parametrize(("message", "reduces"), [("copy", "sum"), ("mul", "mean,min,max,std")])
def test_opcheck_aggregate_backward(message, reduces):
    csr = GRAPHS["bipartite"].csr()
    arguments = aggregate_arguments(csr, message, reduces)
    with torch.no_grad():
        out, *saved = OPS.aggregate(*arguments)
    x, edge, *rest = (a.detach() if isinstance(a, torch.Tensor) else a for a in arguments[:-1])
    backward = (torch.randn_like(out), x, edge, *rest, out, *saved, True, edge is not None)
    torch.library.opcheck(OPS.aggregate_backward, backward)


@pytest.mark.parametrize("graph", SHAPES)
@pytest.mark.parametrize(("with_edge", "normalize"), [(True, True), (False, True), (True, False)])
def test_opcheck_gated_aggregate(graph, with_edge, normalize):
    arguments = gated_arguments(GRAPHS[graph].csr(), with_edge, normalize)
    torch.library.opcheck(OPS.gated_aggregate, arguments)


@pytest.mark.parametrize("with_edge", [True, False])
def test_opcheck_gated_aggregate_backward(with_edge):
    arguments = gated_arguments(GRAPHS["bipartite"].csr(), with_edge, True)
    with torch.no_grad():
        out, gates, sums = OPS.gated_aggregate(*arguments)
    dst, src, value, _, *rest, normalize, eps, _ = (
        a.detach() if isinstance(a, torch.Tensor) else a for a in arguments
    )
    gates = gates if with_edge else None
    outer = torch.randn_like(gates) if with_edge else None
    inputs = (torch.randn_like(out), outer, dst, src, value, gates, *rest)
    torch.library.opcheck(OPS.gated_aggregate_backward, (*inputs, normalize, eps, out, sums))


@pytest.mark.parametrize("graph", SHAPES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_opcheck_csr_ops(graph, dtype):
    cols, rows = GRAPHS[graph].size
    source, target = GRAPHS[graph].edge_index.to(dtype)
    torch.library.opcheck(OPS.csr_sort, (target, source, rows, cols))
    csr = GRAPHS[graph].csr()
    for eid in (csr.eid, None):
        torch.library.opcheck(OPS.csr_transpose, (csr.rowptr, csr.col, eid, cols))


def layer(x, edge_index, weight, edge):
    csr = CSR.from_edge_index(edge_index, num_nodes=x.size(0))
    hidden = aggregate(csr, x, weight, message="scale", reduce="mean")
    moments = aggregate(csr, x, edge, message="add_relu", reduce=["max", "std"])
    gated, state = gated_aggregate(csr, hidden, x, x, edge)
    return (gated + moments.sum(1)).square().sum() + state.square().mean()


def layer_inputs(nodes: int, edges: int):
    graph = random_graph(nodes, nodes, edges)
    torch.manual_seed(0)
    x = torch.randn(nodes, 8, requires_grad=True)
    weight = torch.rand(edges, requires_grad=True)
    edge = torch.randn(edges, 8, requires_grad=True)
    return x, graph.edge_index, weight, edge


def test_compiled_in_one_graph_for_all_batch_shapes():
    """Tracing, functionalisation and autograd of the compiler; its code generator comes below."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for nodes, edges in ((20, 60), (31, 77), (12, 40), (50, 210), (8, 30)):
        x, edge_index, weight, edge = layer_inputs(nodes, edges)
        expected = layer(x, edge_index, weight, edge)
        expected_gradients = torch.autograd.grad(expected, [x, weight, edge])
        found = compiled(x, edge_index, weight, edge)
        gradients = torch.autograd.grad(found, [x, weight, edge])
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients, expected_gradients)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor: needs g++")
def test_compiled_by_inductor():
    torch._dynamo.reset()

    def small(x, edge_index):
        csr = CSR.from_edge_index(edge_index, num_nodes=x.size(0))
        return aggregate(csr, x, reduce="mean").relu()

    x, edge_index, _, _ = layer_inputs(20, 60)
    with torch.no_grad():
        found = torch.compile(small, fullgraph=True)(x, edge_index)
        assert torch.equal(found, small(x, edge_index))


def test_a_bad_index_in_a_compiled_graph_is_refused():
    """Nobody has looked at the values when a graph was compiled: the kernels must."""
    torch._dynamo.reset()

    def small(x, edge_index):
        return aggregate(CSR.from_edge_index(edge_index, num_nodes=x.size(0)), x)

    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 8)
    for row in (0, 1):
        for bad in (4, -1, 2**40):
            edge_index = torch.tensor([[0, 1, 2], [1, 2, 3]])
            edge_index[row, 1] = bad
            with pytest.raises((IndexError, ValueError), match=str(bad)):
                compiled(x, edge_index)


@pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)
def test_fake_tensors_have_the_real_shapes(case):
    csr = GRAPHS["bipartite"].csr()
    tensors = case.make(csr, 0)
    csr.transpose()
    real = case.call(csr, *tensors)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = case.call(csr, *(mode.from_tensor(t) for t in tensors))
    for ours, theirs in zip(fake, real, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert ours.stride() == theirs.stride()


def test_one_openmp_pool_that_obeys_torch():
    """A second runtime would keep its own threads, and torch.set_num_threads would miss them."""
    pytest.importorskip("threadpoolctl")
    script = textwrap.dedent("""
        import os, threading, torch
        from graphkit.ops import CSR, aggregate, cpu
        assert cpu.kernels is not None
        edge_index = torch.randint(0, 2000, (2, 40_000))
        x = torch.randn(2000, 64)
        count = lambda: len(os.listdir("/proc/self/task"))
        torch.set_num_threads(1)
        csr = CSR.from_edge_index(edge_index, num_nodes=2000)
        before = count()
        aggregate(csr, x)
        assert count() == before, "threads were started although torch allows one"
        torch.set_num_threads(3)
        torch.randn(4_000_000).exp_()
        pool = count()
        aggregate(csr, x)
        assert count() == pool, "the kernels started threads of their own"
        from threadpoolctl import threadpool_info
        found = {i["filepath"] for i in threadpool_info() if i["user_api"] == "openmp"}
        assert len(found) == 1, found
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
