"""selective_scan with a zero-order hold: exact for inputs that stay the same during a step."""

from __future__ import annotations

import pytest
import torch
from scan_cases import LENGTHS, NAMES, assert_near, by_definition, equal, make, offsets, run

from graphkit.errors import InputError
from graphkit.ops import backend, cpu, selective_scan

pytestmark = pytest.mark.usefixtures("one_thread")

needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="no native kernels")
BACKENDS = [pytest.param("native", marks=needs_kernels), "reference"]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("channels", "states"), [(1, 1), (5, 3), (16, 16), (37, 17)])
def test_equals_the_recurrence(name, reverse, channels, states):
    given = make(LENGTHS, channels, states)
    wanted = run(by_definition, given, LENGTHS, reverse=reverse, disc="zoh")
    with backend(name):
        ours = run(selective_scan, given, LENGTHS, reverse=reverse, disc="zoh")
        # The definition's own quotient loses digits of dA where A is small.
        assert_near(ours, wanted, 1e-11)
        single = {key: t.float() for key, t in given.items()}
        ours = run(selective_scan, single, LENGTHS, reverse=reverse, disc="zoh")
        assert_near(ours, wanted, 1e-5)


@needs_kernels
def test_every_instruction_set_gives_the_same_to_rounding():
    given, before = make(LENGTHS, 21, 16), cpu.kernels.isa()
    with backend("reference"):
        wanted = run(selective_scan, given, LENGTHS, disc="zoh")
    single = {key: t.float() for key, t in given.items()}
    try:
        for isa in cpu.kernels.isas():
            cpu.kernels.use_isa(isa)
            assert_near(run(selective_scan, given, LENGTHS, disc="zoh"), wanted, 1e-12)
            assert_near(run(selective_scan, single, LENGTHS, disc="zoh"), wanted, 1e-5)
    finally:
        cpu.kernels.use_isa(before)


@pytest.mark.parametrize("name", BACKENDS)
def test_worked_numbers(name):
    values = {
        "u": [[1.0], [2.0], [-1.0]], "delta": [[0.5], [1.0], [0.25]], "A": [[-1.0, -2.0]],
        "B": [[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]], "C": [[1.0, 1.0], [1.0, -1.0], [0.5, 2.0]],
        "D": [1.0],
    }  # fmt: skip
    given = {k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()}
    states = [[0.39346934, 0.15803014], [0.77686984, 0.88605177], [0.38382762, 0.34068289]]
    with backend(name):
        for steps, state in enumerate(states, 1):
            part = {k: v[:steps] if k in ("u", "delta", "B", "C") else v for k, v in given.items()}
            y, last = selective_scan(**part, delta_softplus=False, return_last=True, disc="zoh")
            assert last.flatten().tolist() == pytest.approx(state, abs=5e-9)
    assert y.flatten().tolist() == pytest.approx([1.55149948, 1.89081807, -0.1267204], abs=5e-9)


