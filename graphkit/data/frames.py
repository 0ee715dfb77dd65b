"""Tables from CSV and Parquet files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError

if TYPE_CHECKING:
    import pandas

_PACKED = (".gz", ".bz2", ".xz", ".zip")
_TEXT, _PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")


def read_frame(path: str | os.PathLike[str]) -> pandas.DataFrame:
    """Read a table from a file: CSV with a header line, also compressed, or Parquet.

    Args:
        path: ends in ``.csv``, ``.txt`` (commas), ``.tsv`` (tabs), one of these with ``.gz``,
            ``.bz2``, ``.xz`` or ``.zip``; or in ``.parquet`` or ``.pq``.

    Raises:
        DatasetNotFoundError: there is no such file.
        CorruptFileError: it cannot be read as a table.
        InputError: an unknown kind of file, or a Parquet file and no reader for it.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.csv"
        >>> _ = path.write_text("user,item\\n1,7\\n")
        >>> read_frame(path)["item"].tolist()
        [7]
    """
    import pandas

    path = Path(path)
    if not path.is_file():
        raise DatasetNotFoundError(f"{path}: there is no such file")
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] and endings[-1] in _PACKED:
        endings.pop()
    kind = endings[-1] if endings else ""
    packed_parquet = kind in _PARQUET and path.suffix.lower() not in _PARQUET
    if kind not in (*_TEXT, *_PARQUET) or packed_parquet:
        raise InputError(
            f"{path}: wanted .csv, .tsv or .txt, also with {', '.join(_PACKED)}, or .parquet"
        )
    try:
        if kind in _PARQUET:
            return pandas.read_parquet(path)
        return pandas.read_csv(path, sep="\t" if kind == ".tsv" else ",")
    except ImportError as error:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow; pip install 'graphkit[parquet]', or give "
            "a CSV file"
        ) from error
    except Exception as error:  # readers of both kinds have errors of their own
        raise CorruptFileError(f"{path}: no table of values: {error}") from error
