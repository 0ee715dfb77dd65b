"""Graph learning on PyTorch and PyTorch Geometric with fused message passing."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphkit.acceleration import accelerate, restore

try:
    __version__ = version("graphkit")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

_SUBPACKAGES = (
    "compat", "data", "models", "nn", "ops", "plugins", "recipes", "results", "tasks", "train",
    "zoo",
)  # fmt: skip

_FUNCTIONS = {"accelerate": "acceleration", "restore": "acceleration"}

__all__ = ["__version__", "accelerate", "restore", *_SUBPACKAGES]


def __getattr__(name: str) -> Any:
    # Importing torch and PyG takes seconds; `import graphkit` must not pay for what is not used.
    if name in _SUBPACKAGES:
        return importlib.import_module(f"graphkit.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"graphkit.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'graphkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
