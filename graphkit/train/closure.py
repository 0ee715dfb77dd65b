"""The forward, backward, reduction and clipping of one step, as a closure that can be replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graphkit.errors import GraphkitError, InputError
from graphkit.train.hooks import PluginList
from graphkit.train.rng import capture_rng, restore_rng
from graphkit.train.world import World, any_rank, mean_gradients


class DivergenceError(GraphkitError, ArithmeticError):
    """The loss became NaN or infinite."""


class SkipStep(Exception):
    """A gradient overflowed under the loss scaler; all ranks drop this step together."""


class LossScaler:
    """Dynamic loss scaling for float16, independent of how often a step runs its closure.

    The scale halves when a gradient overflows on any rank and doubles after ``growth_interval``
    good steps.
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale = scale
        self.growth_interval = growth_interval
        self.good_steps = 0

    def update(self, overflow: bool) -> None:
        """Adapt the scale after a step."""
        if overflow:
            self.scale, self.good_steps = max(self.scale / 2, 1.0), 0
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_interval:
            self.scale, self.good_steps = min(self.scale * 2, 2.0**24), 0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])


class Forward:
    """What every closure of a run shares: model, task, plugins, workers, precision."""

    def __init__(
        self,
        model: nn.Module,
        task: Any,
        plugins: PluginList,
        world: World,
        *,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        scaler: LossScaler | None = None,
        check_every_step: bool = True,
        valid_batch: Callable[[], Any] | None = None,
    ) -> None:
        self.model = model
        self.task = task
        self.plugins = plugins
        self.world = world
        self.autocast = autocast
        self.scaler = scaler
        self.check_every_step = check_every_step
        self.valid_batch = valid_batch
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.buffers = list(model.buffers())
        owner = plugins.owner("H4 reduce")
        # An H5 owner replaces the averaging of gradients by its own way of keeping workers close.
        local = owner is None and plugins.owner("H5 sync") is not None
        self.reduce = None if local else (owner.reduce if owner else mean_gradients)
        self.needs_reduce = self.reduce is not None and (owner is not None or world.size > 1)
        clipper = plugins.owner("clip slot")
        self.clip = clipper.clip if clipper else None
        self.may_replay = plugins.owner("H6 step") is not None

    def loss(self, batch: Any, split: str) -> tuple[Tensor, Tensor]:
        """Run the model and H3 on one micro-batch."""
        with self.autocast():
            out = self.task.apply(self.model, batch)
            loss = self.task.loss(out, batch, split)
            for extra_loss in self.plugins.calls("extra_loss"):
                loss = extra_loss(self.model, batch, out, loss)
        return loss, out


