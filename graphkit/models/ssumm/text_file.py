"""Summaries as text, in the format of SSumM's authors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from graphkit.errors import InputError

_NODES, _EDGES = "<Subnode of each supernode>", "<Superedge info>"


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
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text") from None
    if not lines or lines[0].strip() != _NODES:
        raise InputError(f"{file}, line 1: wanted {_NODES}")
    number: dict[int, int] = {}  # of each supernode, in the order of the file
    members: list[int] = []
    parts: list[int] = []
    edges: list[tuple[int, int, int]] = []
    inside = True
    for at, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        if line.strip() == _EDGES and inside:
            inside = False
            continue
        try:
            if "_" in line:  # int() would read 1_0 as 10
                raise ValueError
            values = [int(word) for word in line.split()]
        except ValueError:
            raise InputError(f"{file}, line {at}: {line[:40]!r}, wanted whole numbers") from None
        if any(abs(v) >= 2**63 for v in values):
            raise InputError(f"{file}, line {at}: a number beyond 64 bits")
        if inside:
            if values[0] in number or len(values) < 2:
                what = "twice" if values[0] in number else "without members"
                raise InputError(f"{file}, line {at}: supernode {values[0]} {what}")
            parts.extend([len(number)] * (len(values) - 1))
            number[values[0]] = len(number)
            members.extend(values[1:])
            continue
        if len(values) != 3:
            raise InputError(f"{file}, line {at}: {len(values)} numbers, wanted A, B and weight")
        for end in values[:2]:
            if end not in number:
                raise InputError(f"{file}, line {at}: no supernode {end}")
        a, b = number[values[0]], number[values[1]]
        edges.append((max(a, b), min(a, b), values[2]))
    if inside:
        raise InputError(f"{file}: no line {_EDGES}; is it cut off?")
    member = torch.tensor(members, dtype=torch.int64)
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
    owner[torch.searchsorted(ids, member)] = torch.tensor(parts, dtype=torch.int64)
    table = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    return owner, table[:2], table[2], ids if own_ids else None
