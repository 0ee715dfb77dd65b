"""The ten hooks: their order, their owners, and that unused ones cost and change nothing."""

import time

import pytest
import torch
from tiny_graphs import TinyModel, assert_same_weights, tiny_task, weights_of

from graphkit.errors import PluginError
from graphkit.train import PluginList, Restart, Stop, Trainer, TrainerPlugin


def fit(plugins=(), model=None, **arguments):
    model = model or TinyModel(dropout=0.2, norm=True)
    settings = {"max_epochs": 3, "batch_size": 5, "progress": False, **arguments}
    result = Trainer(plugins=plugins, **settings).fit(model, tiny_task())
    return result, weights_of(model)


class Null(TrainerPlugin):
    """Overrides every hook that has a neutral answer."""

    name = "null"

    def transform_model(self, model, data):
        return model

    def make_loader(self, split, dataset, loader):
        return loader

    def on_batch(self, batch, phase):
        return batch

    def extra_loss(self, model, batch, out, loss):
        return loss

    def after_step(self, model):
        return None

    def on_epoch_end(self, metrics):
        return None

    def state_dict(self, scope):
        return {}

    def load_state_dict(self, scope, state):
        return None

    def export(self, model):
        return model


class Recorder(TrainerPlugin):
    name = "recorder"

    def __init__(self):
        self.seen = []

    def on_batch(self, batch, phase):
        if phase == "train":
            self.seen.append("H2")
        return batch

    def extra_loss(self, model, batch, out, loss):
        if model.training:
            self.seen.append("H3")
        return loss

    def reduce(self, grads, world):
        assert all(grad.dtype == torch.float32 for grad in grads)
        self.seen.append("H4")
        return grads

    def clip(self, parameters):
        self.seen.append("clip")

    def step(self, closure, optimizer):
        closure()
        closure()
        self.seen.append("H6")
        optimizer.step()

    def after_step(self, model):
        self.seen.append("H7")

    def sync_begin(self, world):
        self.seen.append("H5 begin")

    def sync_end(self, world):
        self.seen.append("H5 end")

    def lr(self, base_lr):
        self.seen.append("schedule")
        return base_lr

    def feedback(self, ids, values):
        assert values.shape == (5,)
        self.seen.append("H1")


def test_order_inside_one_step_is_that_of_the_specification():
    recorder = Recorder()
    fit([recorder], max_epochs=1, batch_size=5)
    closure = ["H3", "H4", "clip"]
    step = ["H2", *closure, *closure, "H6", "H7", "H5 begin", "H5 end", "schedule", "H1"]
    assert recorder.seen[0] == "schedule"  # the rate of the first step is set before it
    assert recorder.seen[1 : 1 + 4 * len(step)] == step * 4


def test_null_plugins_change_nothing_bitwise():
    _, plain = fit()
    _, with_null = fit([Null(), TrainerPlugin()])
    assert_same_weights(plain, with_null)


def test_hooks_that_are_not_overridden_are_never_called():
    plugins = PluginList([TrainerPlugin() for _ in range(5)])
    assert all(not plugins.calls(hook) for hook in ("on_batch", "after_step", "extra_loss"))


def test_five_null_plugins_cost_less_than_50_microseconds_a_step():
    # The calls a step makes, without the step: free of the noise of a loaded machine, and the
    # best of many repeats; a plugin that overrides nothing is not called at all.
    plugins = PluginList([Null() for _ in range(5)])
    loss, batch, model = torch.zeros(()), object(), TinyModel()
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        for on_batch in plugins.calls("on_batch"):
            on_batch(batch, "train")
        for extra in plugins.calls("extra_loss"):
            extra(model, batch, loss, loss)
        for after in plugins.calls("after_step"):
            after(model)
        best = min(best, time.perf_counter() - start)
    assert best < 50e-6


@pytest.mark.parametrize("hook", ["reduce", "step", "clip", "lr"])
def test_two_owners_of_one_hook_are_refused(hook):
    owner = type("Owner", (TrainerPlugin,), {"name": "owner", hook: lambda self, *a: None})
    with pytest.raises(PluginError, match="one owner at a time"):
        Trainer(plugins=[owner(), owner()])


