"""Optimisers by name, with checked arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
NamedParameter = nn.Parameter | tuple[str, nn.Parameter]


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
        if key == "groups":
            _check_groups(value, name, accepted)
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


def _check_groups(groups: Any, name: str, accepted: set[str]) -> None:
    if not isinstance(groups, Mapping):
        raise InputError(f"optimizer: groups must map part names to arguments, got {groups!r}")
    for part, arguments in groups.items():
        if not isinstance(arguments, Mapping) or "groups" in arguments or "name" in arguments:
            raise InputError(
                f"optimizer: groups.{part} must be a mapping such as {{'lr': 0.001}}, "
                f"got {arguments!r}"
            )
        check_optimizer({"name": name, **arguments})


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[NamedParameter]) -> Optimizer:
    """Make the optimiser of a description ``{"name": "AdamW", "lr": 1e-3, ...}`` or callable.

    torch's fused update is used where the optimiser has one: one kernel instead of several per
    parameter, which is what small graph models spend a step on.

    ``groups`` gives parts of the model arguments of their own: ``{"encoder": {"lr": 0.01}}`` holds
    for all parameters whose names start with ``encoder.``; the others follow the description.

    Args:
        spec: the description.
        parameters: as ``parameters()`` or ``named_parameters()`` gives them; ``groups`` and only
            they want the names.

    Raises:
        InputError: unknown name or argument, no trainable parameter, or a group without any.

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> build_optimizer({"name": "SGD", "lr": 0.1}, [weight]).defaults["lr"]
        0.1
    """
    named = [one if isinstance(one, tuple) else ("", one) for one in parameters]
    named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    trainable = [parameter for _, parameter in named]
    if not trainable:
        raise InputError("optimizer: the model has no parameter with requires_grad=True")
    if callable(spec):
        optimizer = spec(trainable)
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer: the callable returned {type(optimizer).__name__}")
        return optimizer
    check_optimizer(spec)
    arguments = {key: value for key, value in spec.items() if key not in ("name", "groups")}
    name = str(spec.get("name", "Adam"))
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    chosen = {"foreach", "fused", "differentiable", "capturable"}.intersection(arguments)
    floating = all(p.dtype in (torch.float32, torch.float64) for p in trainable)
    if name in _FUSED and not chosen and floating:
        arguments["fused"] = True
    return _BY_NAME[name](_grouped(named, spec.get("groups") or {}), **arguments)


def _grouped(
    named: Sequence[tuple[str, nn.Parameter]], groups: Mapping[str, Mapping[str, Any]]
) -> Any:
    """One entry per group, then the parameters of none of them."""
    if not groups:
        return [parameter for _, parameter in named]
    owner = {}
    for name, _ in named:
        fitting = [part for part in groups if name.startswith(f"{part}.")]
        owner[name] = max(fitting, key=len, default=None)  # the innermost part that is named
    found = []
    for part, arguments in groups.items():
        members = [parameter for name, parameter in named if owner[name] == part]
        if not members:
            parts = sorted({name.split(".")[0] for name, _ in named})
            raise InputError(
                f"optimizer: groups.{part} has no trainable parameter{nearest(part, parts)}; the "
                f"parts of this model are {', '.join(parts)}"
            )
        found.append({"params": members, **arguments})
    rest = [parameter for name, parameter in named if owner[name] is None]
    return [*found, {"params": rest}] if rest else found
