"""Closures replay randomness, leave buffers alone after the first call, and log only the first."""

import pytest
import torch
from tiny_graphs import TinyModel, assert_same_weights, tiny_task, weights_of

from graphkit.train import DivergenceError, Trainer, TrainerPlugin


def fit(plugins=(), **arguments):
    model = TinyModel(dropout=0.5, norm=True)
    settings = {"max_epochs": 2, "batch_size": 5, "progress": False, **arguments}
    result = Trainer(plugins=plugins, **settings).fit(model, tiny_task())
    return result, weights_of(model)


class ManyCalls(TrainerPlugin):
    """Calls the closure in many ways and keeps what it sees."""

    name = "many_calls"

    def __init__(self, use_last_gradient=False):
        self.replayed, self.fresh, self.buffers, self.outs = [], [], [], []
        self.use_last_gradient = use_last_gradient

    def step(self, closure, optimizer):
        model = self.run.model
        first = closure()
        gradient = model.first.weight.grad.clone()
        after_first = model.norm.running_mean.clone()
        self.replayed.append((first, closure(grad=False)))
        assert torch.equal(model.first.weight.grad, gradient)
        self.fresh.append((first, closure(grad=False, replay=False)))
        self.outs.append(closure(grad=False, want="out"))
        closure()
        assert torch.equal(model.first.weight.grad, gradient)
        self.buffers.append((after_first, model.norm.running_mean.clone()))
        optimizer.step()


def test_replay_buffers_and_random_stream():
    plugin = ManyCalls()
    result, weights = fit([plugin])
    plain_result, plain = fit()
    assert all(torch.equal(a, b) for a, b in plugin.replayed)
    assert any(not torch.equal(a, b) for a, b in plugin.fresh)
    assert all(torch.equal(a, b) for a, b in plugin.buffers)
    assert all(len(outs) == 1 and outs[0].shape == (5, 1) for outs in plugin.outs)
    # Five calls a step leave the random stream, the statistics and the log as one call does.
    assert_same_weights(weights, plain)
    assert result.history == plain_result.history


def test_closure_on_validation_data_uses_eval_mode_and_its_own_stream():
    class OnValidation(TrainerPlugin):
        name = "on_validation"

        def __init__(self):
            self.losses = []

        def step(self, closure, optimizer):
            closure(split="train")
            optimizer.step()
            before = weights_of(self.run.model)
            one = closure(split="valid", grad=True)
            again = closure(split="valid", grad=False)
            assert torch.equal(one, again)  # eval mode, one batch per step
            assert self.run.model.training
            assert_same_weights(before, weights_of(self.run.model))
            self.losses.append(float(one))

    plugin = OnValidation()
    fit([plugin])
    assert len(set(plugin.losses)) > 1


def test_unknown_closure_arguments_are_refused():
    class Wrong(TrainerPlugin):
        def step(self, closure, optimizer):
            closure(split="test")

    with pytest.raises(ValueError, match="'train' or 'valid'"):
        fit([Wrong()])


def test_accumulated_batches_give_the_gradient_of_the_large_batch():
    def train(**arguments):
        model = TinyModel()
        settings = {"max_epochs": 3, "progress": False, "optimizer": {"name": "SGD", "lr": 0.1}}
        Trainer(**settings, **arguments).fit(model, tiny_task(24))  # 12 graphs: 12, 8 + 4
        return weights_of(model)

    whole, parts = train(batch_size=12), train(batch_size=8, accumulate=2)
    for key, value in whole.items():
        # Other summation order only: a few units in the last place of float32.
        torch.testing.assert_close(parts[key], value, rtol=1e-5, atol=1e-6)


def test_a_diverging_loss_is_named_and_never_saved(tmp_path):
    class Explode(TrainerPlugin):
        name = "explode"

        def extra_loss(self, model, batch, out, loss):
            return loss * float("nan") if self.run.step == 6 else loss

    with pytest.raises(DivergenceError, match="epoch 2, step 6"):
        fit([Explode()], run_dir=tmp_path, checkpoint_seconds=0)
    shared = torch.load(tmp_path / "checkpoints/last/shared.pt", weights_only=True)
    assert shared["step"] == 5
    assert all(torch.isfinite(value).all() for value in shared["model"].values())


def test_overflow_under_the_loss_scaler_drops_the_step_and_lowers_the_scale():
    class Overflow(TrainerPlugin):
        name = "overflow"

        def __init__(self):
            self.updates = []

        def extra_loss(self, model, batch, out, loss):
            return loss * 1e38 if self.run.step == 3 else loss

        def after_step(self, model):
            self.updates.append(self.run.step)

    plugin = Overflow()
    result, weights = fit([plugin], precision="16-mixed")
    assert plugin.updates == [1, 2, 4, 5, 6, 7, 8]
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_stays_close_to_full_precision(precision):
    full, _ = fit(max_epochs=1)
    mixed, _ = fit(max_epochs=1, precision=precision)
    # bfloat16 keeps 8 bits: 1/256 relative per product.
    assert mixed.history[0]["train_loss"] == pytest.approx(full.history[0]["train_loss"], rel=2e-2)
