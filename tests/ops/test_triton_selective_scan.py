"""The Triton kernels of selective_scan give what the plain-torch definition gives."""

import os

import pytest
import torch
from scan_cases import NAMES, PER_STEP, assert_near, equal, make, offsets, run

from graphkit.ops import reference_selective_scan, selective_scan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a GPU, or TRITON_INTERPRET=1 (test_triton_interpreter.py runs it so)",
        allow_module_level=True,
    )
pytest.importorskip("triton")

from graphkit.ops.triton import selective_scan as kernels  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Kernels(torch.autograd.Function):
    """The kernels as the custom op joins them, for tensors on any device."""

    @staticmethod
    def forward(ctx, *inputs):
        *tensors, reverse, softplus, zoh = inputs
        options = (reverse, softplus, zoh)
        y, last, starts = kernels.selective_scan_forward(*tensors, *options, True, True)
        ctx.kept = (*tensors, starts, *options)
        return y, last

    @staticmethod
    def backward(ctx, grad, grad_last):
        grads = kernels.selective_scan_backward(grad, grad_last, *ctx.kept)
        need = ctx.needs_input_grad[:9]
        return *(g if n else None for g, n in zip(grads, need, strict=True)), *[None] * 4


def ours(
    *, seq_ptr=None, reverse=False, delta_softplus=True, disc="euler", return_last=True, **given
):
    given = {key: t.to(DEVICE) for key, t in given.items()}
    seq_ptr = None if seq_ptr is None else seq_ptr.to(DEVICE)
    if not INTERPRETED:
        out = selective_scan(
            **given, seq_ptr=seq_ptr, reverse=reverse, delta_softplus=delta_softplus,
            disc=disc, return_last=True,
        )  # fmt: skip
    else:
        wide = torch.float64 if given["u"].dtype == torch.float64 else torch.float32
        tensors = [given.get(key) for key in NAMES]
        for i in (2, 5, 7, 8):
            tensors[i] = None if tensors[i] is None else tensors[i].to(wide)
        out = Kernels.apply(*tensors, seq_ptr, reverse, delta_softplus, disc == "zoh")
    return tuple(t.cpu() for t in out)


def theirs(
    *, seq_ptr=None, reverse=False, delta_softplus=True, disc="euler", return_last=True, **given
):
    tensors = [given.get(key) for key in NAMES]
    return reference_selective_scan.selective_scan(
        *tensors, seq_ptr, reverse=reverse, delta_softplus=delta_softplus, zoh=disc == "zoh"
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("lengths", "channels", "states"), [([0, 3, 33, 1], 5, 3), ([5], 17, 4)])
def test_equals_the_definition(lengths, channels, states, reverse):
    given = make(lengths, channels, states)
    wanted = run(theirs, given, lengths, reverse=reverse)
    assert_near(run(ours, given, lengths, reverse=reverse), wanted, 1e-12)
    if reverse:
        return
    single = {key: t.float() for key, t in given.items()}
    assert_near(run(ours, single, lengths, reverse=reverse), wanted, 1e-5)


@pytest.mark.parametrize(("channels", "states", "size"), [(5, 3, 1.0), (3, 2, 1e-3), (2, 1, 0.0)])
def test_a_zero_order_hold(channels, states, size):
    given = make([3, 33, 1], channels, states)
    given["A"] = given["A"] * size
    wanted = run(theirs, given, [3, 33, 1], disc="zoh")
    assert_near(run(ours, given, [3, 33, 1], disc="zoh"), wanted, 1e-12)
    single = {key: t.float() for key, t in given.items()}
    assert_near(run(ours, single, [3, 33, 1], disc="zoh"), wanted, 1e-5)


@pytest.mark.parametrize("softplus", [False, True])
def test_what_is_optional_may_be_absent(softplus):
    given = {key: t for key, t in make([9], 3, 2).items() if key in (*PER_STEP[:4], "A")}
    given["delta"] = given["delta"].abs()
    wanted = run(theirs, given, [9], delta_softplus=softplus)
    assert_near(run(ours, given, [9], delta_softplus=softplus), wanted, 1e-12)
    assert equal([ours(**given)[0]], [ours(**given, seq_ptr=offsets([9]))[0]])


def test_many_sequences_share_a_program(monkeypatch):
    lengths = [3, 0, 5, 1, 4]
    given = make(lengths, 4, 2)
    wanted = run(theirs, given, lengths)
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    assert_near(run(ours, given, lengths), wanted, 1e-12)


def test_states_at_the_starts_of_chunks():
    given = make([2, 65], 1, 1)
    assert_near(run(ours, given, [2, 65]), run(theirs, given, [2, 65]), 1e-12)


def test_half_types_compute_in_float():
    given = make([6, 40], 4, 3, torch.bfloat16)
    y, last = ours(**given, seq_ptr=offsets([6, 40]))
    wide = {key: t.float() for key, t in given.items()}
    wanted = theirs(**wide, seq_ptr=offsets([6, 40]))
    assert y.dtype == torch.bfloat16
    assert_near([y], [wanted[0]], 1e-2)
    assert_near([last], [wanted[1]], 1e-5)


def test_small_steps_keep_their_digits():
    raw = torch.tensor([-80.0, -30.0, -15.0, 0.0, 30.0, 1e4])[:, None]
    one = torch.ones(6, 1)
    y, _ = ours(u=one, delta=raw, A=-1e30 * one[:1], B=one, C=one)
    wanted = torch.logaddexp(raw.double(), torch.zeros(6, 1, dtype=torch.float64))
    assert ((y - wanted).abs() <= 1e-6 * wanted + 1e-37).all()
