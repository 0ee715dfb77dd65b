"""The Triton kernels of attention give what the plain-torch definition gives."""

import os

import pytest
import torch
from torch import Tensor

from graphkit.ops import CSR, attention, cpu, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a GPU, or TRITON_INTERPRET=1 (test_triton_interpreter.py runs it so)",
        allow_module_level=True,
    )
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from graphkit.ops.triton import attention_backward as backward_kernels  # noqa: E402
from graphkit.ops.triton import attention_scores, pieces  # noqa: E402
from graphkit.ops.triton.attention import attention_forward  # noqa: E402
from graphkit.ops.triton.attention_backward import attention_backward  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
SCORES = ["additive", "gatv2", "dot"]
NODES, EDGES, HEADS, WIDTH = 6, 18, 3, 3
SLOPE, SCALE = 0.3, 0.7


class Kernels(torch.autograd.Function):
    """The kernels as the custom op joins them, for tensors on any device."""

    @staticmethod
    def forward(ctx, value, dst, src, edge, att, bias, seed, csr, *options):
        tensors = (value, dst, src, edge, att, bias, seed)
        back = csr.transpose()
        graph = (csr.rowptr, csr.col, csr.eid, back.rowptr, back.col, back.eid)
        out, lse = attention_forward(*tensors, *graph, *options, True)
        ctx.kept = (out, lse, *tensors, *graph, *options)
        return out

    @staticmethod
    def backward(ctx, grad):
        need = ctx.needs_input_grad
        grads = attention_backward(grad, *ctx.kept, need[3], need[4], need[5])
        return *(g if n else None for g, n in zip(grads, need, strict=False)), *[None] * 7


def run(csr, value, dst, src, edge, att, bias, score, heads, dropout=0.0, seed=None) -> Tensor:
    if not INTERPRETED:
        return attention(
            csr, value, dst, src, edge, score=score, heads=heads, att=att, bias=bias,
            negative_slope=SLOPE, scale=SCALE, dropout=dropout, seed=seed,
        )  # fmt: skip
    return Kernels.apply(
        value, dst, src, edge, att, bias, seed, csr, score, heads, SLOPE, SCALE, dropout
    )


@pytest.fixture(autouse=True)
def small_cuts(monkeypatch):
    """Rows of more than 4 entries are hubs, and a program looks at two entries together."""
    monkeypatch.setattr(pieces, "LIMIT", 4)
    monkeypatch.setattr(pieces, "PIECE", 3)
    monkeypatch.setattr(pieces, "UNROLL", 2)
    monkeypatch.setattr(attention_scores, "TILE", 32)
    monkeypatch.setattr(backward_kernels, "ATT_PROGRAMS", 4)


def graph(index: torch.dtype = torch.int32) -> CSR:
    """A hub by rows, a hub by columns, parallel edges, self-loops, and rows without entries."""
    pair = torch.randint(0, NODES - 2, (2, EDGES), generator=torch.Generator().manual_seed(0))
    pair[1, :8], pair[0, 5:13] = 3, 1
    pair[:, 15:] = pair[:, :3]
    csr = CSR.from_edge_index(pair.to(DEVICE), num_nodes=NODES)
    return CSR(csr.rowptr.to(index), csr.col.to(index), csr.eid.to(index), NODES, NODES)


def inputs(score, edges, *, csr=None, heads=HEADS, width=WIDTH, dtype=torch.float64):
    """value, dst, src, edge, att and bias."""
    generator = torch.Generator().manual_seed(3)
    rows, cols, entries = (NODES, NODES, EDGES)
    if csr is not None:
        rows, cols, entries = csr.num_rows, csr.num_cols, csr.num_entries
    columns = heads if score == "additive" else heads * width

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)

    return [
        draw(cols, heads * width), draw(rows, columns), draw(cols, columns),
        draw(entries, columns) if edges else None, draw(heads * width) if score == "gatv2" else
        None, draw(entries, heads) if edges else None,
    ]  # fmt: skip


