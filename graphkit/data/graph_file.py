"""Graphs from files of edges, read in pieces into one CSR: text, CSV, Parquet, scipy, networkx.

Edge lists are read twice: once for the ids and how many neighbours each has, once to put every
neighbour in its place. Beside the graph itself only one piece of the file is in memory.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError
from graphkit.ops import CSR

Ints = npt.NDArray[np.int64]
_LINES = 1 << 20  # of one piece
_TEXT = (".txt", ".tsv", ".edges", ".edgelist", ".csv")
_NETWORKX = (".graphml", ".gml")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # more digits may not fit an int64


@dataclass(frozen=True)
class GraphFile:
    """A graph read from a file.

    Attributes:
        csr: row ``u`` holds the neighbours of node ``u``, ascending, each once, without loops.
        ids: int64 ``[n]``, ascending: which id of the file each node is. Rows of a matrix, and the
            nodes of a GraphML file whose names are not all whole numbers, count from 0 in order.
    """

    csr: CSR
    ids: Tensor


def read_graph_file(
    path: str | os.PathLike[str],
    *,
    undirected: bool = True,
    columns: tuple[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> GraphFile:
    """Read a graph without weights.

    Args:
        path: ``.txt``, ``.tsv``, ``.edges``: two whole numbers per line, ``#`` starts a comment
            (the SNAP collection); ``.csv`` and ``.parquet``: a table of edges with a
            header; ``.npz``: a scipy sparse matrix, whose values other than 0 are edges;
            ``.graphml``, ``.gml``: networkx. All but Parquet and matrices may end in ``.gz``.
        undirected: an edge counts in both directions.
        columns: the two columns of a table; by default its first two.
        progress: called with the number of edges read so far, in both passes.

    Raises:
        DatasetNotFoundError: there is no such file.
        InputError: another kind of file, a column that is not there, or ids that are not whole
            numbers of 64 bits.
        CorruptFileError: a file that is damaged or cut off.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "g.txt"
        >>> _ = file.write_text("# a path\\n10 20\\n20 30\\n")
        >>> graph = read_graph_file(file)
        >>> graph.ids.tolist(), graph.csr.degree.tolist()
        ([10, 20, 30], [1, 2, 1])
    """
    file = Path(path)
    if not file.is_file():
        raise DatasetNotFoundError(f"path: {file}, no such file")
    suffix, inner = file.suffix, file.with_suffix("").suffix
    if suffix == ".gz" and inner in (*_TEXT, *_NETWORKX):
        suffix = inner
    if columns is not None and (len(columns) != 2 or suffix not in (".csv", ".parquet")):
        raise InputError(
            f"columns: {columns!r} for {file.name}, wanted two names of columns of a .csv or "
            ".parquet"
        )
    if suffix in _TEXT or suffix == ".parquet":
        tell = progress or (lambda count: None)
        return _two_passes(lambda: _pieces(file, suffix, columns), undirected, tell)
    if suffix == ".npz" or suffix in _NETWORKX:
        try:
            return (_of_matrix if suffix == ".npz" else _of_networkx)(file, suffix, undirected)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # damaged files have many kinds of errors
            said = str(error).partition("\n")[0][:200]
            raise CorruptFileError(f"{file}: damaged, or no graph as {suffix} ({said})") from None
    known = ", ".join((*_TEXT, ".parquet", ".npz", *_NETWORKX))
    raise InputError(
        f"path: {file.name}, wanted a file of edges: {known} (with .gz too, but for .parquet and "
        ".npz)"
    )


def _of_matrix(file: Path, _: str, undirected: bool) -> GraphFile:
    from scipy.sparse import load_npz

    matrix = load_npz(file).tocoo()
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{file}: {matrix.shape}, wanted a square matrix")
    matrix.eliminate_zeros()  # a value that is stored, but 0, is no edge
    edges = np.stack([matrix.row, matrix.col]).astype(np.int64)
    return _of_edges(edges, np.arange(matrix.shape[0]), undirected)


def _of_networkx(file: Path, suffix: str, undirected: bool) -> GraphFile:
    import networkx

    # A GML node has a number always and a label sometimes.
    gml = suffix == ".gml"
    graph = networkx.read_gml(file, label="id") if gml else networkx.read_graphml(file)
    names = [str(name) for name in graph.nodes]
    if all(_WHOLE.fullmatch(name) for name in names) and len({int(n) for n in names}) == len(names):
        ids = np.sort(np.asarray([int(name) for name in names], dtype=np.int64))
        place = {node: int(np.searchsorted(ids, int(node))) for node in graph.nodes}
    else:
        ids = np.arange(len(names))
        place = {node: number for number, node in enumerate(graph.nodes)}
    pairs = [(place[u], place[v]) for u, v in graph.edges()]
    edges = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    return _of_edges(edges, ids, undirected or not graph.is_directed())


def _pieces(file: Path, suffix: str, columns: tuple[str, str] | None) -> Iterator[Ints]:
    """``[2, k]`` ids of some edges, one piece of the file after the other."""
    if suffix == ".parquet":
        yield from _parquet_pieces(file, columns)
        return
    import pandas as pd

    table = suffix == ".csv"
    options: dict[str, Any] = {"chunksize": _LINES, "comment": None if table else "#"}
    if not table:
        options |= {"sep": r"\s+", "header": None}
    try:
        with pd.read_csv(file, **options) as reader:
            for piece in reader:
                if not table and piece.shape[1] != 2:  # a third one may be a weight
                    raise InputError(f"{file}: {piece.shape[1]} columns, wanted two ids per line")
                yield _ids(file, _two_columns(file, piece, columns if table else None))
    except pd.errors.EmptyDataError:
        return
    except InputError:
        raise
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{file}: wanted two whole numbers per line; {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptFileError(f"{file}: damaged or cut off ({error})") from None


def _parquet_pieces(file: Path, columns: tuple[str, str] | None) -> Iterator[Ints]:
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(
            f"{file}: Parquet needs pyarrow; pip install 'graphkit[parquet]'"
        ) from None
    try:
        with ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_LINES):
                yield _ids(file, _two_columns(file, batch.to_pandas(), columns))
    except (ArrowException, OSError) as error:
        raise CorruptFileError(f"{file}: damaged, or no Parquet file ({error})") from None


def _two_columns(file: Path, piece: Any, columns: tuple[str, str] | None) -> Any:
    if columns is None:
        if piece.shape[1] < 2:
            raise InputError(f"{file}: {piece.shape[1]} column, wanted two of ids")
        return piece.iloc[:, :2]
    for name in columns:
        if name not in piece.columns:
            raise InputError(f"columns: no {name!r} in {file}; it has {list(piece.columns)}")
    return piece[list(columns)]


def _ids(file: Path, piece: Any) -> Ints:
    if not len(piece):  # a header alone has columns of no kind
        return np.empty((2, 0), np.int64)
    for name in piece.columns:
        if piece[name].dtype.kind not in "iu":
            raise InputError(
                f"{file}: column {name!r} holds {piece[name].dtype}, wanted whole numbers as ids"
            )
        if piece[name].hasnans:
            raise InputError(f"{file}: column {name!r} leaves values out, wanted an id in each row")
        if piece[name].dtype.kind == "u" and int(piece[name].max()) > np.iinfo(np.int64).max:
            raise InputError(
                f"{file}: column {name!r} holds {int(piece[name].max())}, wanted ids below 2^63"
            )
    pair: Ints = piece.to_numpy(dtype=np.int64).T
    return pair


def _both(pair: Ints, undirected: bool) -> Ints:
    pair = pair[:, pair[0] != pair[1]]
    return np.concatenate([pair, pair[::-1]], axis=1) if undirected else pair


def _two_passes(
    pieces: Callable[[], Iterator[Ints]], undirected: bool, tell: Callable[[int], None]
) -> GraphFile:
    ids, degree, done = np.empty(0, np.int64), np.empty(0, np.int64), 0
    for pair in pieces():
        here, count = np.unique(_both(pair, undirected)[0], return_counts=True)
        every = np.union1d(np.union1d(ids, pair.ravel()), here)
        grown = np.zeros(len(every), np.int64)
        grown[np.searchsorted(every, ids)] = degree
        grown[np.searchsorted(every, here)] += count
        ids, degree, done = every, grown, done + pair.shape[1]
        tell(done)
    start = np.concatenate([[0], np.cumsum(degree)])
    wide = max(int(start[-1]), len(ids)) > np.iinfo(np.int32).max
    col = np.empty(int(start[-1]), np.int64 if wide else np.int32)
    free = start[:-1].copy()
    for pair in pieces():
        row, neighbour = np.searchsorted(ids, _both(pair, undirected))
        order = np.argsort(row, kind="stable")
        row = row[order]
        first = np.concatenate([[True], row[1:] != row[:-1]]) if len(row) else np.empty(0, bool)
        begin = np.flatnonzero(first)
        run = np.diff(np.append(begin, len(row)))
        rank = np.arange(len(row)) - np.repeat(begin, run)
        col[free[row] + rank] = neighbour[order]
        free[row[begin]] += run
        done += pair.shape[1]
        tell(done)
    return _tidy(start, col, ids)


def _tidy(start: Ints, col: npt.NDArray[Any], ids: Ints) -> GraphFile:
    """Sort each row and drop repeats, a range of rows at a time and in place."""
    n, end, kept = len(ids), 0, np.zeros(len(start), np.int64)
    row = 0
    while row < n:
        stop = int(np.searchsorted(start, start[row] + _LINES, side="right")) - 1
        stop = min(max(stop, row + 1), n)
        here = col[start[row] : start[stop]].astype(np.int64)
        owner = np.repeat(np.arange(row, stop), np.diff(start[row : stop + 1]))
        key = np.unique(owner * n + here)
        kept[row + 1 : stop + 1] = np.bincount(key // n - row, minlength=stop - row)
        col[end : end + len(key)] = key % n
        end, row = end + len(key), stop
    rowptr = np.cumsum(kept).astype(col.dtype)
    tensors = torch.from_numpy(rowptr), torch.from_numpy(col[:end])
    return GraphFile(CSR(*tensors, None, n, n), torch.from_numpy(ids))


def _of_edges(edges: Ints, ids: Ints, undirected: bool) -> GraphFile:
    both = _both(edges, undirected)
    order = np.argsort(both[0], kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(both[0], minlength=len(ids)))])
    return _tidy(start, both[1][order].astype(np.int32), ids)
