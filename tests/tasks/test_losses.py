"""Losses against worked numbers, and NaN targets that never reach a gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from graphkit.errors import InputError
from graphkit.tasks import (
    batch_class_weights,
    bce_with_logits,
    cross_entropy,
    l1,
    mse,
    weighted_cross_entropy,
)
from graphkit.tasks.losses import choose_loss

NAN = float("nan")


def test_weighted_cross_entropy_of_the_specification():
    labels = torch.tensor([0, 0, 0, 1])
    assert batch_class_weights(labels, 3).tolist() == [0.25, 0.75, 0.0]
    loss = weighted_cross_entropy(torch.zeros(4, 3), labels)
    assert loss.item() == pytest.approx(math.log(3), abs=1e-6)


def test_weighted_cross_entropy_is_torchs_where_both_are_defined():
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(30, 5, generator=generator)
    labels = torch.randint(0, 5, (30,), generator=generator)
    wanted = F.cross_entropy(out, labels, weight=batch_class_weights(labels, 5))
    torch.testing.assert_close(weighted_cross_entropy(out, labels), wanted)


def test_weighted_cross_entropy_of_a_single_class_is_zero_with_finite_gradient():
    out = torch.randn(3, 2, requires_grad=True)
    loss = weighted_cross_entropy(out, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(out.grad, torch.zeros(3, 2))


@pytest.mark.parametrize("loss", [bce_with_logits, l1, mse])
def test_unlabelled_entries_count_neither_in_value_nor_in_gradient(loss):
    target = torch.tensor([[1.0, NAN], [NAN, 0.0], [1.0, 1.0]])
    out = torch.tensor([[0.3, 9.0], [-7.0, 0.5], [2.0, -1.0]], requires_grad=True)
    value = loss(out, target)
    value.backward()
    mask = ~torch.isnan(target)
    alone = loss(out.detach()[mask][:, None], target[mask][:, None])
    assert value.item() == pytest.approx(alone.item(), abs=1e-7)
    assert torch.equal(out.grad != 0, mask)
    assert torch.isfinite(out.grad).all()


@pytest.mark.parametrize("loss", [bce_with_logits, l1, mse])
def test_no_label_at_all_gives_zero_loss_and_zero_gradient(loss):
    out = torch.randn(2, 3, requires_grad=True)
    value = loss(out, torch.full((2, 3), NAN))
    value.backward()
    assert value.item() == 0
    assert torch.equal(out.grad, torch.zeros(2, 3))


def test_values_are_those_of_torch_when_all_is_labelled():
    generator = torch.Generator().manual_seed(1)
    out, target = torch.randn(6, 4, generator=generator), torch.rand(6, 4, generator=generator)
    binary = (target > 0.5).float()
    torch.testing.assert_close(
        bce_with_logits(out, binary), F.binary_cross_entropy_with_logits(out, binary)
    )
    torch.testing.assert_close(l1(out, target), F.l1_loss(out, target))
    torch.testing.assert_close(mse(out, target), F.mse_loss(out, target))
    labels = torch.tensor([0, 3, 1, 2, 2, 0])
    assert torch.equal(cross_entropy(out, labels), F.cross_entropy(out, labels))
    assert cross_entropy(out[:0], labels[:0]).item() == 0


def test_the_usual_loss_follows_task_type_and_metric():
    assert choose_loss("binary", "rocauc", None)[0] == "bce"
    assert choose_loss("multilabel", "ap", None)[0] == "bce"
    assert choose_loss("regression", "mae", None)[0] == "l1"
    assert choose_loss("regression", "rmse", None)[0] == "mse"
    assert choose_loss("multiclass", "acc", None)[0] == "cross_entropy"


def test_losses_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="did you mean 'weighted_cross_entropy'"):
        choose_loss("multiclass", "f1", "weighted_crossentropy")
    with pytest.raises(InputError, match="does not fit a binary task"):
        choose_loss("binary", "rocauc", "mse")
    with pytest.raises(InputError, match="ranking"):
        choose_loss("ranking", "mrr", None)
