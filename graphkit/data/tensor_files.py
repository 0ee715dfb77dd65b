"""Read ``.pt`` files that hold tensors or arrays and nothing that could run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from graphkit.data.array_pickle import read_array_pickle
from graphkit.errors import CorruptFileError


def read_tensor_file(path: Path) -> Any:
    """Read a ``.pt`` file: tensors with torch's weights-only reader, NumPy arrays as plain data.

    Raises:
        CorruptFileError: damaged, or it holds anything else than tensors, arrays and containers.
    """
    if not path.is_file():
        raise CorruptFileError(f"{path}: no such file; the data set is incomplete")
    try:
        with warnings.catch_warnings():
            # torch warns about pickle protocol 4 before it refuses the file; see below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # The errors of a refused file have no common base. What torch does not take may still be
        # plain arrays; if not, the next reader refuses it.
        return read_array_pickle(path)
