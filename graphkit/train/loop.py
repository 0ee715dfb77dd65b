"""The training loop: what happens in a step, in an epoch, and between epochs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphkit.errors import InputError, PluginError
from graphkit.train.batches import EndlessStream, grouped, has_batch_norm, keep_usable, shares
from graphkit.train.closure import DivergenceError, Forward, LossScaler, SkipStep, StepClosure
from graphkit.train.evaluation import evaluate, share_figures
from graphkit.train.hooks import PluginList, Restart, Run, Stop, clone_state
from graphkit.train.interrupts import StopSignals
from graphkit.train.optimizers import OptimizerSpec, build_optimizer
from graphkit.train.progress import Listener, ProgressEvent, make_listener
from graphkit.train.result import FitResult
from graphkit.train.schedule import EvalSchedule
from graphkit.train.state import LoopState, Saver, peak_memory
from graphkit.train.world import World, any_rank, from_rank_zero


@dataclass
class Settings:
    """The checked arguments of the Trainer, with device and precision resolved."""

    max_epochs: int
    batch_size: int
    seed: int
    run_dir: Path | None
    optimizer: OptimizerSpec
    accumulate: int
    eval_every: EvalSchedule
    checkpoint_seconds: float
    progress: bool | Listener
    min_free_bytes: int | None
    precision: str
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: LossScaler | None


class TrainingLoop:
    """One run. ``run()`` is the whole story; every method below it is one of its sentences."""

    def __init__(
        self, settings: Settings, model: nn.Module, task: Any, plugins: PluginList, world: World
    ) -> None:
        if settings.batch_size % world.size:
            raise InputError(
                f"batch_size: {settings.batch_size} graphs cannot be shared evenly by "
                f"{world.size} workers; choose a multiple of {world.size}"
            )
        self.settings = settings
        self.task = task
        self.plugins = plugins
        self.world = world
        self.signals = StopSignals()
        self.listener = make_listener(settings.progress, world.rank)
        self.state = LoopState(phase_end=settings.max_epochs)
        self._told = 0.0
        self._sync_outstanding = False
        self._moved_edges: Any = None
        self._moved_batch: Any = None
        self._build(model)
        self.saver = Saver(self)

    def run(self) -> FitResult:
        """Train until the last epoch, a plugin's Stop, or a signal."""
        resumed = self.saver.resume()
        if not resumed:
            from_rank_zero(self.world, list(self.model.state_dict().values()))
        self._publish()
        self._set_learning_rate()
        self._tell("start", resumed=resumed)
        try:
            with self.signals:
                while not self.state.finished:
                    if not self._train_epoch():
                        break
                    self._end_epoch()
                    self.saver.save_after_epoch()
        finally:
            self._tell("end")
        return self._result()

    # -- before the first step ------------------------------------------------------------------

    def _build(self, model: nn.Module) -> None:
        settings, world = self.settings, self.world
        self.run_view = Run(world, settings.seed, settings.max_epochs)
        for plugin in self.plugins.plugins:
            plugin.run = self.run_view
        # Some models need to know the training data before they have all their weights.
        prepare = getattr(self.task, "prepare", None)
        if prepare is not None:
            prepare(model)
        model = model.to(settings.device)
        self.given_model = model
        for transform in self.plugins.calls("transform_model"):
            model = transform(model, self.task.dataset)
        self.model = self.run_view.model = model.to(settings.device)
        needs_initial = any("initial weights" in p.requires for p in self.plugins.plugins)
        if needs_initial:
            self.state.initial_weights = clone_state(self.model)
        self._new_optimizer()
        self.train_loader = self._loader("train", shuffle=True, sharded=True)
        fewest = int(world.all_reduce(torch.tensor(float(len(self.train_loader))), "min"))
        self.run_view.steps_per_epoch = max(-(-fewest // settings.accumulate), 1)
        self.eval_loaders = {
            split: self._loader(split, shuffle=False, sharded=False) for split in ("valid", "test")
        }
        self.valid_stream = EndlessStream(lambda: self._loader("valid", shuffle=True, sharded=True))
        # On a GPU, reading the loss after each step would make the CPU wait for it; a NaN stays
        # in the epoch's sum and is found before anything is saved.
        per_step = settings.device.type == "cpu" or world.size > 1
        self.forward = Forward(
            self.model, self.task, self.plugins, world,
            autocast=settings.autocast, scaler=settings.scaler, check_every_step=per_step,
            valid_batch=lambda: self._to_device(self.valid_stream(), "valid"),
        )  # fmt: skip
        self.batch_norm = has_batch_norm(self.model)
        self.step_owner = self.plugins.owner("H6 step")
        self.sync_owner = self.plugins.owner("H5 sync")
        self.schedule = self.plugins.owner("schedule slot")

    def _new_optimizer(self) -> None:
        self.optimizer = build_optimizer(self.settings.optimizer, self._optimised())
        for group in self.optimizer.param_groups:
            group["base_lr"] = float(group["lr"])
        self.run_view.optimizer = self.optimizer

    def _optimised(self) -> Any:
        # A callable is handed plain parameters, as it always is outside the Trainer.
        named = isinstance(self.settings.optimizer, Mapping)
        return self.model.named_parameters() if named else self.model.parameters()

    def _loader(self, split: str, *, shuffle: bool, sharded: bool) -> Any:
        size = self.world.size if sharded else 1
        options = {"rank": self.world.rank, "world_size": size} if size > 1 else {}
        loader = self.task.loader(
            split, batch_size=self.settings.batch_size // size, shuffle=shuffle,
            seed=self.settings.seed, **options,
        )  # fmt: skip
        for make_loader in self.plugins.calls("make_loader"):
            loader = make_loader(split, self.task.dataset, loader)
        return loader

    def _to_device(self, batch: Any, phase: str) -> Any:
        if self.settings.device.type != "cpu":
            batch = self._moved(batch)
        for on_batch in self.plugins.calls("on_batch"):
            batch = on_batch(batch, phase)
        return batch

    def _moved(self, batch: Any) -> Any:
        # One large graph comes again and again as the same tensors: moving it once also keeps
        # what the ops memoise per edge_index.
        edges = getattr(batch, "edge_index", None)
        if edges is None or edges is not self._moved_edges:
            self._moved_edges = edges
            self._moved_batch = batch.to(self.settings.device)
        return copy.copy(self._moved_batch)

    # -- one epoch ------------------------------------------------------------------------------

    def _train_epoch(self) -> bool:
        """Take the steps that are left of this epoch; ``False`` if a signal stopped it."""
        state = self.state
        if not state.in_epoch:
            self.train_loader.set_epoch(state.epoch)
            state.begin_epoch(self.settings.device)
        self.model.train()
        left = self.run_view.steps_per_epoch - state.steps_in_epoch
        for batches in grouped(self.train_loader, self.settings.accumulate, left):
            self._step(batches)
            state.steps_in_epoch += 1
            self._tell("step")
            stop = any_rank(self.world, self.signals.received)
            if not self._sync_outstanding:
                self.saver.save_if_due(force=stop)
            if stop:
                state.interrupted = True
                return False
        return True

    def _step(self, batches: list[Any]) -> None:
        """H2, forward .. clip, H6, H7, H5, schedule, feedback: the order all plugins rely on."""
        state = self.state
        usable = keep_usable(batches, self.task, self.world, self.batch_norm)
        state.skipped += len(batches) - len(usable)
        state.step += 1
        self.run_view.step = state.step
        closure = None
        if usable:
            weights = shares(usable, self.task, self.world)
            usable = [self._to_device(batch, "train") for batch in usable]
            closure = StepClosure(self.forward, usable, weights)
            if self._update(closure):
                for after_step in self.plugins.calls("after_step"):
                    after_step(self.model)
                state.log_loss(closure.logged_loss, usable)
        self._sync_if_due()
        self._set_learning_rate()
        if closure is not None and self.plugins.calls("feedback"):
            self._feedback(closure)

    def _update(self, closure: StepClosure) -> bool:
        """Let the H6 owner (or the plain optimiser) take the step; ``False`` if it was dropped."""
        scaler = self.settings.scaler
        try:
            if self.step_owner is not None:
                self.step_owner.step(closure, self.optimizer)
            else:
                closure()
                self.optimizer.step()
        except SkipStep:
            assert scaler is not None
            scaler.update(overflow=True)
            return False
        except DivergenceError as error:
            raise self._diverged(str(error)) from None
        if scaler is not None:
            scaler.update(overflow=False)
        return True

    def _diverged(self, what: str) -> DivergenceError:
        return DivergenceError(
            f"{what} in epoch {self.state.epoch + 1}, step {self.state.step}; lower the learning "
            "rate, clip gradients (plugin grad_clip) or look for extreme inputs. Nothing of this "
            "state was saved"
        )

    def _sync_if_due(self) -> None:
        owner = self.sync_owner
        if owner is None or self.state.step % owner.sync_every:
            return
        self._drain_sync()
        owner.sync_begin(self.world)
        self._sync_outstanding = True
        if not owner.asynchronous:
            self._drain_sync()

    def _drain_sync(self) -> None:
        if self._sync_outstanding and self.sync_owner is not None:
            self.sync_owner.sync_end(self.world)
        self._sync_outstanding = False

    def _set_learning_rate(self) -> None:
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.lr(group["base_lr"])

    def _feedback(self, closure: StepClosure) -> None:
        for batch, out in zip(closure.batches, closure.first_outputs, strict=False):
            values = self.task.sample_loss(out, batch, "train")
            for feedback in self.plugins.calls("feedback"):
                feedback(getattr(batch, "graph_id", None), values)

    # -- between epochs -------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        state = self.state
        self._drain_sync()
        rates = [group["lr"] for group in self.optimizer.param_groups]
        entry: dict[str, Any] = {"epoch": state.epoch + 1, "train_loss": self._train_loss()}
        entry["lr"] = float(rates[0])
        last = state.epoch + 1 >= state.phase_end
        if last or self.settings.eval_every.due(state.epoch + 1):
            self._evaluate_into(entry)
        state.end_epoch(entry)
        if last and state.replicas > 1:
            state.replica_weights.append(clone_state(self.model))
        self._publish()
        self._obey(self._commands(entry), last)
        self._publish()
        self._set_learning_rate()
        self._tell("epoch", metrics=entry)

    def _train_loss(self) -> float:
        total = self.world.all_reduce(self.state.loss_sum.cpu())
        value = float(total[0] / total[1]) if float(total[1]) > 0 else float("nan")
        if self.state.loss_was_logged and not torch.isfinite(total[0]):
            raise self._diverged(f"training loss is {value}")
        return value

    def _evaluate_into(self, entry: dict[str, Any]) -> None:
        """Add validation figures; where one is the best so far, test figures and weights too."""
        state, metric = self.state, self.task.metric
        exported = self.plugins.export(self.model)
        valid = self._figures(exported, "valid")
        entry.update({f"valid_{key}": value for key, value in valid.items()})
        # Some protocols choose the epoch by another figure than the one they report.
        criterion = getattr(self.task, "criterion", metric)
        if not isinstance(criterion, str):  # a loss function of a task of somebody's own
            criterion = metric
        keys = list(dict.fromkeys([*self.task.metrics, criterion]))
        better = [
            key
            for key in keys
            if state.improves(valid[key], self.task.maximize and key != "loss", state.best_of(key))
        ]
        if getattr(self.task, "one_epoch", False):
            better = keys if criterion in better else []
        if not better:
            return
        test = self._figures(exported, "test")
        entry.update({f"test_{key}": value for key, value in test.items()})
        for key in better:
            state.selected[key] = {
                "epoch": state.epoch + 1, "valid": valid[key], "test": test[key]
            }  # fmt: skip
        if metric in better:
            state.best, state.best_epoch = valid[metric], state.epoch + 1
            state.best_weights = clone_state(exported)

    def _figures(self, model: nn.Module, split: str) -> dict[str, float]:
        figures = None
        if self.world.rank == 0:
            figures = evaluate(
                model, self.task, split, lambda: self._eval_batches(split), self.settings.autocast
            )
        return share_figures(self.world, figures, ["loss", *self.task.metrics])

    def _eval_batches(self, split: str) -> Iterator[Any]:
        for batch in self.eval_loaders[split]:
            yield self._to_device(batch, split)

    def _commands(self, entry: dict[str, Any]) -> Stop | Restart | None:
        # Plugins choose (stopping, rates) by what they see here, so the test figures stay out.
        seen = {key: value for key, value in entry.items() if not key.startswith("test_")}
        commands = [hook(dict(seen)) for hook in self.plugins.calls("on_epoch_end")]
        stops = [command for command in commands if isinstance(command, Stop)]
        restarts = [command for command in commands if isinstance(command, Restart)]
        if len(restarts) > 1:
            raise PluginError("on_epoch_end: two plugins returned Restart in the same epoch")
        return (stops or restarts or [None])[0]

    def _obey(self, command: Stop | Restart | None, last: bool) -> None:
        """Stop, begin a phase, begin the phase's next replica, or simply go on."""
        state = self.state
        if isinstance(command, Stop):
            state.finished, state.stop_reason = True, command.reason
        elif isinstance(command, Restart):
            weights = self._named_weights(command.weights)
            state.begin_phase(command, weights)
            self._restart_from(weights)
        elif last and state.replica + 1 < state.replicas:
            state.next_replica()
            self._restart_from(state.phase_weights)
        elif last:
            state.finished = True

    def _named_weights(self, weights: Any) -> dict[str, torch.Tensor]:
        if weights is None:
            return clone_state(self.model)
        if weights == "best":
            return dict(self.state.best_weights)
        if weights == "initial":
            if not self.state.initial_weights:
                raise PluginError(
                    "Restart: weights='initial' needs requires={'initial weights'} in the plugin"
                )
            return self.state.initial_weights
        return {key: value.detach().cpu().clone() for key, value in weights.items()}

    def _restart_from(self, weights: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(weights)
        self._new_optimizer()

    # -- telling and returning ------------------------------------------------------------------

    def _publish(self) -> None:
        """Show plugins where the run is."""
        view, state = self.run_view, self.state
        view.epoch, view.step, view.max_epochs = state.epoch, state.step, state.phase_end
        view.phase_first_epoch, view.phase_first_step = state.schedule_epoch, state.schedule_step
        view.phase, view.replicas = state.phase, state.replica_weights

    def _tell(self, kind: Any, **more: Any) -> None:
        now = time.monotonic()
        if kind == "step" and now - self._told < 0.1:
            return
        self._told = now
        state = self.state
        self.listener(
            ProgressEvent(
                kind, state.epoch, state.phase_end, state.steps_in_epoch,
                self.run_view.steps_per_epoch, best=state.best,
                eta_seconds=self.saver.seconds_left(), **more,
            )
        )  # fmt: skip

    def _result(self) -> FitResult:
        state = self.state
        self.saver.save_at_end()
        exported = self.plugins.export(self.model)
        if state.best_weights:
            exported.load_state_dict(state.best_weights)
            if self.given_model is not exported:
                matching = self.given_model.state_dict().keys() == state.best_weights.keys()
                if matching:
                    self.given_model.load_state_dict(state.best_weights)
        metric = self.task.metric
        figures = state.history[state.best_epoch - 1] if state.best_epoch else {}
        return FitResult(
            best_epoch=state.best_epoch, epochs=state.epoch,
            valid=figures.get(f"valid_{metric}"), test=figures.get(f"test_{metric}"),
            metrics=dict(figures), selected=dict(state.selected),
            history=list(state.history), seconds=self.saver.seconds(),
            peak_memory_bytes=peak_memory(self.settings.device),
            skipped_batches=state.skipped, interrupted=state.interrupted,
            stop_reason=state.stop_reason, device=str(self.settings.device), model=exported,
        )  # fmt: skip
