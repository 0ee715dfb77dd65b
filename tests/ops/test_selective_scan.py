"""selective_scan gives what the recurrence says, step by step, forward and backward."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import backend, cpu, selective_scan

needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="no native kernels")
BACKENDS = [pytest.param("native", marks=needs_kernels), "reference"]
LENGTHS = [0, 1, 3, 64, 0, 65, 33, 0]
PER_STEP = ("u", "delta", "B", "C", "z")
NAMES = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def offsets(lengths: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


def make(lengths: list[int], channels: int, states: int, dtype=torch.float64) -> dict[str, Tensor]:
    steps = sum(lengths)
    given = {
        "u": torch.randn(steps, channels),
        "delta": torch.randn(steps, channels),
        "A": -torch.rand(channels, states) * states,
        "B": torch.randn(steps, states),
        "C": torch.randn(steps, states),
        "D": torch.randn(channels),
        "z": torch.randn(steps, channels),
        "delta_bias": torch.randn(channels),
        "initial": torch.randn(len(lengths), channels, states),
    }
    return {name: t.to(dtype) for name, t in given.items()}


def by_definition(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, *, seq_ptr, initial=None, reverse=False,
    delta_softplus=True, return_last=True,
):  # fmt: skip
    """One sequence after the other, one step after the other."""
    delta = delta if delta_bias is None else delta + delta_bias
    delta = torch.log1p(delta.exp()) if delta_softplus else delta
    rows: list[Tensor | None] = [None] * len(u)
    last = []
    for s in range(len(seq_ptr) - 1):
        h = torch.zeros_like(A) if initial is None else initial[s]
        steps = range(int(seq_ptr[s]), int(seq_ptr[s + 1]))
        for t in reversed(steps) if reverse else steps:
            h = (delta[t, :, None] * A).exp() * h + torch.outer(delta[t] * u[t], B[t])
            rows[t] = h @ C[t]
        last.append(h)
    y = torch.stack(rows) if rows else u * 0
    y = y if D is None else y + D * u
    y = y if z is None else y * F.silu(z)
    return y, torch.stack(last)


def run(function, given: dict[str, Tensor], lengths: list[int], **options) -> list[Tensor]:
    """Outputs, last states and gradients."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    y, last = function(**leaves, seq_ptr=offsets(lengths), return_last=True, **options)
    generator = torch.Generator().manual_seed(5)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)
        for t in (y, last)
    ]
    gradients = torch.autograd.grad(
        [y, last], list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True
    )
    return [y.detach(), last.detach(), *gradients]


def assert_near(ours: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
        if b.numel():
            worst = (a.double() - b.double()).abs().max()
            assert worst <= tolerance * (1 + b.abs().max().double()), (a.shape, worst)


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("channels", "states"), [(1, 1), (5, 3), (16, 16), (37, 17), (8, 40)])
def test_equals_the_recurrence(name, reverse, channels, states):
    given = make(LENGTHS, channels, states)
    wanted = run(by_definition, given, LENGTHS, reverse=reverse)
    with backend(name):
        assert_near(run(selective_scan, given, LENGTHS, reverse=reverse), wanted, 1e-12)
        single = {key: t.float() for key, t in given.items()}
        ours = run(selective_scan, single, LENGTHS, reverse=reverse)
        assert ours[0].dtype == torch.float32
        assert_near(ours, wanted, 1e-5)


@needs_kernels
def test_every_instruction_set_gives_the_same_to_rounding():
    given, before = make(LENGTHS, 21, 16), cpu.kernels.isa()
    wanted = run(by_definition, given, LENGTHS)
    single = {key: t.float() for key, t in given.items()}
    try:
        for isa in cpu.kernels.isas():
            cpu.kernels.use_isa(isa)
            assert_near(run(selective_scan, given, LENGTHS), wanted, 1e-12)
            assert_near(run(selective_scan, single, LENGTHS), wanted, 1e-5)
    finally:
        cpu.kernels.use_isa(before)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("missing", ["D", "z", "delta_bias", "initial", "all"])
@pytest.mark.parametrize("softplus", [False, True])
def test_what_is_optional_may_be_absent(name, missing, softplus):
    given = make([7, 40], 5, 4)
    given["delta"] = given["delta"].abs()
    for key in ("D", "z", "delta_bias", "initial") if missing == "all" else (missing,):
        del given[key]
    wanted = run(by_definition, given, [7, 40], delta_softplus=softplus)
    with backend(name):
        ours = run(selective_scan, given, [7, 40], delta_softplus=softplus)
    assert_near(ours, wanted, 1e-12)


