"""Averaging, clipping, stopping and schedules: their figures, and their state across a resume."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_graphs import PowerCut, TinyModel, assert_same_weights, tiny_task, weights_of

from graphkit.errors import PluginError
from graphkit.plugins import create_plugin, list_plugins
from graphkit.train import Trainer, TrainerPlugin


def fit(plugins=(), model=None, crash_at=-1, **arguments):
    model = model or TinyModel(dropout=0.3, norm=True)
    model.crash_at = crash_at
    settings = {"max_epochs": 6, "batch_size": 5, "progress": False, "checkpoint_seconds": 0}
    trainer = Trainer(plugins=plugins, **{**settings, **arguments})
    return trainer.fit(model, tiny_task()), weights_of(model)


class Rates(TrainerPlugin):
    """Records the rate each step is taken with."""

    name = "rates"

    def __init__(self):
        self.seen = []

    def after_step(self, model):
        self.seen.append(self.run.optimizer.param_groups[0]["lr"])


PLUGINS = {
    "sam": {"rho": 0.1},
    "ema": {"decay": 0.9},
    "grad_clip": {"max_norm": 0.1},
    "early_stopping": {"patience": 4},
    "cosine": {"schedule": "cosine", "warmup_epochs": 1},
    "plateau": {"schedule": "plateau", "patience": 0, "factor": 0.5},
    "step": {"schedule": "step", "step_size": 2},
    "constant": {"schedule": "constant"},
}


def make(name):
    kind = "lr_schedule" if "schedule" in PLUGINS[name] else name
    return create_plugin(kind, **PLUGINS[name])


@pytest.mark.parametrize("name", PLUGINS)
def test_twice_k_steps_are_k_steps_saved_loaded_and_k_steps(tmp_path, name):
    arguments = {"optimizer": {"name": "Adam", "lr": 0.2}}  # large: plateau and stopping react
    whole, weights = fit([make(name)], **arguments)
    calls = 2 if name == "sam" else 1
    with pytest.raises(PowerCut):
        fit([make(name)], crash_at=13 * calls, run_dir=tmp_path, **arguments)
    again, same = fit([make(name)], run_dir=tmp_path, **arguments)
    assert whole.history == again.history
    assert whole.stop_reason == again.stop_reason
    assert_same_weights(weights, same)
    assert_same_weights(load_file(tmp_path / "checkpoints/best.safetensors"), weights)


def test_a_trainer_can_be_used_again_and_plugins_begin_anew():
    trainer = Trainer(
        max_epochs=4, batch_size=5, progress=False,
        plugins=[make("ema"), make("plateau"), make("early_stopping"), make("grad_clip")],
    )  # fmt: skip
    first = trainer.fit(TinyModel(norm=True), tiny_task())
    second = trainer.fit(TinyModel(norm=True), tiny_task())
    assert first.history == second.history


# -- weight averaging ---------------------------------------------------------------------------


class Follow(TrainerPlugin):
    name = "follow"

    def __init__(self):
        self.weights = []

    def after_step(self, model):
        self.weights.append(model.first.weight.detach().clone())


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_the_recursion_over_the_weights(warmup):
    follow, ema = Follow(), create_plugin("ema", decay=0.9, warmup=warmup)
    fit([ema, follow], max_epochs=2)
    average = follow.weights[0].clone()
    for step, weights in enumerate(follow.weights, start=1):
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(ema.average.first.weight, average, rtol=1e-5, atol=1e-6)


def test_ema_weights_are_what_is_evaluated_and_exported():
    task = tiny_task()
    model = TinyModel(norm=True)
    ema = create_plugin("ema", decay=0.5)
    trainer = Trainer(max_epochs=3, batch_size=5, progress=False, plugins=[ema])
    result = trainer.fit(model, task)
    assert result.model is ema.average
    assert_same_weights(weights_of(model), weights_of(result.model))
    with torch.no_grad():
        batch = next(iter(task.dataset.loader("valid", 100)))
        scores = task.predictions(result.model.eval()(batch), batch, "valid")
    figure = task.evaluate(scores, task.target(batch, "valid"), "valid")["rocauc"]
    assert figure == pytest.approx(result.valid, abs=1e-9)


def test_ema_does_not_disturb_the_training():
    losses = [
        [entry["train_loss"] for entry in fit(plugins)[0].history]
        for plugins in ([], [create_plugin("ema")])
    ]
    assert losses[0] == losses[1]


def test_ema_with_decay_zero_is_the_plain_run():
    assert fit([create_plugin("ema", decay=0.0)])[0].history == fit()[0].history


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), "0.9"])
def test_bad_decay_is_refused(decay):
    with pytest.raises(PluginError, match="decay"):
        create_plugin("ema", decay=decay)


# -- clipping -----------------------------------------------------------------------------------


class Gradients(TrainerPlugin):
    def __init__(self):
        self.seen = []

    def after_step(self, model):
        self.seen.append(torch.cat([p.grad.reshape(-1).clone() for p in model.parameters()]))


def test_clipping_by_norm_and_by_value():
    free, norm, value = Gradients(), Gradients(), Gradients()
    fit([free], max_epochs=1)
    fit([create_plugin("grad_clip", max_norm=0.1), norm], max_epochs=1)
    fit([create_plugin("grad_clip", max_value=0.01), value], max_epochs=1)
    assert free.seen[0].norm() > 0.2
    # torch divides by norm + 1e-6, hence not exact.
    torch.testing.assert_close(
        norm.seen[0], free.seen[0] * 0.1 / free.seen[0].norm(), rtol=1e-4, atol=1e-8
    )
    assert torch.equal(value.seen[0], free.seen[0].clamp(-0.01, 0.01))


def test_a_limit_above_the_gradients_changes_nothing():
    assert_same_weights(fit()[1], fit([create_plugin("grad_clip", max_value=1e9)])[1])


def test_bad_limits_are_refused():
    with pytest.raises(PluginError, match="not both"):
        create_plugin("grad_clip", max_norm=1.0, max_value=1.0)
    with pytest.raises(PluginError, match="above 0"):
        create_plugin("grad_clip", max_norm=0.0)


# -- early stopping -----------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", ["metric", "loss"])
def test_early_stopping_waits_for_patience_evaluations(monitor):
    plugin = create_plugin("early_stopping", patience=3, monitor=monitor)
    result, _ = fit([plugin], max_epochs=200, optimizer={"name": "Adam", "lr": 0.05})
    assert result.epochs < 200
    assert "has not improved" in result.stop_reason
    key = "valid_loss" if monitor == "loss" else "valid_rocauc"
    figures = [entry[key] for entry in result.history]
    best = min(figures) if monitor == "loss" else max(figures)
    assert len(figures) - 1 - figures.index(best) == 3


def test_early_stopping_counts_evaluations_not_epochs():
    plugin = create_plugin("early_stopping", patience=1, monitor="metric", min_delta=1.0)
    result, _ = fit([plugin], max_epochs=50, eval_every=4)
    assert result.epochs == 8  # the first evaluation sets the best, the second ends the wait


@pytest.mark.parametrize(
    "arguments", [{"patience": 0}, {"patience": 1.5}, {"monitor": "test"}, {"min_delta": -1.0}]
)
def test_bad_stopping_arguments_are_refused(arguments):
    with pytest.raises(PluginError, match="early_stopping"):
        create_plugin("early_stopping", **arguments)


# -- schedules ----------------------------------------------------------------------------------


def rates(epochs=10, eval_every=1, **arguments):
    watch = Rates()
    plugin = create_plugin("lr_schedule", **arguments)
    spec = {"name": "SGD", "lr": 0.1}
    result, _ = fit([plugin, watch], max_epochs=epochs, optimizer=spec, eval_every=eval_every)
    return watch.seen, result


def test_cosine_with_linear_warmup():
    seen, _ = rates(schedule="cosine", warmup_epochs=2, min_lr=0.01)  # 4 steps an epoch
    assert seen[:8] == pytest.approx([0.1 * (step + 1) / 8 for step in range(8)])
    for step in range(8, 40):
        share = (step / 4 - 2) / 8
        wanted = 0.01 + 0.09 * 0.5 * (1 + math.cos(math.pi * share))
        assert seen[step] == pytest.approx(wanted)


def test_step_and_milestones():
    seen, _ = rates(schedule="step", step_size=3, gamma=0.5)
    assert seen[::4] == pytest.approx([0.1 * 0.5 ** (epoch // 3) for epoch in range(10)])
    seen, _ = rates(schedule="step", milestones=[2, 7], gamma=0.1)
    assert seen[::4] == pytest.approx([0.1] * 2 + [0.01] * 5 + [0.001] * 3)


def test_constant():
    assert set(rates(schedule="constant")[0]) == {0.1}


def test_plateau_is_that_of_torch_on_the_validation_loss():
    for patience in (0, 2):
        watch = Rates()
        plugin = create_plugin(
            "lr_schedule", schedule="plateau", factor=0.5, patience=patience, min_lr=0.02
        )
        spec = {"name": "SGD", "lr": 0.5}
        result, _ = fit([plugin, watch], max_epochs=30, optimizer=spec)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=patience, min_lr=0.02
        )
        wanted = []
        for entry in result.history:
            wanted.append(optimizer.param_groups[0]["lr"])
            reference.step(entry["valid_loss"])
        assert watch.seen[::4] == pytest.approx(wanted)
        assert min(wanted) < 0.5


def test_history_carries_the_rate():
    seen, result = rates(schedule="step", step_size=1, gamma=0.5, epochs=3)
    assert [entry["lr"] for entry in result.history] == pytest.approx([0.05, 0.025, 0.0125])
    assert seen[-1] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"factor": 1.5}, "factor"),
        ({"patience": -1}, "patience"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"min_lr": float("nan")}, "min_lr"),
        ({"step_size": 0}, "step_size"),
        ({"gamma": 0}, "gamma"),
    ],
)
def test_bad_schedules_are_refused(arguments, match):
    with pytest.raises(PluginError, match=match):
        create_plugin("lr_schedule", **arguments)


# -- by name ------------------------------------------------------------------------------------


def test_names_and_nearest_matches():
    own = [
        "early_stopping", "ema", "grad_clip", "increasing_alpha", "lr_schedule",
        "parameter_sharing", "sam",
    ]  # fmt: skip
    assert list_plugins() == own
    with pytest.raises(PluginError, match="did you mean 'early_stopping'"):
        create_plugin("early_stoping")
    with pytest.raises(PluginError, match="did you mean 'decay'"):
        create_plugin("ema", decya=0.9)


@pytest.mark.parametrize("name", list_plugins())
def test_every_plugin_has_json_arguments_that_make_it_again(name):
    plugin = create_plugin(name)
    assert create_plugin(name, **plugin.config).config == plugin.config
    assert plugin.can_reshard
