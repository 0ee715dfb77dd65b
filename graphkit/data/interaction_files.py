"""Files of user-item pairs: one line per user, one line per pair, CSV and Parquet."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.frames import read_frame
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError

if TYPE_CHECKING:
    import pandas

_MAX_DIGITS = 18  # of an id: more would not fit an int64
_LIST_LINE = re.compile(rb"[0-9]+(?: [0-9]+)+ *")


def read_lists(path: str | os.PathLike[str]) -> Tensor:
    """Read a file with one line per user, ``user item item ...``, space separated.

    Args:
        path: the file.

    Returns:
        Pairs int64 ``[2, E]`` in the order of the file.

    Raises:
        CorruptFileError: a line without items, or anything that is no id; names the line.
    """
    lines = _bytes(path).replace(b"\r\n", b"\n").split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not _LIST_LINE.fullmatch(line):
            _refuse(path, number, line)
    # Numbers are one space apart, as the pattern says.
    counts = np.array([line.rstrip().count(b" ") + 1 for line in lines], dtype=np.int64)
    values = _integers(path, b" ".join(lines))
    first = np.cumsum(counts) - counts
    items = np.ones(len(values), dtype=bool)
    items[first] = False
    users = np.repeat(values[first], counts - 1)
    return torch.from_numpy(np.stack([users, values[items]]))


def _refuse(path: Any, number: int, line: bytes) -> None:
    words = line.split()
    shown = line[:40].decode("utf-8", "replace")
    if len(words) == 1 and words[0].isdigit():
        raise CorruptFileError(f"{path}, line {number}: user {shown.strip()} has no items")
    if not words:
        raise CorruptFileError(f"{path}, line {number}: is empty")
    raise CorruptFileError(
        f"{path}, line {number}: {shown!r}, wanted 'user item item ...' with ids from 0"
    )


def read_triples(path: str | os.PathLike[str], first_id: int = 0) -> Tensor:
    """Read a file with one line per pair, ``user item`` and anything, tab or space separated.

    Args:
        path: the file.
        first_id: the smallest id that the file uses; ids are made to count from 0.

    Returns:
        Pairs int64 ``[2, E]`` in the order of the file.

    Raises:
        CorruptFileError: a line without two ids, or an id below ``first_id``; names the line.
    """
    found = []
    for number, line in enumerate(_bytes(path).splitlines(), start=1):
        words = line.split(None, 2)
        if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
            shown = line[:40].decode("utf-8", "replace")
            raise CorruptFileError(f"{path}, line {number}: {shown!r}, wanted 'user item ...'")
        found.append(words[0] + b" " + words[1])
    pairs = _integers(path, b" ".join(found)).reshape(-1, 2).T - first_id
    if pairs.size and pairs.min() < 0:
        number = int((pairs < 0).any(0).argmax()) + 1
        raise CorruptFileError(f"{path}, line {number}: an id below {first_id}")
    return torch.from_numpy(np.ascontiguousarray(pairs))


def _bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: there is no such file") from error


def _integers(path: Any, text: bytes) -> np.ndarray[Any, Any]:
    words = text.split()
    if words and max(map(len, words)) > _MAX_DIGITS:
        raise CorruptFileError(f"{path}: an id of more than {_MAX_DIGITS} digits")
    return np.array(list(map(int, words)), dtype=np.int64)


def read_table(
    source: str | os.PathLike[str] | pandas.DataFrame | Tensor,
    user: str | int = 0,
    item: str | int = 1,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read users and items from a CSV or Parquet file, a data frame, or a ``[2, E]`` tensor.

    Args:
        source: a CSV or Parquet file, see :func:`graphkit.data.frames.read_frame`; or the table
            itself.
        user: name or position of the column of users.
        item: name or position of the column of items.

    Returns:
        Two arrays of one value per row: whole numbers or texts.

    Raises:
        InputError: no such column, a missing value, an unknown kind of file, or a Parquet file and
            no reader for it.
        DatasetNotFoundError: there is no such file.
        CorruptFileError: it cannot be read as a table.
    """
    if isinstance(source, Tensor):
        if source.dim() != 2 or source.size(0) != 2 or source.is_floating_point():
            raise InputError(f"pairs: {source.dtype} {list(source.shape)}, wanted int [2, E]")
        return source[0].numpy(), source[1].numpy()
    frame = read_frame(source) if isinstance(source, str | os.PathLike) else source
    columns = []
    for what, column in (("user", user), ("item", item)):
        known = list(frame.columns)
        if isinstance(column, int) and column not in known and 0 <= column < len(known):
            column = known[column]
        if column not in known:
            raise InputError(f"{what}: no column {column!r}; there are {known}")
        values = frame[column]
        missing = values.isna()
        if missing.any():
            raise InputError(f"{what}: row {int(missing.argmax())} of column {column!r} is missing")
        if values.dtype.kind == "f":
            whole = values.astype("int64")
            if not (whole == values).all():
                raise InputError(f"{what}: column {column!r} holds fractions, wanted ids")
            values = whole
        columns.append(values.to_numpy() if values.dtype.kind in "iu" else _texts(values))
    return columns[0], columns[1]


def _texts(values: Any) -> np.ndarray[Any, Any]:
    return np.array([str(value) for value in values], dtype=str)