@pytest.mark.parametrize("name", BACKENDS)
def test_worked_numbers(name):
    values = {
        "u": [[1.0], [2.0], [-1.0]], "delta": [[0.5], [1.0], [0.25]], "A": [[-1.0, -2.0]],
        "B": [[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]], "C": [[1.0, 1.0], [1.0, -1.0], [0.5, 2.0]],
        "D": [1.0],
    }  # fmt: skip
    leaves = {k: torch.tensor(v, dtype=torch.float64).requires_grad_() for k, v in values.items()}
    with backend(name):
        y, last = selective_scan(**leaves, delta_softplus=False, return_last=True)
        grads = dict(zip(leaves, torch.autograd.grad(y.sum(), leaves.values()), strict=True))

    def near(found: Tensor, wanted: list[float], tolerance: float) -> None:
        assert found.flatten().tolist() == pytest.approx(wanted, abs=tolerance)

    near(y, [1.75, 1.1501059, 1.30319173], 5e-8)
    near(last, [0.67205318, 0.98358257], 5e-9)
    near(grads["u"], [2.0128, 1.9078, 1.6250], 5e-5)
    near(grads["delta"], [2.0255, 1.5455, -7.8954], 5e-5)
    near(grads["A"], [0.3708, 0.6240], 5e-5)
    near(grads["B"], [0.7556, 0.5144, 2.7788, 0.4261, -0.125, -0.5], 5e-5)
    near(grads["C"], [0.5, 0.25, 1.18393972, 2.03383382, 0.67205318, 0.98358257], 5e-9)
    near(grads["D"], [2.0], 1e-12)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("reverse", "lengths", "wanted"),
    [
        (False, [4], [1, 2.25, 0.8, 0.9]),
        (True, [4], [1.925, 1.85, -0.6, 0.5]),
        (False, [2, 2], [1, 2.25, -1, 0]),
    ],
)
def test_a_linear_recurrence(name, reverse, lengths, wanted):
    decay, value = torch.tensor([[0.5, 0.25, 0.8, 0.5], [1, 2, -1, 0.5]], dtype=torch.float64)
    delta, one = -decay.log(), torch.ones(4, 1, dtype=torch.float64)
    with backend(name):
        y = selective_scan(
            (value / delta)[:, None], delta[:, None], -one[:1], one, one, seq_ptr=offsets(lengths),
            reverse=reverse, delta_softplus=False,
        )  # fmt: skip
    assert y.flatten().tolist() == pytest.approx(wanted, abs=1e-12)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_is_each_sequence_alone_to_the_bit(dtype, reverse):
    lengths = [300, 1, 0, 64, 513, 7]
    given = make(lengths, 20, 16, dtype)
    packed = run(selective_scan, given, lengths, reverse=reverse)
    ptr, grads = offsets(lengths), torch.Generator().manual_seed(5)
    cotangent = torch.randn(packed[0].shape, generator=grads, dtype=torch.float64).to(dtype)
    last_cotangent = torch.randn(packed[1].shape, generator=grads, dtype=torch.float64)
    for s, length in enumerate(lengths):
        span, one = slice(ptr[s], ptr[s + 1]), slice(s, s + 1)
        part = {
            k: (t[span] if k in PER_STEP else t[one] if k == "initial" else t)
            .clone().requires_grad_()
            for k, t in given.items()
        }  # fmt: skip
        y, last = selective_scan(**part, reverse=reverse, return_last=True)
        alone = torch.autograd.grad(
            [y, last], list(part.values()),
            [cotangent[span], last_cotangent[one].to(last.dtype)],
        )  # fmt: skip
        assert len(y) == length
        assert torch.equal(y, packed[0][span])
        assert torch.equal(last, packed[1][one])
        for key, mine, whole in zip(NAMES, alone, packed[2:], strict=True):
            if key in PER_STEP:
                assert torch.equal(mine, whole[span]), key
            if key == "initial":
                assert torch.equal(mine, whole[one])


@pytest.mark.parametrize("name", BACKENDS)
def test_reverse_is_flip_scan_flip_in_each_sequence(name):
    lengths = [5, 0, 70, 1]
    given, ptr = make(lengths, 6, 4, torch.float32), offsets(lengths)
    pieces = [torch.arange(int(a), int(b)).flip(0) for a, b in zip(ptr, ptr[1:], strict=False)]
    flip = torch.cat(pieces)
    flipped = {k: t[flip] if k in PER_STEP else t for k, t in given.items()}
    with backend(name):
        y, last = selective_scan(**given, seq_ptr=ptr, reverse=True, return_last=True)
        other, other_last = selective_scan(**flipped, seq_ptr=ptr, return_last=True)
    assert torch.equal(y, other[flip])
    assert torch.equal(last, other_last)


