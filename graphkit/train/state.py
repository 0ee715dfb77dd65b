"""All that a run has reached, and how it is written to and taken up from a checkpoint."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from graphkit.errors import CheckpointError
from graphkit.storage import atomic_write_bytes
from graphkit.train.checkpoint import CheckpointFolder
from graphkit.train.history import MetricsFile
from graphkit.train.hooks import Restart
from graphkit.train.rng import capture_rng, restore_rng, seed_everything

if TYPE_CHECKING:
    from graphkit.train.loop import TrainingLoop

_RANK_FIELDS = ("loss_sum", "loss_was_logged")
_NOT_SAVED = ("interrupted",)


@dataclass
class LoopState:
    """Where the run is. Epochs are counted from 0 here and from 1 in the history."""

    phase_end: int
    epoch: int = 0
    step: int = 0
    in_epoch: bool = False
    steps_in_epoch: int = 0
    skipped: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    loss_was_logged: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    selected: dict[str, dict[str, float]] = field(default_factory=dict)
    initial_weights: dict[str, Tensor] = field(default_factory=dict)
    phase: int = 0
    schedule_epoch: int = 0
    schedule_step: int = 0
    phase_epochs: int = 0
    phase_weights: dict[str, Tensor] = field(default_factory=dict)
    restart_schedule: bool = True
    replicas: int = 1
    replica: int = 0
    replica_weights: list[dict[str, Tensor]] = field(default_factory=list)
    finished: bool = False
    interrupted: bool = False
    stop_reason: str = ""

    def begin_epoch(self, device: torch.device) -> None:
        """Reset the sums of an epoch."""
        self.in_epoch, self.steps_in_epoch, self.loss_was_logged = True, 0, False
        # MPS has no float64; everywhere else the sum of many losses deserves it.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.loss_sum = torch.zeros(2, dtype=dtype, device=device)

    def log_loss(self, loss: Tensor | None, batches: list[Any]) -> None:
        """Add a step's loss, weighted by its number of graphs."""
        if loss is None:
            return
        graphs = sum(getattr(batch, "num_graphs", 1) for batch in batches)
        self.loss_sum[0] += loss.to(self.loss_sum.dtype) * graphs
        self.loss_sum[1] += graphs
        self.loss_was_logged = True

    def end_epoch(self, entry: dict[str, Any]) -> None:
        """Close the epoch and keep its figures."""
        self.in_epoch, self.steps_in_epoch = False, 0
        self.epoch += 1
        self.history.append(entry)

    def best_of(self, metric: str) -> float | None:
        """The best validation figure so far by one of the task's metrics."""
        found = self.selected.get(metric)
        return None if found is None else float(found["valid"])

    @staticmethod
    def improves(score: float, maximize: bool, best: float | None) -> bool:
        """Whether a validation figure beats the best so far; ties and NaN do not."""
        if score != score:
            return False
        if best is None:
            return True
        return score > best if maximize else score < best

    def begin_phase(self, command: Restart, weights: dict[str, Tensor]) -> None:
        """Enter the phase that a Restart asks for."""
        self.phase_epochs, self.phase_end = command.epochs, self.epoch + command.epochs
        self.replicas, self.replica, self.replica_weights = command.replicas, 0, []
        self.phase_weights = weights if command.replicas > 1 else {}
        self.restart_schedule = command.schedule == "restart"
        self.phase += 1
        self._mark_schedule()

    def next_replica(self) -> None:
        """Enter the next replica of the phase."""
        self.replica += 1
        self.phase += 1
        self.phase_end = self.epoch + self.phase_epochs
        self._mark_schedule()

    def _mark_schedule(self) -> None:
        if self.restart_schedule:
            self.schedule_epoch, self.schedule_step = self.epoch, self.step


