"""summarise: merge nodes of a graph into supernodes until its summary fits into a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import cpu
from graphkit.ops.backends import current
from graphkit.ops.csr import CSR
from graphkit.ops.random_walk import seed_bits
from graphkit.ops.reference_summarise import ReferenceSummariser

Ints = npt.NDArray[np.int64]
_SLICE = 1 << 24  # list entries between two looks at the keyboard: some 50 ms
_ALL = 1 << 62
_RANGES = {
    "iterations": (1, 1_000_000), "num_hashes": (1, 1_000_000), "max_group": (2, 2**31 - 1),
    "effort": (1, 1000),
}  # fmt: skip


class Summarising(Protocol):
    """A summary in the making, compiled or in plain Python."""

    def advance(self, work: int, merges: int) -> bool:
        """Go on by about ``work`` list entries and at most ``merges`` merges; True at the end."""

    def finish(self) -> None:
        """Leave superedges only, pool supernodes that have none, drop superedges to the budget."""

    def progress(self) -> float:
        """0..1."""

    def bits(self) -> float:
        """Size of the summary as it is."""

    def num_supernodes(self) -> int:
        """``|S|``"""

    def num_superedges(self) -> int:
        """``|P|``"""

    def largest_weight(self) -> int:
        """``omega_max``"""

    def cost(self, a: int) -> float:
        """Of all blocks of a supernode, as it is kept from merge to merge."""

    def owners(self) -> Ints:
        """``[n]`` the supernode of each node, by the id of one of its members."""

    def blocks(self) -> Ints:
        """``[4, K]``: a, b (not larger), weight, superedge or not; after the end superedges."""

    def rounds(self) -> list[Any]:
        """The log of the iterations."""


class _Native:
    """The compiled state with arrays in place of addresses."""

    def __init__(self, state: Any, num_nodes: int) -> None:
        self._state = state
        self._num_nodes = num_nodes
        for name in (
            "advance", "finish", "progress", "bits", "num_supernodes", "num_superedges",
            "largest_weight", "cost", "rounds",
        ):  # fmt: skip
            setattr(self, name, getattr(state, name))

    def owners(self) -> Ints:
        out = np.empty(self._num_nodes, np.int64)
        self._state.owners(out.ctypes.data)
        return out

    def blocks(self) -> Ints:
        out = np.empty((4, self._state.num_blocks()), np.int64)
        self._state.blocks(out.ctypes.data, out.shape[1])
        return out


@dataclass(frozen=True)
class Iteration:
    """What one iteration did.

    Attributes:
        iteration: from 1.
        groups, merges, trials: candidate groups of two or more, merges, pairs that were tried.
        supernodes, superedges, largest: afterwards, with the largest weight.
        bits: size afterwards, before supernodes without superedges are pooled.
    """

    iteration: int
    groups: int
    merges: int
    trials: int
    supernodes: int
    superedges: int
    largest: int
    bits: float


@dataclass(frozen=True)
class Merged:
    """A partition of the nodes and the superedges between its parts.

    Attributes:
        owner: int64 ``[n]`` the supernode of each node, numbered by their first nodes.
        super_index: int64 ``[2, P]``, the first row not smaller than the second.
        weight: int64 ``[P]`` edges of each superedge.
        log: one record per iteration.
    """

    owner: Tensor
    super_index: Tensor
    weight: Tensor
    log: tuple[Iteration, ...]


def summariser(
    csr: CSR, budget: float, *, p: int = 1, iterations: int = 20, num_hashes: int = 10,
    max_group: int = 500, effort: int | None = None, seed: int = 0,
    compat: bool = False,
) -> Summarising:  # fmt: skip
    """The state of :func:`summarise`, for those who want to look at every merge.

    Args:
        csr, budget, p, iterations, num_hashes, max_group, effort, seed, compat: as there.

    Raises:
        InputError: as there.
    """
    if isinstance(p, bool) or not isinstance(p, int) or p not in (1, 2):
        raise InputError(f"p: {p!r}, wanted 1 or 2")
    if effort is None:
        effort = 1 if compat else 4
    check_counts(iterations=iterations, num_hashes=num_hashes, max_group=max_group, effort=effort)
    if not 0 <= budget < float("inf"):
        raise InputError(f"budget: {budget} bits, wanted a number of at least 0")
    if csr.num_rows != csr.num_cols or csr.num_rows < 2 or not csr.num_entries:
        raise InputError(
            f"csr: {csr.num_rows} x {csr.num_cols} with {csr.num_entries} entries, wanted a graph "
            "of at least two nodes and an edge"
        )
    if max(csr.num_rows, csr.num_entries) >= 2**31:
        raise InputError(
            f"csr: {csr.num_rows} nodes and {csr.num_entries} entries, wanted fewer than 2^31"
        )
    rowptr = csr.rowptr.cpu().long().contiguous()
    col = csr.col.cpu()
    if not 0 <= int(col.min()) <= int(col.max()) < csr.num_rows:  # before it is made narrower
        raise InputError(f"col: {int(col.min())}..{int(col.max())}, wanted 0..{csr.num_rows - 1}")
    col = col.int().contiguous()
    if len(rowptr) != csr.num_rows + 1:
        raise InputError(f"rowptr: {len(rowptr)} values, wanted {csr.num_rows + 1}")
    if cpu.kernels is not None and current(torch.device("cpu")) == "native":
        options = (
            float(budget), p, iterations, num_hashes, max_group, effort, seed_bits(seed),
            bool(compat), cpu.threads(),
        )  # fmt: skip
        try:
            state = cpu.kernels.Summariser(
                rowptr.data_ptr(), col.data_ptr(), csr.num_rows, csr.num_entries, options
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        return _Native(state, csr.num_rows)  # type: ignore[return-value]
    _check_rows(rowptr, col)
    return ReferenceSummariser(
        rowptr.numpy(), col.long().numpy(), float(budget), p, iterations, num_hashes, max_group,
        effort, seed_bits(seed), bool(compat),
    )  # fmt: skip


def check_counts(**counts: int) -> None:
    """Refuse what :func:`summarise` does not take for ``iterations`` and its like.

    Raises:
        InputError: names the argument.
    """
    for name, value in counts.items():
        least, most = _RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InputError(f"{name}: {value!r}, wanted an int, {least}..{most:,}")


def _check_rows(rowptr: Tensor, col: Tensor) -> None:
    n = len(rowptr) - 1
    degree = rowptr[1:] - rowptr[:-1]
    good = int(rowptr[0]) == 0 and int(rowptr[-1]) == len(col) and bool((degree >= 0).all())
    if good:
        row, other = torch.arange(n, device=col.device).repeat_interleave(degree), col.long()
        good = bool(((other >= 0) & (other < n) & (other != row)).all())
        key = row * n + other
        good = good and bool((key[1:] > key[:-1]).all())
        good = good and torch.equal(torch.sort(other * n + row).values, key)
    if not good:
        raise InputError("graph: wanted a symmetric graph without loops, rows ascending")


def summarise(
    csr: CSR,
    budget: float,
    *,
    p: int = 1,
    iterations: int = 20,
    num_hashes: int = 10,
    max_group: int = 500,
    effort: int | None = None,
    seed: int = 0,
    compat: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Merged:
    r"""Merge nodes greedily until the summary of the graph fits into ``budget`` bits.

    Lee, Jo, Ko, Lim, Shin: "SSumM: Sparse Summarization of Massive Graphs", KDD 2020 (arXiv
    2006.01060). Supernodes :math:`A, B` of a candidate group merge where that lowers the
    description length of their blocks most, relatively; a block of :math:`w` edges among :math:`N`
    pairs costs

    .. math::
        \min\bigl(2 \log |S| + \log \omega_{\max} + N H(w / N),\; 2 w \log |V|\bigr)

    bits, as a superedge or as plain edges. Random numbers are hashes of (seed, iteration, group):
    the result is the same for any number of threads.

    Args:
        csr: symmetric, without loops, rows ascending, each neighbour once.
        budget: bits; :math:`|P| (2 \log |S| + \log \omega_{\max}) + |V| \log |S|` is at most that.
        p: which error to keep small, of absolute (1) or squared (2) differences.
        iterations, num_hashes, max_group: how often candidates are grouped, by how many min-hash
            shingles at most, and how many may be in one group.
        effort: pairs drawn in a round, per member of the group. The paper's 1 is quicker; 4, the
            default, gives smaller errors, and more than 8 no better ones.
        seed: any integer.
        compat: ``effort=1``, every pair drawn even where there are fewer pairs or one halves the
            cost, the published code's limit on fruitless rounds, which leaves out groups of two,
            and its test of the budget, which forgets that supernodes without
            superedges will be pooled.
        progress: called with the share of the iterations that is done, several times a second.

    Raises:
        InputError: a graph that is not as above, or an argument out of range.

    Example:
        >>> bipartite = torch.tensor([[0, 0, 0, 1, 1, 1], [2, 3, 4, 2, 3, 4]])
        >>> both = torch.cat([bipartite, bipartite.flip(0)], 1)
        >>> merged = summarise(CSR.from_edge_index(both), 10.0)
        >>> merged.owner.tolist(), merged.super_index.tolist(), merged.weight.tolist()
        ([0, 0, 1, 1, 1], [[1], [0]], [6])
    """
    state = summariser(
        csr, budget, p=p, iterations=iterations, num_hashes=num_hashes, max_group=max_group,
        effort=effort, seed=seed, compat=compat,
    )  # fmt: skip
    while not state.advance(_SLICE, _ALL):
        if progress is not None:
            progress(state.progress())
    state.finish()
    if progress is not None:
        progress(1.0)
    return merged_of(state)


def merged_of(state: Summarising) -> Merged:
    """The partition and superedges of a state, supernodes numbered by their first nodes."""
    owner = torch.from_numpy(state.owners())
    a, b, weight, joined = torch.from_numpy(state.blocks())
    kept = joined.bool()
    first = torch.full_like(owner, len(owner))
    first.scatter_reduce_(0, owner, torch.arange(len(owner), device=owner.device), "amin")
    roots = torch.unique(owner)
    number = torch.empty_like(owner)
    number[roots[first[roots].argsort()]] = torch.arange(len(roots), device=owner.device)
    ends = torch.stack([number[a[kept]], number[b[kept]]])
    ends = torch.stack([ends.amax(0), ends.amin(0)])
    order = (ends[0] * len(roots) + ends[1]).argsort()
    log = tuple(Iteration(*row) for row in state.rounds())
    return Merged(number[owner], ends[:, order], weight[kept][order], log)