class StepClosure:
    """Forward to clip for the micro-batches of one optimiser step.

    The first call draws fresh random numbers, updates buffers such as BatchNorm statistics and is
    the one that is logged. Later calls see the same dropout masks (``replay``) and leave buffers
    and the random stream as they found them.

    Args:
        forward: what the closures of a run share.
        batches: micro-batches, already through H2.
        weights: share of each micro-batch in the loss of the step; they sum to one.
    """

    def __init__(self, forward: Forward, batches: Sequence[Any], weights: Sequence[float]) -> None:
        self.forward = forward
        self.batches = batches
        self.weights = weights
        self.calls = 0
        self.logged_loss: Tensor | None = None
        self.first_outputs: list[Tensor] = []
        self._rng = capture_rng() if forward.may_replay else None
        self._valid: Any = None

    def __call__(
        self,
        split: str = "train",
        grad: bool = True,
        replay: bool = True,
        want: Literal["loss", "out"] = "loss",
        reduce: bool = True,
        clip: bool = True,
    ) -> Any:
        """Return the detached loss (``want="loss"``) or the list of model outputs (``"out"``).

        Args:
            split: "train", or "valid": a batch of the validation set, with the model in eval mode.
            grad: compute gradients into ``.grad``; without, nothing but the value is computed.
            replay: use the random numbers of the first call.
            want: what to return.
            reduce: combine gradients over workers (H4); ``False`` leaves the local ones.
            clip: let the clip slot act.
        """
        if split not in ("train", "valid") or want not in ("loss", "out"):
            raise InputError(
                f"closure: split must be 'train' or 'valid' and want 'loss' or 'out', "
                f"got {split!r} and {want!r}"
            )
        first = self.calls == 0
        self.calls += 1
        with nullcontext() if first else self._replaying(replay):
            if split == "valid":
                return self._on_validation(grad, want, reduce, clip)
            return self._run("train", self.batches, self.weights, grad, want, reduce, clip, first)

    @contextmanager
    def _replaying(self, replay: bool) -> Iterator[None]:
        buffers = [buffer.clone() for buffer in self.forward.buffers]
        after = capture_rng()
        if replay and self._rng is not None:
            restore_rng(self._rng)
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, saved in zip(self.forward.buffers, buffers, strict=True):
                    buffer.copy_(saved)
            restore_rng(after)

    def _on_validation(self, grad: bool, want: str, reduce: bool, clip: bool) -> Any:
        if self._valid is None:
            if self.forward.valid_batch is None:
                raise InputError("closure: split='valid' needs a validation set")
            self._valid = self.forward.valid_batch()
        model = self.forward.model
        model.eval()
        try:
            return self._run("valid", [self._valid], [1.0], grad, want, reduce, clip, False)
        finally:
            model.train()

    def _run(
        self,
        split: str,
        batches: Sequence[Any],
        weights: Sequence[float],
        grad: bool,
        want: str,
        reduce: bool,
        clip: bool,
        log: bool,
    ) -> Any:
        forward = self.forward
        scale = forward.scaler.scale if forward.scaler else 1.0
        if grad:
            for parameter in forward.parameters:
                parameter.grad = None
        total: Tensor | None = None
        outputs: list[Tensor] = []
        with nullcontext() if grad else torch.no_grad():
            for batch, weight in zip(batches, weights, strict=True):
                loss, out = forward.loss(batch, split)
                outputs.append(out.detach())
                if weight != 1.0:
                    loss = loss * weight
                if grad:
                    torch.autograd.backward(loss * scale if forward.scaler else loss)
                total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        if log:
            self.logged_loss, self.first_outputs = total, outputs
        if grad:
            self._finish_gradients(total, reduce, clip)
        return total if want == "loss" else outputs

    def _finish_gradients(self, total: Tensor, reduce: bool, clip: bool) -> None:
        forward = self.forward
        self._unscale()
        self._agree_finite(total)
        if reduce and forward.needs_reduce:
            self._reduce()
        if clip and forward.clip is not None:
            forward.clip(forward.parameters)

    def _unscale(self) -> None:
        if self.forward.scaler is None:
            return
        grads = [p.grad for p in self.forward.parameters if p.grad is not None]
        torch._foreach_div_(grads, self.forward.scaler.scale)

    def _agree_finite(self, total: Tensor) -> None:
        """Raise on every rank when a loss or gradient of any rank is not finite."""
        forward = self.forward
        if forward.scaler is not None:
            norms = [p.grad.abs().max() for p in forward.parameters if p.grad is not None]
            bad = not bool(torch.isfinite(torch.stack(norms)).all()) if norms else False
            if any_rank(forward.world, bad):
                raise SkipStep
        elif forward.check_every_step:
            value = float(total)
            if any_rank(forward.world, not math.isfinite(value)):
                raise DivergenceError(f"training loss is {value}")

    def _reduce(self) -> None:
        forward = self.forward
        parameters = forward.parameters
        # A parameter unused on every rank keeps no gradient, exactly as with a single worker.
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        if forward.world.size > 1:
            used = forward.world.all_reduce(used, "max")
        chosen = [p for p, flag in zip(parameters, used.tolist(), strict=True) if flag]
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in chosen]
        assert forward.reduce is not None
        reduced = forward.reduce(grads, forward.world)
        for parameter, grad in zip(chosen, reduced, strict=True):
            parameter.grad = grad
