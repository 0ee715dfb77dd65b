"""Selection, skipped batches, determinism, arguments and progress of the Trainer."""

import io
import sys

import pytest
import torch
from tiny_graphs import TinyModel, assert_same_weights, tiny_task, weights_of

from graphkit.errors import InputError
from graphkit.train import FitResult, PlainProgress, Trainer, build_optimizer, seed_everything


def fit(model=None, task=None, **arguments):
    model = model or TinyModel(dropout=0.2, norm=True)
    settings = {"max_epochs": 4, "batch_size": 5, "progress": False, **arguments}
    result = Trainer(**settings).fit(model, task or tiny_task())
    return result, weights_of(model)


def test_training_learns_the_tiny_task():
    result, _ = fit(TinyModel(), max_epochs=60, optimizer={"name": "Adam", "lr": 0.02})
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    assert result.valid > 0.7
    assert result.test > 0.7


def test_test_figures_are_those_of_the_best_validation_epoch():
    result, weights = fit(max_epochs=12)
    valid = [entry["valid_rocauc"] for entry in result.history]
    best = valid.index(max(valid)) + 1  # ties: the first
    assert result.best_epoch == best
    assert result.valid == max(valid)
    assert result.test == result.history[best - 1]["test_rocauc"]
    assert result.metrics == result.history[best - 1]
    assert_same_weights(weights, weights_of(result.model))


def test_the_test_split_is_looked_at_only_when_validation_improves():
    result, _ = fit(max_epochs=12)
    best = float("-inf")
    for entry in result.history:
        improved = entry["valid_rocauc"] > best
        assert ("test_rocauc" in entry) == improved
        best = max(best, entry["valid_rocauc"])


def test_the_returned_model_gives_the_reported_figure():
    task = tiny_task()
    result, _ = fit(task=task)
    model = result.model.eval()
    with torch.no_grad():
        batch = next(iter(task.dataset.loader("test", 100)))
        scores = task.predictions(model(batch), batch, "test")
    figure = task.evaluate(scores, task.target(batch, "test"))["rocauc"]
    assert figure == pytest.approx(result.test, abs=1e-9)


def test_minimised_metrics_select_the_smallest():
    task = tiny_task()
    task.maximize = False
    result, _ = fit(task=task, max_epochs=8)
    assert result.valid == min(entry["valid_rocauc"] for entry in result.history)


def test_same_seed_same_run_and_other_seed_other_run():
    first, weights = fit(seed=3)
    torch.rand(7)  # what happened before in the process does not matter
    again, same = fit(seed=3)
    other, _ = fit(seed=4)
    assert first.history == again.history
    assert_same_weights(weights, same)
    assert first.history != other.history


def test_evaluating_less_often_does_not_change_the_training():
    often, _ = fit(max_epochs=5)
    seldom, _ = fit(max_epochs=5, eval_every=2)
    losses = [[entry["train_loss"] for entry in run.history] for run in (often, seldom)]
    assert losses[0] == losses[1]
    assert ["valid_loss" in entry for entry in seldom.history] == [False, True, False, True, True]


def test_a_batch_of_one_graph_is_skipped_under_batch_norm_and_counted():
    # 20 training graphs in batches of 19: the second batch has one graph.
    with_norm, _ = fit(TinyModel(norm=True), batch_size=19, max_epochs=3)
    without, _ = fit(TinyModel(norm=False), batch_size=19, max_epochs=3)
    assert with_norm.skipped_batches == 3
    assert without.skipped_batches == 0


def test_nan_predictions_are_refused():
    class Broken(TinyModel):
        def forward(self, batch):
            out = super().forward(batch)
            return out if self.training else out * float("nan")

    with pytest.raises(InputError, match="valid split are NaN"):
        fit(Broken())


def test_wrong_output_width_is_refused():
    class Wide(TinyModel):
        def forward(self, batch):
            return super().forward(batch).expand(-1, 3)

    with pytest.raises(InputError, match=r"wants \[n, 1\]"):
        fit(Wide())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"accumulate": True}, "accumulate"),
        ({"seed": -1}, "seed"),
        ({"precision": "bf16-mixd"}, "did you mean 'bf16-mixed'"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds"),
        ({"optimizer": {"name": "AdamX"}}, "did you mean 'Adam'"),
        ({"optimizer": {"name": "Adam", "momentum": 0.9}}, "no argument 'momentum'"),
        ({"optimizer": {"name": "Adam", "lr": float("nan")}}, "finite"),
        ({"optimizer": {"name": "Adam", "lr": -1.0}}, "lr"),
        ({"optimizer": "Adam"}, "mapping"),
    ],
)
def test_bad_arguments_are_refused_when_the_trainer_is_made(arguments, match):
    with pytest.raises(InputError, match=match):
        Trainer(**arguments)


def test_bad_models_and_devices_are_refused():
    with pytest.raises(InputError, match="torch.nn.Module"):
        Trainer(progress=False).fit("model", tiny_task())
    with pytest.raises(InputError, match="accelerator"):
        Trainer(progress=False, accelerator="abacus").fit(TinyModel(), tiny_task())
    frozen = TinyModel().requires_grad_(False)
    with pytest.raises(InputError, match="requires_grad"):
        Trainer(progress=False).fit(frozen, tiny_task())


def test_an_optimizer_may_be_a_callable():
    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    one = fit(optimizer=make)[1]
    other = fit(optimizer={"name": "SGD", "lr": 0.1, "fused": False})[1]
    assert_same_weights(one, other)
    with pytest.raises(InputError, match="returned"):
        build_optimizer(lambda parameters: None, TinyModel().parameters())


def test_seeds_are_checked():
    with pytest.raises(InputError, match="at least 0"):
        seed_everything(-1)


def test_progress_events_tell_epochs_metrics_and_time_left():
    events = []
    result, _ = fit(progress=events.append)
    assert [event.kind for event in events if event.kind != "step"] == (
        ["start"] + ["epoch"] * 4 + ["end"]
    )
    epochs = [event for event in events if event.kind == "epoch"]
    assert [event.metrics for event in epochs] == result.history
    assert all(event.eta_seconds is not None for event in epochs)
    assert epochs[-1].eta_seconds == 0


def test_piped_progress_is_one_plain_line_per_epoch(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    fit(progress=PlainProgress(every=0.0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1/4  train_loss ")
    assert lines[-1].endswith("0:00 left")


def test_result_is_ready_for_json():
    import json

    result, _ = fit()
    assert isinstance(result, FitResult)
    content = json.loads(json.dumps(result.to_dict()))
    assert content["best_epoch"] == result.best_epoch
    assert "model" not in content
