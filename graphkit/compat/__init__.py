"""Other packages' interfaces on graphkit's kernels, for where those cannot be installed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from graphkit.compat import torch_scatter

__all__ = ["install", "torch_scatter"]

_NAME = "torch_scatter"
# Modules of the package, and those here that hold the same functions.
_SUBMODULES = {
    "composite": "composite",
    "scatter": "scatter",
    "segment_coo": "segment",
    "segment_csr": "segment",
    "utils": "broadcast",
}


def install(force: bool = False) -> ModuleType:
    """Make ``import torch_scatter`` find graphkit's functions where the package is missing.

    From then on, in this process, ``import torch_scatter`` and ``from torch_scatter import ...``
    give :mod:`graphkit.compat.torch_scatter`. A package that is installed but does not load, as
    one built for another torch, counts as missing; one that works is left in place.

    Call it before the code that imports torch_scatter, first of all:

    - PyTorch Geometric looks for torch_scatter once, when it is imported. If this was called
      before, PyG uses these functions wherever it prefers the package to plain torch; if after, it
      goes on with plain torch. Both work.
    - Other processes are not affected: workers that are spawned must call it too.
    - Code that has already imported the real package keeps it, even with ``force``.
    - The list of installed packages (``importlib.metadata``), ``torch.ops.torch_scatter`` and
      TorchScript are not affected; packages with their own binaries, as torch_sparse and
      torch_cluster, are not provided.
    - ``graphkit.ops.backend("torch_scatter")`` means the real package, and refuses this one.

    Args:
        force: shadow a package that works.

    Returns:
        The module that ``import torch_scatter`` now gives: this one, or the real one.

    Example:
        >>> import torch
        >>> install().scatter(torch.tensor([1.0, 2.0]), torch.tensor([0, 0])).tolist()
        [3.0]
    """
    if not force:
        try:
            return importlib.import_module(_NAME)
        except Exception:  # a binary for another torch fails with OSError or RuntimeError
            pass
    for module in [m for m in sys.modules if m.startswith(f"{_NAME}.")]:
        del sys.modules[module]
    sys.modules[_NAME] = torch_scatter
    for name, ours in _SUBMODULES.items():
        sys.modules[f"{_NAME}.{name}"] = sys.modules[f"{torch_scatter.__name__}.{ours}"]
    return torch_scatter
