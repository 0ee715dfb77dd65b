"""Killed at any moment and started again, a run ends as if nothing had happened, to the bit."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_graphs import PowerCut, TinyModel, assert_same_weights, tiny_task, weights_of

from graphkit.plugins import create_plugin
from graphkit.train import Trainer, TrainerPlugin

EPOCHS = 6


class Noise(TrainerPlugin):
    """Draws from the Python and NumPy streams, which checkpoints must keep too."""

    name = "noise"

    def extra_loss(self, model, batch, out, loss):
        import numpy as np

        return loss * (1 + 0.01 * random.random() + 0.01 * float(np.random.rand()))


def plugins():
    return [
        Noise(),
        create_plugin("sam", rho=0.05),
        create_plugin("ema", decay=0.9),
        create_plugin("grad_clip", max_norm=0.5),
        create_plugin("lr_schedule", schedule="cosine", warmup_epochs=1),
        create_plugin("early_stopping", patience=50),
    ]


def train(folder=None, crash_at=-1, **arguments):
    model = TinyModel(dropout=0.3, norm=True)
    model.crash_at = crash_at
    settings = {
        "max_epochs": EPOCHS,
        "batch_size": 5,
        "plugins": plugins(),
        "optimizer": {"name": "AdamW", "lr": 0.01},
        "progress": False,
        "checkpoint_seconds": 0,
        **arguments,
    }
    result = Trainer(run_dir=folder, **settings).fit(model, tiny_task())
    return result, weights_of(model)


def figures(result):
    return (result.history, result.best_epoch, result.valid, result.test, result.epochs)


@pytest.fixture(scope="module")
def undisturbed():
    torch.set_num_threads(1)
    return train()


def assert_same_run(one, other):
    assert figures(one[0]) == figures(other[0])
    assert_same_weights(one[1], other[1])
    assert_same_weights(weights_of(one[0].model), weights_of(other[0].model))


def test_the_run_folder_changes_nothing(tmp_path, undisturbed):
    assert_same_run(undisturbed, train(tmp_path))
    assert_same_run(undisturbed, train())


# SAM runs the model twice a step: 8 training calls an epoch.
@pytest.mark.parametrize("crash_at", [1, 2, 5, 8, 9, 17, 24, 30, 40, 47, 48])
def test_a_crash_in_any_step_is_made_good(tmp_path, undisturbed, crash_at):
    with pytest.raises(PowerCut):
        train(tmp_path, crash_at=crash_at)
    assert_same_run(undisturbed, train(tmp_path))


def test_many_crashes_in_one_run(tmp_path, undisturbed):
    crashes = 0
    while True:
        try:
            # Every life gets one step and a half further.
            final = train(tmp_path, crash_at=4)
            break
        except PowerCut:
            crashes += 1
            assert crashes < 60
    assert crashes > 10
    assert_same_run(undisturbed, final)


def killed(folder):
    torch.set_num_threads(1)
    train(folder)
    os._exit(0)


def test_sigkill_at_random_moments(tmp_path, undisturbed):
    context = multiprocessing.get_context("fork")
    generator = random.Random(0)
    kills = 0
    for life in range(40):
        child = context.Process(target=killed, args=(tmp_path,), daemon=True)
        child.start()
        # The first lives end during set-up and early steps, later ones anywhere.
        child.join(generator.uniform(0.0, 0.02 * (life + 1)))
        if child.exitcode is not None:
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
    assert kills >= 5
    assert_same_run(undisturbed, train(tmp_path))
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {"best.safetensors", "last"} <= names


def test_sigterm_saves_and_returns_an_interrupted_result(tmp_path, undisturbed):
    class Terminate(TrainerPlugin):
        name = "noise"  # stands in the same place of the list

        def extra_loss(self, model, batch, out, loss):
            if self.run.step == 11:
                os.kill(os.getpid(), signal.SIGTERM)
            return Noise.extra_loss(self, model, batch, out, loss)

    handler = signal.getsignal(signal.SIGTERM)
    result, _ = train(tmp_path, plugins=[Terminate(), *plugins()[1:]])
    assert result.interrupted
    assert result.epochs == 2
    assert signal.getsignal(signal.SIGTERM) == handler
    shared = torch.load(tmp_path / "checkpoints/last/shared.pt", weights_only=True)
    assert shared["step"] == 11
    assert_same_run(undisturbed, train(tmp_path))


def test_a_finished_run_is_returned_again_without_training(tmp_path):
    first = train(tmp_path)
    again = train(tmp_path, crash_at=1)
    assert_same_run(first, again)


def test_metrics_file_follows_the_checkpoint(tmp_path):
    with pytest.raises(PowerCut):
        train(tmp_path, crash_at=30)  # in the fourth epoch
    path = tmp_path / "metrics.jsonl"
    with open(path, "a") as stream:  # lines of epochs that the checkpoint does not know
        stream.write('{"epoch": 4, "train_loss": 0}\n{"epoch": 5, "tra')
    result, _ = train(tmp_path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == result.history
    assert [entry["epoch"] for entry in result.history] == list(range(1, EPOCHS + 1))
    times = [json.loads(line) for line in (tmp_path / "seconds.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in times] == list(range(1, EPOCHS + 1))
    assert [entry["seconds"] for entry in times] == sorted(entry["seconds"] for entry in times)


def test_best_weights_agree_with_the_checkpoint_after_a_crash_between_the_two(tmp_path):
    with pytest.raises(PowerCut):
        train(tmp_path, crash_at=30)
    best = tmp_path / "checkpoints/best.safetensors"
    best.unlink()  # the crash came after the generation and before this file
    result, weights = train(tmp_path)
    assert_same_weights(load_file(best), weights)
    with safe_open(best, "pt") as stream:
        assert stream.metadata()["epoch"] == str(result.best_epoch)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_crash_between_the_renames_loses_nothing(tmp_path, undisturbed, moment):
    with pytest.raises(PowerCut):
        train(tmp_path, crash_at=30)
    folder = tmp_path / "checkpoints"
    if moment == "before":  # a half-written generation beside the good one
        (folder / "next").mkdir()
        (folder / "next/rank_0.pt").write_bytes(b"half")
    elif moment == "between":  # old one moved away, new one not yet in place
        (folder / "last").rename(folder / "next")
        (folder / "previous").mkdir()
    else:
        (folder / "previous").mkdir()
        (folder / "previous/SHA256SUMS").write_bytes(b"old")
    assert_same_run(undisturbed, train(tmp_path))


def test_seconds_are_summed_over_the_parts(tmp_path):
    class Slow(TrainerPlugin):
        name = "slow"

        def after_step(self, model):
            time.sleep(0.01)

    with pytest.raises(PowerCut):
        train(tmp_path, crash_at=21, plugins=[Slow()])
    result, _ = train(tmp_path, plugins=[Slow()])
    assert result.seconds > EPOCHS * 4 * 0.01
