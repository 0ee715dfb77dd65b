"""What a plugin may do during training: ten hooks (H0 to H9) and the two slots of the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graphkit.errors import PluginError, nearest
from graphkit.train.world import World

Scope = Literal["shared", "rank"]

#: What a plugin may ask of the trainer by ``requires``.
REQUIREMENTS = ("replayable RNG", "no loss scaler", "world", "initial weights")

#: Hooks and slots that only one plugin may fill, with the methods that fill them.
OWNED: dict[str, tuple[str, ...]] = {
    "H4 reduce": ("reduce",),
    "H5 sync": ("sync_begin", "sync_end"),
    "H6 step": ("step",),
    "clip slot": ("clip",),
    "schedule slot": ("lr",),
}


class Closure(Protocol):
    """The stretch of the step from forward to clip, which an H6 owner may run again."""

    def __call__(
        self,
        split: str = "train",
        grad: bool = True,
        replay: bool = True,
        want: Literal["loss", "out"] = "loss",
        reduce: bool = True,
        clip: bool = True,
    ) -> Any: ...


@dataclass(frozen=True)
class Stop:
    """Returned by H8: end the training after this epoch."""

    reason: str = ""


@dataclass(frozen=True)
class Restart:
    """Returned by H8: begin a new phase of training with a fresh optimiser.

    Args:
        epochs: length of the phase.
        weights: state dict to start from, ``"initial"``, ``"best"``, or ``None`` for the present.
        schedule: ``"restart"`` counts the learning-rate schedule from zero over the new phase,
            ``"continue"`` goes on over the whole run.
        replicas: run the phase this many times from the same weights with other shuffles and
            masks; the final weights of each are in ``plugin.run.replicas`` at the last H8.
    """

    epochs: int
    weights: Mapping[str, Tensor] | Literal["initial", "best"] | None = None
    schedule: Literal["restart", "continue"] = "restart"
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.replicas < 1:
            raise PluginError(
                f"Restart: epochs and replicas must be at least 1, got {self.epochs} and "
                f"{self.replicas}"
            )
        if isinstance(self.weights, str) and self.weights not in ("initial", "best"):
            raise PluginError(
                f"Restart: weights must be a state dict, 'initial', 'best' or None, "
                f"got {self.weights!r}"
            )


@dataclass
class Run:
    """What plugins can see of the run; the trainer keeps it up to date and plugins only read."""

    world: World
    seed: int
    max_epochs: int
    steps_per_epoch: int = 0
    epoch: int = 0
    step: int = 0
    phase: int = 0
    phase_first_epoch: int = 0
    phase_first_step: int = 0
    model: nn.Module = field(default_factory=nn.Module)
    optimizer: Optimizer | None = None
    replicas: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def progress(self) -> float:
        """Epochs done in this phase, as a real number that grows with every optimiser step."""
        return (self.step - self.phase_first_step) / max(self.steps_per_epoch, 1)

    @property
    def phase_epochs(self) -> int:
        """Length of this phase in epochs."""
        return self.max_epochs - self.phase_first_epoch


class TrainerPlugin:
    """Base class of trainer plugins; every hook is optional.

    Order inside one step: H2 -> forward -> H3 -> backward -> accumulate -> unscale -> H4 -> clip
    -> H6 (may run forward..clip again) -> H7 -> H5 if due -> schedule -> H1 feedback -> checkpoint
    if due. H4, H5, H6 and the slots ``clip`` and ``lr`` have one owner at a time; all other hooks
    compose in list order. A new run begins with H0: a plugin (re)builds its state there.

    Attributes:
        name: registry name.
        version: raised when the meaning of the saved state changes.
        requires: what the trainer must offer, out of :data:`REQUIREMENTS`.
        conflicts: names of plugins that cannot run beside this one.
        sync_every: H5 runs after every so many optimiser steps.
        asynchronous: ``sync_end`` is called one period after ``sync_begin`` instead of at once.
        can_reshard: saved state may be loaded with another number of workers.
        run: what can be seen of the run; set before H0.

    Example:
        >>> class Counter(TrainerPlugin):
        ...     name = "counter"
        ...     steps = 0
        ...     def after_step(self, model):
        ...         self.steps += 1
        >>> sorted(overridden(Counter()))
        ['after_step']
    """

    name: ClassVar[str] = "plugin"
    version: ClassVar[int] = 1
    requires: ClassVar[frozenset[str]] = frozenset()
    conflicts: ClassVar[frozenset[str]] = frozenset()
    can_reshard: ClassVar[bool] = False
    asynchronous: bool = False
    sync_every: int = 1
    run: Run

    @property
    def config(self) -> dict[str, Any]:
        """JSON arguments of the plugin; a checkpoint made with others is refused."""
        return {}

    def transform_model(self, model: nn.Module, data: Any) -> nn.Module:
        """H0, once, before optimisers are built: return the model to train."""
        return model

    def make_loader(self, split: str, dataset: Any, loader: Any) -> Any:
        """H1, when loaders are made: return the loader to use."""
        return loader

    def feedback(self, ids: Tensor | None, values: Tensor) -> None:
        """H1, after each step: loss per graph (or node) of the batch, with its ids if known."""

    def on_batch(self, batch: Any, phase: str) -> Any:
        """H2, after the move to the device: return the batch to use in ``phase``."""
        return batch

    def extra_loss(self, model: nn.Module, batch: Any, out: Tensor, loss: Tensor) -> Tensor:
        """H3, after forward: return the loss to differentiate."""
        return loss

    def reduce(self, grads: list[Tensor], world: World) -> list[Tensor]:
        """H4 (owned): combine local mean gradients, float32, in ``parameters()`` order."""
        raise NotImplementedError

    def clip(self, parameters: Sequence[nn.Parameter]) -> None:
        """Clip slot (owned): limit the reduced gradients in place."""
        raise NotImplementedError

    def sync_begin(self, world: World) -> None:
        """H5 (owned): start synchronising parameters between workers."""
        raise NotImplementedError

    def sync_end(self, world: World) -> None:
        """H5 (owned): finish what ``sync_begin`` started."""
        raise NotImplementedError

    def step(self, closure: Closure, optimizer: Optimizer) -> None:
        """H6 (owned): update the parameters. If the closure raises, leave them as they were."""
        raise NotImplementedError

    def after_step(self, model: nn.Module) -> None:
        """H7, after every real optimiser step."""

    def lr(self, base_lr: float) -> float:
        """Schedule slot (owned): learning rate of the next step for a group with ``base_lr``."""
        raise NotImplementedError

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> Stop | Restart | None:
        """H8: see the epoch's figures; may end the training or begin a new phase."""
        return None

    def state_dict(self, scope: Scope) -> dict[str, Any]:
        """H9: what a resumed run needs: equal on all ranks ("shared"), or of this rank ("rank")."""
        return {}

    def load_state_dict(self, scope: Scope, state: dict[str, Any]) -> None:
        """H9: take up what :meth:`state_dict` gave."""

    def export(self, model: nn.Module) -> nn.Module:
        """H9: return the model to evaluate, to keep as best and to hand out at the end."""
        return model

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


