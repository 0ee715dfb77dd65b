"""Every op, every variant: right, differentiable, the same from run to run, on awkward graphs."""

import pytest
import torch
from op_cases import CASES, CORE, COVERS, GRAPHS, SMALL_GRAPHS, hub_graph, normal, random_graph, run

from graphkit.ops import aggregate, backend, cpu

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
NATIVE = pytest.mark.usefixtures("native")


def close(actual, expected, **tolerance):
    for ours, oracle in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, oracle.to(ours.dtype), **tolerance)


@NATIVE
@EVERY
@pytest.mark.parametrize("graph", GRAPHS)
def test_float64_equals_the_reference(case, graph):
    csr = GRAPHS[graph].csr()
    inputs = case.make(csr, 0)
    ours = run(case, csr, inputs)
    with backend("reference"):
        oracle = run(case, csr, inputs)
    # n terms summed in another order differ by at most n eps of the sum of their sizes: with the
    # hub's n = 24,000 terms of size 3 that is 4e-7, met with a hundredfold margin.
    relative, absolute = (2e-11, 4e-9) if graph == "hub" else (1e-12, 1e-12)
    for part in (0, 1):
        close(ours[part], oracle[part], rtol=relative, atol=absolute)


# The tolerances of torch.testing for each dtype, against the float64 oracle of the same values.
@NATIVE
@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_narrow_types_equal_the_float64_oracle(case, dtype):
    csr = GRAPHS["random"].csr()
    rounded = tuple(t.to(dtype) for t in case.make(csr, 0))
    outputs, gradients = run(case, csr, rounded)
    with backend("reference"):
        expected = run(case, csr, tuple(t.double() for t in rounded))[0]
    assert all(t.dtype == dtype for t in (*outputs, *gradients))
    close(outputs, expected)


@NATIVE
@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_narrow_gradients_equal_the_float64_oracle(case, dtype):
    csr = GRAPHS["random"].csr()
    rounded = tuple(t.to(dtype) for t in case.make(csr, 0))
    leaves = [t.clone().requires_grad_() for t in rounded]
    wide = [t.double().requires_grad_() for t in rounded]
    outputs = case.call(csr, *leaves)
    with backend("reference"):
        oracle = case.call(csr, *wide)
    cotangents = [torch.randn_like(o, generator=torch.Generator().manual_seed(1)) for o in oracle]
    cotangents = [c.to(dtype) for c in cotangents]
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    expected = torch.autograd.grad(oracle, wide, [c.double() for c in cotangents])
    if dtype == torch.float32:
        # A gradient sums up to 17 products of size 1 here, and std divides by spreads down to 0.1.
        return close(gradients, expected, rtol=1e-5, atol=1e-5)
    # Saved values (mean, std, gate) are themselves rounded to the half type, so the error is
    # absolute: a few units in the last place of the largest term that a gradient sums. The
    # gradient of std divides the rounding of the mean by std: |mean| / std reaches 5 here.
    unit = torch.finfo(dtype).eps * (5 if "std" in case.reduces else 1)
    for ours, oracle_gradient in zip(gradients, expected, strict=True):
        largest = float(oracle_gradient.abs().max())
        close([ours], [oracle_gradient], rtol=4 * unit, atol=4 * unit * largest)


@NATIVE
@EVERY
def test_gradcheck(case):
    """torch's own limits, and nondet_tol = 0: two backward passes agree to the last bit."""
    csr = random_graph(6, 6, 14, seed=3).csr()
    narrow = (t[:, :4] if t.dim() == 2 else t for t in case.make(csr, 5))
    leaves = tuple(t.clone().requires_grad_() for t in narrow)
    assert torch.autograd.gradcheck(lambda *t: case.call(csr, *t), leaves, nondet_tol=0.0)


@NATIVE
@EVERY
def test_gradient_of_a_part_equals_the_whole(case):
    """Asking for fewer gradients takes other branches of the kernels; the values stay."""
    csr = GRAPHS["random"].csr()
    inputs = case.make(csr, 0)
    _, whole = run(case, csr, inputs)
    for wanted in range(len(inputs)):
        leaves = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(inputs)]
        outputs = list(case.call(csr, *leaves))
        cotangents = [normal(*o.shape, seed=100 + i) for i, o in enumerate(outputs)]
        (gradient,) = torch.autograd.grad(outputs, [leaves[wanted]], cotangents)
        # gated_aggregate has one backward; aggregate skips a product by 1: both stay bitwise.
        torch.testing.assert_close(gradient, whole[wanted], rtol=1e-14, atol=1e-14)


@NATIVE
@EVERY
def test_without_gradients_the_outputs_are_the_same_bits(case):
    csr = GRAPHS["random"].csr()
    inputs = case.make(csr, 0)
    outputs, _ = run(case, csr, inputs)
    with torch.no_grad():
        plain = case.call(csr, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, outputs, strict=True))