def compare(
    csr, tensors, score, heads=HEADS, dropout=0.0, seed=-12345678901234, dtype=torch.float64,
    rtol=1e-12,
):  # fmt: skip
    """Output and all gradients against the definition in ``dtype``; returns them."""
    number = torch.tensor([seed]) if dropout else None

    def results(call, given):
        given = [None if t is None else t.detach().requires_grad_() for t in given]
        out = call(given)
        grad = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=DEVICE)
        grad = grad.to(tensors[0].dtype).to(out.dtype).view_as(out)
        return [out, *torch.autograd.grad(out, [t for t in given if t is not None], grad)]

    found = results(lambda t: run(csr, *t, score, heads, dropout, number), tensors)
    wanted = results(
        lambda t: reference.attention(
            csr, *t[:4], score=score, heads=heads, att=t[4], bias=t[5], negative_slope=SLOPE,
            scale=SCALE, dropout=dropout, seed=number,
        ),
        [None if t is None else t.to(dtype) for t in tensors],
    )  # fmt: skip
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        size = max(float(b.detach().abs().max()), 1.0) if b.numel() else 1.0
        torch.testing.assert_close(a.to(dtype), b, rtol=rtol, atol=rtol * size)
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_output_and_gradients_equal_the_definition(score, edges, dropout):
    compare(graph(), inputs(score, edges), score, dropout=dropout)