_HOOKS = tuple(
    key for key, value in vars(TrainerPlugin).items() if callable(value) and not key.startswith("_")
)


def overridden(plugin: TrainerPlugin) -> set[str]:
    """Return the hook methods that ``plugin`` defines itself."""
    return {
        name for name in _HOOKS if getattr(type(plugin), name) is not getattr(TrainerPlugin, name)
    }


class PluginList:
    """Plugins checked against each other, with one call list per hook: unused hooks cost nothing.

    Raises:
        PluginError: two owners of one hook, half an owned hook, an unknown or unmet requirement,
            a conflict, a duplicate, or saved state that could not be loaded again.
    """

    def __init__(self, plugins: Iterable[TrainerPlugin], *, loss_scaler: bool = False) -> None:
        self.plugins = list(plugins)
        for plugin in self.plugins:
            if not isinstance(plugin, TrainerPlugin):
                raise PluginError(
                    f"plugins: expected TrainerPlugin objects, got {plugin!r}; "
                    "make one with graphkit.plugins.create_plugin(name, ...)"
                )
        self._own: dict[str, TrainerPlugin] = {}
        uses = [overridden(plugin) for plugin in self.plugins]
        for plugin, used in zip(self.plugins, uses, strict=True):
            self._check_alone(plugin, used, loss_scaler)
            for hook, methods in OWNED.items():
                if not used.intersection(methods):
                    continue
                missing = set(methods) - used
                if missing:
                    raise PluginError(f"{plugin.name}: owns {hook} but lacks {sorted(missing)}")
                if hook in self._own:
                    raise PluginError(
                        f"{hook} has one owner at a time, but both {self._own[hook].name!r} and "
                        f"{plugin.name!r} want it; remove one of them"
                    )
                self._own[hook] = plugin
        self._check_conflicts()
        self._calls = {
            name: [
                getattr(plugin, name)
                for plugin, used in zip(self.plugins, uses, strict=True)
                if name in used
            ]
            for name in _HOOKS
        }

    @staticmethod
    def _check_alone(plugin: TrainerPlugin, used: set[str], loss_scaler: bool) -> None:
        for requirement in plugin.requires:
            if requirement not in REQUIREMENTS:
                raise PluginError(
                    f"{plugin.name}: requires {requirement!r}, which the trainer does not know"
                    f"{nearest(requirement, REQUIREMENTS)}; known: {', '.join(REQUIREMENTS)}"
                )
        if "no loss scaler" in plugin.requires and loss_scaler:
            raise PluginError(
                f"{plugin.name}: cannot run with a loss scaler; use precision '32-true' or "
                "'bf16-mixed' instead of '16-mixed'"
            )
        if ("state_dict" in used) != ("load_state_dict" in used):
            raise PluginError(
                f"{plugin.name}: state_dict and load_state_dict must be defined together, or a "
                "resumed run would silently lose the plugin's state"
            )
        if plugin.sync_every < 1:
            raise PluginError(f"{plugin.name}: sync_every must be >= 1, got {plugin.sync_every}")

    def _check_conflicts(self) -> None:
        names = [plugin.name for plugin in self.plugins]
        for plugin in self.plugins:
            clash = plugin.conflicts.intersection(names)
            if clash:
                raise PluginError(f"{plugin.name}: cannot run beside {sorted(clash)}; remove one")

    def calls(self, hook: str) -> list[Any]:
        """Bound methods of the plugins that define ``hook``, in list order."""
        return self._calls[hook]

    def owner(self, hook: str) -> TrainerPlugin | None:
        """The plugin that owns ``hook`` (a key of :data:`OWNED`), if any."""
        return self._own.get(hook)

    def identities(self) -> list[dict[str, Any]]:
        """Names and versions in order: what a checkpoint must agree with."""
        return [
            {"name": plugin.name, "version": plugin.version, "config": plugin.config}
            for plugin in self.plugins
        ]

    def state(self, scope: Scope) -> list[dict[str, Any]]:
        """Saved state of every plugin, in order."""
        return [plugin.state_dict(scope) for plugin in self.plugins]

    def load(self, scope: Scope, states: Sequence[dict[str, Any]]) -> None:
        """Hand the saved states back, in order."""
        for plugin, state in zip(self.plugins, states, strict=True):
            plugin.load_state_dict(scope, state)

    def export(self, model: nn.Module) -> nn.Module:
        """Pass ``model`` through every plugin's ``export``."""
        for export in self.calls("export"):
            model = export(model)
        return model

    def __len__(self) -> int:
        return len(self.plugins)


def clone_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a detached CPU copy of a module's state dict, one tensor per entry."""
    return {
        key: value.detach().to("cpu", copy=True).contiguous()
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
