"""The one place where a pickle is opened: Planetoid's ``ind.*`` files, after a checksum match.

They name six globals. Nothing else can be looked up, so nothing else can run. Everything else in
this library refuses pickles.
"""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from graphkit.errors import CorruptFileError
from graphkit.storage import sha256_file


def _allowed() -> dict[tuple[str, str], Any]:
    from scipy.sparse import csr_matrix

    # Old module paths, as the files name them, and what they are called today.
    return {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("scipy.sparse.csr", "csr_matrix"): csr_matrix,
        ("collections", "defaultdict"): collections.defaultdict,
        ("__builtin__", "list"): list,
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")
        self.table = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.table:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self.table[module, name]


def read_planetoid_pickle(path: Path, sha256: str) -> Any:
    """Read one ``ind.*`` file whose checksum is known.

    Args:
        path: the file.
        sha256: checksum that it must have; nothing is opened before it matches.

    Raises:
        CorruptFileError: another checksum, or the content names something that is not allowed.
    """
    if sha256_file(path) != sha256:
        raise CorruptFileError(
            f"{path}: the checksum is not the one on the card; the file is not opened"
        )
    try:
        return _Unpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:
        raise CorruptFileError(f"{path}: not a Planetoid file ({error})") from error
