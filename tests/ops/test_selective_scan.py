"""selective_scan gives what the recurrence says, step by step, forward and backward."""

from __future__ import annotations

import pytest
import torch
from scan_cases import (
    LENGTHS,
    NAMES,
    PER_STEP,
    assert_near,
    by_definition,
    equal,
    make,
    offsets,
    run,
)
from torch import Tensor

from graphkit.ops import backend, cpu, selective_scan

pytestmark = pytest.mark.usefixtures("one_thread")

needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="no native kernels")
BACKENDS = [pytest.param("native", marks=needs_kernels), "reference"]


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
@pytest.mark.parametrize(("want_last", "zoh"), [(False, False), (True, False), (True, True)])
def test_opcheck(lengths, want_last, zoh):
    given = make([20] if lengths is None else lengths, 3, 2)
    tensors = [given[key].requires_grad_() for key in NAMES]
    if not want_last:
        tensors[5:] = [None] * 4
    ptr = None if lengths is None else offsets(lengths)
    arguments = (*tensors, ptr, want_last, True, zoh, want_last, True)
    torch.library.opcheck(torch.ops.graphkit.selective_scan, arguments)
    plain = [None if t is None else t.detach() for t in tensors]
    with torch.no_grad():
        y, last, starts = torch.ops.graphkit.selective_scan(*plain, ptr, *arguments[-5:])
    torch.library.opcheck(
        torch.ops.graphkit.selective_scan_backward,
        (
            torch.randn_like(y), last if want_last else None, *plain, ptr, starts, want_last, True,
            zoh,
        ),
    )  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("lengths", [[64, 0, 1, 3, 65], [64], [5, 27, 32], [31, 1, 32, 33, 0, 63]])
def test_states_that_are_kept_hold_nothing_that_lay_there_before(lengths):
    # Garbage of freed memory in unused slots once made two equal calls differ.
    given = make(lengths, 3, 2)
    arguments = (*(given[key] for key in NAMES), offsets(lengths), False, True, False, True, True)
    found = []
    for _ in range(2):
        junk = [torch.full((4096,), 1e252, dtype=torch.float64) for _ in range(64)]
        junk += [torch.full_like(found[0], 1e252) for _ in range(64)] if found else []
        del junk
        found.append(torch.ops.graphkit.selective_scan(*arguments)[2])
    assert torch.equal(*found)
    assert bool((found[0].abs() < 1e6).all())


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_opcheck_of_half_types(dtype):
    given = make([40, 3], 3, 2, dtype)
    for key in ("A", "D", "delta_bias", "initial"):
        given[key] = given[key].float()
    tensors = [given[key].requires_grad_() for key in NAMES]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (*tensors, offsets([40, 3]), False, True, False, True, True)
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
    with pytest.raises(ValueError, match="seq_ptr: offset 140 at"):
        compiled(torch.tensor([0, 140, 120]), *leaves)
