"""Feeding the loop: groups of micro-batches, their weights, and an endless validation stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphkit.errors import InputError
from graphkit.train.world import World, any_rank


def grouped(loader: Any, size: int, limit: int) -> Iterator[list[Any]]:
    """Yield at most ``limit`` lists of ``size`` consecutive batches; the last may be shorter."""
    batches = iter(loader)
    for _ in range(limit):
        group = list(islice(batches, size))
        if not group:
            return
        yield group


def has_batch_norm(model: nn.Module) -> bool:
    """Whether training on a batch of one graph would break or bias a normalisation layer."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def keep_usable(batches: Sequence[Any], task: Any, world: World, batch_norm: bool) -> list[Any]:
    """Drop the batches that must not be trained on, on all ranks together."""
    if not batch_norm:
        return list(batches)
    return [batch for batch in batches if not any_rank(world, bool(task.should_skip(batch)))]


def shares(batches: Sequence[Any], task: Any, world: World) -> list[float]:
    """Weight of each micro-batch so that the step's gradient is that of the whole global batch.

    Batches are weighted by their number of labelled targets. With several workers the weights
    are scaled so that the plain mean over workers, the default H4, gives the global mean. A task
    whose loss is no mean over these targets has ``step_shares(batches, total)``: it learns there
    which batches make one step, ``total`` being the sum of a number over the workers, and returns
    their shares, or ``None`` for the usual ones.
    """
    # Before all else: it also takes back what an earlier step left in a batch that comes again.
    if hasattr(task, "step_shares"):

        def total_of(number: float) -> float:
            return float(world.all_reduce(torch.tensor(number, dtype=torch.float64), "sum"))

        found = task.step_shares(batches, total_of)
        if found is not None:
            return [share * world.size for share in found]
    if world.size == 1 and len(batches) == 1:
        return [1.0]
    own = [float(task.weight(batch, "train")) for batch in batches]
    total = float(world.all_reduce(torch.tensor(sum(own), dtype=torch.float64), "mean"))
    return [weight / max(total, 1e-12) for weight in own]


class EndlessStream:
    """Batches of a loader without end, for closures on the validation set.

    Args:
        make_loader: called on first use.
    """

    def __init__(self, make_loader: Callable[[], Any]) -> None:
        self._make = make_loader
        self._loader: Any = None
        self._batches: Iterator[Any] | None = None

    def __call__(self) -> Any:
        """Return the next batch."""
        if self._loader is None:
            self._loader = self._make()
        for _ in range(2):
            if self._batches is None:
                self._batches = iter(self._loader)
            batch = next(self._batches, None)
            if batch is not None:
                return batch
            self._batches = None
        raise InputError("loader: the validation loader yields no batch")

    def state_dict(self) -> dict[str, Any]:
        return {} if self._loader is None else {"loader": self._loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self._loader = self._make()
            self._loader.load_state_dict(state["loader"])
            self._batches = None