@needs_kernels
@pytest.mark.parametrize(
    ("lengths", "channels"),
    [([40] * 150, 20), ([3000], 40), ([3000, 5, 0, 700, 2000, 31], 70), ([2500] * 3, 8)],
)
def test_same_bits_for_any_number_of_threads(lengths, channels):
    given = make(lengths, channels, 16, torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(selective_scan, given, lengths))
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])


@needs_kernels
def test_long_sequences_use_every_thread():
    """Slabs of steps, blocks of channels apart: the other way through backward, same numbers."""
    lengths = [1100, 2, 300]
    given = make(lengths, 19, 5)
    wanted = run(selective_scan, given, lengths)
    with backend("reference"):
        assert_near(run(selective_scan, given, lengths), wanted, 1e-11)
    torch.set_num_threads(2)
    assert equal(run(selective_scan, given, lengths), wanted)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", BACKENDS)
def test_gradcheck(name, reverse):
    lengths = [0, 1, 3, 35] if name == "native" else [0, 1, 4]
    given = make(lengths, 2, 2)
    leaves = [given[key].requires_grad_() for key in NAMES]

    def function(*tensors):
        *most, initial = tensors
        return selective_scan(
            *most, initial=initial, seq_ptr=offsets(lengths), reverse=reverse, return_last=True
        )

    with backend(name):
        assert torch.autograd.gradcheck(function, leaves)


@needs_kernels
@pytest.mark.parametrize("lengths", [[64, 0, 1, 3, 65], None, []])
@pytest.mark.parametrize("want_last", [False, True])
def test_opcheck(lengths, want_last):
    given = make([20] if lengths is None else lengths, 3, 2)
    tensors = [given[key].requires_grad_() for key in NAMES]
    if not want_last:
        tensors[5:] = [None] * 4
    ptr = None if lengths is None else offsets(lengths)
    arguments = (*tensors, ptr, want_last, True, want_last, True)
    torch.library.opcheck(torch.ops.graphkit.selective_scan, arguments)
    plain = [None if t is None else t.detach() for t in tensors]
    with torch.no_grad():
        y, last, starts = torch.ops.graphkit.selective_scan(*plain, ptr, *arguments[-4:])
    torch.library.opcheck(
        torch.ops.graphkit.selective_scan_backward,
        (torch.randn_like(y), last if want_last else None, *plain, ptr, starts, want_last, True),
    )


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_opcheck_of_half_types(dtype):
    given = make([40, 3], 3, 2, dtype)
    for key in ("A", "D", "delta_bias", "initial"):
        given[key] = given[key].float()
    tensors = [given[key].requires_grad_() for key in NAMES]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (*tensors, offsets([40, 3]), False, True, True, True)
    torch.library.opcheck(torch.ops.graphkit.selective_scan, arguments, test_utils=tests)


@needs_kernels
def test_compiled_in_one_graph_for_all_lengths():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def function(ptr, *tensors):
        *most, initial = tensors
        y, last = selective_scan(*most, initial=initial, seq_ptr=ptr, return_last=True)
        return y.square().sum() + last.sum() + selective_scan(*most[:5], reverse=True).sum()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([64, 3, 5], [63, 20, 7, 2], [100, 31]):
        given = make(lengths, 6, 11)
        leaves = [given[key].requires_grad_() for key in NAMES]
        wanted = function(offsets(lengths), *leaves)
        found = compiled(offsets(lengths), *leaves)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(
            torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves)
        )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    with pytest.raises(ValueError, match="seq_ptr: offset 120 at"):
        compiled(torch.tensor([0, 140, 120]), *leaves)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_steps(name, lengths):
    given = make(lengths, 4, 3)
    with backend(name):
        y, last, *grads = run(selective_scan, given, lengths)
    assert y.shape == (0, 4)
    assert torch.equal(last, given["initial"])
    grads = dict(zip(NAMES, grads, strict=True))
    assert grads["initial"].shape == (len(lengths), 4, 3)
    for key in ("A", "D", "delta_bias"):
        assert torch.equal(grads[key], torch.zeros_like(given[key]))


def test_no_channels():
    given = make([5], 4, 3)
    given = {k: t[:, :0] if k in ("u", "delta", "z") else t for k, t in given.items()}
    given |= {"A": given["A"][:0], "initial": given["initial"][:, :0]}
    given |= {"D": given["D"][:0], "delta_bias": given["delta_bias"][:0]}
    y, _, *grads = run(selective_scan, given, [5])
    assert y.shape == (5, 0)
    assert torch.equal(grads[3], torch.zeros(5, 3, dtype=torch.float64))


