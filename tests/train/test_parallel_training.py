"""Two workers, in one process or in two, do what one worker does on the same global batch."""

import multiprocessing

import pytest
import torch
from tiny_graphs import PowerCut, TinyModel, assert_same_weights, tiny_task, weights_of

from graphkit.errors import CheckpointError, InputError
from graphkit.plugins import create_plugin
from graphkit.train import LocalWorld, ProcessWorld, Trainer, TrainerPlugin


def train(world=None, plugins=(), model=None, **arguments):
    model = model or TinyModel()
    settings = {
        "max_epochs": 5,
        "batch_size": 6,  # 20 training graphs: 6, 6, 6, 2, i.e. 3, 3, 3, 1 per worker
        "progress": False,
        "optimizer": {"name": "SGD", "lr": 0.1},
        **arguments,
    }
    result = Trainer(plugins=plugins, **settings).fit(model, tiny_task(), world=world)
    return result, weights_of(model)


def assert_close(one, other):
    for key, value in one.items():
        # The reduction order differs, nothing else.
        torch.testing.assert_close(other[key], value, rtol=1e-6, atol=1e-6)


def make(name):
    return [create_plugin("sam", rho=0.0)] if name == "sam" else []


@pytest.mark.parametrize("plugin", ["none", "sam"])
def test_local_world_agrees_with_one_worker(plugin):
    result, alone = train(plugins=make(plugin))
    pair = LocalWorld(2).run(lambda world: train(world, plugins=make(plugin)))
    assert_same_weights(pair[0][1], pair[1][1])
    assert_close(alone, pair[0][1])
    assert pair[0][0].valid == pytest.approx(result.valid, abs=1e-6)
    assert pair[0][0].valid == pair[1][0].valid
    assert pair[0][0].history[-1]["train_loss"] == pytest.approx(
        result.history[-1]["train_loss"], abs=1e-6
    )


def in_process(rank, path, results):
    torch.set_num_threads(1)
    world = ProcessWorld.connect(rank, 2, path)
    _, weights = train(world)
    results.put((rank, {key: value.tolist() for key, value in weights.items()}))
    world.barrier()
    world.close()


def test_two_gloo_processes_agree_with_one_worker(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=in_process, args=(rank, tmp_path / "meet", results), daemon=True)
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert found[0] == found[1]
    assert_close(train()[1], {key: torch.tensor(value) for key, value in found[0].items()})


def test_one_local_worker_is_bitwise_the_plain_run():
    plain = train()[1]
    assert_same_weights(plain, LocalWorld(1).run(train)[0][1])


class Average(TrainerPlugin):
    """H5: average parameters every two steps (local SGD)."""

    name = "average"
    sync_every = 2

    def __init__(self):
        self.spread = []
        self.calls = []

    def _parameters(self):
        return torch.cat([p.detach().reshape(-1) for p in self.run.model.parameters()])

    def sync_begin(self, world):
        self.calls.append("begin")
        values = torch.stack(world.all_gather(self._parameters()))
        self.spread.append(float((values[0] - values[1]).abs().max()))
        self.pending = values.mean(0)

    def sync_end(self, world):
        self.calls.append("end")
        parameters = list(self.run.model.parameters())
        parts = self.pending.split([p.numel() for p in parameters])
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))


class AsynchronousAverage(Average):
    asynchronous = True


def test_an_h5_owner_replaces_gradient_averaging():
    plugins = [Average(), Average()]
    pair = LocalWorld(2).run(lambda world: train(world, plugins=[plugins[world.rank]]))
    assert max(plugins[0].spread) > 1e-4  # workers really went their own ways
    assert_same_weights(pair[0][1], pair[1][1])  # 4 steps an epoch: synchronised at the end
    assert plugins[0].calls == ["begin", "end"] * 10


def test_an_asynchronous_sync_is_drained_before_the_epoch_ends():
    plugins = [AsynchronousAverage(), AsynchronousAverage()]
    LocalWorld(2).run(lambda world: train(world, plugins=[plugins[world.rank]], max_epochs=2))
    assert plugins[0].calls == ["begin", "end"] * 4


def test_batch_size_must_be_shared_evenly():
    with pytest.raises(InputError, match="multiple of 2"):
        LocalWorld(2).run(lambda world: train(world, batch_size=5))


def test_two_workers_resume_bitwise_with_their_own_batch_statistics(tmp_path):
    def run(world, folder, crash_at=-1):
        model = TinyModel(dropout=0.3, norm=True)
        model.crash_at = crash_at
        return train(world, model=model, run_dir=folder, checkpoint_seconds=0)[1]

    undisturbed = LocalWorld(2).run(lambda world: run(world, tmp_path / "a"))
    with pytest.raises(PowerCut):
        LocalWorld(2).run(lambda world: run(world, tmp_path / "b", crash_at=10))
    assert (tmp_path / "b/checkpoints/last/rank_1.pt").is_file()
    resumed = LocalWorld(2).run(lambda world: run(world, tmp_path / "b"))
    assert_same_weights(undisturbed[0], resumed[0])


def test_another_number_of_workers_needs_plugins_that_can_reshard(tmp_path):
    class Rooted(TrainerPlugin):
        name = "rooted"

    class Movable(TrainerPlugin):
        name = "movable"
        can_reshard = True

    for plugin, works in ((Rooted, False), (Movable, True)):
        folder = tmp_path / plugin.name
        model = TinyModel()
        model.crash_at = 7
        arguments = {"run_dir": folder, "checkpoint_seconds": 0}
        with pytest.raises(PowerCut):
            train(plugins=[plugin()], model=model, **arguments)
        if not works:
            with pytest.raises(CheckpointError, match="use 1 workers"):
                LocalWorld(2).run(lambda w, p=plugin, a=arguments: train(w, plugins=[p()], **a))
            continue
        pair = LocalWorld(2).run(lambda w, p=plugin, a=arguments: train(w, plugins=[p()], **a))
        # No dropout here, so only the order of sums differs from one worker throughout.
        assert_close(train(plugins=[plugin()])[1], pair[0][1])