@NATIVE
@EVERY
def test_non_contiguous_inputs(case):
    csr = GRAPHS["random"].csr()
    inputs = case.make(csr, 0)
    outputs, gradients = run(case, csr, inputs)
    strided = [torch.stack([t, -t], dim=-1)[..., 0] for t in inputs]
    padded = [torch.cat([t, t], dim=-1)[..., : t.size(-1)] if t.dim() == 2 else t for t in inputs]
    transposed = [t.t().contiguous().t() if t.dim() == 2 else t for t in inputs]
    for layout in (strided, padded, transposed):
        leaves = [t.detach().requires_grad_() for t in layout]
        found = list(case.call(csr, *leaves))
        cotangents = [
            normal(*o.shape, seed=100 + i).t().contiguous().t() if o.dim() == 2
            else normal(*o.shape, seed=100 + i)
            for i, o in enumerate(found)
        ]  # fmt: skip
        found_gradients = torch.autograd.grad(found, leaves, cotangents)
        assert all(torch.equal(a, b) for a, b in zip(found, outputs, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(found_gradients, gradients, strict=True))


@NATIVE
@EVERY
@pytest.mark.parametrize("width", [0, 4, 20, 132])
def test_any_width(case, width):
    csr = random_graph(7, 7, 25).csr()
    inputs = case.make(csr, 0)
    inputs = tuple(  # weights keep their shape: HEADS divides every width here
        t if i and case.message == "scale" else t.repeat(1, 11)[:, :width]
        for i, t in enumerate(inputs)
    )
    ours = run(case, csr, inputs)
    with backend("reference"):
        oracle = run(case, csr, inputs)
    for part in (0, 1):
        close(ours[part], oracle[part], rtol=1e-12, atol=1e-12)


@NATIVE
@EVERY
def test_same_bits_for_any_number_of_threads(case):
    """Large enough for parallel regions; with a hub on both sides, so that its pieces combine."""
    csr = hub_graph().csr()
    inputs = tuple(t.float() for t in case.make(csr, 0))
    torch.set_num_threads(1)
    first = run(case, csr, inputs)
    for threads in (2, 4):
        torch.set_num_threads(threads)
        again = run(case, csr, inputs)
        for part in (0, 1):
            assert all(torch.equal(a, b) for a, b in zip(again[part], first[part], strict=True))


@NATIVE
@pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)
def test_same_bits_over_twenty_runs(case):
    csr = random_graph(300, 300, 4_000).csr()
    inputs = tuple(t.float() for t in case.make(csr, 0))
    torch.set_num_threads(1)
    first = run(case, csr, inputs)
    for attempt in range(20):
        torch.set_num_threads((1, 2, 4)[attempt % 3])
        again = run(case, csr, inputs)
        for part in (0, 1):
            assert all(torch.equal(a, b) for a, b in zip(again[part], first[part], strict=True))


@EVERY
def test_every_instruction_set_agrees(case, native):
    csr = GRAPHS["random"].csr()
    inputs = case.make(csr, 0)
    narrow = tuple(t.float() for t in inputs)
    with backend("reference"):
        oracle = run(case, csr, inputs)[0]
    for isa in native.isas():
        native.use_isa(isa)
        close(run(case, csr, inputs)[0], oracle, rtol=1e-12, atol=1e-12)
        close(run(case, csr, narrow)[0], oracle)


@EVERY
@pytest.mark.parametrize("graph", SMALL_GRAPHS)
def test_torch_scatter_backend_equals_the_reference(case, graph):
    pytest.importorskip("torch_scatter")
    csr = GRAPHS[graph].csr()
    inputs = case.make(csr, 0)
    with backend("torch_scatter"):
        scattered = run(case, csr, inputs)
    with backend("reference"):
        oracle = run(case, csr, inputs)
    for part in (0, 1):
        close(scattered[part], oracle[part], rtol=1e-12, atol=1e-12)


@NATIVE
def test_deterministic_algorithms_are_accepted():
    csr = GRAPHS["random"].csr()
    torch.use_deterministic_algorithms(True)
    try:
        for case in CORE:
            outputs, _ = run(case, csr, case.make(csr, 0))
            assert all(o.isfinite().all() for o in outputs)
    finally:
        torch.use_deterministic_algorithms(False)


@NATIVE
@pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)
def test_a_second_derivative_is_refused_not_wrong(case):
    csr = GRAPHS["random"].csr()
    leaves = [t.requires_grad_() for t in case.make(csr, 0)]
    outputs = case.call(csr, *leaves)
    first = torch.autograd.grad([o.square().sum() for o in outputs], leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="twice|autograd formula"):
        sum(g.square().sum() for g in first).backward()


@NATIVE
@pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_by_jit_it_computes_from_its_inputs(case):
    csr = random_graph(6, 6, 14, seed=3).csr()

    def function(*inputs):
        return case.call(csr, *inputs)

    traced = torch.jit.trace(function, case.make(csr, 5), check_trace=False)
    others = case.make(csr, 6)
    close(traced(*others), function(*others))


def test_every_custom_op_has_a_case():
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert {name for name in names if name.startswith("graphkit::")} == COVERS


@NATIVE
def test_calls_from_several_python_threads():
    from concurrent.futures import ThreadPoolExecutor

    csr = random_graph(200, 200, 3_000).csr()
    x = torch.randn(200, 32)
    expected = aggregate(csr, x)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: aggregate(csr, x), range(40)))
    assert all(torch.equal(out, expected) for out in found)
    assert cpu.kernels is not None