def test_one_sequence_needs_no_offsets():
    given = make([70], 5, 3)
    y, last = selective_scan(**given, return_last=True)
    for dtype in (torch.int32, torch.int64):
        ptr = offsets([70], dtype)
        assert equal([*selective_scan(**given, seq_ptr=ptr, return_last=True)], [y, last])
    assert torch.equal(selective_scan(**given), y)


@needs_kernels
def test_layouts_of_inputs():
    """Columns of a wider matrix, as projections give them, transposed and expanded ones."""
    lengths = [40, 3]
    given = make(lengths, 6, 4)
    wanted = run(selective_scan, given, lengths)
    wide = torch.cat([given["B"], given["C"], given["u"], given["z"]], 1)
    strided = dict(given, B=wide[:, :4], C=wide[:, 4:8], u=wide[:, 8:14], z=wide[:, 14:])
    strided |= {k: given[k].t().contiguous().t() for k in ("A", "delta")}
    assert not any(strided[k].is_contiguous() for k in ("A", "B", "C", "u", "z", "delta"))
    leaves = [strided[k].detach().requires_grad_() for k in NAMES]
    *most, initial = leaves
    ptr = torch.stack([offsets(lengths)] * 2, 1)[:, 0]
    y, last = selective_scan(*most, initial=initial, seq_ptr=ptr, return_last=True)
    assert equal([y, last], wanted[:2])
    by_sum = torch.autograd.grad(y.sum(), leaves, retain_graph=True)  # an expanded gradient
    by_ones = torch.autograd.grad(y, leaves, torch.ones(6, 43, dtype=y.dtype).t())
    assert equal([*by_sum], [*by_ones])


@pytest.mark.parametrize("name", BACKENDS)
def test_only_what_is_asked_for_gets_a_gradient(name):
    lengths = [40, 3]
    given = make(lengths, 5, 4)
    wanted = dict(zip(NAMES, run(selective_scan, given, lengths)[2:], strict=True))
    generator = torch.Generator().manual_seed(5)
    cotangents = [
        torch.randn(s, generator=generator, dtype=torch.float64) for s in ((43, 5), (2, 5, 4))
    ]
    with backend(name):
        for key in NAMES:
            mine = {k: t.clone().requires_grad_(k == key) for k, t in given.items()}
            out = selective_scan(**mine, seq_ptr=offsets(lengths), return_last=True)
            pairs = [pair for pair in zip(out, cotangents, strict=True) if pair[0].requires_grad]
            (found,) = torch.autograd.grad([o for o, _ in pairs], mine[key], [c for _, c in pairs])
            assert_near([found], [wanted[key]], 1e-12)


@pytest.mark.parametrize("name", BACKENDS)
def test_last_states_alone_have_gradients(name):
    given = make([9, 40], 5, 4)
    keys = ["u", "delta", "A", "B", "delta_bias", "initial"]
    results = []
    with backend(name):
        for function in (selective_scan, by_definition):
            leaves = {k: t.clone().requires_grad_() for k, t in given.items()}
            _, last = function(**leaves, seq_ptr=offsets([9, 40]), return_last=True)
            results.append([*torch.autograd.grad(last.square().sum(), [leaves[k] for k in keys])])
    assert_near(*results, 1e-12)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_half_types_compute_in_float(name, dtype, tolerance):
    given = make([64, 3, 30], 20, 16, dtype)
    wanted = run(by_definition, {k: t.double() for k, t in given.items()}, [64, 3, 30])
    with backend(name):
        ours = run(selective_scan, given, [64, 3, 30])
        assert [t.dtype for t in ours] == [dtype, torch.float32, *[dtype] * 9]
        assert_near(ours[2:5] + ours[7:], wanted[2:5] + wanted[7:], 4 * tolerance)
        assert_near(ours[:1] + ours[5:7], wanted[:1] + wanted[5:7], 4 * tolerance)
        for key in ("A", "D", "delta_bias", "initial"):
            given[key] = given[key].float()
        y, last = selective_scan(**given, seq_ptr=offsets([64, 3, 30]), return_last=True)
    wanted = by_definition(**{k: t.double() for k, t in given.items()}, seq_ptr=[0, 64, 67, 97])
    assert_near([y], [wanted[0]], tolerance)
    assert_near([last], [wanted[1]], 1e-5)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_steps(name, dtype):
    """softplus neither overflows nor loses small steps; a large step forgets the past."""
    raw = torch.tensor([-1e4, -500.0, -80.0, -20.0, -3.0, 0.0, 15.0, 30.0, 90.0, 1e4], dtype=dtype)
    one = torch.ones(10, 1, dtype=dtype)
    delta = raw[:, None].clone().requires_grad_()
    with backend(name):
        # Nothing is remembered: the outputs are the steps.
        y = selective_scan(one, delta, -1e30 * one[:1], one, one)
        (grad,) = torch.autograd.grad(y.sum(), delta)
    wanted = torch.logaddexp(raw.double(), torch.zeros(10, dtype=torch.float64))
    error = (y.flatten().double() - wanted).abs()
    assert (error <= wanted * (1e-6 if dtype == torch.float32 else 1e-14) + 1e-37).all()
    assert (grad.flatten() - torch.sigmoid(raw)).abs().max() < 1e-6
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", BACKENDS)
def test_limits(name):
    given = make([30], 5, 4)
    u, D = given["u"], given["D"]
    del given["z"], given["initial"], given["delta_bias"]
    with backend(name):
        none = selective_scan(**(given | {"B": torch.zeros_like(given["B"])}))
        assert torch.equal(none, D * u)
        zero = selective_scan(**(given | {"delta": torch.zeros_like(u)}), delta_softplus=False)
        assert torch.equal(zero, D * u)
        delta = given["delta"].abs() + 1
        y, last = selective_scan(
            **(given | {"A": given["A"] * 0 - 1e6, "delta": delta}), delta_softplus=False,
            return_last=True,
        )  # fmt: skip
    memoryless = (given["B"] * given["C"]).sum(1, keepdim=True) * delta * u + D * u
    assert_near([y, last[0]], [memoryless, torch.outer(delta[-1] * u[-1], given["B"][-1])], 1e-12)


