"""The Triton kernels of gated_aggregate give what the plain-torch definition gives."""

import os

import pytest
import torch
from torch import Tensor

from graphkit.ops import CSR, gated_aggregate, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a GPU, or TRITON_INTERPRET=1 (test_triton_interpreter.py runs it so)",
        allow_module_level=True,
    )
pytest.importorskip("triton")

from graphkit.ops.triton import pieces  # noqa: E402
from graphkit.ops.triton.gated import gated_backward, gated_forward  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
NODES, EDGES = 6, 18


class Kernels(torch.autograd.Function):
    """The kernels as the custom op joins them, for tensors on any device."""

    @staticmethod
    def forward(ctx, gate_dst, gate_src, value, edge, csr, normalize, eps):
        out, gates, sums = gated_forward(
            gate_dst, gate_src, value, edge, csr.rowptr, csr.col, csr.eid, normalize, eps, True
        )
        ctx.set_materialize_grads(False)
        ctx.kept = (gate_dst, gate_src, value, None if edge is None else gates, out, sums)
        ctx.csr, ctx.normalize, ctx.eps = csr, normalize, eps
        return out, gates

    @staticmethod
    def backward(ctx, grad, grad_gates):
        gate_dst, gate_src, value, gates, out, sums = ctx.kept
        csr, back = ctx.csr, ctx.csr.transpose()
        grad = torch.zeros_like(out) if grad is None else grad
        grads = gated_backward(
            grad, None if gates is None else grad_gates, gate_dst, gate_src, value, gates,
            csr.rowptr, csr.col, csr.eid, back.rowptr, back.col, back.eid, ctx.normalize, ctx.eps,
            out, sums,
        )  # fmt: skip
        wanted = [g if n else None for g, n in zip(grads, ctx.needs_input_grad, strict=False)]
        return *wanted, None, None, None


def run(csr, gate_dst, gate_src, value, edge, normalize, eps=1e-6):
    if not INTERPRETED:
        return gated_aggregate(csr, gate_dst, gate_src, value, edge, normalize=normalize, eps=eps)
    return Kernels.apply(gate_dst, gate_src, value, edge, csr, normalize, eps)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Cut rows of more than 4 entries into pieces of 3, so that small graphs have hubs."""
    monkeypatch.setattr(pieces, "LIMIT", 4)
    monkeypatch.setattr(pieces, "PIECE", 3)
    monkeypatch.setattr(pieces, "UNROLL", 2)  # the interpreter pays for masked entries too


def graph(index: torch.dtype = torch.int32) -> CSR:
    pair = torch.randint(0, NODES - 2, (2, EDGES), generator=torch.Generator().manual_seed(0))
    pair[1, :8], pair[0, 5:13] = 3, 1
    pair[:, 15:] = pair[:, :3]
    csr = CSR.from_edge_index(pair.to(DEVICE), num_nodes=NODES)
    return CSR(csr.rowptr.to(index), csr.col.to(index), csr.eid.to(index), NODES, NODES)


def features(rows: int, width: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def compare(csr, inputs, normalize, through_gates, dtype=torch.float64, rtol=1e-12):
    mine = [t.detach().requires_grad_() for t in inputs]
    theirs = [t.detach().to(dtype).requires_grad_() for t in inputs]
    out, gates = run(csr, *mine, *[None] * (4 - len(mine)), normalize)
    expected, expected_gates = reference.gated_aggregate(
        csr, *theirs, *[None] * (4 - len(mine)), normalize=normalize
    )
    grad = features(out.numel(), 1, out.dtype, 9).view(out.shape)
    outputs, grads = [out], [grad]
    wanted_outputs = [expected]
    if through_gates:
        outputs.append(gates)
        wanted_outputs.append(expected_gates)
        grads.append(features(gates.numel(), 1, out.dtype, 10).view(gates.shape))
    found = torch.autograd.grad(outputs, mine, grads)
    wanted = torch.autograd.grad(wanted_outputs, theirs, [g.to(dtype) for g in grads])
    for a, b in zip([*outputs, *found], [*wanted_outputs, *wanted], strict=True):
        scale = max(float(b.detach().abs().max()), 1.0)
        torch.testing.assert_close(a.to(dtype), b, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("edges", ["none", "edge", "edge and its gradient"])
def test_outputs_and_gradients_equal_the_definition(normalize, edges):
    inputs = [features(NODES, 5, torch.float64, s) for s in (1, 2, 3)]
    if edges != "none":
        inputs.append(features(EDGES, 5, torch.float64, 4))
    compare(graph(), inputs, normalize, edges == "edge and its gradient")


def test_float32_several_blocks_strided_rows_and_int64():
    wide = [features(NODES, 260, torch.float32, s) for s in (1, 2, 3)]
    inputs = [wide[0][:, :130], wide[1][:, ::2], wide[2][:, 130:]]
    inputs.append(features(EDGES, 130, torch.float32, 4))
    compare(graph(torch.int64), inputs, True, True, rtol=1e-5)


def test_bfloat16_accumulates_in_float32():
    inputs = [features(NODES, 4, torch.bfloat16, s) for s in (1, 2, 3)]
    inputs.append(features(EDGES, 4, torch.bfloat16, 4))
    # Backward reads the stored (rounded) out, sums and gates: a few bfloat16 roundings in a row.
    rtol = 4 * torch.finfo(torch.bfloat16).eps
    compare(graph(), inputs, True, True, dtype=torch.float32, rtol=rtol)


def test_no_edges_and_one_node():
    none = CSR.from_edge_index(torch.zeros(2, 0, dtype=torch.int64, device=DEVICE), num_nodes=3)
    x = features(3, 2, torch.float64, 1).requires_grad_()
    out, _ = run(none, x, x, x, None, True)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), x)[0].any()
    loop = CSR.from_edge_index(torch.zeros(2, 1, dtype=torch.int64, device=DEVICE), num_nodes=1)
    compare(loop, [features(1, 1, torch.float64, s) for s in (1, 2, 3, 4)], True, True)


def test_far_gates_neither_overflow_nor_hide_a_nan():
    pair = torch.tensor([[0, 1], [2, 2]], device=DEVICE)
    csr = CSR.from_edge_index(pair, num_nodes=3)
    far = torch.tensor([[-200.0], [200.0], [0.0]], device=DEVICE)
    value = torch.tensor([[5.0], [7.0], [0.0]], device=DEVICE)
    out, _ = run(csr, torch.zeros_like(far), far, value, None, True)
    assert float(out[2]) == pytest.approx(7.0, rel=1e-5)
    far[1] = float("nan")
    out, _ = run(csr, torch.zeros_like(far), far, value, None, True)
    assert out[2].isnan().all()
