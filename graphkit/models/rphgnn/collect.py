"""Propagate, write the target's slots, squash: one iteration after the other, in blocks of rows.

Where a projection is applied changes the work, not the result: ``M (F R) = (M F) R``. An even key
``M_back M_forth F R`` may be projected before, between or after its two means, and between them may
stand a type with few nodes. The cheapest place is taken for each key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.models.rphgnn.projection import (
    Features,
    add_normalized,
    projection_matrix,
    seed_of,
)
from graphkit.models.rphgnn.relations import Graph, Relation
from graphkit.ops import CSR, aggregate
from graphkit.ops.linear import product

Write = Callable[[str, int, slice, Tensor], None]

_BLOCK = 32 << 20  # bytes of the rows that are looked at together
# What an entry of a mean, or of a sparse product, costs in multiplications of a dense product.
_GATHER = 24
STEPS = {"all": ("odd", "even"), "odd": ("odd",), "even": ("even",)}


@dataclass(frozen=True)
class Plan:
    """What an iteration collects and how it updates.

    Attributes:
        target: the node type whose slots are written.
        iterations: how many.
        steps: of ``odd`` and ``even``, which are collected and squashed.
        squash: ``projection``, ``gaussian`` or ``mean``.
        seed: of all random matrices.
    """

    target: str
    iterations: int
    steps: tuple[str, ...]
    squash: str
    seed: int


def inputs_of(graph: Graph, kind: str, steps: tuple[str, ...]) -> set[str]:
    """The types whose features the keys of ``kind`` are made of."""
    found = set()
    for relation in graph.around(kind):
        if "odd" in steps:
            found.add(relation.other(kind))
        if "even" in steps:
            found.add(kind)
    return found


def needed_types(graph: Graph, plan: Plan) -> list[set[str]]:
    """For each iteration the types whose features it reads; nothing else is computed."""
    own = inputs_of(graph, plan.target, plan.steps)
    needed = [own]
    for _ in range(plan.iterations - 1):
        needed.insert(0, own.union(*(inputs_of(graph, kind, plan.steps) for kind in needed[0])))
    return needed


def collect(graph: Graph, plan: Plan, features: dict[str, Tensor], write: Write) -> None:
    """Run all iterations.

    Args:
        graph: the relations.
        plan: see there.
        features: float32 ``[N_t, D_t]`` of every needed type.
        write: called with key, iteration, rows and values of the target.
    """
    needed = needed_types(graph, plan)
    current = {kind: Features(features[kind]) for kind in sorted(needed[0])}
    for number in range(plan.iterations):
        # The last update would be read by nobody.
        wanted = needed[number + 1] if number + 1 < plan.iterations else set()
        updated = {kind: torch.zeros_like(current[kind].x) for kind in sorted(wanted)}
        for relation in graph.relations:
            _Pass(relation, plan, number, current, updated, write).run()
        if plan.squash == "mean":
            for kind, total in updated.items():
                total.div_(len(plan.steps) * len(graph.around(kind)))
        current = {kind: Features(x, look=False) for kind, x in updated.items()}


class _Pass:
    """One relation in one iteration: its keys on both sides."""

    def __init__(
        self,
        relation: Relation,
        plan: Plan,
        number: int,
        current: dict[str, Features],
        updated: dict[str, Tensor],
        write: Write,
    ) -> None:
        self.relation, self.plan, self.number = relation, plan, number
        self.current, self.updated, self.write = current, updated, write
        self.whole: dict[str, Tensor] = {}  # odd tensors that were needed as a whole, by type

    def run(self) -> None:
        # Even keys first: they need odd tensors as a whole, which then serve as odd keys too.
        for step in ("even", "odd"):
            if step not in self.plan.steps:
                continue
            for kind in self.relation.sides:
                target, update = kind == self.plan.target, kind in self.updated
                if target or update:
                    (self._even if step == "even" else self._odd)(kind, target, update)

    def _odd(self, kind: str, target: bool, update: bool) -> None:
        other = self.relation.other(kind)
        into, source = self.relation.into(kind), self.current[other]
        matrix = self._matrix(kind, "odd", source.x.size(1)) if update else None
        if matrix is not None:
            mean = 0 if target or kind in self.whole else into.num_entries * source.x.size(1)
            late = _GATHER * mean + into.num_rows * matrix.numel()
            early = _GATHER * into.num_entries * matrix.size(1) + _dense(source, matrix)
            if early < late:
                self._add(kind, into, source.times(matrix))
                matrix, update = None, False
        if target or update:
            self._rows(kind, "odd", into, source.x, self.whole.get(kind), matrix, target, update)

    def _even(self, kind: str, target: bool, update: bool) -> None:
        relation, own = self.relation, self.current[kind]
        other = relation.other(kind)
        into, back = relation.into(kind), relation.into(other)
        matrix = self._matrix(kind, "even", own.x.size(1)) if update else None
        if matrix is not None:
            width = matrix.size(1)
            gather = _GATHER * into.num_entries * width
            first = 0 if target or other in self.whole else gather
            costs = {
                "before": _dense(own, matrix) + 2 * gather,
                "between": first + back.num_rows * matrix.numel() + gather,
                "after": first + (0 if target else gather) + into.num_rows * matrix.numel(),
            }
            place = min(costs, key=lambda name: costs[name])
            if place == "before":
                self._add(kind, into, aggregate(back, own.times(matrix), reduce="mean"))
            elif place == "between":
                self._add(kind, into, product(self._odd_whole(other, back, own), matrix))
            if place != "after":
                matrix, update = None, False
        if target or update:
            middle = self._odd_whole(other, back, own)
            self._rows(kind, "even", into, middle, None, matrix, target, update)

    def _odd_whole(self, other: str, back: CSR, own: Features) -> Tensor:
        if other not in self.whole:
            self.whole[other] = aggregate(back, own.x, reduce="mean")
        return self.whole[other]

    def _matrix(self, kind: str, step: str, width: int) -> Tensor | None:
        if self.plan.squash == "mean":
            return None
        seed = seed_of("squash", self.plan.seed, self.number, kind, self.relation.name, step)
        return projection_matrix(width, self.updated[kind].size(1), seed, self.plan.squash)

    def _add(self, kind: str, into: CSR, projected: Tensor) -> None:
        """Mean of what is projected already, normalised and summed."""
        for rows, part in row_blocks(into, projected.size(1)):
            add_normalized(self.updated[kind][rows], aggregate(part, projected, reduce="mean"))

    def _rows(
        self,
        kind: str,
        step: str,
        into: CSR,
        source: Tensor,
        ready: Tensor | None,
        matrix: Tensor | None,
        target: bool,
        update: bool,
    ) -> None:
        """A key at full width: written where it is the target's, projected where it updates."""
        for rows, part in row_blocks(into, source.size(1)):
            h = aggregate(part, source, reduce="mean") if ready is None else ready[rows]
            if target:
                self.write(f"{self.relation.name}|{step}", self.number, rows, h)
            if update and matrix is not None:
                add_normalized(self.updated[kind][rows], product(h, matrix))
            elif update:
                self.updated[kind][rows] += h


def _dense(source: Features, matrix: Tensor) -> int:
    """Cost of projecting features before their mean."""
    if source.entries is not None:
        return _GATHER * source.entries * matrix.size(1)
    return source.x.size(0) * matrix.numel()


def row_blocks(csr: CSR, width: int) -> Iterator[tuple[slice, CSR]]:
    """Cut a structure into consecutive rows whose float32 results stay below 32 MB.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1, 1], [0, 0, 2]]), num_nodes=3)
        >>> [(rows.start, part.num_entries) for rows, part in row_blocks(csr, 8 << 20)]
        [(0, 2), (1, 0), (2, 1)]
    """
    size = max(1, _BLOCK // (4 * max(width, 1)))
    if size >= csr.num_rows:
        yield slice(0, csr.num_rows), csr
        return
    for start in range(0, csr.num_rows, size):
        stop = min(start + size, csr.num_rows)
        first, last = int(csr.rowptr[start]), int(csr.rowptr[stop])
        ptr = csr.rowptr[start : stop + 1] - first
        yield slice(start, stop), CSR(ptr, csr.col[first:last], None, stop - start, csr.num_cols)
