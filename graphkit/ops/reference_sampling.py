"""Walks and sampling in numpy and plain Python: the same random numbers, the same samples.

Used where the compiled module is missing, and as the specification of what it draws. A random
number is a hash of (seed, item, step, draw), so nothing depends on the order of evaluation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphkit.ops.csr import CSR

Ints = npt.NDArray[np.int64]
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
NODE2VEC_TRIES, REPELLED_TRIES = 32, 16  # rejections before the exact draw; as in sampling.cpp


def mix(z: Any) -> Any:
    """The finaliser of SplitMix64, of an int or of a uint64 array (which wraps around itself)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def after(key: Any, counter: Any) -> Any:
    """Key of one counter below ``key``; arrays are uint64."""
    return mix((key + (((counter + 1) * GOLDEN) & MASK)) & MASK)


def unit(key: Any, draw: Any) -> Any:
    """A double in [0, 1)."""
    bits = after(key, draw) >> 11
    return (bits.astype(np.float64) if isinstance(bits, np.ndarray) else float(bits)) * 2.0**-53


def below(key: Any, draw: Any, n: Any) -> Any:
    """An integer in 0..n-1."""
    if isinstance(n, np.ndarray):
        return np.minimum((unit(key, draw) * n).astype(np.int64), n - 1)
    return min(int(unit(key, draw) * n), n - 1)


def _arrays(csr: CSR) -> tuple[Ints, Ints, Ints]:
    """Row starts, sources and edges, checked: corrupt values raise as in the compiled module."""
    rowptr, col = csr.rowptr.long().numpy(), csr.col.long().numpy()
    eid = np.arange(col.size) if csr.eid is None else csr.eid.long().numpy()
    if rowptr[0] < 0 or rowptr[-1] > col.size or bool((np.diff(rowptr) < 0).any()):
        raise IndexError(f"rowptr: wanted non-decreasing values in 0..{col.size}")
    if col.size and (col.min() < 0 or col.max() >= csr.num_cols):
        raise IndexError(f"col: {col.min()}..{col.max()}, wanted 0..{csr.num_cols - 1}")
    return rowptr, col, eid


class _Walk:
    """Walks that remember something, one at a time."""

    def __init__(self, csr: CSR, p: float, q: float, alpha: float) -> None:
        self.rowptr, self.col, self.eid = _arrays(csr)
        self.back, self.away, self.alpha = 1 / p, 1 / q, alpha
        self.bound = max(1.0, self.back, self.away)
        self.second_order = p != 1 or q != 1

    def row(self, node: int) -> tuple[int, int]:
        return int(self.rowptr[node]), int(self.rowptr[node + 1])

    def by_weight(self, weights: list[float], u: float) -> int:
        total = 0.0
        for weight in weights:
            total += weight
        target, running = u * total, 0.0
        for j, weight in enumerate(weights[:-1]):
            running += weight
            if running > target:
                return j
        return len(weights) - 1

    def second(self, key: int, begin: int, end: int, previous: int) -> int:
        k = begin + below(key, 1, end - begin)
        if previous < 0:
            return k
        around = self.col[slice(*self.row(previous))]

        def weight(entry: int) -> float:
            node = self.col[entry]
            if node == previous:
                return self.back
            at = int(np.searchsorted(around, node))
            return 1.0 if at < around.size and around[at] == node else self.away

        for trial in range(NODE2VEC_TRIES):
            if trial:
                k = begin + below(key, 1 + 2 * trial, end - begin)
            if unit(key, 2 + 2 * trial) * self.bound < weight(k):
                return k
        last = unit(key, 1 + 2 * NODE2VEC_TRIES)
        return begin + self.by_weight([weight(k) for k in range(begin, end)], last)

    def repelled(self, key: int, begin: int, end: int, visits: dict[int, int]) -> int:
        def ratio(entry: int) -> float:
            node = int(self.col[entry])
            low, high = self.row(node)
            return 1 + visits.get(node, 0) / max(high - low, 1)

        for trial in range(REPELLED_TRIES):
            k = begin + below(key, 1 + 2 * trial, end - begin)
            if unit(key, 2 + 2 * trial) < math.pow(ratio(k), -self.alpha):
                return k
        ratios = [ratio(k) for k in range(begin, end)]
        least = min(ratios)
        weights = [math.pow(r / least, -self.alpha) for r in ratios]
        return begin + self.by_weight(weights, unit(key, 1 + 2 * REPELLED_TRIES))

    def run(self, start: int, length: int, restart: float, key: int) -> tuple[Ints, Ints]:
        nodes, edges = np.full(length + 1, start), np.full(length, -1)
        previous, visits = -1, {start: 1}
        for t in range(length):
            here, step = int(nodes[t]), after(key, t)
            begin, end = self.row(here)
            previous_now, previous = previous, -1
            if restart > 0 and unit(step, 0) < restart:
                nodes[t + 1] = start
            elif begin == end:
                nodes[t + 1] = here
            else:
                if self.second_order:
                    k = self.second(step, begin, end, previous_now)
                else:
                    k = self.repelled(step, begin, end, visits)
                nodes[t + 1], edges[t], previous = self.col[k], self.eid[k], here
            visits[int(nodes[t + 1])] = visits.get(int(nodes[t + 1]), 0) + 1
        return nodes, edges


