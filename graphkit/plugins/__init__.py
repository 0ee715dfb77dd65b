"""Paper components that attach to the trainer, by name."""

from __future__ import annotations

import inspect
from fnmatch import fnmatchcase
from typing import Any

from graphkit.errors import PluginError, nearest
from graphkit.plugins.compression import ParameterSharingPlugin, compress, compress_low_rank
from graphkit.plugins.early_stopping import EarlyStoppingPlugin
from graphkit.plugins.ema import EMAPlugin
from graphkit.plugins.grad_clip import GradClipPlugin
from graphkit.plugins.increasing_alpha import IncreasingAlphaPlugin
from graphkit.plugins.lr_schedule import LRSchedulePlugin
from graphkit.plugins.sam import SAM, SAMPlugin, at_worst_point
from graphkit.train.hooks import TrainerPlugin

_BY_NAME: dict[str, type[TrainerPlugin]] = {
    cls.name: cls
    for cls in (
        EarlyStoppingPlugin,
        EMAPlugin,
        GradClipPlugin,
        IncreasingAlphaPlugin,
        LRSchedulePlugin,
        ParameterSharingPlugin,
        SAMPlugin,
    )
}


def list_plugins(pattern: str = "*") -> list[str]:
    """Return the names of the plugins that match a shell pattern.

    Example:
        >>> list_plugins("e*")
        ['early_stopping', 'ema']
    """
    return sorted(name for name in _BY_NAME if fnmatchcase(name, pattern))


def create_plugin(name: str, **arguments: Any) -> TrainerPlugin:
    """Make a trainer plugin by name.

    Args:
        name: see :func:`list_plugins`.
        **arguments: those of the plugin's class.

    Raises:
        PluginError: unknown name, unknown argument, or a value out of range.

    Example:
        >>> create_plugin("sam", rho=0.1).config["rho"]
        0.1
    """
    if name not in _BY_NAME:
        raise PluginError(
            f"plugin: unknown name {name!r}{nearest(str(name), _BY_NAME)}; known: "
            f"{', '.join(list_plugins())}"
        )
    cls = _BY_NAME[name]
    accepted = [key for key in inspect.signature(cls).parameters if key != "self"]
    for key in arguments:
        if key not in accepted:
            raise PluginError(
                f"{name}: has no argument {key!r}{nearest(key, accepted)}; it takes "
                f"{', '.join(accepted)}"
            )
    try:
        return cls(**arguments)
    except TypeError as error:
        raise PluginError(f"{name}: {error}") from error


__all__ = [
    "SAM",
    "EMAPlugin",
    "EarlyStoppingPlugin",
    "GradClipPlugin",
    "IncreasingAlphaPlugin",
    "LRSchedulePlugin",
    "ParameterSharingPlugin",
    "SAMPlugin",
    "at_worst_point",
    "compress",
    "compress_low_rank",
    "create_plugin",
    "list_plugins",
]
