"""ops.linear.product: right, and the same to the bit for any number of threads."""

import pytest
import torch

from graphkit.errors import InputError
from graphkit.ops.linear import product


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, 700, 1), (20, 900, 50), (300, 64, 129), (5, 0, 3), (0, 4, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product(rows, inner, columns, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=generator, dtype=dtype)
    w = torch.randn(inner, columns, generator=generator, dtype=dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            found.append(product(x, w))
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(found[0], x @ w, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(found[0], other) for other in found)


def test_strided_and_refused():
    x = torch.randn(8, 12)
    assert torch.allclose(product(x[::2, 3:9], x.t()[:6]), x[::2, 3:9] @ x.t()[:6], atol=1e-5)
    assert torch.allclose(product(x.t(), x), x.t() @ x, atol=1e-5)
    with pytest.raises(InputError, match="wanted"):
        product(x, x)
    with pytest.raises(InputError, match="of one type"):
        product(x, x.t().double())