@needs_kernels
def test_nan_stays_in_its_sequence_and_channel():
    given = make([40, 40], 20, 4, torch.float32)
    for key in ("u", "delta", "z"):
        broken = {k: t.clone() for k, t in given.items()}
        broken[key][10, 3] = float("nan")
        y = selective_scan(**broken, seq_ptr=offsets([40, 40]))
        rows, columns = y.isnan().nonzero(as_tuple=True)
        assert set(columns.tolist()) == {3}
        assert set(rows.tolist()) == ({10} if key == "z" else set(range(10, 40)))


@needs_kernels
def test_states_are_not_kept():
    given = make([4096], 64, 16, torch.float32)
    leaves = {k: t.requires_grad_() for k, t in given.items()}
    sizes = []

    def empty(like, shape):
        out = like.new_empty(shape)
        sizes.append(out.numel())
        return out

    with patch.object(cpu, "empty", side_effect=empty):
        selective_scan(**leaves, seq_ptr=offsets([4096])).sum().backward()
    assert max(sizes) <= 4096 * 64
    assert 4096 * 64 * 16 // 32 in sizes


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    "bad", [[1, 5, 10], [0, 5, 9], [0, 7, 5, 10], [0, 5, 11], [-1, 10], [0, 99, 10], [0], [10]]
)
def test_offsets_that_do_not_add_up(name, dtype, bad):
    given = make([10], 3, 2)
    del given["initial"]
    with backend(name):
        for each in (given, {k: t.clone().requires_grad_() for k, t in given.items()}):
            with pytest.raises(InputError, match="seq_ptr: offset .* end at 10"):
                selective_scan(**each, seq_ptr=torch.tensor(bad, dtype=dtype))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("u", lambda t: t[0]),
        ("u", lambda t: t.long()),
        ("delta", lambda t: t[:, 1:]),
        ("delta", lambda t: t.float()),
        ("A", lambda t: t[1:]),
        ("A", lambda t: t[0]),
        ("A", lambda t: t[:, :0]),
        ("A", lambda t: t.float()),
        ("B", lambda t: t[:, 1:]),
        ("B", lambda t: t.half()),
        ("C", lambda t: t[1:]),
        ("D", lambda t: t[1:]),
        ("D", lambda t: t[:, None]),
        ("z", lambda t: t[1:]),
        ("z", lambda t: t.to("meta")),
        ("delta_bias", lambda t: t[1:]),
        ("initial", lambda t: t[1:]),
        ("initial", lambda t: t.float()),
        ("seq_ptr", lambda t: t.float()),
        ("seq_ptr", lambda t: t[None]),
        ("seq_ptr", lambda t: t[:0]),
        ("seq_ptr", lambda t: t.to("meta")),
    ],
)
def test_what_does_not_fit_is_refused_by_name(key, change):
    given = make([4, 6], 3, 2) | {"seq_ptr": offsets([4, 6])}
    given[key] = change(given[key])
    with pytest.raises(InputError, match=f"^{key}: "):
        selective_scan(**given)
