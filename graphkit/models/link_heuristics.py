"""Scores of links from the graph alone: common neighbours and what is built on paths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.models.ncn.adjacency import adjacency, checked_pairs
from graphkit.models.registry import register_model
from graphkit.ops import CSR, aggregate, common_neighbors, intersect_sum

KINDS = ("cn", "aa", "ra", "katz", "ppr")
_ELEMENTS = 1 << 22  # of one [nodes, sources] block


@register_model("link_heuristic")
class LinkHeuristic(nn.Module):
    r"""A link-prediction heuristic; an estimator with nothing to train.

    .. math::
        \text{cn} = |C|, \quad
        \text{aa} = \sum_{u \in C} \frac{1}{\log d_u}, \quad
        \text{ra} = \sum_{u \in C} \frac{1}{d_u}, \quad
        \text{katz} = \sum_{l=1}^{L} \beta^l (A^l)_{ij}, \quad
        \text{ppr} = \pi_i(j) + \pi_j(i)

    with :math:`C = N(i) \cap N(j)`: Newman (Phys. Rev. E 64, 025102, 2001), Adamic and Adar (Social
    Networks 25, 2003), Zhou, Lu and Zhang (Eur. Phys. J. B 71, 2009), Katz (Psychometrika 18,
    1953); :math:`\pi_i` is the PageRank of a walk that returns to :math:`i`.

    Args:
        kind: ``cn``, ``aa``, ``ra``, ``katz`` or ``ppr``.
        beta: of Katz.
        length: longest path of Katz.
        restart: probability of returning, of ``ppr``.
        iterations: of the power iteration of ``ppr``.

    Shapes:
        - **x:** anything; it is not read
        - **adj:** undirected, no self-loops: see :class:`~graphkit.models.NCN`
        - **pairs:** ``[2, B]``
        - **output:** ``[B, 1]``

    Raises:
        InputError: an unknown kind, or a number out of range.

    Example:
        >>> square = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 0], [1, 0, 2, 1, 3, 2, 0, 3]])
        >>> LinkHeuristic("cn").fit(square, num_nodes=4).predict(torch.tensor([[0], [2]])).tolist()
        [2.0]
    """

    name: str

    def __init__(
        self,
        kind: str = "cn",
        beta: float = 0.005,
        length: int = 3,
        restart: float = 0.15,
        iterations: int = 30,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(
                f"kind: {kind!r} is not one of {', '.join(KINDS)}{nearest(kind, KINDS)}"
            )
        for name, count in (("length", length), ("iterations", iterations)):
            if count < 1:
                raise InputError(f"{name}: {count}, wanted at least 1")
        if not (0.0 < restart < 1.0 and beta > 0.0):
            raise InputError(
                f"restart, beta: {restart}, {beta}, wanted 0 < restart < 1 and beta > 0"
            )
        self.config: dict[str, Any] = {
            "kind": kind, "beta": beta, "length": length, "restart": restart,
            "iterations": iterations,
        }  # fmt: skip
        self.kind, self.beta, self.length = kind, beta, length
        self.restart, self.iterations = restart, iterations
        self.adj_: CSR | None = None

    def fit(self, adj: CSR | Tensor, num_nodes: int) -> LinkHeuristic:
        """Take the graph whose links are known."""
        self.adj_ = adjacency(adj, num_nodes)
        return self

    def predict(self, pairs: Tensor) -> Tensor:
        """Scores ``[B]`` of pairs on the graph that was fitted.

        Raises:
            InputError: there is none.
        """
        if self.adj_ is None:
            raise InputError("predict: no graph yet; call fit(adj, num_nodes) first")
        return self.score(torch.empty(self.adj_.num_rows, 0), self.adj_, pairs).view(-1)

    def forward(self, x: Tensor, adj: CSR | Tensor, pairs: Tensor) -> Tensor:
        return self.score(x, adj, pairs)

    def encode(self, x: Tensor, adj: CSR | Tensor) -> Tensor:
        """The features as they are: heuristics look at the graph only."""
        return x

    def score(self, h: Tensor, adj: CSR | Tensor, pairs: Tensor) -> Tensor:
        """Scores ``[B, 1]`` of pairs.

        Args:
            h: not read but for its number of rows.
            adj: the graph.
            pairs: ``[2, B]`` node ids.

        Raises:
            InputError: a graph as :class:`~graphkit.models.NCN` refuses, or pairs that are no ids.
        """
        graph = adjacency(adj, h.size(0))
        pairs = checked_pairs(pairs, graph)
        if not pairs.size(1):
            return torch.zeros(0, 1, device=pairs.device)
        if self.kind == "cn":
            return common_neighbors(graph, pairs).to(torch.float32)[:, None]
        if self.kind in ("aa", "ra"):
            degree = graph.degree.to(torch.float32)
            # A node of degree 1 is no common neighbour of two nodes; its 1 / log 1 is never summed.
            weight = 1.0 / (
                degree.clamp(min=2.0).log() if self.kind == "aa" else degree.clamp(min=1.0)
            )
            return intersect_sum(graph, pairs, weight[:, None])
        return self._from_sources(graph, pairs)[:, None]

    def _from_sources(self, graph: CSR, pairs: Tensor) -> Tensor:
        """Scores along paths: a block of sources at a time, as dense columns over all nodes."""
        sources, place = torch.unique(pairs[0], return_inverse=True)
        out = torch.empty(pairs.size(1), device=pairs.device)
        columns = max(_ELEMENTS // max(graph.num_rows, 1), 1)
        order = torch.argsort(place, stable=True)
        bounds = torch.searchsorted(
            place[order], torch.arange(0, sources.numel() + columns, columns, device=pairs.device)
        ).tolist()
        for number, block in enumerate(sources.split(columns)):
            start = torch.zeros(graph.num_rows, block.numel(), device=pairs.device)
            start[block, torch.arange(block.numel(), device=pairs.device)] = 1.0
            reached = self._katz(graph, start) if self.kind == "katz" else self._ppr(graph, start)
            mine = order[bounds[number] : bounds[number + 1]]
            i, j = pairs[:, mine]
            values = reached[j, place[mine] - number * columns]
            if self.kind == "ppr":
                # A walk on an undirected graph is reversible: d_i pi_i(j) = d_j pi_j(i).
                degree = graph.degree.to(torch.float32)
                values = values * (1.0 + degree[i] / degree[j].clamp(min=1.0))
            out[mine] = values
        return out

    def _katz(self, graph: CSR, start: Tensor) -> Tensor:
        paths, total = start, torch.zeros_like(start)
        for step in range(1, self.length + 1):
            paths = aggregate(graph, paths)
            total.add_(paths, alpha=self.beta**step)
        return total

    def _ppr(self, graph: CSR, start: Tensor) -> Tensor:
        share = (1.0 / graph.degree.to(torch.float32).clamp(min=1.0))[:, None]
        rank = start
        for _ in range(self.iterations):
            rank = torch.add(
                self.restart * start, aggregate(graph, rank * share), alpha=1.0 - self.restart
            )
        return rank

    def __repr__(self) -> str:
        return f"LinkHeuristic({self.kind})"
