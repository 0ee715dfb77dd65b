"""Damaged, foreign and unwritable checkpoints: one typed error that names the file, at once."""

import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import time

import pytest
import torch
from tiny_graphs import PowerCut, TinyModel, tiny_task

from graphkit.errors import CheckpointError, GraphkitError, StorageError
from graphkit.train import Trainer, TrainerPlugin
from graphkit.train.checkpoint import seal


class Versioned(TrainerPlugin):
    name = "versioned"


def train(folder, model=None, crash_at=-1, size=40, **arguments):
    model = model or TinyModel()
    model.crash_at = crash_at
    settings = {"max_epochs": 2, "batch_size": 5, "progress": False, "checkpoint_seconds": 0}
    return Trainer(run_dir=folder, **{**settings, **arguments}).fit(model, tiny_task(size))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("saved")
    with pytest.raises(PowerCut):
        train(folder, crash_at=7)
    return folder


@pytest.fixture
def run_dir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def refused(folder, match, **arguments):
    before = time.process_time()
    with pytest.raises(CheckpointError, match=match) as caught:
        train(folder, **arguments)
    assert time.process_time() - before < 5  # fast even on a loaded machine
    assert str(folder / "checkpoints") in str(caught.value)


@pytest.mark.parametrize("name", ["shared.pt", "rank_0.pt"])
def test_truncated_anywhere(run_dir, name):
    path = run_dir / "checkpoints/last" / name
    content = path.read_bytes()
    for part in range(20):
        path.write_bytes(content[: len(content) * part // 20])
        refused(run_dir, name)


@pytest.mark.parametrize("name", ["shared.pt", "rank_0.pt"])
def test_flipped_bytes_never_crash_or_execute(run_dir, name):
    path = run_dir / "checkpoints/last" / name
    content = path.read_bytes()
    generator = random.Random(0)
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        refused(run_dir, name)
        # Even where the checksums were forged, damage ends in a typed error or in nothing.
        seal(path.parent)
        forged = shutil.copytree(run_dir, run_dir.parent / "forged")
        with contextlib.suppress(GraphkitError):
            train(forged)
        shutil.rmtree(forged)


@pytest.mark.parametrize("name", ["shared.pt", "rank_0.pt"])
def test_missing_foreign_and_strange_files(run_dir, name):
    path = run_dir / "checkpoints/last" / name
    path.write_bytes(b"")
    refused(run_dir, name)
    path.write_bytes(os.urandom(5000))
    refused(run_dir, name)
    torch.save({"weights": torch.zeros(3)}, path)
    seal(path.parent)
    refused(run_dir, "not a graphkit training checkpoint")
    torch.save({"format": 99, "generation": 6, "world_size": 1}, path)
    seal(path.parent)
    refused(run_dir, "format 99")
    path.unlink()
    refused(run_dir, "missing")
    path.mkdir()
    refused(run_dir, name)


def test_missing_checksums_are_named(run_dir):
    (run_dir / "checkpoints/last/SHA256SUMS").unlink()
    refused(run_dir, "SHA256SUMS")


def test_code_in_a_checkpoint_is_refused_and_not_run(run_dir, tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"format": 1, "x": Attack()}, run_dir / "checkpoints/last/shared.pt")
    seal(run_dir / "checkpoints/last")
    refused(run_dir, "shared.pt")
    assert not (tmp_path / "executed").exists()


def test_files_of_two_generations_do_not_mix(run_dir, tmp_path):
    with pytest.raises(PowerCut):
        train(tmp_path / "other", crash_at=4)
    shutil.copy(tmp_path / "other/checkpoints/last/rank_0.pt", run_dir / "checkpoints/last")
    refused(run_dir, "rank_0.pt")
    seal(run_dir / "checkpoints/last")
    refused(run_dir, "step 3 but shared.pt beside it to step 6")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"batch_size": 4}, "batch_size"),
        ({"max_epochs": 3}, "max_epochs"),
        ({"optimizer": {"name": "SGD", "lr": 0.1}}, "optimizer"),
        ({"model": TinyModel(norm=True)}, "parameters"),
        ({"model": TinyModel(dropout=0.1)}, "model"),
        ({"size": 44}, "train_split"),
        ({"plugins": [Versioned()]}, "versioned"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(run_dir, arguments, match):
    refused(run_dir, match, **arguments)


def test_another_version_of_a_plugin_is_refused(tmp_path):
    with pytest.raises(PowerCut):
        train(tmp_path, crash_at=3, plugins=[Versioned()])
    newer = type("Versioned", (Versioned,), {"version": 2})
    refused(tmp_path, "plugins", plugins=[newer()])


def test_a_run_folder_that_cannot_be_written_is_refused_before_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = TinyModel()
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        train(tmp_path / "file" / "run", model=model)
    assert model.calls == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux")
def test_a_file_system_that_takes_no_files_is_refused_before_work():
    model = TinyModel()  # /proc is read-only even for root
    with pytest.raises(StorageError, match="/proc/graphkit"):
        train("/proc/graphkit", model=model)
    assert model.calls == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_run_folder_is_refused_before_work(tmp_path):
    tmp_path.chmod(0o500)
    model = TinyModel()
    try:
        with pytest.raises(StorageError, match="can be written"):
            train(tmp_path / "run", model=model)
    finally:
        tmp_path.chmod(0o700)
    assert model.calls == 0


def test_too_little_space_is_refused_before_work(tmp_path):
    model = TinyModel()
    with pytest.raises(StorageError, match="free space"):
        train(tmp_path, model=model, min_free_bytes=1 << 60)
    assert model.calls == 0


def fills_up(folder, results, limit_at_start):
    torch.set_num_threads(1)

    def no_more_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    class Filler(TrainerPlugin):
        name = "filler"

        def after_step(self, model):
            if self.run.step == 5:
                no_more_space()

    if limit_at_start:
        no_more_space()
    model = TinyModel()
    try:
        train(folder, model=model, plugins=[Filler()])
    except StorageError as error:
        results.put((str(error), model.calls))
    except BaseException as error:
        results.put((repr(error), -1))


@pytest.mark.parametrize("limit_at_start", [True, False])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_untouched(tmp_path, limit_at_start):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=fills_up, args=(tmp_path, results, limit_at_start), daemon=True)
    child.start()
    message, calls = results.get(timeout=60)
    child.join()
    assert "checkpoints" in message
    assert calls == (0 if limit_at_start else 5)
    if not limit_at_start:
        last = tmp_path / "checkpoints/last"
        assert torch.load(last / "shared.pt", weights_only=True)["step"] == 4
        assert torch.load(last / "rank_0.pt", weights_only=True)["generation"] == 4