def test_half_of_an_owned_hook_is_refused():
    half = type("Half", (TrainerPlugin,), {"name": "half", "sync_begin": lambda self, world: None})
    with pytest.raises(PluginError, match="sync_end"):
        Trainer(plugins=[half()])


def test_unknown_and_unmet_requirements_are_refused():
    class Wants(TrainerPlugin):
        name = "wants"
        requires = frozenset({"replayable RGN"})

    with pytest.raises(PluginError, match="did you mean 'replayable RNG'"):
        Trainer(plugins=[Wants()])
    Wants.requires = frozenset({"no loss scaler"})
    Trainer(plugins=[Wants()])
    with pytest.raises(PluginError, match="bf16-mixed"):
        Trainer(plugins=[Wants()], precision="16-mixed")


def test_state_that_could_not_be_loaded_again_is_refused():
    class Forgetful(TrainerPlugin):
        name = "forgetful"

        def state_dict(self, scope):
            return {"n": 1}

    with pytest.raises(PluginError, match="load_state_dict"):
        Trainer(plugins=[Forgetful()])


def test_conflicts_duplicates_and_foreign_objects_are_refused():
    class Loner(TrainerPlugin):
        name = "loner"
        conflicts = frozenset({"null"})

    with pytest.raises(PluginError, match="null"):
        Trainer(plugins=[Loner(), Null()])
    same = Null()
    with pytest.raises(PluginError, match="twice"):
        Trainer(plugins=[same, same])
    with pytest.raises(PluginError, match="create_plugin"):
        Trainer(plugins=["sam"])


def test_plugins_compose_in_list_order():
    class Times(TrainerPlugin):
        def __init__(self, factor, shift):
            self.factor, self.shift = factor, shift

        def extra_loss(self, model, batch, out, loss):
            return loss * self.factor + self.shift

    result, _ = fit([Times(2.0, 0.0), Times(1.0, 1.0)], max_epochs=1)
    other, _ = fit([Times(1.0, 1.0), Times(2.0, 0.0)], max_epochs=1)
    # Same gradients, so the same weights; 2 l + 1 against 2 (l + 1) in the logged loss.
    assert other.history[0]["train_loss"] - result.history[0]["train_loss"] == pytest.approx(1.0)


def test_stop_ends_the_training_and_gives_its_reason():
    class AfterTwo(TrainerPlugin):
        def on_epoch_end(self, metrics):
            assert not any(key.startswith("test_") for key in metrics)
            return Stop("enough") if metrics["epoch"] == 2 else None

    result, _ = fit([AfterTwo()], max_epochs=9)
    assert (result.epochs, result.stop_reason) == (2, "enough")


class Phases(TrainerPlugin):
    """Two epochs, then three replicas of one epoch from the initial weights, then their mean."""

    name = "phases"
    requires = frozenset({"initial weights"})

    def __init__(self):
        self.replicas = []
        self.rates = []

    def on_epoch_end(self, metrics):
        if metrics["epoch"] == 2:
            return Restart(epochs=1, weights="initial", replicas=3)
        if len(self.run.replicas) == 3:
            self.replicas = list(self.run.replicas)
            mean = {
                key: torch.stack([one[key].double() for one in self.replicas]).mean(0)
                for key in self.replicas[0]
            }
            return Restart(epochs=2, weights=mean)
        return None


def test_restart_runs_phases_and_replicas():
    plugin = Phases()
    result, _ = fit([plugin], max_epochs=2)
    assert result.epochs == 2 + 3 + 2
    first, second, _ = plugin.replicas
    assert not torch.equal(first["first.weight"], second["first.weight"])  # other shuffles
    start = weights_of(TinyModel(dropout=0.2, norm=True))["first.weight"]
    # One epoch of four Adam steps moves a weight by at most about 4 lr.
    assert (first["first.weight"] - start).abs().max() < 5e-3


def test_restart_with_unknown_weights_is_refused():
    with pytest.raises(PluginError, match="initial"):
        Restart(epochs=1, weights="first")
    with pytest.raises(PluginError, match="at least 1"):
        Restart(epochs=0)
