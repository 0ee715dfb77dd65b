"""selective_scan on awkward inputs: sizes, layouts, types, extreme values, what does not fit."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from scan_cases import (
    NAMES,
    assert_near,
    by_definition,
    equal,
    make,
    offsets,
    run,
)

from graphkit.errors import InputError
from graphkit.ops import backend, cpu, selective_scan

pytestmark = pytest.mark.usefixtures("one_thread")

needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="no native kernels")
BACKENDS = [pytest.param("native", marks=needs_kernels), "reference"]


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
    given = make([40, 40], 20, 5, torch.float32)
    for key in ("u", "delta", "z"):
        broken = {k: t.clone() for k, t in given.items()}
        broken[key][10, 3] = float("nan")
        y = selective_scan(**broken, seq_ptr=offsets([40, 40]))
        rows, columns = y.isnan().nonzero(as_tuple=True)
        assert set(columns.tolist()) == {3}
        assert set(rows.tolist()) == ({10} if key == "z" else set(range(10, 40)))
    u = given["u"].clone().requires_grad_()
    y = selective_scan(**(given | {"u": u}), seq_ptr=offsets([40, 40]))
    cotangent = torch.ones_like(y)
    cotangent[10, 3] = float("nan")
    (grad,) = torch.autograd.grad(y, u, cotangent)
    rows, columns = grad.isnan().nonzero(as_tuple=True)
    assert set(columns.tolist()) == {3}
    assert set(rows.tolist()) == set(range(11))


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
    assert 4096 * 64 * 16 // cpu.kernels.SCAN_CHUNK in sizes


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


@pytest.mark.skipif(cpu.kernels is None, reason="no native kernels")
def test_offsets_that_change_before_backward_are_refused():
    given = {k: t.requires_grad_() for k, t in make([4, 6], 3, 2).items()}
    ptr = torch.tensor([0, 4, 10])
    out = selective_scan(**given, seq_ptr=ptr)
    ptr.numpy()[1] = 11
    with pytest.raises(InputError, match="seq_ptr: offset 11 at position 1"):
        out.sum().backward()


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