def random_walk(
    csr: CSR,
    start: Tensor,
    length: int,
    p: float,
    q: float,
    restart: float,
    alpha: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Nodes and edges of :func:`graphkit.ops.random_walk`, for checked arguments."""
    walks = start.numel()
    nodes = np.empty((walks, length + 1), np.int64)
    edges = np.full((walks, length), -1, np.int64)
    base = mix((seed + GOLDEN) & MASK)
    if p == 1 and q == 1 and alpha == 0:
        rowptr, col, eid = _arrays(csr)
        keys = after(base, np.arange(walks, dtype=np.uint64))
        nodes[:, 0] = start.numpy()
        for t in range(length):
            here, step = nodes[:, t], after(keys, t)
            degree = rowptr[here + 1] - rowptr[here]
            back = unit(step, 0) < restart
            moves = (degree > 0) & ~back
            nodes[:, t + 1] = np.where(back, nodes[:, 0], here)
            k = rowptr[here[moves]] + below(step[moves], 1, degree[moves])
            nodes[moves, t + 1], edges[moves, t] = col[k], eid[k]
    else:
        walk = _Walk(csr, p, q, alpha)
        for w, first in enumerate(start.tolist()):
            nodes[w], edges[w] = walk.run(first, length, restart, after(base, w))
    return torch.from_numpy(nodes), torch.from_numpy(edges)


def sample_rows(
    csr: CSR,
    picked: Tensor,
    tree: Tensor | None,
    fanout: int,
    replace: bool,
    seed: int,
    hop: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, edges and places in ``picked`` of the entries drawn from some rows."""
    rowptr, col, eid = _arrays(csr)
    rows = picked.numpy()
    degree = rowptr[rows + 1] - rowptr[rows]
    whole = (degree == 0) | (fanout < 0) | ((degree <= fanout) & (not replace))
    count = np.where(whole, degree, fanout)
    offset = np.concatenate([[0], np.cumsum(count)])
    at = np.repeat(np.arange(rows.size), count)
    place = np.arange(at.size) - offset[at]
    drawn = np.flatnonzero(~whole)
    if drawn.size and fanout:
        key = np.full(drawn.size, mix((seed + GOLDEN) & MASK), np.uint64)
        if tree is not None:
            key = after(key, tree.numpy()[drawn].astype(np.uint64))
        key = after(after(key, rows[drawn].astype(np.uint64)), hop)
        chosen = np.full((drawn.size, fanout), -1, np.int64)
        for j in range(fanout):
            top = degree[drawn] - (0 if replace else fanout - j - 1)
            pick = below(key, j, top)
            if not replace:  # Floyd: what was drawn already stands for the new last one
                pick = np.where((chosen[:, :j] == pick[:, None]).any(1), top - 1, pick)
            chosen[:, j] = pick
        place[offset[drawn][:, None] + np.arange(fanout)] = chosen
    k = rowptr[rows[at]] + place
    return torch.from_numpy(col[k]), torch.from_numpy(eid[k]), torch.from_numpy(at)


class Table:
    """Local ids in order of discovery."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._nodes: list[int] = []
        self._trees: list[int] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def insert(self, node: Tensor, tree: Tensor | None, repeat: bool = False) -> Tensor:
        """Local ids of the nodes, new ones appended; with ``repeat`` all are appended."""
        trees = [0] * node.numel() if tree is None else tree.tolist()
        local = []
        for pair in zip(node.tolist(), trees, strict=True):
            new = pair not in self._known
            position = len(self._nodes) if new or repeat else self._known[pair]
            if new or repeat:
                self._nodes.append(pair[0])
                self._trees.append(pair[1])
            if new:
                self._known[pair] = position
            local.append(position)
        return torch.tensor(local, dtype=torch.int64, device="cpu")

    def find(self, node: Tensor, tree: Tensor | None) -> Tensor:
        """Local ids, or -1."""
        trees = [0] * node.numel() if tree is None else tree.tolist()
        pairs = zip(node.tolist(), trees, strict=True)
        return torch.tensor(
            [self._known.get(pair, -1) for pair in pairs], dtype=torch.int64, device="cpu"
        )

    def nodes(self, begin: int = 0) -> Tensor:
        """Global ids from local id ``begin`` on."""
        return torch.tensor(self._nodes[begin:], dtype=torch.int64, device="cpu")

    def trees(self, begin: int = 0) -> Tensor:
        """Trees from local id ``begin`` on."""
        return torch.tensor(self._trees[begin:], dtype=torch.int64, device="cpu")


def ego_subgraphs(csr: CSR, centres: Tensor, hops: int) -> tuple[Tensor, ...]:
    """Node, ptr, row, col, edge and edge_ptr of :func:`graphkit.ops.ego_subgraphs`."""
    rowptr, col, eid = _arrays(csr)
    node: list[int] = []
    ptr, edge_ptr = [0], [0]
    row: list[int] = []
    target: list[int] = []
    edge: list[int] = []
    for centre in centres.tolist():
        local = {centre: 0}
        found, done = [centre], 0
        for _ in range(hops):
            frontier = found[done:]
            done = len(found)
            for v in frontier:
                for u in col[rowptr[v] : rowptr[v + 1]].tolist():
                    if u not in local:
                        local[u] = len(found)
                        found.append(u)
        for i, v in enumerate(found):
            for k in range(int(rowptr[v]), int(rowptr[v + 1])):
                j = local.get(int(col[k]))
                if j is not None:
                    row.append(len(node) + j)
                    target.append(len(node) + i)
                    edge.append(int(eid[k]))
        node.extend(found)
        ptr.append(len(node))
        edge_ptr.append(len(edge))
    return tuple(
        torch.tensor(v, dtype=torch.int64, device="cpu")
        for v in (node, ptr, row, target, edge, edge_ptr)
    )
