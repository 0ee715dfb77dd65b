"""The Trainer: checks the arguments, sets up device and workers, and runs the loop."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphkit.errors import InputError, PluginError, nearest
from graphkit.train.closure import LossScaler
from graphkit.train.hooks import PluginList, TrainerPlugin
from graphkit.train.loop import Settings, TrainingLoop
from graphkit.train.optimizers import OptimizerSpec, check_optimizer
from graphkit.train.progress import Listener
from graphkit.train.result import FitResult
from graphkit.train.rng import seed_everything
from graphkit.train.schedule import EvalSchedule
from graphkit.train.world import ProcessWorld, SoloWorld, World

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class Trainer:
    """Train a model on a task, so that killing the process costs nothing but time.

    With ``run_dir`` the run is checkpointed after every epoch and every ``checkpoint_seconds``
    inside one; the same call continues from there and, on CPU in float32, ends with bitwise the
    same weights, history and figures as a run that was never disturbed. An epoch's checkpoint is
    left out while saving would take more than a twentieth of the time.

    Args:
        max_epochs: epochs to train.
        batch_size: graphs per batch, over all workers together; ``None`` for the task's own.
        seed: decides shuffling, dropout and all other random numbers of the run. The weights are
            the caller's: build the model after ``seed_everything(seed)``.
        run_dir: folder for ``metrics.jsonl``, ``seconds.jsonl`` and ``checkpoints/``; ``None``
            writes nothing.
        plugins: trainer plugins, composed in this order.
        optimizer: ``{"name": "AdamW", "lr": 1e-3, ...}`` or a callable that takes the parameters.
        accelerator: "auto", "cpu", "cuda" ... as Lightning Fabric understands it.
        devices: number of worker processes; more than one averages gradients over them.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        accumulate: batches whose gradients are averaged into one optimiser step.
        eval_every: evaluate after every so many epochs, and after the last; or a mapping of
            ``every``, ``start`` and ``until``: see :class:`~graphkit.train.schedule.EvalSchedule`.
        checkpoint_seconds: time between checkpoints inside an epoch.
        progress: show progress (bar or plain lines), or a function that takes ProgressEvent.
        min_free_bytes: disk space asked for at the start; default: four checkpoints.

    Raises:
        InputError: an argument is out of range.
        PluginError: plugins do not fit together.

    Example:
        >>> Trainer(max_epochs=2, optimizer={"name": "SGD", "lr": 0.1}, progress=False).max_epochs
        2
    """

    def __init__(
        self,
        max_epochs: int = 100,
        batch_size: int | None = None,
        seed: int = 0,
        run_dir: str | Path | None = None,
        plugins: Iterable[TrainerPlugin] = (),
        optimizer: OptimizerSpec | None = None,
        accelerator: str = "auto",
        devices: int = 1,
        precision: str = "32-true",
        accumulate: int = 1,
        eval_every: int | Mapping[str, Any] = 1,
        checkpoint_seconds: float = 30.0,
        progress: bool | Listener = True,
        min_free_bytes: int | None = None,
    ) -> None:
        counts = {
            "max_epochs": max_epochs,
            "batch_size": 1 if batch_size is None else batch_size,
            "devices": devices,
            "accumulate": accumulate,
        }
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name}: expected an integer of at least 1, got {value!r}")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise InputError(f"seed: expected an integer of at least 0, got {seed!r}")
        if not (math.isfinite(checkpoint_seconds) and checkpoint_seconds >= 0):
            raise InputError(f"checkpoint_seconds: must be >= 0, got {checkpoint_seconds}")
        if precision not in _PRECISIONS:
            raise InputError(
                f"precision: unknown {precision!r}{nearest(precision, _PRECISIONS)}; one of "
                f"{', '.join(_PRECISIONS)}"
            )
        self.optimizer: OptimizerSpec = optimizer or {"name": "Adam", "lr": 1e-3}
        check_optimizer(self.optimizer)
        self.plugins = PluginList(plugins, loss_scaler=precision == "16-mixed")
        if len(set(map(id, self.plugins.plugins))) < len(self.plugins):
            raise PluginError("plugins: the same object is listed twice")
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.seed = seed
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.accelerator = accelerator
        self.devices = devices
        self.precision = precision
        self.accumulate = accumulate
        self.eval_every = EvalSchedule.of(eval_every)
        self.checkpoint_seconds = float(checkpoint_seconds)
        self.progress = progress
        self.min_free_bytes = min_free_bytes

    def fit(self, model: nn.Module, task: Any, world: World | None = None) -> FitResult:
        """Train ``model`` on ``task`` and load the weights of the best epoch into it.

        Args:
            model: a module that maps a batch to the task's outputs.
            task: see :func:`graphkit.tasks.create_task`.
            world: workers to train with; default: the processes of ``devices``.

        Returns:
            The figures of the run at the epoch with the best validation metric.

        Raises:
            CheckpointError: ``run_dir`` holds a damaged checkpoint or one of another run.
            StorageError: ``run_dir`` cannot be written.
            DivergenceError: the loss became NaN or infinite.
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        fabric = self._fabric(world)
        autocast = fabric.autocast
        if self.precision == "16-mixed":
            autocast = partial(torch.autocast, fabric.device.type, dtype=torch.float16)
        if world is None:
            world = ProcessWorld(fabric.device) if fabric.world_size > 1 else SoloWorld()
        seed_everything(self.seed, world.rank)
        settings = Settings(
            max_epochs=self.max_epochs,
            batch_size=int(self.batch_size or task.batch_size),
            seed=self.seed,
            run_dir=self.run_dir,
            optimizer=self.optimizer,
            accumulate=self.accumulate,
            eval_every=self.eval_every,
            checkpoint_seconds=self.checkpoint_seconds,
            progress=self.progress,
            min_free_bytes=self.min_free_bytes,
            precision=self.precision,
            device=fabric.device,
            autocast=autocast,
            scaler=LossScaler() if self.precision == "16-mixed" else None,
        )
        return TrainingLoop(settings, model, task, self.plugins, world).run()

    def _fabric(self, world: World | None) -> Any:
        """Let Fabric choose device and precision, and start the worker processes."""
        # Imported here: it takes seconds, and `graphkit --help` must not.
        from lightning_fabric import Fabric

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        own_processes = world is None and self.devices > 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fabric = Fabric(
                    accelerator=self.accelerator,
                    devices=self.devices if own_processes else 1,
                    strategy="ddp" if own_processes else "auto",
                    # The loss scaler is ours: Fabric's runs a step's closure only once.
                    precision="bf16-mixed" if self.precision == "bf16-mixed" else "32-true",
                )
        except (ValueError, RuntimeError, TypeError) as error:
            raise InputError(
                f"accelerator={self.accelerator!r}, devices={self.devices}: {error}"
            ) from error
        if own_processes:
            fabric.launch()
        return fabric
