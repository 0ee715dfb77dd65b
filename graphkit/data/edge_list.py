"""Graphs as text, one edge per line: the format of the SNAP collection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError

OPTIONS: dict[str, Any] = {"split_name": "70/10/20"}


def read(card: DatasetCard, source: Source, split_name: str = "70/10/20") -> Parsed:
    """Read an undirected graph whose links :func:`graphkit.data.load` splits anew for each run.

    Lines are two ids between blanks; ``#`` starts a comment. Ids are numbered anew, in ascending
    order, so that they have no gaps.

    Args:
        card: which set.
        source: its text file, plain or gzipped.
        split_name: a key of :data:`graphkit.data.link_split.PROTOCOLS`.

    Raises:
        CorruptFileError: a line that is not two whole numbers.
    """
    try:
        lines = np.loadtxt(source.base, dtype=np.int64, comments="#", ndmin=2)
    except ValueError as error:
        raise CorruptFileError(f"{source.base}: wanted two ids per line; {error}") from None
    if lines.shape[1] != 2:
        raise CorruptFileError(f"{source.base}: {lines.shape[1]} columns, wanted two ids per line")
    ids, place = np.unique(lines, return_inverse=True)
    edges = torch.from_numpy(place.reshape(lines.shape).T.copy()).long()
    graphs = pack_single(len(ids), simple_edges(edges, len(ids), undirected=True))
    return Parsed(graphs, info={"link_protocol": split_name})
