"""Edge lists as text."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from graphkit import data
from graphkit.data import edge_list
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError


def parsed(tmp_path: Path, text: str, name: str = "g.txt") -> torch.Tensor:
    path = tmp_path / name
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "wt", encoding="ascii") as file:
        file.write(text)
    card = data.card("ego-facebook-link")
    return edge_list.read(card, Source(path, tmp_path, "", {}, exact=True)).graphs.edge_index


@pytest.mark.parametrize("name", ["g.txt", "g.txt.gz"])
def test_ids_are_numbered_without_gaps_and_links_go_both_ways(tmp_path: Path, name: str) -> None:
    text = "# FromNodeId ToNodeId\n7\t3\n3\t7\n90 7\n3 3\n"
    found = parsed(tmp_path, text, name)
    pairs = sorted(zip(*found.tolist(), strict=True))
    assert pairs == [(0, 1), (1, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize("text", ["1 2\n1 x\n", "1 2 3\n", "1\n", "1 2\n3\n"])
def test_a_line_that_is_not_two_ids_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CorruptFileError, match="two ids per line"):
        parsed(tmp_path, text)
