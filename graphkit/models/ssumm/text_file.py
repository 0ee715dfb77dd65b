"""Summaries as text, in the format of SSumM's authors."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from graphkit.errors import InputError

_NODES, _EDGES = "<Subnode of each supernode>", "<Superedge info>"
_WORD = re.compile(r"\S+")


def write(owner: Tensor, super_index: Tensor, weight: Tensor, ids: Tensor) -> str:
    """A line ``supernode, members...`` each, then a line ``A, B, weight`` each, between tabs."""
    order = owner.argsort(stable=True)
    count = torch.bincount(owner).tolist()
    lines = [_NODES]
    for supernode, members in enumerate(torch.split(ids[order], count)):
        lines.append("\t".join(map(str, [supernode, *members.tolist()])))
    lines.append(_EDGES)
    for a, b, w in zip(*super_index.tolist(), weight.tolist(), strict=True):
        lines.append(f"{a}\t{b}\t{w}")
    return "\n".join(lines) + "\n"


def read(file: Path, own_ids: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """``owner``, ``super_index``, ``weight`` and, with ``own_ids``, the ids of the nodes.

    Raises:
        InputError: names the line.
    """
    number: dict[int, int] = {}  # of each supernode, in the order of the file
    members, parts, edges = array("q"), array("q"), array("q")
    inside = True
    for at, line in _lines(file):
        if line.strip() == _EDGES and inside:
            inside = False
            continue
        values = _whole_numbers(file, at, line)
        if inside:
            if values[0] in number or len(values) < 2:
                what = "twice" if values[0] in number else "without members"
                raise InputError(f"{file}, line {at}: supernode {values[0]} {what}")
            parts.extend(array("q", [len(number)]) * (len(values) - 1))
            number[values[0]] = len(number)
            members.extend(values[1:])
            continue
        if len(values) != 3:
            raise InputError(f"{file}, line {at}: {len(values)} numbers, wanted A, B and weight")
        for end in values[:2]:
            if end not in number:
                raise InputError(f"{file}, line {at}: no supernode {end}")
        a, b = number[values[0]], number[values[1]]
        edges.extend((max(a, b), min(a, b), values[2]))
    if inside:
        raise InputError(f"{file}: no line {_EDGES}; is it cut off?")
    member = _tensor(members)
    ids, count = torch.unique(member, return_counts=True)
    if bool((count > 1).any()):
        raise InputError(
            f"{file}: node {int(ids[count > 1][0])} in two supernodes, or twice in one"
        )
    if not own_ids and not torch.equal(ids, torch.arange(len(ids))):
        if int(ids[0]) < 0:
            raise InputError(
                f"{file}: node {int(ids[0])} among the members, wanted 0..n-1; own_ids=True takes "
                "any ids"
            )
        gap = (ids != torch.arange(len(ids))).nonzero()[0]
        raise InputError(
            f"{file}: no node {int(gap)} among the members, wanted 0..n-1; "
            "own_ids=True takes ids with gaps"
        )
    owner = torch.empty(len(ids), dtype=torch.int64)
    owner[torch.searchsorted(ids, member)] = _tensor(parts)
    table = _tensor(edges).reshape(-1, 3).T.contiguous()
    return owner, table[:2], table[2], ids if own_ids else None


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, after the first, with their numbers."""
    try:
        with open(file, encoding="utf-8") as stream:
            if stream.readline().strip() != _NODES:
                raise InputError(f"{file}, line 1: wanted {_NODES}")
            for at, line in enumerate(stream, 2):
                if not line.isspace():
                    yield at, line
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text") from None


def _whole_numbers(file: Path, at: int, line: str) -> array[int]:
    # A line may be as long as the file: its words are never all in memory.
    words = (match[0] for match in _WORD.finditer(line))
    try:
        if "_" in line:  # int() would read 1_0 as 10
            raise ValueError
        return array("q", map(int, words))
    except ValueError:
        raise InputError(f"{file}, line {at}: {line[:40]!r}, wanted whole numbers") from None
    except OverflowError:
        raise InputError(f"{file}, line {at}: a number beyond 64 bits") from None


def _tensor(values: array[int]) -> Tensor:
    return (
        torch.frombuffer(values, dtype=torch.int64) if values else torch.empty(0, dtype=torch.int64)
    )
