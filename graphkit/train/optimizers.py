"""Optimisers by name, with checked arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from graphkit.errors import InputError, nearest

_BY_NAME: dict[str, type[Optimizer]] = {
    cls.__name__: cls
    for cls in (
        torch.optim.Adadelta,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.Adamax,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.SGD,
    )
}
_FUSED = {"Adam", "AdamW", "SGD", "Adagrad"}

OptimizerSpec = Mapping[str, Any] | Callable[[list[nn.Parameter]], Optimizer]


def check_optimizer(spec: OptimizerSpec) -> None:
    """Refuse an optimiser description before anything is built.

    Raises:
        InputError: unknown name or argument, or a number that is not finite.
    """
    if callable(spec):
        return
    if not isinstance(spec, Mapping):
        raise InputError(f"optimizer: expected a mapping with 'name' or a callable, got {spec!r}")
    name = str(spec.get("name", "Adam"))
    if name not in _BY_NAME:
        raise InputError(
            f"optimizer: unknown name {name!r}{nearest(name, _BY_NAME)}; known: "
            f"{', '.join(sorted(_BY_NAME))}"
        )
    accepted = set(inspect.signature(_BY_NAME[name]).parameters) - {"self", "params"}
    for key, value in spec.items():
        if key == "name":
            continue
        if key not in accepted:
            raise InputError(
                f"optimizer: {name} has no argument {key!r}{nearest(key, accepted)}; it takes "
                f"{', '.join(sorted(accepted))}"
            )
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise InputError(f"optimizer: {key} must be a finite number, got {value}")
        if key == "lr" and not (isinstance(value, (int, float)) and value >= 0):
            raise InputError(f"optimizer: lr must be a number of at least 0, got {value!r}")


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Make the optimiser of a description ``{"name": "AdamW", "lr": 1e-3, ...}`` or callable.

    torch's fused update is used where the optimiser has one: one kernel instead of several per
    parameter, which is what small graph models spend a step on.

    Raises:
        InputError: unknown name or argument, or no trainable parameter.

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> build_optimizer({"name": "SGD", "lr": 0.1}, [weight]).defaults["lr"]
        0.1
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise InputError("optimizer: the model has no parameter with requires_grad=True")
    if callable(spec):
        optimizer = spec(trainable)
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer: the callable returned {type(optimizer).__name__}")
        return optimizer
    check_optimizer(spec)
    arguments = {key: value for key, value in spec.items() if key != "name"}
    name = str(spec.get("name", "Adam"))
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    chosen = {"foreach", "fused", "differentiable", "capturable"}.intersection(arguments)
    floating = all(p.dtype in (torch.float32, torch.float64) for p in trainable)
    if name in _FUSED and not chosen and floating:
        arguments["fused"] = True
    return _BY_NAME[name](trainable, **arguments)
