"""Dropout by sixteen bits per element: the distribution and the derivative are dropout's."""

from __future__ import annotations

import pytest
import torch

from graphkit.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.3, 0.75])
@pytest.mark.parametrize("shape", [(1001, 37), (5000,)])
def test_each_element_is_dropped_independently_at_its_rate(p, shape):
    torch.manual_seed(0)
    drop, x = Dropout(p), torch.ones(shape, dtype=torch.float64)
    out = torch.stack([drop(x) for _ in range(40)]).view(40, -1)
    kept = out > 0
    torch.testing.assert_close(
        out[kept], torch.full_like(out[kept], 1 / (1 - p)), rtol=1e-4, atol=0
    )
    error = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - p)) < 4.5 * error + 1 / 65536
    for lag in (1, 2, 3, 4):  # neighbours share a number of the generator
        both = (kept[:, lag:] & kept[:, :-lag]).double().mean()
        assert abs(float(both) - (1 - p) ** 2) < 6 * error + 1 / 65536
    assert abs(float(kept.double().mean(0).std()) - (p * (1 - p) / 40) ** 0.5) < 0.01


def test_derivatives_are_the_same_mask():
    x = torch.randn(80, 70, dtype=torch.float64, requires_grad=True)
    out = Dropout(0.4)(x)
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    torch.testing.assert_close(grad * x, out)
    assert not bool(torch.autograd.grad((grad * x).sum(), x)[0].isnan().any())


def test_one_seed_gives_one_mask_for_any_number_of_threads():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            found.append(Dropout(0.5)(torch.ones(300, 301)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_what_torch_does_it_does():
    x = torch.randn(100, 100)
    assert Dropout(0.5).eval()(x) is x
    for p in (0.0, 1e-7):
        torch.testing.assert_close(Dropout(p)(x), x)
    assert not bool(Dropout(1.0)(x).any())
    infinite = torch.full((100, 100), torch.inf)
    for drop in (Dropout(0.5), torch.nn.Dropout(0.5)):  # inf * 0, not hidden by either
        out = drop(infinite)
        assert 0 < int(out.isnan().sum()) < 10_000
        assert bool((out.isnan() | out.isinf()).all())
    for dtype in (torch.float16, torch.bfloat16):
        assert Dropout(0.5)(x.to(dtype)).dtype == dtype
    (grad,) = torch.func.vjp(Dropout(0.5), x)[1](x)
    assert grad.shape == x.shape


def test_compiles_whole():
    torch._dynamo.reset()
    drop = Dropout(0.5)
    out = torch.compile(drop, fullgraph=True, backend="aot_eager")(torch.ones(100, 100))
    assert 0.4 < float((out == 0).float().mean()) < 0.6
