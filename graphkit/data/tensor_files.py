"""Read ``.pt`` files that hold tensors or arrays and nothing that could run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphkit.errors import CorruptFileError


def _array_types() -> list[Any]:
    """What NumPy arrays are made of; none of these does anything but build an array."""
    from _codecs import encode

    reconstruct = np.zeros(0).__reduce__()[0]
    dtypes = [
        type(np.dtype(kind)) for kind in ("i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8", "?")
    ]
    return [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        encode,
        *dtypes,
    ]


def read_tensor_file(path: Path) -> Any:
    """Read a ``.pt`` file with torch's weights-only reader, which also takes NumPy arrays here.

    Raises:
        CorruptFileError: damaged, or it holds anything else than tensors, arrays and containers.
    """
    try:
        with torch.serialization.safe_globals(_array_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError) as error:
        raise CorruptFileError(f"{path}: cannot be read ({error})") from error
    except Exception as error:
        # Unpickling errors have no common base; whatever it is, the file is refused.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptFileError(
            f"{path}: holds something else than tensors and arrays, or is damaged ({reason[:200]})"
        ) from error
