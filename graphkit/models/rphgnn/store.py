"""Where propagated groups live: in memory, or as a memory-mapped safetensors file."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.errors import CorruptFileError, InputError, StorageError
from graphkit.storage import atomic_path

FORMAT = "graphkit-groups/1"
_MAX_HEADER = 1 << 20

Shapes = Mapping[str, Sequence[int]]


def size_of(shapes: Shapes) -> int:
    """Bytes of float16 tensors of these shapes.

    Example:
        >>> size_of({"a": (2, 3, 4)})
        48
    """
    return sum(2 * math.prod(shape) for shape in shapes.values())


def _header(shapes: Shapes, about: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": FORMAT, **about}}
    start = 0
    for name, shape in shapes.items():
        end = start + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _mapped(path: Path, shapes: Shapes, start: int, mode: Any) -> dict[str, Tensor]:
    found = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        if size == 0:
            found[name] = torch.zeros(tuple(shape), dtype=torch.float16)
            continue
        array = np.memmap(path, dtype=np.float16, mode=mode, offset=start, shape=tuple(shape))
        found[name] = torch.from_numpy(array)
        start += 2 * size
    return found


def _fill(path: Path, shapes: Shapes, about: Mapping[str, str]) -> dict[str, Tensor]:
    """Write the header, reserve the space and map it."""
    header = _header(shapes, about)
    try:
        with open(path, "wb") as stream:
            stream.write(header)
            total = len(header) + size_of(shapes)
            if hasattr(os, "posix_fallocate"):
                # Now, not as a bus error when a page is written to a full disk.
                os.posix_fallocate(stream.fileno(), 0, total)
            else:
                stream.truncate(total)
    except OSError as error:
        raise StorageError(
            f"cannot reserve {size_of(shapes)} bytes at {path}: {error.strerror}; name a folder "
            "with more space, or lower the width or the number of iterations"
        ) from error
    return _mapped(path, shapes, len(header), "r+")


@contextmanager
def new_groups(
    shapes: Shapes, about: Mapping[str, str], path: Path | None, budget: int
) -> Iterator[dict[str, Tensor]]:
    """Float16 tensors to be filled inside the ``with``.

    With a path they are a safetensors file that appears there, whole, at the end; whoever goes on
    reads it, since writing to these tensors would still change it. Without one they are in memory,
    or beyond ``budget`` bytes in a temporary file that goes when they do.

    Args:
        shapes: by name.
        about: metadata of the file.
        path: the file, or nothing.
        budget: bytes that may be in memory.

    Raises:
        StorageError: the disk is full or the folder not writable.

    Example:
        >>> with new_groups({"a": (2, 1, 3)}, {}, None, 0) as groups:
        ...     _ = groups["a"].fill_(1)
        >>> groups["a"].sum().item()
        6.0
    """
    if path is not None:
        with atomic_path(path) as temporary:
            yield _fill(temporary, shapes, about)
        return
    if size_of(shapes) <= budget:
        yield {
            name: torch.zeros(tuple(shape), dtype=torch.float16) for name, shape in shapes.items()
        }
        return
    handle, name = tempfile.mkstemp(prefix="graphkit-", suffix=".safetensors")
    os.close(handle)
    try:
        groups = _fill(Path(name), shapes, about)
    finally:
        # The mapping holds the file until the last tensor is gone.
        os.unlink(name)
    yield groups


def read_groups(path: Path, expected: Mapping[str, str]) -> dict[str, Tensor]:
    """Map the groups of a file, if they are the expected ones.

    Args:
        path: written by :func:`new_groups`.
        expected: metadata that must agree.

    Raises:
        InputError: the file was made from another graph or with other options.
        CorruptFileError: it is not such a file.
    """
    try:
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise ValueError(f"header of {length} bytes")
            entries = json.loads(stream.read(length))
        about = entries.pop("__metadata__")
        if about.get("format") != FORMAT:
            raise ValueError(f"format {about.get('format')!r}, wanted {FORMAT!r}")
        shapes: dict[str, list[int]] = {}
        start = 0
        for name, entry in entries.items():
            shape = [int(n) for n in entry["shape"]]
            end = start + 2 * math.prod(shape)
            if entry["dtype"] != "F16" or min(shape) < 0 or entry["data_offsets"] != [start, end]:
                raise ValueError(f"entry {name!r}")
            shapes[name], start = shape, end
        if path.stat().st_size != 8 + length + start:
            raise ValueError(f"{path.stat().st_size} bytes, wanted {8 + length + start}")
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"{path}: not a file of propagated groups ({error})") from error
    for key, wanted in expected.items():
        if about.get(key) != wanted:
            raise InputError(
                f"path: {path} was made with another {key}: {about.get(key)!r}, wanted {wanted!r}; "
                "remove the file or name another one"
            )
    # Copy on write: nobody changes the file by accident.
    return _mapped(path, shapes, 8 + length, "c")