@pytest.mark.parametrize("name", BACKENDS)
def test_one_long_step_is_many_short_ones_of_the_same_input(name):
    """What the hold is: the differential equation solved exactly. Euler's steps are not."""
    one = torch.ones(64, 1, dtype=torch.float64)
    A = torch.tensor([[-0.7, -3.0, 0.2, 0.0]], dtype=torch.float64)
    B = torch.tensor([[1.0, -2.0, 0.5, 1.5]], dtype=torch.float64)
    many = {"u": 2 * one, "delta": one / 32, "A": A, "B": B.expand(64, 4), "C": B.expand(64, 4)}
    single = {key: t if key == "A" else t[:1] for key, t in many.items()}
    single["delta"] = 2 * one[:1]
    options = {"delta_softplus": False, "return_last": True}
    with backend(name):
        _, short = selective_scan(**many, **options, disc="zoh")
        _, long = selective_scan(**single, **options, disc="zoh")
        _, euler = selective_scan(**single, **options)
    torch.testing.assert_close(short, long, rtol=1e-13, atol=1e-13)
    assert (euler - long).abs().max() > 0.1


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(name, reverse):
    lengths = [0, 1, 3, 35] if name == "native" else [0, 1, 4]
    given = make(lengths, 2, 2)
    leaves = [given[key].requires_grad_() for key in NAMES]

    def function(*tensors):
        *most, initial = tensors
        return selective_scan(
            *most, initial=initial, seq_ptr=offsets(lengths), reverse=reverse, return_last=True,
            disc="zoh",
        )  # fmt: skip

    with backend(name):
        assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("decay", [0.0, -1e-30, -1e-9, -1e-5, -1e-3, -0.03, -0.49, -0.51, 0.3, -40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_and_large_exponents_keep_their_digits(name, decay, dtype):
    """(exp(x) - 1) / x and its derivative, which cancel near zero, to nearly all their digits."""
    A = torch.full((1, 1), decay, dtype=dtype, requires_grad=True)
    one = torch.ones(1, 1, dtype=dtype)
    delta = one.clone().requires_grad_()
    with backend(name):
        y = selective_scan(one, delta, A, one, one, delta_softplus=False, disc="zoh")
    found = [y.detach(), *torch.autograd.grad(y, [A, delta])]
    x, terms, slopes, factor = float(A.detach()), 0.0, 0.0, 1.0
    if abs(x) < 1:
        for k in range(1, 30):  # sum x^(k-1) / k! and its derivative
            factor /= k
            terms += x ** (k - 1) * factor
            slopes += (k - 1) * x ** (k - 2) * factor if k > 1 else 0.0
    else:
        a = float(torch.tensor(x, dtype=torch.float64).exp())
        terms, slopes = (a - 1) / x, (a - (a - 1) / x) / x
    wanted = [terms, slopes, float(torch.tensor(x, dtype=torch.float64).exp())]
    tolerance = 3e-6 if dtype == torch.float32 else 1e-13
    for ours, exact in zip(found, wanted, strict=True):
        assert float(ours) == pytest.approx(exact, rel=tolerance, abs=torch.finfo(dtype).eps)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_is_each_sequence_alone_to_the_bit_on_any_number_of_threads(dtype):
    lengths = [300, 0, 65, 1, 40]
    given = make(lengths, 19, 5, dtype)
    for key in ("A", "D", "delta_bias", "initial"):
        given[key] = given[key].float()
    wanted = run(selective_scan, given, lengths, disc="zoh")
    torch.set_num_threads(2)
    assert equal(run(selective_scan, given, lengths, disc="zoh"), wanted)
    ptr = offsets(lengths).tolist()
    for s, (begin, end) in enumerate(zip(ptr, ptr[1:], strict=False)):
        alone = {
            key: t[begin:end] if key in ("u", "delta", "B", "C", "z") else t
            for key, t in given.items()
        }
        alone["initial"] = given["initial"][s : s + 1]
        y, _ = selective_scan(**alone, disc="zoh", return_last=True)
        assert torch.equal(y, wanted[0][begin:end])


@needs_kernels
@pytest.mark.parametrize("step", [float("inf"), 1e30, 0.0])
def test_extreme_steps_give_no_nan(step):
    """Three states, so that registers have lanes to spare behind the last one."""
    given = make([4], 5, 3, torch.float32)
    given["delta"] = torch.full_like(given["delta"], step)
    del given["delta_bias"]
    leaves = {key: t.requires_grad_() for key, t in given.items()}
    y = selective_scan(**leaves, delta_softplus=False, disc="zoh")
    assert y.isfinite().all()
    (of_u,) = torch.autograd.grad(y.sum(), [leaves["u"]])
    assert of_u.isfinite().all()


def test_compiled_in_one_graph():
    given = make([9, 4], 3, 5)
    leaves = [given[key].requires_grad_() for key in NAMES[:5]]

    def function(*tensors):
        return selective_scan(*tensors, seq_ptr=offsets([9, 4]), disc="zoh").square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*leaves), leaves),
        torch.autograd.grad(function(*leaves), leaves),
    )


def test_an_unknown_discretisation_is_refused():
    given = make([3], 2, 2)
    with pytest.raises(
        InputError, match="disc: 'zho' is not one of euler, zoh; did you mean 'zoh'"
    ):
        selective_scan(*[given[key] for key in NAMES[:5]], disc="zho")
