"""Collectives of the in-process world and of two gloo processes."""

import multiprocessing
import random

import numpy as np
import pytest
import torch

from graphkit.errors import InputError
from graphkit.train import LocalWorld, ProcessWorld, SoloWorld
from graphkit.train.world import from_rank_zero, mean_gradients


def every_collective(world):
    mine = torch.tensor([float(world.rank + 1), 2.0])
    other = 1 - world.rank
    world.send(mine, other)
    received = world.recv(torch.zeros(2), other)
    shared = torch.full((2,), float(world.rank))
    from_rank_zero(world, [shared])
    gradients = mean_gradients([mine.clone(), mine[:1] * 3], world, bucket_bytes=4)
    world.barrier()
    return {
        "sum": world.all_reduce(mine).tolist(),
        "mean": world.all_reduce(mine, "mean").tolist(),
        "max": world.all_reduce(mine, "max").tolist(),
        "min": world.all_reduce(mine, "min").tolist(),
        "gather": [part.tolist() for part in world.all_gather(mine)],
        "received": received.tolist(),
        "shared": shared.tolist(),
        "gradients": [grad.tolist() for grad in gradients],
        "unchanged": mine.tolist(),
    }


def expected(rank):
    return {
        "sum": [3.0, 4.0],
        "mean": [1.5, 2.0],
        "max": [2.0, 2.0],
        "min": [1.0, 2.0],
        "gather": [[1.0, 2.0], [2.0, 2.0]],
        "received": [2.0 - rank, 2.0],
        "shared": [0.0, 0.0],
        "gradients": [[1.5, 2.0], [4.5]],
        "unchanged": [rank + 1.0, 2.0],
    }


def test_local_world_of_two():
    assert LocalWorld(2).run(every_collective) == [expected(0), expected(1)]


def in_process(rank, path, results):
    torch.set_num_threads(1)
    world = ProcessWorld.connect(rank, 2, path)
    results.put((rank, every_collective(world)))
    world.close()


def test_gloo_world_of_two(tmp_path):
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
    assert found == {0: expected(0), 1: expected(1)}


def test_local_workers_have_their_own_random_streams():
    def draws(world):
        torch.manual_seed(world.rank)
        random.seed(world.rank)
        np.random.seed(world.rank)
        values = []
        for _ in range(3):
            values.append((torch.rand(1).item(), random.random(), float(np.random.rand())))
            world.barrier()
        return values

    together = LocalWorld(3).run(draws)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    alone = [(torch.rand(1).item(), random.random(), float(np.random.rand())) for _ in range(3)]
    assert together[1] == alone
    assert LocalWorld(3).run(draws) == together


def test_a_failing_worker_stops_all_and_its_error_is_raised():
    def work(world):
        if world.rank == 1:
            raise KeyError("worker one")
        world.barrier()

    with pytest.raises(KeyError, match="worker one"):
        LocalWorld(3).run(work)


def test_workers_that_wait_for_ever_are_told_so():
    def left_alone(world):
        if world.rank == 0:
            world.barrier()

    with pytest.raises(InputError, match="same calls in the same order"):
        LocalWorld(2).run(left_alone)

    def nothing_sent(world):
        world.recv(torch.zeros(1), 1 - world.rank)

    with pytest.raises(InputError, match="never"):
        LocalWorld(2).run(nothing_sent)


def test_different_collectives_are_refused():
    def work(world):
        if world.rank == 0:
            world.all_reduce(torch.zeros(2))
        else:
            world.all_reduce(torch.zeros(3))

    with pytest.raises(InputError, match="disagree"):
        LocalWorld(2).run(work)


def test_bad_worlds_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        LocalWorld(0)
    with pytest.raises(InputError, match="no rank 1"):
        SoloWorld().send(torch.zeros(1), 1)
    with pytest.raises(InputError, match="torchrun"):
        ProcessWorld()
