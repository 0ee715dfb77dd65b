"""Models by name."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from graphkit.errors import InputError, nearest

_MODELS: dict[str, type[nn.Module]] = {}
Model = TypeVar("Model", bound=type[nn.Module])


def register_model(name: str) -> Callable[[Model], Model]:
    """Class decorator: make a model known by ``name``.

    The class takes JSON-serialisable keyword arguments and keeps them in ``config``.
    """

    def enter(cls: Model) -> Model:
        cls.name = name  # type: ignore[attr-defined]
        _MODELS[name] = cls
        return cls

    return enter


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern.

    Example:
        >>> "mpnn_vn" in list_models("mpnn*")
        True
    """
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_class(name: str) -> type[nn.Module]:
    """The class of a model.

    Raises:
        InputError: no model has this name.
    """
    if name not in _MODELS:
        raise InputError(f"model: no {name!r} among {', '.join(_MODELS)}{nearest(name, _MODELS)}")
    return _MODELS[name]


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a model from its name and keyword arguments.

    Raises:
        InputError: unknown name or argument, or an argument the model refuses.

    Example:
        >>> create_model("mpnn_vn", in_channels=4, out_channels=2, conv="gcn").name
        'mpnn_vn'
    """
    cls = model_class(name)
    known = list(inspect.signature(cls.__init__).parameters)[1:]
    for key in kwargs:
        if key not in known:
            raise InputError(f"model.{key}: {name} has no such argument{nearest(key, known)}")
    return cls(**kwargs)
