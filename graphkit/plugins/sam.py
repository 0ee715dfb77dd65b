"""Sharpness-aware minimisation: the gradient is taken at the worst nearby point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graphkit.errors import PluginError
from graphkit.train.hooks import Closure, TrainerPlugin


@contextmanager
def at_worst_point(
    parameters: Sequence[nn.Parameter], rho: float, adaptive: bool = False
) -> Iterator[None]:
    """Move parameters to the approximate worst point within ``rho``, and back to the bit.

    ``e = rho * g / ||g||``; adaptive (ASAM): ``e = rho * theta^2 * g / || |theta| * g ||``. The
    norm is over all parameters together. With zero gradient nothing moves.

    Args:
        parameters: with gradients in ``.grad``; those without stay where they are.
        rho: radius of the neighbourhood.
        adaptive: measure the radius relative to each weight.

    Example:
        >>> theta = nn.Parameter(torch.tensor([3.0, 4.0])); theta.grad = theta.detach().clone()
        >>> with at_worst_point([theta], rho=0.5):
        ...     print([round(v, 4) for v in theta.tolist()])
        [3.3, 4.4]
        >>> theta.tolist()
        [3.0, 4.0]
    """
    moved = [p for p in parameters if p.grad is not None]
    before = [p.detach().clone() for p in moved]
    if moved:
        with torch.no_grad():
            _ascend(moved, rho, adaptive)
    try:
        yield
    finally:
        # Copied back, not subtracted: subtraction would leave rounding errors in the weights.
        with torch.no_grad():
            for parameter, saved in zip(moved, before, strict=True):
                parameter.copy_(saved)


def _ascend(moved: Sequence[nn.Parameter], rho: float, adaptive: bool) -> None:
    grads: list[Tensor] = [p.grad for p in moved if p.grad is not None]
    scaled = [p.abs() * g for p, g in zip(moved, grads, strict=True)] if adaptive else grads
    norms = torch.stack(torch._foreach_norm(scaled))
    # Half precision would overflow in the square of the norm.
    norm = torch.linalg.vector_norm(norms, dtype=torch.promote_types(norms.dtype, torch.float32))
    scale = torch.where(norm > 0, rho / (norm + 1e-12), torch.zeros_like(norm))
    for parameter, grad in zip(moved, grads, strict=True):
        direction = parameter.square() * grad if adaptive else grad
        parameter.add_(direction * scale.to(direction.dtype))


class SAM(Optimizer):
    """Any base optimiser with SAM's gradient, for training loops of one's own.

    Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    arXiv 2010.01412. Dropout masks and BatchNorm statistics of the second pass are the caller's
    business; inside the Trainer the plugin :class:`SAMPlugin` takes care of them.

    Args:
        base: the optimiser that takes the step; weight decay and momentum are its own.
        rho: radius of the neighbourhood, at least 0.
        adaptive: use ASAM's radius, relative to each weight.

    Raises:
        PluginError: rho is negative or not finite.

    Example:
        >>> theta = nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = SAM(torch.optim.SGD([theta], lr=0.1), rho=0.05)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (theta[0] ** 2 + 4 * theta[1] ** 2) / 2
        ...     loss.backward()
        ...     return loss
        >>> _ = optimizer.step(closure); [round(v, 6) for v in theta.tolist()]
        [0.898787, 0.580597]
    """

    def __init__(self, base: Optimizer, rho: float = 0.05, adaptive: bool = False) -> None:
        _check_rho(rho)
        self.base, self.rho, self.adaptive = base, rho, adaptive
        super().__init__(base.param_groups, base.defaults)
        self.param_groups = base.param_groups

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; ``closure`` clears gradients, runs forward and backward."""
        if closure is None:
            raise PluginError("SAM: step needs a closure that computes loss and gradients")
        with torch.enable_grad():
            loss = closure()
            parameters = [p for group in self.param_groups for p in group["params"]]
            with at_worst_point(parameters, self.rho, self.adaptive):
                closure()
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups = self.base.param_groups


class SAMPlugin(TrainerPlugin):
    """H6 owner: two gradients per step, the second at the worst point near the weights.

    The second pass sees the same batch, dropout masks and samples; BatchNorm statistics and
    logged figures come from the first. Clipping acts on the second gradient only.

    Args:
        rho: radius, 0.01 to 0.2 are worth trying.
        adaptive: use ASAM's radius, relative to each weight.
        ascent: "local": each worker climbs its own gradient (one reduction per step);
            "global": all climb the averaged one. Results differ with more than one worker.

    Raises:
        PluginError: rho is negative or not finite, or ascent is unknown.
    """

    name = "sam"
    requires = frozenset({"replayable RNG"})
    can_reshard = True

    def __init__(
        self,
        rho: float = 0.05,
        adaptive: bool = False,
        ascent: Literal["local", "global"] = "local",
    ) -> None:
        _check_rho(rho)
        if ascent not in ("local", "global"):
            raise PluginError(f"sam: ascent must be 'local' or 'global', got {ascent!r}")
        self.rho, self.adaptive, self.ascent = float(rho), adaptive, ascent

    @property
    def config(self) -> dict[str, Any]:
        return {"rho": self.rho, "adaptive": self.adaptive, "ascent": self.ascent}

    def step(self, closure: Closure, optimizer: Optimizer) -> None:
        closure(clip=False, reduce=self.ascent == "global")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        with at_worst_point(parameters, self.rho, self.adaptive):
            closure()
        optimizer.step()


def _check_rho(rho: float) -> None:
    if isinstance(rho, bool) or not isinstance(rho, (int, float)):
        raise PluginError(f"sam: rho must be a number, got {rho!r}")
    if not (math.isfinite(rho) and rho >= 0):
        raise PluginError(f"sam: rho must be finite and at least 0, got {rho}")