class Saver:
    """Writes and reads the checkpoints of a loop; without a run folder it does nothing."""

    def __init__(self, loop: TrainingLoop) -> None:
        self.loop = loop
        run_dir = loop.settings.run_dir
        self.folder = None if run_dir is None else CheckpointFolder(run_dir, loop.world)
        rank_zero = loop.world.rank == 0
        own = run_dir if rank_zero else None
        self.metrics = MetricsFile(None if own is None else own / "metrics.jsonl")
        # Apart: two runs of one seed have the same figures, but never the same times.
        self.times = MetricsFile(None if own is None else own / "seconds.jsonl")
        self._written_epochs = 0
        self._seconds_before = 0.0
        self._epochs_before = 0
        self._started = self._last_save = time.monotonic()
        self._save_cost = 0.0
        self._saved_step = -1

    # -- time -----------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Training time, with that of the parts before a resume."""
        return self._seconds_before + time.monotonic() - self._started

    def seconds_left(self) -> float | None:
        """Estimate from the epochs of this process; ``None`` before there is anything to go by."""
        state = self.loop.state
        here = state.steps_in_epoch / max(self.loop.run_view.steps_per_epoch, 1)
        done = state.epoch + here - self._epochs_before
        if done <= 0:
            return None
        spent = time.monotonic() - self._started
        return spent / done * max(state.phase_end - state.epoch - here, 0.0)

    # -- writing --------------------------------------------------------------------------------

    def save_if_due(self, force: bool = False) -> None:
        """Inside an epoch: save when ``checkpoint_seconds`` have passed."""
        if self.folder is None:
            return
        if force or self._agreed(self._age() >= self.loop.settings.checkpoint_seconds):
            self._save()

    def save_after_epoch(self) -> None:
        """After an epoch: note its figures; save unless saving would dominate the run."""
        state = self.loop.state
        for entry in state.history[self._written_epochs :]:
            self.metrics.append(entry)
            self.times.append({"epoch": entry["epoch"], "seconds": round(self.seconds(), 3)})
        self._written_epochs = len(state.history)
        if self.folder is None:
            return
        wait = min(20 * self._save_cost, self.loop.settings.checkpoint_seconds)
        if state.finished or self._agreed(self._age() >= wait):
            self._save()

    def save_at_end(self) -> None:
        """Make sure that the last thing on the disk is the state the run ended with."""
        if self.folder is not None and self._saved_step != self.loop.state.step:
            self._save()

    def _age(self) -> float:
        return time.monotonic() - self._last_save

    def _agreed(self, due: bool) -> bool:
        world = self.loop.world
        if world.size == 1:
            return due
        # Clocks differ between workers: rank 0 decides.
        own = torch.tensor(float(due and world.rank == 0))
        return bool(world.all_reduce(own, "max") > 0)

    def _save(self) -> None:
        loop, folder = self.loop, self.folder
        assert folder is not None
        if not torch.isfinite(loop.state.loss_sum).all():
            raise loop._diverged("training loss is not finite")
        begun = time.monotonic()
        folder.save(self._shared(), self._rank())
        if loop.world.rank == 0:
            self._write_best()
        self._last_save = time.monotonic()
        self._save_cost = self._last_save - begun
        self._saved_step = loop.state.step

    def _write_best(self) -> None:
        """Bring best.safetensors in line with the generation just written (or just read)."""
        state, folder = self.loop.state, self.folder
        if folder is None or not state.best_weights:
            return
        about = {"epoch": str(state.best_epoch), self.loop.task.metric: repr(state.best)}
        content = safetensors_bytes(state.best_weights, metadata=about)
        path = folder.best_path
        if not path.is_file() or path.read_bytes() != content:
            atomic_write_bytes(path, content)

    def _shared(self) -> dict[str, Any]:
        loop = self.loop
        skipped = (*_RANK_FIELDS, *_NOT_SAVED)
        return {
            "identity": self._identity(),
            "step": loop.state.step,
            "seconds": self.seconds(),
            "state": {k: v for k, v in vars(loop.state).items() if k not in skipped},
            "model": loop.model.state_dict(),
            "optimizer": loop.optimizer.state_dict(),
            "scaler": loop.settings.scaler.state_dict() if loop.settings.scaler else {},
            "plugins": loop.plugins.state("shared"),
        }

    def _rank(self) -> dict[str, Any]:
        loop = self.loop
        saved: dict[str, Any] = {
            "rng": capture_rng(),
            "loader": loop.train_loader.state_dict(),
            "valid_stream": loop.valid_stream.state_dict(),
            "state": {key: getattr(loop.state, key) for key in _RANK_FIELDS},
            "plugins": loop.plugins.state("rank"),
        }
        if loop.world.rank > 0:
            # BatchNorm statistics, and under an H5 owner all parameters, differ between workers.
            saved["model"] = loop.model.state_dict()
            saved["optimizer"] = loop.optimizer.state_dict()
        return saved

    # -- reading --------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Take up the checkpoint of the run folder, if there is one."""
        if self.folder is None:
            return False
        self.folder.probe(self._space())
        loaded = self.folder.load()
        self.loop.world.barrier()
        if loaded is None:
            self.metrics.rewrite([])
            return False
        shared, rank = loaded
        self._check_identity(shared)
        try:
            self._restore(shared, rank)
        except CheckpointError:
            raise
        except Exception as error:  # plugins, loaders and torch each have their own complaints
            raise CheckpointError(
                f"{self.folder.folder}: the checkpoint does not fit this run ({error}); choose "
                "another run_dir, or delete that folder to start anew"
            ) from error
        self._seconds_before = float(shared["seconds"])
        self._epochs_before = self.loop.state.epoch
        self._written_epochs = len(self.loop.state.history)
        self._saved_step = self.loop.state.step
        self.metrics.rewrite(self.loop.state.history)
        self.times.keep(len(self.loop.state.history))
        if self.loop.world.rank == 0:
            self._write_best()
        return True

    def _restore(self, shared: dict[str, Any], rank: dict[str, Any] | None) -> None:
        loop, state = self.loop, self.loop.state
        resharded = int(shared["world_size"]) != loop.world.size
        for key, value in shared["state"].items():
            if key not in vars(state):
                raise KeyError(f"unknown entry {key!r}")
            setattr(state, key, value)
        own = rank if rank is not None and not resharded else None
        source = own if own is not None and "model" in own else shared
        loop.model.load_state_dict(source["model"])
        loop.optimizer.load_state_dict(source["optimizer"])
        if loop.settings.scaler is not None:
            loop.settings.scaler.load_state_dict(shared["scaler"])
        loop.plugins.load("shared", shared["plugins"])
        if own is None:
            self._restore_resharded(shared)
            return
        loop.plugins.load("rank", own["plugins"])
        loop.train_loader.load_state_dict(own["loader"])
        loop.valid_stream.load_state_dict(own["valid_stream"])
        for key in _RANK_FIELDS:
            setattr(state, key, own["state"][key])
        state.loss_sum = state.loss_sum.to(loop.settings.device)
        restore_rng(own["rng"])

    def _restore_resharded(self, shared: dict[str, Any]) -> None:
        """Another number of workers: same global batch and position, new random streams."""
        loop, state = self.loop, self.loop.state
        assert self.folder is not None
        ranks = self.folder.other_ranks(shared)
        position = dict(ranks[0]["loader"])
        if "batch_size" in position:
            position["batch_size"] = loop.settings.batch_size // loop.world.size
        loop.train_loader.load_state_dict(position)
        total = torch.stack([rank["state"]["loss_sum"] for rank in ranks]).sum(0)
        first = loop.world.rank == 0
        state.loss_sum = (total if first else torch.zeros_like(total)).to(loop.settings.device)
        state.loss_was_logged = any(rank["state"]["loss_was_logged"] for rank in ranks)
        seed_everything((loop.settings.seed + 7919 * (state.step + 1)) % 2**31, loop.world.rank)

    def _space(self) -> int:
        asked = self.loop.settings.min_free_bytes
        if asked is not None:
            return asked
        tensors = [*self.loop.model.parameters(), *self.loop.model.buffers()]
        # Two generations of weights, best weights and two optimiser moments, and best.safetensors.
        return 9 * sum(t.numel() * t.element_size() for t in tensors) + (1 << 20)

    # -- is it the same run? --------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What decides the result; a checkpoint of anything else is refused."""
        settings, task = self.loop.settings, self.loop.task
        shapes = {k: list(v.shape) for k, v in self.loop.model.state_dict().items()}
        spec = settings.optimizer
        dataset = task.dataset
        split = dataset.splits["train"]
        return {
            "seed": settings.seed,
            "max_epochs": settings.max_epochs,
            "batch_size": settings.batch_size,
            "accumulate": settings.accumulate,
            "eval_every": settings.eval_every.plain,
            "precision": settings.precision,
            "optimizer": "callable" if callable(spec) else json.dumps(dict(spec), sort_keys=True),
            "dataset": str(dataset.name),
            "dataset_sha256": str(getattr(dataset, "sha256", "")),
            "train_split": hashlib.sha256(split.numpy().tobytes()).hexdigest(),
            "task": json.dumps(getattr(task, "config", {}), sort_keys=True, default=str),
            "model": json.dumps(
                getattr(self.loop.given_model, "config", None), sort_keys=True, default=str
            ),
            "parameters": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
            "plugins": json.dumps(self.loop.plugins.identities(), sort_keys=True, default=str),
        }

    def _check_identity(self, shared: dict[str, Any]) -> None:
        assert self.folder is not None
        saved, own = shared.get("identity", {}), self._identity()
        differing = [
            f"{key} is {_short(saved.get(key))} there and {_short(own[key])} here"
            for key in own
            if saved.get(key) != own[key]
        ]
        if differing:
            raise CheckpointError(
                f"{self.folder.folder}: holds the checkpoint of another run: "
                f"{'; '.join(differing)}. Choose another run_dir, or delete that folder to start "
                "anew"
            )
        size = int(shared["world_size"])
        stuck = [p.name for p in self.loop.plugins.plugins if not p.can_reshard]
        if size != self.loop.world.size and stuck:
            raise CheckpointError(
                f"{self.folder.folder}: written by {size} workers, this run has "
                f"{self.loop.world.size}, and {stuck} cannot be resharded; use {size} workers"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:28] + "..." + text[-28:]


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used if sys.platform == "darwin" else used * 1024)
