"""Graphs as text, one edge per line: the format of the SNAP collection."""

from __future__ import annotations

from typing import Any

import torch

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single
from graphkit.data.dataset import Parsed
from graphkit.data.graph_file import read_graph_file
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError, InputError

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
        found = read_graph_file(source.base)
    except InputError as error:
        raise CorruptFileError(f"{source.base}: wanted two ids per line; {error}") from None
    csr = found.csr
    edges = torch.stack([csr.row(), csr.col]).long()
    return Parsed(pack_single(csr.num_rows, edges), info={"link_protocol": split_name})
