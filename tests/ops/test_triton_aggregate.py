"""The Triton kernels of aggregate give what the plain-torch definition gives.

With TRITON_INTERPRET=1 the kernels run on CPU tensors (test_triton_interpreter.py starts that
process); on a machine with a GPU the same cases go through ``graphkit.ops.aggregate``.
"""

import os

import pytest
import torch
from torch import Tensor

from graphkit.ops import CSR, MESSAGES, REDUCES, aggregate, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a GPU, or TRITON_INTERPRET=1 (test_triton_interpreter.py runs it so)",
        allow_module_level=True,
    )
pytest.importorskip("triton")

from graphkit.ops.triton import pieces  # noqa: E402
from graphkit.ops.triton.aggregate import aggregate_forward  # noqa: E402
from graphkit.ops.triton.aggregate_backward import aggregate_backward  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
NODES, EDGES, HUB = 6, 18, 3
EVERY = ",".join(REDUCES)


class Kernels(torch.autograd.Function):
    """The two kernels as the custom op joins them, for tensors on any device."""

    @staticmethod
    def forward(ctx, x, edge, csr, eid, eid_t, message, reduces, table):
        out, *rest = aggregate_forward(x, edge, csr.rowptr, csr.col, eid, message, reduces, True)
        ctx.inputs, ctx.results = (x, edge, csr, eid, eid_t, message, reduces, table), (out, *rest)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, edge, csr, eid, eid_t, message, reduces, table = ctx.inputs
        back = csr.transpose()
        grad_x, grad_edge = aggregate_backward(
            grad, x, edge, csr.rowptr, csr.col, eid, back.rowptr, back.col, eid_t, message, reduces,
            table, *ctx.results, x.requires_grad, edge is not None and edge.requires_grad,
        )  # fmt: skip
        need_x, need_edge = ctx.needs_input_grad[:2]
        return grad_x if need_x else None, grad_edge if need_edge else None, *[None] * 6


