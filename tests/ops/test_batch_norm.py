"""batch_norm gives what torch's batch_norm and relu give: values, gradients, running statistics."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from norm_cases import assert_near, needs_kernels
from torch import Tensor
from torch.autograd import forward_ad

from graphkit import ops
from graphkit.ops import cpu

pytestmark = pytest.mark.usefixtures("one_thread")


def theirs(x, weight, bias, mean, var, *, training, momentum=0.1, eps=1e-5, relu=False):
    out = F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    return torch.relu(out) if relu else out


def run(function, x, weight, bias, grad, **options) -> list[Tensor]:
    """Output, running statistics and gradients."""
    inputs = [None if t is None else t.clone().requires_grad_() for t in (x, weight, bias)]
    mean, var = torch.full_like(x[0], 0.5), torch.full_like(x[0], 2.0)
    out = function(*inputs, mean, var, training=True, **options)
    out.backward(grad)
    return [out.detach(), mean, var, *(t.grad for t in inputs if t is not None)]


def case(rows: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    x = torch.randn(rows, width, dtype=dtype) * 2 + 1
    weight, bias = torch.randn(width, dtype=dtype), torch.randn(width, dtype=dtype)
    return x, weight, bias, torch.randn(rows, width, dtype=dtype)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("width", [1, 3, 16, 17, 64, 130, 300])
@pytest.mark.parametrize("rows", [2, 3, 255, 256, 257, 1000])
def test_equals_torch(rows: int, width: int, relu: bool) -> None:
    given = case(rows, width)
    options = {"relu": relu, "momentum": 0.3, "eps": 1e-3}
    wanted = run(theirs, *given, **options)
    assert_near(run(ops.batch_norm, *given, **options), wanted, 1e-12)
    single = [t.float() for t in given]
    assert_near(run(ops.batch_norm, *single, **options), wanted, 1e-5)


@pytest.mark.parametrize(("rows", "width"), [(300, 513), (300, 1100), (4300, 600), (9000, 5)])
def test_equals_torch_where_rows_or_columns_are_many(rows: int, width: int) -> None:
    given = case(rows, width)
    wanted = run(theirs, *given, relu=True)
    assert_near(run(ops.batch_norm, *given, relu=True), wanted, 1e-11)


@pytest.mark.parametrize("have", [(True, False), (False, True), (False, False)])
def test_weight_and_bias_may_be_absent(have: tuple[bool, bool]) -> None:
    x, weight, bias, grad = case(300, 17)
    given = (x, weight if have[0] else None, bias if have[1] else None, grad)
    assert_near(run(ops.batch_norm, *given, relu=True), run(theirs, *given, relu=True), 1e-12)


@needs_kernels
def test_the_kernels_run_where_they_should_and_nowhere_else() -> None:
    x, weight, bias, _ = case(4, 3, torch.float32)
    with patch.object(F, "batch_norm", side_effect=AssertionError):
        ops.batch_norm(x, weight, bias, None, None, training=True)
    seen = []

    def spy(x, *arguments):
        seen.append(x.dtype)
        return original(x, *arguments)

    original = F.batch_norm
    with patch.object(F, "batch_norm", side_effect=spy):
        mean, var = torch.zeros(3), torch.ones(3)
        ops.batch_norm(x, weight, bias, mean, var, training=False, relu=True)
        ops.batch_norm(x.bfloat16(), weight, bias, mean, var, training=True)
        ops.batch_norm(x[:, :, None], weight, bias, None, None, training=True)
        ops.batch_norm(x[:0], weight, bias, None, None, training=True)
        with ops.backend("reference"):
            ops.batch_norm(x, weight, bias, None, None, training=True)
        with torch.autocast("cpu"):
            ops.batch_norm(x, weight, bias, None, None, training=True)
        with forward_ad.dual_level():
            ops.batch_norm(x, weight, bias, None, None, training=True)
    assert len(seen) == 7


@pytest.mark.parametrize("relu", [False, True])
def test_eval_reads_the_running_statistics_and_leaves_them(relu: bool) -> None:
    x, weight, bias, _ = case(5, 3)
    mean, var = torch.randn(3).double(), torch.rand(3).double() + 0.5
    before = mean.clone(), var.clone()
    out = ops.batch_norm(x, weight, bias, mean, var, training=False, relu=relu)
    assert torch.equal(out, theirs(x, weight, bias, mean, var, training=False, relu=relu))
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_torchs(dtype: torch.dtype) -> None:
    x, weight, bias, _ = case(9, 5, torch.float32)
    mean, var, other_mean, other_var = (torch.ones(5) for _ in range(4))
    out = ops.batch_norm(x.to(dtype), weight, bias, mean, var, training=True, relu=True)
    wanted = theirs(x.to(dtype), weight, bias, other_mean, other_var, training=True, relu=True)
    assert torch.equal(out, wanted)
    assert torch.equal(var, other_var)


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_first_and_second_order(relu: bool) -> None:
    x, weight, bias, _ = case(7, 3)
    inputs = tuple(t.requires_grad_() for t in (x, weight, bias))

    def function(*inputs):
        return ops.batch_norm(*inputs, None, None, training=True, relu=relu)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    assert torch.autograd.gradcheck(
        lambda x: ops.batch_norm(x, None, None, None, None, training=True, relu=relu), inputs[:1]
    )


def test_gradient_under_create_graph_equals_the_kernels() -> None:
    x, weight, bias, grad = case(300, 5)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    out = ops.batch_norm(*inputs, None, None, training=True, relu=True)
    plain = torch.autograd.grad(out, inputs, grad, retain_graph=True)
    again = torch.autograd.grad(out, inputs, grad, create_graph=True)
    assert_near([t.detach() for t in again], list(plain), 1e-12)
    both = torch.autograd.grad(
        out, inputs, torch.stack([grad, 2 * grad]), is_grads_batched=True, retain_graph=True
    )
    assert_near([t[0] for t in both], list(plain), 1e-12)


@pytest.mark.parametrize("which", range(3))
def test_gradient_of_one_input_alone(which: int) -> None:
    x, weight, bias, grad = case(10, 3)
    wanted = run(theirs, x, weight, bias, grad, relu=True)[3 + which]
    inputs = [x, weight, bias]
    inputs[which].requires_grad_()
    ops.batch_norm(*inputs, None, None, training=True, relu=True).backward(grad)
    assert_near([inputs[which].grad], [wanted], 1e-12)


def test_columns_far_from_zero_keep_their_digits() -> None:
    # Neighbouring floats near 1e4 differ by 1e-3, a tenth of the standard deviation.
    x = (1e4 + 1e-2 * torch.randn(1000, 20)).float()
    _, weight, bias, grad = case(1000, 20, torch.float32)
    single = [x, weight, bias, grad]
    wanted = run(theirs, *(t.double() for t in single), relu=True, eps=1e-8)
    ours = run(ops.batch_norm, *single, relu=True, eps=1e-8)
    if cpu.kernels is not None:
        assert_near(ours[:1] + ours[2:], wanted[:1] + wanted[2:], 1e-5)
    assert_near(ours[1:2], wanted[1:2], 1e-6)


@needs_kernels
def test_a_first_row_far_from_the_others_costs_few_digits() -> None:
    x = torch.randn(600, 8)
    x[0], x[256], x[512] = 1e3, -1e4, 1e5
    _, weight, bias, grad = case(600, 8, torch.float32)
    wanted = run(theirs, *(t.double() for t in (x, weight, bias, grad)))
    assert_near(run(ops.batch_norm, x, weight, bias, grad), wanted, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_column(dtype: torch.dtype) -> None:
    x, weight, bias, grad = case(700, 3, dtype)
    x[:, 1] = 0.1
    bias[1] = 0.25
    out, _, var, grad_x, *_ = run(ops.batch_norm, x, weight, bias, grad)
    if cpu.kernels is not None:
        assert torch.equal(out[:, 1], torch.full((700,), 0.25, dtype=dtype))
    assert var[1].item() == pytest.approx(1.8)
    assert grad_x.isfinite().all()
    assert_near([out, grad_x], [run(theirs, x, weight, bias, grad)[i] for i in (0, 3)], 2e-4)


@pytest.mark.parametrize("row", [0, 5, 256])
def test_nan_stays_in_its_column(row: int) -> None:
    x, weight, bias, grad = case(257, 20, torch.float32)
    x[row, 3] = float("nan")
    ours = run(ops.batch_norm, x, weight, bias, grad, relu=True)
    wanted = run(theirs, x, weight, bias, grad, relu=True)
    for a, b in zip(ours, wanted, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
    assert ours[0][:, 3].isnan().all()


@needs_kernels
@pytest.mark.parametrize(("rows", "width"), [(3000, 40), (200, 600), (50_000, 1), (5000, 600)])
def test_same_bits_for_any_number_of_threads(rows: int, width: int) -> None:
    given = case(rows, width, torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(ops.batch_norm, *given, relu=True))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernels
def test_every_instruction_set_gives_the_same_to_rounding() -> None:
    given = case(1000, 37)
    wanted, before = run(theirs, *given, relu=True), cpu.kernels.isa()
    try:
        for isa in cpu.kernels.isas():
            cpu.kernels.use_isa(isa)
            assert_near(run(ops.batch_norm, *given, relu=True), wanted, 1e-12)
    finally:
        cpu.kernels.use_isa(before)


@pytest.mark.parametrize("layout", ["transposed", "columns", "expanded"])
def test_layouts_of_input_and_gradient(layout: str) -> None:
    x, weight, bias, grad = case(40, 6)
    if layout == "transposed":
        x, grad = x.t().contiguous().t(), grad.t().contiguous().t()
    elif layout == "columns":
        x, grad = torch.cat([x, x], 1)[:, 3:9], torch.cat([grad, grad], 1)[:, 3:9]
    else:
        grad = grad[0].expand(40, -1)
    leaf = x.detach().requires_grad_()
    assert leaf.stride() == x.stride()
    out = ops.batch_norm(leaf, weight, bias, None, None, training=True, relu=True)
    wanted = run(theirs, x.contiguous(), weight, bias, grad.contiguous(), relu=True)
    (grad_x,) = torch.autograd.grad(out, leaf, grad)
    assert_near([out.detach(), grad_x], [wanted[0], wanted[3]], 1e-12)


def test_one_row_or_no_eps_is_refused_before_anything_changes() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ops.batch_norm(torch.randn(1, 3), None, None, mean, var, training=True)
    with pytest.raises(ValueError, match="eps must be positive"):
        ops.batch_norm(torch.randn(4, 3), None, None, mean, var, training=True, eps=0.0)
    with pytest.raises(RuntimeError, match="weight"):
        ops.batch_norm(torch.randn(4, 3), torch.ones(2), None, mean, var, training=True)
    assert mean.tolist() == [0.0] * 3
    assert var.tolist() == [1.0] * 3


@needs_kernels
def test_large_results_live_in_memory_that_is_kept() -> None:
    x = torch.randn(1 << 15, 64, requires_grad=True)
    wanted = theirs(x.double(), None, None, None, None, training=True, relu=True)
    out = ops.batch_norm(x, None, None, None, None, training=True, relu=True)
    assert (out - wanted).abs().max() < 1e-5
    with patch.object(cpu.kernels, "large_block", wraps=cpu.kernels.large_block) as block:
        ops.batch_norm(x, None, None, None, None, training=True).sum().backward()
    assert block.call_count == 2
    assert x.grad.abs().max() < 1e-6  # the sum of a column does not depend on it


def test_under_transforms_and_compilers_it_is_torchs() -> None:
    x, weight, bias, _ = case(6, 3)
    many = torch.randn(2, 6, 3, dtype=x.dtype)

    def function(x):
        return ops.batch_norm(x, weight, bias, None, None, training=True, relu=True)

    wanted = torch.stack([function(each) for each in many])
    assert_near([torch.vmap(function)(many)], [wanted], 1e-12)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert_near([compiled(many[0])], [wanted[0]], 1e-12)
    _, tangent = torch.func.jvp(function, (x,), (torch.ones_like(x),))
    assert tangent.abs().max() < 1e-10  # a shift of all rows changes nothing
    with forward_ad.dual_level():
        dual = function(forward_ad.make_dual(x, x))
        assert forward_ad.unpack_dual(dual).tangent is not None
