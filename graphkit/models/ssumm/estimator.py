"""SSumM as an estimator: a graph and a budget in, a summary out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.ssumm.simple_graph import simple_graph
from graphkit.models.ssumm.summary import SummaryGraph
from graphkit.ops.summarise import Iteration, check_counts
from graphkit.ops.summarise import summarise as merge_nodes


class SSumM:
    r"""Lossy graph summaries of a given size (Lee, Jo, Ko, Lim, Shin: "SSumM: Sparse Summarization
    of Massive Graphs", KDD 2020, arXiv 2006.01060).

    Nodes are merged into supernodes, and a superedge keeps how many edges there are between two of
    them, until

    .. math:: |P| (2 \log_2 |S| + \log_2 \omega_{\max}) + |V| \log_2 |S| \le k

    for :math:`|S|` supernodes, :math:`|P|` superedges and the largest weight :math:`\omega_{\max}`.
    Among the merges that are tried the one goes first that lowers the description length of the
    graph most, relatively; superedges come and go with the merges. Where no merge is left, the
    superedges that cost the reconstruction least are dropped.

    Args:
        bits: the budget :math:`k`.
        fraction: the budget as a share of the graph's own :math:`2 |E| \log_2 |V|` bits.
        p: keep small the sum of absolute (1) or squared (2) differences. On many graphs 1 gives
            the smaller of both.
        iterations: how often candidates are grouped anew.
        num_hashes: min-hash shingles that split groups at most.
        max_group: supernodes in a group at most.
        effort: pairs tried in a round, per member of the group; 4 by default, 1 in the paper.
        seed: of every random number; the result does not depend on the number of threads.
        compat: the published code's rules; see :func:`graphkit.ops.summarise.summarise`.
        progress: called with the share of the iterations that is done.

    Attributes:
        summary_: the :class:`SummaryGraph`.
        log_: one :class:`~graphkit.ops.summarise.Iteration` per iteration.

    Raises:
        InputError: no budget or two, a fraction that is not positive, a ``p`` other than 1 and 2.

    Example:
        >>> import networkx
        >>> karate = networkx.karate_club_graph()
        >>> model = SSumM(fraction=0.5, seed=1).fit(karate, ignore_weights=True)
        >>> model.summary_.bits <= 0.5 * 2 * 78 * math.log2(34)
        True
    """

    summary_: SummaryGraph
    log_: tuple[Iteration, ...]

    def __init__(
        self,
        *,
        bits: float | None = None,
        fraction: float | None = None,
        p: int = 1,
        iterations: int = 20,
        num_hashes: int = 10,
        max_group: int = 500,
        effort: int | None = None,
        seed: int = 0,
        compat: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "bits": bits, "fraction": fraction, "p": p, "iterations": iterations,
            "num_hashes": num_hashes, "max_group": max_group, "effort": effort, "seed": seed,
            "compat": compat, "progress": progress,
        }  # fmt: skip
        _check(self._settings)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn's ``clone`` asks for them."""
        return dict(self._settings)

    def set_params(self, **params: Any) -> SSumM:
        """Change arguments.

        Raises:
            InputError: as the constructor, which then has not changed anything.
        """
        changed = {**self._settings, **params}
        type(self)(**changed)
        self._settings = changed
        return self

    def fit(
        self,
        graph: Any,
        *,
        num_nodes: int | None = None,
        symmetrise: bool = False,
        ignore_weights: bool = False,
        ids: Tensor | None = None,
    ) -> SSumM:
        """Summarise a graph.

        Args:
            graph: see :func:`~graphkit.models.graph_input.read_graph`; loops and repeated edges
                are dropped.
            num_nodes: of an ``edge_index`` whose last nodes have no edge.
            symmetrise: take an edge in one direction for an edge.
            ignore_weights: forget edge weights.
            ids: int64 ``[n]`` what the nodes are called in the summary's file.

        Raises:
            InputError: directed or weighted without leave, fewer than two nodes, or no edge.
        """
        csr = simple_graph(
            graph, num_nodes=num_nodes, symmetrise=symmetrise, ignore_weights=ignore_weights
        )
        if ids is not None and not isinstance(ids, Tensor):
            raise InputError(f"ids: {type(ids).__name__}, wanted a tensor [{csr.num_rows}] int64")
        if ids is not None and (
            ids.shape != (csr.num_rows,)
            or ids.dtype != torch.int64
            or len(torch.unique(ids)) < len(ids)
        ):
            raise InputError(
                f"ids: {ids.dtype} {list(ids.shape)}, wanted [{csr.num_rows}] int64, each once"
            )
        settings = dict(self._settings)
        bits, fraction = settings.pop("bits"), settings.pop("fraction")
        edges = csr.num_entries // 2
        if bits is None:
            bits = fraction * 2 * edges * math.log2(csr.num_rows)
        merged = merge_nodes(csr, bits, **settings)
        self.log_ = merged.log
        self.summary_ = SummaryGraph(
            merged.owner, merged.super_index, merged.weight, num_edges=edges, ids=ids
        )
        return self

    def fit_transform(self, graph: Any, **inputs: Any) -> SummaryGraph:
        """:meth:`fit`, and its summary."""
        return self.fit(graph, **inputs).summary_

    def __repr__(self) -> str:
        given = {k: v for k, v in self._settings.items() if v is not None and k != "progress"}
        return f"SSumM({', '.join(f'{k}={v!r}' for k, v in given.items())})"


def summarise(
    graph: Any, *, target_bits: float | None = None, ratio: float | None = None, **settings: Any
) -> SummaryGraph:
    """Summarise a graph in one call.

    Args:
        graph: see :meth:`SSumM.fit`, whose other arguments are taken too.
        target_bits, ratio: the budget: ``bits`` or ``fraction`` of :class:`SSumM`.
        settings: its other arguments.

    Raises:
        InputError: as :class:`SSumM` and its ``fit``.

    Example:
        >>> bipartite = torch.tensor([[0, 0, 0, 1, 1, 1], [2, 3, 4, 2, 3, 4]])
        >>> summarise(bipartite, target_bits=10, symmetrise=True)
        SummaryGraph(5 nodes, 2 supernodes, 1 superedges, 9.6 bits)
    """
    inputs = ("num_nodes", "symmetrise", "ignore_weights", "ids")
    given = {name: settings.pop(name) for name in inputs if name in settings}
    _check_budget("target_bits", target_bits, "ratio", ratio)
    return SSumM(bits=target_bits, fraction=ratio, **settings).fit_transform(graph, **given)


def _check(settings: dict[str, Any]) -> None:
    _check_budget("bits", settings["bits"], "fraction", settings["fraction"])
    p = settings["p"]
    if isinstance(p, bool) or not isinstance(p, int) or p not in (1, 2):
        raise InputError(f"p: {p!r}, wanted 1 or 2")
    counts = {name: settings[name] for name in ("iterations", "num_hashes", "max_group")}
    check_counts(**counts, **({} if settings["effort"] is None else {"effort": settings["effort"]}))
    if isinstance(settings["seed"], bool) or not isinstance(settings["seed"], int):
        raise InputError(f"seed: {settings['seed']!r}, wanted an int")


def _check_budget(name: str, bits: Any, share_name: str, share: Any) -> None:
    if (bits is None) == (share is None):
        raise InputError(f"{name}, {share_name}: {bits}, {share}, wanted exactly one of them")
    for what, given in ((name, bits), (share_name, share)):
        if isinstance(given, bool) or not isinstance(given, int | float | None):
            raise InputError(f"{what}: {given!r}, wanted a number")
    if share is not None and not 0 < share < float("inf"):
        raise InputError(f"{share_name}: {share}, wanted a positive number")
    if bits is not None and not 0 <= bits < float("inf"):
        raise InputError(f"{name}: {bits}, wanted a number of at least 0")