def run(csr, x, edge, lookup, message, reduces) -> Tensor:
    if not INTERPRETED:
        return aggregate(csr, x, edge, lookup=lookup, message=message, reduce=reduces.split(","))
    eid, eid_t = csr.eid, csr.transpose().eid
    if lookup is not None:
        table = lookup.to(csr.col.dtype)  # entry -> edge -> table row, as the op composes them
        eid, eid_t = table[eid.long()], table[eid_t.long()]
    return Kernels.apply(x, edge, csr, eid, eid_t, message, reduces, lookup is not None)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Cut rows of more than 4 entries into pieces of 3, so that small graphs have hubs."""
    monkeypatch.setattr(pieces, "LIMIT", 4)
    monkeypatch.setattr(pieces, "PIECE", 3)
    monkeypatch.setattr(pieces, "UNROLL", 2)  # the interpreter pays for masked entries too


def graph(seed: int = 0, index: torch.dtype = torch.int32) -> CSR:
    """A hub by rows, a hub by columns, parallel edges, self-loops, and rows without entries."""
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randint(0, NODES - 2, (2, EDGES), generator=generator)
    pair[1, :8], pair[0, 5:13] = HUB, 1
    pair[:, 15:] = pair[:, :3]
    csr = CSR.from_edge_index(pair.to(DEVICE), num_nodes=NODES)
    if index == csr.col.dtype:
        return csr
    return CSR(csr.rowptr.to(index), csr.col.to(index), csr.eid.to(index), NODES, NODES)


def features(rows: int, width: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return values.to(dtype).to(DEVICE)


def compare(csr, x, edge, lookup, message, reduces, dtype=torch.float64, rtol=1e-12):
    """Forward and both gradients, against the definition in ``dtype`` on the same values."""
    given = [t for t in (x, edge) if t is not None]
    mine = [t.detach().clone(memory_format=torch.preserve_format) for t in given]
    if not x.is_contiguous():
        mine[0] = x.detach()
    theirs = [t.detach().to(dtype) for t in given]
    for t in mine + theirs:
        t.requires_grad_()
    out = run(csr, mine[0], mine[1] if edge is not None else None, lookup, message, reduces)
    expected = reference.aggregate(
        csr, theirs[0], theirs[1] if edge is not None else None, lookup=lookup, message=message,
        reduces=reduces.split(","),
    )  # fmt: skip
    grad = features(out.numel(), 1, x.dtype, 99).view(out.shape)
    found = torch.autograd.grad(out, mine, grad)
    wanted = torch.autograd.grad(expected, theirs, grad.to(dtype))
    for a, b in zip([out, *found], [expected, *wanted], strict=True):
        assert a.shape == b.shape
        scale = max(float(b.detach().abs().max()), 1.0) if b.numel() else 1.0
        torch.testing.assert_close(a.to(dtype), b, rtol=rtol, atol=rtol * scale)


def edges_for(message, dtype, rows=EDGES, heads=2, width=6):
    if message == "copy":
        return None
    return features(rows, heads if message == "scale" else width, dtype, 2)


@pytest.mark.parametrize("message", MESSAGES)
def test_all_reduces_in_one_pass_equal_the_definition(message):
    x = features(NODES, 6, torch.float64, 1)
    compare(graph(), x, edges_for(message, torch.float64), None, message, EVERY)


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("message", MESSAGES)
def test_one_reduce_equals_the_definition_in_float32(message, reduce):
    x = features(NODES, 4, torch.float32, 1)
    edge = edges_for(message, torch.float32, width=4)
    compare(graph(1), x, edge, None, message, reduce, rtol=2e-5)


@pytest.mark.parametrize("message", MESSAGES[1:])
def test_edge_tables_collect_the_gradients_of_all_their_readers(message):
    lookup = torch.randint(0, 3, (EDGES,), generator=torch.Generator().manual_seed(3)).to(DEVICE)
    table = edges_for(message, torch.float64, rows=5)  # rows 3 and 4 are read by no edge
    x = features(NODES, 6, torch.float64, 1)
    compare(graph(), x, table, lookup, message, "sum,max,std")


@pytest.mark.parametrize(("heads", "width"), [(1, 6), (3, 6), (2, 200), (1, 1100)])
def test_weights_per_head_of_any_width(heads, width):
    edge = features(EDGES, heads, torch.float64, 2)
    x = features(NODES, width, torch.float64, 1)
    compare(graph(), x, edge if heads > 1 else edge[:, 0], None, "scale", "mean")


def test_features_of_several_blocks_and_strided_rows():
    wide = features(NODES, 300, torch.float64, 1)
    compare(graph(), wide[:, :150], features(EDGES, 150, torch.float64, 2), None, "add_relu", "sum")
    compare(graph(), wide[:, ::60], None, None, "copy", "mean,max")


def test_int64_indices_and_a_table_by_the_transposed_graph():
    x = features(NODES, 3, torch.float64, 1)
    compare(graph(index=torch.int64), x, None, None, "copy", "var,min")
    lookup = torch.arange(EDGES, device=DEVICE) % 4
    table = features(4, 3, torch.float64, 2)
    compare(graph().transpose(), x, table, lookup, "mul", "max,sum")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_accumulate_in_float32(dtype, monkeypatch):
    x, edge = features(NODES, 6, dtype, 1), features(EDGES, 6, dtype, 2)
    eps = torch.finfo(dtype).eps
    compare(graph(), x, edge, None, "mul", "sum", dtype=torch.float32, rtol=2 * eps)
    compare(graph(), x, None, None, "copy", "mean,max", dtype=torch.float32, rtol=2 * eps)
    # 300 ones: a bfloat16 sum would stop at 256.
    monkeypatch.setattr(pieces, "LIMIT", 400)
    monkeypatch.setattr(pieces, "UNROLL", 4)
    many = CSR.from_ptr(torch.tensor([0, 300], device=DEVICE))
    ones = torch.ones(300, 1, dtype=dtype, device=DEVICE)
    assert float(run(many, ones, None, None, "copy", "sum")) == 300


def test_segments_and_one_node_and_no_edges():
    pooled = CSR.from_ptr(torch.tensor([0, 0, 6, 8, 8, 9], device=DEVICE))
    compare(pooled, features(9, 5, torch.float64, 1), None, None, "copy", EVERY)
    loop = CSR.from_edge_index(torch.zeros(2, 1, dtype=torch.int64, device=DEVICE), num_nodes=1)
    x, weight = features(1, 1, torch.float64, 1), features(1, 1, torch.float64, 2)
    compare(loop, x, weight, None, "scale", "sum,max,std")
    none = CSR.from_edge_index(torch.zeros(2, 0, dtype=torch.int64, device=DEVICE), num_nodes=3)
    x = features(3, 2, torch.float64, 1).requires_grad_()
    out = run(none, x, None, None, "copy", EVERY)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), x)[0].any()


def test_ties_go_to_the_first_edge_and_nan_wins():
    star = torch.tensor([[0, 1, 2, 3, 1], [4, 4, 4, 4, 5]], device=DEVICE)
    csr = CSR.from_edge_index(star, num_nodes=6)
    x = torch.tensor([[1.0], [2.0], [2.0], [0.0], [0.0], [0.0]], device=DEVICE, requires_grad=True)
    out = run(csr, x, None, None, "copy", "max")
    assert torch.autograd.grad(out[4].sum(), x)[0].flatten().tolist() == [0, 1, 0, 0, 0, 0]
    x = torch.tensor([[1.0], [float("nan")], [2.0], [3.0], [0.0], [0.0]], device=DEVICE)
    out = run(csr, x, None, None, "copy", "min,max")
    assert out[4].isnan().all()


def test_variance_does_not_cancel_and_std_is_zero_for_equal_messages():
    x = 1e4 + features(NODES, 4, torch.float32, 1)
    out = run(graph(), x, None, None, "copy", "var,std")
    expected = reference.aggregate(graph(), x.double(), reduces=["var", "std"])
    # E[m^2] - E[m]^2 in float32 would be off by 1e4^2 * 6e-8 = 6; around a message it is 1e-3.
    torch.testing.assert_close(out.double(), expected, rtol=2e-3, atol=2e-3)
    same = run(graph(), torch.full_like(x, 3.0), None, None, "copy", "var,std")
    assert not same.any()


def test_repeated_reduces_add_their_gradients():
    compare(graph(), features(NODES, 3, torch.float64, 1), None, None, "copy", "max,sum,max")


def test_results_do_not_depend_on_how_many_features_share_a_program(monkeypatch):
    x, edge = features(NODES, 20, torch.float32, 1), features(EDGES, 20, torch.float32, 2)
    grad = features(NODES * 2, 20, torch.float32, 3).view(NODES, 2, 20)

    def everything() -> list[Tensor]:
        given = [x.clone().requires_grad_(), edge.clone().requires_grad_()]
        out = run(graph(), *given, None, "add_relu", "sum,std")
        return [out, *torch.autograd.grad(out, given, grad)]

    whole = everything()
    monkeypatch.setattr(pieces, "block_size", lambda width: 8)
    for a, b in zip(whole, everything(), strict=True):
        assert torch.equal(a, b)
