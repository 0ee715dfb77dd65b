"""The Triton kernels of sampled_logistic give what the plain-torch definition gives."""

import os

import pytest
import torch
from logistic_cases import assert_near, make, run

from graphkit.ops import backend, sampled_logistic

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a GPU, or TRITON_INTERPRET=1 (test_triton_interpreter.py runs it so)",
        allow_module_level=True,
    )
pytest.importorskip("triton")

from graphkit.ops.triton import pieces  # noqa: E402
from graphkit.ops.triton import sampled_logistic as kernels  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"


class Kernels(torch.autograd.Function):
    """The kernels as the custom op joins them, for tensors on any device."""

    @staticmethod
    def forward(ctx, *inputs):
        loss, *grads = kernels.sampled_logistic(*inputs, True)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    def backward(ctx, grad):
        return *(grad * t for t in ctx.saved_tensors), *[None] * 8


def arguments(given):
    names = ("user", "item", "users", "items", "negatives", "beta_user", "beta_item", "neighbours",
             "neighbour_weights")  # fmt: skip
    factors = [*given["weights"], given["negative_weight"], given["neighbour_scale"]]
    return *(given[k] for k in names), [*factors, given["decay"]]


def ours(**given):
    given = {k: t.to(DEVICE) if torch.is_tensor(t) else t for k, t in given.items()}
    if given["neighbours"] is not None and not given["neighbours"].size(1):
        given |= {"neighbours": None, "neighbour_weights": None}
    out = Kernels.apply(*arguments(given)) if INTERPRETED else sampled_logistic(**given)
    return out.cpu()


def theirs(**given):
    with backend("reference"):
        return sampled_logistic(**given)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        {"num_negatives": 19, "num_neighbours": 17},
        {"num_negatives": 1, "num_neighbours": 0},
        {"width": 16, "pairs": 1},
        {"pairs": 0},
        {"items": 1, "users": 1},
    ],
)
def test_equals_the_definition(shape, shared):
    given = make(**shape, shared=shared)
    assert_near(run(given, ours), run(given, theirs), 1e-12)


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_single_precision_and_index_types(ids):
    given = make(ids=ids, dtype=torch.float32, num_negatives=20)
    assert_near(run(given, ours), run(given, theirs), 1e-5)
    given |= {"beta_user": None, "beta_item": None, "weights": (1.0, 0.0, 0.5, 0.0), "decay": 0.0}
    assert_near(run(given, ours), run(given, theirs), 1e-5)


def test_an_item_that_every_pair_meets(monkeypatch):
    monkeypatch.setattr(pieces, "LIMIT", 8)
    monkeypatch.setattr(pieces, "PIECE", 4)
    given = make(items=2, pairs=12)
    assert_near(run(given, ours), run(given, theirs), 1e-12)


def test_without_gradients_the_loss_is_the_same():
    given = make()
    given_here = {k: t.to(DEVICE) if torch.is_tensor(t) else t for k, t in given.items()}
    alone = kernels.sampled_logistic(*arguments(given_here), False)
    assert torch.equal(alone[0].cpu(), run(given, ours)[0])
    assert alone[1].numel() == alone[2].numel() == 0
