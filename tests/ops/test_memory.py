"""Kept memory: large outputs reuse freed blocks, and nobody can tell from the results."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from graphkit import nn as gk
from graphkit import ops
from graphkit.nn.dense import dense
from graphkit.ops import CSR, cpu

pytestmark = pytest.mark.skipif(cpu.kernels is None, reason="needs the compiled kernels")


@pytest.fixture
def all_large(monkeypatch):
    """Every output counts as large, so small tensors go the way of large ones."""
    monkeypatch.setattr(cpu, "LARGE", 1)
    ops.empty_cache()
    yield
    ops.empty_cache()


def use(whose: str, monkeypatch) -> None:
    """Products by our kernels, or by torch's BLAS."""
    module = sys.modules["graphkit.ops.linear"]
    monkeypatch.setattr(module, "_own", whose == "own")
    monkeypatch.setattr(module, "_LEAST", 0)
    monkeypatch.setattr(module, "_PADDING", 1000.0)


def path(nodes: int) -> torch.Tensor:
    return torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)])


def test_a_freed_block_serves_the_next_output_of_its_size(all_large):
    first = cpu.empty(torch.empty(0), (3 << 20,))
    at = first.data_ptr()
    assert ops.kept_bytes() == 0
    del first
    assert ops.kept_bytes() >= 12 << 20
    second = cpu.empty(torch.empty(0), (3 << 20,))
    assert second.data_ptr() == at
    assert ops.kept_bytes() == 0


def test_a_block_lives_as_long_as_any_view_of_it(all_large):
    row = cpu.empty(torch.empty(0), (8, 4)).fill_(7.0)[3]
    other = cpu.empty(torch.empty(0), (8, 4)).fill_(1.0)
    assert row.tolist() == [7.0] * 4
    assert other[3].tolist() == [1.0] * 4


def test_empty_cache_gives_everything_back(all_large):
    del_me = cpu.empty(torch.empty(0), (1 << 20,))
    del del_me
    assert ops.kept_bytes() > 0
    ops.empty_cache()
    assert ops.kept_bytes() == 0


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (1,), (2, 3, 4)])
def test_shapes_and_strides_are_those_of_torch(all_large, shape):
    made, wanted = cpu.empty(torch.empty(0), shape), torch.empty(shape)
    assert made.shape == wanted.shape
    assert made.stride() == wanted.stride()


def test_results_may_be_changed_in_place(all_large):
    csr = CSR.from_edge_index(path(5), 5)
    x = torch.ones(5, 3, requires_grad=True)
    out = ops.aggregate(csr, x)
    out.squeeze().add_(1).mul_(3).sum().backward()
    assert x.grad.tolist() == [[3.0] * 3] * 4 + [[0.0] * 3]


@pytest.mark.parametrize("whose", ["own", "torch"])
def test_linear_is_torchs_to_second_order(all_large, whose, monkeypatch):
    use(whose, monkeypatch)
    torch.manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 4), (5, 4), 5)
    )
    wanted = nn.functional.linear(x, weight, bias)
    assert torch.allclose(ops.linear(x, weight, bias), wanted)
    cotangent = torch.randn(6, 5, dtype=torch.float64)
    ours = torch.autograd.grad(ops.linear(x, weight, bias), (x, weight, bias), cotangent)
    theirs = torch.autograd.grad(wanted, (x, weight, bias), cotangent)
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.autograd.gradcheck(ops.linear, (x, weight, bias))
    assert torch.autograd.gradgradcheck(ops.linear, (x, weight, bias))
    assert torch.autograd.gradcheck(ops.linear, (x, weight, None))


@pytest.mark.parametrize("isa", [] if cpu.kernels is None else cpu.kernels.isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(0, 3, 2), (1, 1, 1), (5, 7, 3), (13, 64, 64), (200, 130, 70), (1100, 16, 48), (700, 33, 129)],
)
def test_own_products_equal_torchs_for_any_threads(
    isa, dtype, rows, inputs, outputs, monkeypatch, all_large
):
    use("own", monkeypatch)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, cotangent = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    )
    wide = torch.cat([x, x], 1)[:, inputs:]  # rows with gaps between them

    def run(x, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (weight, bias)]
        x = x.to(dtype).requires_grad_() if x.is_contiguous() else x.requires_grad_()
        out = ops.linear(x, *leaves)
        grads = torch.autograd.grad(out, [x, *leaves], cotangent.to(dtype))
        return [out.detach(), *grads]

    before, threads = cpu.kernels.isa(), torch.get_num_threads()
    cpu.kernels.use_isa(isa)
    try:
        torch.set_num_threads(1)
        found = run(x, dtype)
        torch.set_num_threads(2)
        again = run(wide.to(dtype), dtype)
    finally:
        cpu.kernels.use_isa(before)
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    monkeypatch.setattr(sys.modules["graphkit.ops.linear"], "_own", False)
    wanted = run(x, torch.float64)
    bound = 1e-12 if dtype == torch.float64 else 2e-5
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(
            a.double(), b, atol=bound * max(1.0, float(b.abs().max() if b.numel() else 0))
        )


def test_linear_takes_many_cotangents_and_tangents_at_once(all_large):
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    many = torch.randn(7, 3, 5)
    (found,) = torch.autograd.grad(ops.linear(x, weight), x, many, is_grads_batched=True)
    assert torch.allclose(found, many @ weight, atol=1e-6)
    tangent = torch.randn(3, 4)
    _, pushed = torch.func.jvp(lambda t: ops.linear(t, weight), (x.detach(),), (tangent,))
    assert torch.allclose(pushed, tangent @ weight.t(), atol=1e-6)


def test_dense_adds_in_place_only_to_what_nobody_else_has_seen(all_large):
    layer, x, plus = nn.Linear(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    wanted = nn.functional.linear(x, layer.weight, layer.bias) + plus
    kept = plus.clone()
    assert torch.allclose(dense(layer, x, plus), wanted)
    assert torch.equal(plus, kept)
    shown = []
    layer.register_forward_hook(lambda _module, _inputs, out: shown.append(out))
    assert torch.allclose(dense(layer, x, plus), wanted)
    assert torch.allclose(shown[0] + plus, wanted)


@pytest.mark.parametrize("name", ["GCNConv", "SAGEConv", "GatedGCNConv"])
def test_layers_train_to_the_same_bits_in_kept_memory(name, monkeypatch):
    def losses() -> list[float]:
        torch.manual_seed(3)
        layer = getattr(gk, name)(8, 8)
        x, edge_index, edge = torch.randn(20, 8), torch.randint(20, (2, 60)), torch.randn(60, 8)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
        found = []
        for _ in range(4):
            more = (edge,) if name == "GatedGCNConv" else ()
            out = layer(x, edge_index, *more)
            loss = sum(o.square().mean() for o in (out if isinstance(out, tuple) else (out,)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        return found

    wanted = losses()
    monkeypatch.setattr(cpu, "LARGE", 1)
    found = losses()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found == losses()


@pytest.mark.parametrize(("limit", "kept"), [("0", False), ("64", True)])
def test_the_limit_is_read_from_the_environment(limit, kept):
    program = (
        "import torch; from graphkit import ops; from graphkit.ops import cpu\n"
        "cpu.empty(torch.empty(0), (4 << 20,)); print(ops.kept_bytes())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={**os.environ, "GRAPHKIT_KEEP_MB": limit},
    )  # fmt: skip
    assert (int(found.stdout) > 0) is kept