@pytest.mark.parametrize("score", SCORES)
def test_int64_indices_float32_and_strided_rows(score):
    tensors = inputs(score, True, heads=2, width=5, dtype=torch.float32)
    wide = [torch.cat([t, t], 1) for t in tensors[:4]]
    tensors[:4] = [t[:, : t.size(1) // 2] for t in wide]
    compare(graph(torch.int64), tensors, score, heads=2, dropout=0.2, rtol=2e-5)


@pytest.mark.parametrize("score", SCORES)
def test_no_edges_one_node_and_nodes_of_two_kinds(score):
    for nodes, edges in ((3, 0), (1, 1)):
        pair = torch.zeros(2, edges, dtype=torch.int64, device=DEVICE)
        csr = CSR.from_edge_index(pair, num_nodes=nodes)
        tensors = inputs(score, True, csr=csr, heads=1, width=2)
        found = compare(csr, tensors, score, heads=1, dropout=0.5)
        if not edges:
            assert not any(t.any() for t in found)
    pair = torch.tensor([[0, 4, 4, 1], [2, 0, 2, 2]], device=DEVICE)
    csr = CSR.from_edge_index(pair, size=(5, 3))
    compare(csr, inputs(score, True, csr=csr, heads=2, width=1), score, heads=2)


@pytest.mark.parametrize("score", ["additive", "gatv2"])
def test_a_program_per_head(score, monkeypatch):
    monkeypatch.setattr(attention_scores, "TILE", 4)
    tensors = inputs(score, True, heads=2)
    compare(graph(), tensors, score, heads=2, dropout=0.3)


@pytest.mark.parametrize("score", ["gatv2", "dot"])
def test_values_that_are_the_keys_are_read_once_and_get_both_gradients(score):
    value, dst, _, _, att, _ = inputs(score, False)
    twice = compare(graph(), [value, dst, value.clone(), None, att, None], score)
    value.requires_grad_()
    out = run(graph(), value, dst, value, None, att, None, score, HEADS)
    assert torch.equal(out, twice[0])
    grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=DEVICE).view_as(out)
    (both,) = torch.autograd.grad(out, value, grad)
    torch.testing.assert_close(both, twice[1] + twice[3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_bfloat16_accumulates_in_float32(score):
    tensors = inputs(score, True, heads=2, width=4, dtype=torch.bfloat16)
    # Backward reads the stored (rounded) output: a few bfloat16 roundings in a row.
    rtol = 8 * torch.finfo(torch.bfloat16).eps
    compare(graph(), tensors, score, heads=2, dtype=torch.float32, rtol=rtol)


@triton.jit
def _factors(seed, first, out, THRESHOLD: tl.constexpr, FACTOR: tl.constexpr):
    edge = tl.load(first) + tl.arange(0, 64)
    head = tl.arange(0, 4)
    kept = attention_scores.keep_factor(seed, edge, head, THRESHOLD, FACTOR, tl.float32)
    tl.store(out + tl.arange(0, 64)[:, None] * 4 + head[None, :], kept)


@pytest.mark.parametrize("seed", [0, 99, -1, 2**62 - 1, -(2**63)])
def test_dropout_draws_the_bits_of_the_reference_for_edges_beyond_int32(seed):
    number, out = torch.tensor([seed], device=DEVICE), torch.empty(64, 4, device=DEVICE)
    for first in (0, 2**31 - 20, 2**32 - 20, 2**40):
        edge = torch.arange(first, first + 64, device=DEVICE)
        for dropout in (0.01, 0.5, 1.0):
            threshold = int(min(dropout * 2.0**32, 2.0**32 - 1))
            factor = 0.0 if dropout == 1.0 else 1 / (1 - dropout)
            start = torch.tensor([first], device=DEVICE)
            _factors[(1,)](number, start, out, THRESHOLD=threshold, FACTOR=factor)
            assert torch.equal(out, reference.keep_factors(number, edge, 4, dropout))


@pytest.mark.skipif(cpu.kernels is None, reason=f"no native kernels: {cpu.why_missing}")
def test_dropout_draws_the_bits_of_the_cpu_kernel():
    # One edge per row, given in another order: what comes out is the factor of its weight.
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    csr = CSR.from_edge_index(torch.stack([order, order]), num_nodes=40)
    ones, zeros, seed = torch.ones(40, 4), torch.zeros(40, 4), torch.tensor([-(2**40) - 5])
    wanted = attention(csr, ones, zeros, zeros, heads=4, dropout=0.4, seed=seed)
    ones, zeros = ones.to(DEVICE), zeros.to(DEVICE)
    found = run(csr.to(DEVICE), ones, zeros, zeros, None, None, None, "additive", 4, 0.4, seed)
    assert torch.equal(found.cpu(), wanted)
    assert 30 < int((wanted == 0).sum()) < 100


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, on lanes without an entry
@pytest.mark.parametrize("score", SCORES)
def test_large_scores_masked_edges_and_nans_stay_where_they_belong(score):
    pair = torch.tensor([[0, 1, 2, 0, 0, 1, 2], [0, 0, 0, 1, 3, 3, 3]], device=DEVICE)
    csr = CSR.from_edge_index(pair, num_nodes=4)
    value = torch.tensor([[1.0], [2.0], [4.0], [8.0]], device=DEVICE)
    src = torch.tensor([[1e4], [3e4], [2e4], [0.0]], device=DEVICE)
    dst = torch.ones(4, 1, device=DEVICE)
    att = torch.ones(1, device=DEVICE) if score == "gatv2" else None
    bias = torch.zeros(7, 1, device=DEVICE)
    bias[1], bias[3] = -torch.inf, -torch.inf
    src.requires_grad_()
    out = run(csr, value, dst, src, None, att, bias, score, 1)
    assert out[:, 0].tolist() == [4.0, 0.0, 0.0, 2.0]  # node 1 has no edge left
    (grad,) = torch.autograd.grad(out.sum(), src)
    assert grad.isfinite().all()
    value[2] = torch.nan
    out = run(csr, value, dst, src.detach(), None, att, bias, score, 1)
    assert out[:, 0].isnan().tolist() == [True, False, False, True]


def test_heads_wider_than_a_tile():
    compare(graph(), inputs("dot", False, heads=1, width=70), "dot", heads=1)
