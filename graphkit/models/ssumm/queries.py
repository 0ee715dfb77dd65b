"""Queries that a summary graph answers by itself: its products, neighbourhoods and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.ssumm.unpacking import all_pairs, sampled_pairs
from graphkit.ops import CSR, aggregate


class SummaryQueries:
    """What :class:`~graphkit.models.ssumm.SummaryGraph` answers without its graph."""

    owner: Tensor
    super_index: Tensor
    weight: Tensor
    sizes: Tensor
    pairs: Tensor

    @property
    def num_nodes(self) -> int:
        """``|V|``"""
        raise NotImplementedError

    @property
    def density(self) -> Tensor:
        """``d_AB`` of each superedge."""
        raise NotImplementedError

    # -- single entries ---------------------------------------------------------------------------

    def adjacency(self, u: Tensor | int, v: Tensor | int) -> Tensor:
        """``A_hat[u, v]`` of nodes, or of equally many of them.

        Raises:
            InputError: a node out of range.

        Example:
            >>> from graphkit.models import SummaryGraph
            >>> triangle = SummaryGraph(torch.tensor([0, 0, 0]), torch.tensor([[0], [0]]),
            ...     torch.tensor([3]))
            >>> triangle.adjacency(torch.tensor([0, 1]), torch.tensor([2, 1])).tolist()
            [1.0, 0.0]
        """
        first, second = self._nodes("u", u), self._nodes("v", v)
        a, b = self.owner[first], self.owner[second]
        keys, order = self._sorted_edges()
        wanted = torch.maximum(a, b) * len(self.sizes) + torch.minimum(a, b)
        if not len(keys):
            return torch.zeros(wanted.shape, dtype=torch.float64)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        found = (keys[place] == wanted) & (first != second)
        return torch.where(found, self.density[order[place]], 0.0)

    def neighbours(self, u: int, tau: float = 0.0) -> tuple[Tensor, Tensor]:
        """Nodes ``v`` with ``A_hat[u, v] >= tau`` and above 0, ascending, and these values.

        Raises:
            InputError: a node out of range, or ``tau`` outside 0..1.
        """
        node = self._nodes("u", u)
        if node.numel() != 1:
            raise InputError(f"u: {node.numel()} nodes, wanted one")
        a = int(self.owner[node])
        if not 0 <= tau <= 1:
            raise InputError(f"tau: {tau}, wanted 0..1")
        members, between, density, *_ = self._operator(torch.device("cpu"), torch.float64)
        row = slice(int(between.rowptr[a]), int(between.rowptr[a + 1]))
        near, value = between.col[row].long(), density
        if between.eid is not None:
            value = density[between.eid[row].long()]
        near, value = near[value >= tau], value[value >= tau]
        parts = [
            members.col[int(members.rowptr[b]) : int(members.rowptr[b + 1])] for b in near.tolist()
        ]
        nodes = torch.cat([torch.empty(0, dtype=torch.int64), *parts])
        nodes, order = nodes.sort()
        of_node = value.repeat_interleave(self.sizes[near])[order]
        return nodes[nodes != int(u)], of_node[nodes != int(u)]

    def expected_degree(self) -> Tensor:
        """float64 ``[n]``: row sums of ``A_hat``."""
        total = torch.zeros(len(self.sizes), dtype=torch.float64)
        weight = self.weight.double()
        total.index_add_(0, self.super_index[0], weight)
        total.index_add_(0, self.super_index[1], weight)  # a superloop counts at both ends
        return (total / self.sizes)[self.owner]

    # -- products ---------------------------------------------------------------------------------

    def matvec(self, x: Tensor) -> Tensor:
        r"""Multiply by the adjacency that the summary stands for.

        .. math::
            y_u = \sum_B d_{AB} \sum_{v \in B} x_v - d_{AA} x_u, \qquad u \in A

        For ``[n, F]`` features it is message passing over the whole graph at the price of its
        summary, ``O((|V| + |P|) F)``, with gradients.

        Args:
            x: ``[n]`` or ``[n, F]`` floating point.

        Shapes:
            - **out:** as ``x``

        Raises:
            InputError: another shape or dtype.

        Example:
            >>> from graphkit.models import SummaryGraph
            >>> triangle = SummaryGraph(torch.tensor([0, 0, 0]), torch.tensor([[0], [0]]),
            ...     torch.tensor([3]))
            >>> triangle.matvec(torch.tensor([1.0, 2.0, 4.0])).tolist()
            [6.0, 5.0, 3.0]
        """
        if not isinstance(x, Tensor):
            raise InputError(f"x: {type(x).__name__}, wanted a tensor [{self.num_nodes}] or [n, F]")
        if x.dim() not in (1, 2) or x.size(0) != self.num_nodes or not x.is_floating_point():
            raise InputError(
                f"x: {x.dtype} {list(x.shape)}, wanted floating point [{self.num_nodes}] or "
                f"[{self.num_nodes}, F]"
            )
        members, between, density, own, owner = self._operator(x.device, x.dtype)
        columns = x.unsqueeze(1) if x.dim() == 1 else x
        inside = aggregate(members, columns)
        spread = aggregate(between, inside, density, message="scale")
        out = spread[owner] - own[:, None] * columns
        return out.squeeze(1) if x.dim() == 1 else out

    def _sorted_edges(self) -> tuple[Tensor, Tensor]:
        kept: dict[str, tuple[Tensor, Tensor]] = self.__dict__.setdefault("_edges_in_order", {})
        if not kept:
            keys = self.super_index[0] * len(self.sizes) + self.super_index[1]
            ordered = keys.sort()
            kept["both"] = (ordered.values, ordered.indices)
        return kept["both"]

    def multiplications(self) -> int:
        """Multiply-adds of :meth:`matvec` per column; those of the graph are ``2 |E|``."""
        loops = int((self.super_index[0] == self.super_index[1]).sum())
        return 2 * len(self.weight) - loops + 2 * self.num_nodes

    def _operator(
        self, device: torch.device, dtype: torch.dtype
    ) -> tuple[CSR, CSR, Tensor, Tensor, Tensor]:
        kept: dict[object, tuple[CSR, CSR, Tensor, Tensor, Tensor]] = self.__dict__.setdefault(
            "_operators", {}
        )
        if (device, dtype) not in kept:
            count, (a, b), density = len(self.sizes), self.super_index, self.density
            start = torch.cat([torch.zeros(1, dtype=torch.int64), self.sizes.cumsum(0)])
            members = CSR(start, self.owner.argsort(stable=True), None, count, self.num_nodes)
            loop = a == b
            ends = torch.cat([self.super_index, torch.stack([b, a])[:, ~loop]], dim=1)
            both = torch.cat([density, density[~loop]])
            own = torch.zeros(count, dtype=torch.float64)
            own[a[loop]] = density[loop]
            kept[device, dtype] = (
                members.to(device),
                CSR.from_edge_index(ends.to(device), count),
                both.to(device, dtype),
                own[self.owner].to(device, dtype),
                self.owner.to(device),
            )
        return kept[device, dtype]

    # -- ranks ------------------------------------------------------------------------------------

    def pagerank(
        self, damping: float = 0.85, *, tolerance: float = 1e-10, iterations: int = 1000
    ) -> Tensor:
        """float64 ``[n]``, of sum 1: PageRank where an edge is followed in proportion to ``A_hat``.

        A node of expected degree 0 sends its rank to all nodes.

        Args:
            damping: share of the rank that follows edges.
            tolerance: of the absolute change of all ranks together, in one step.
            iterations: at most.

        Raises:
            InputError: ``damping`` outside [0, 1), or too few iterations.
        """
        even = torch.full((self.num_nodes,), 1 / self.num_nodes, dtype=torch.float64)
        return self._walk(even, damping, tolerance, iterations)

    def random_walk_with_restart(
        self,
        nodes: Tensor | int,
        restart: float = 0.15,
        *,
        tolerance: float = 1e-10,
        iterations: int = 1000,
    ) -> Tensor:
        """float64 ``[n]``, of sum 1: where a walk is that returns to ``nodes`` now and then.

        Args:
            nodes: one, or several that are equally likely.
            restart: probability of a return in each step.
            tolerance, iterations: as for :meth:`pagerank`.

        Raises:
            InputError: a node out of range, none, ``restart`` outside (0, 1], or too few
                iterations.
        """
        start = self._nodes("nodes", nodes).reshape(-1)
        if not start.numel():
            raise InputError("nodes: none, wanted at least one")
        if not 0 < restart <= 1:
            raise InputError(f"restart: {restart}, wanted 0 < restart <= 1")
        home = torch.bincount(start, minlength=self.num_nodes).double() / start.numel()
        return self._walk(home, 1 - restart, tolerance, iterations)

    def _walk(self, home: Tensor, damping: float, tolerance: float, iterations: int) -> Tensor:
        if not 0 <= damping < 1:
            raise InputError(f"damping: {damping}, wanted 0 <= damping < 1")
        _at_least_one(iterations)
        degree = self.expected_degree()
        stuck = degree == 0
        rank = home
        for _ in range(iterations):
            moved = self.matvec(torch.where(stuck, 0.0, rank / degree))
            new = damping * (moved + rank[stuck].sum() * home) + (1 - damping) * home
            change = float((new - rank).abs().sum())
            rank = new / new.sum()
            if change <= tolerance:
                return rank
        raise InputError(f"iterations: {iterations} leave a change of {change:.1e}, wanted more")

    def eigenvector_centrality(
        self, *, tolerance: float = 1e-9, iterations: int = 10_000
    ) -> Tensor:
        """float64 ``[n]``, of length 1 and not negative: the leading eigenvector of ``A_hat``.

        Args:
            tolerance: of the largest change of an entry in one step.
            iterations: at most.

        Raises:
            InputError: too few iterations, as where two components have equal eigenvalues nearly.
        """
        _at_least_one(iterations)
        x = torch.full((self.num_nodes,), self.num_nodes**-0.5, dtype=torch.float64)
        if not len(self.weight):
            return x
        for _ in range(iterations):
            # The shift keeps bipartite graphs, whose spectrum is symmetric, from alternating.
            new = self.matvec(x) + x
            new = new / new.norm()
            change = float((new - x).abs().max())
            x = new
            if change <= tolerance:
                return x
        raise InputError(f"iterations: {iterations} leave a change of {change:.1e}, wanted more")

    # -- graphs -----------------------------------------------------------------------------------

    def reconstruct(self, *, limit: int = 10_000_000) -> tuple[Tensor, Tensor]:
        """The whole weighted graph: ``edge_index`` ``[2, E]`` with both directions, and ``A_hat``.

        Args:
            limit: pairs of nodes at most.

        Raises:
            InputError: more pairs than the limit.
        """
        total = int(self.pairs.sum())
        if total > limit:
            raise InputError(f"limit: {limit:,}, but superedges span {total:,} pairs of nodes")
        pairs = all_pairs(self.owner, self.super_index, self.pairs)
        value = self.density.repeat_interleave(self.pairs)
        return torch.cat([pairs, pairs.flip(0)], dim=1), value.repeat(2)

    def sample(self, *, seed: int = 0) -> Tensor:
        """A graph that has each edge ``{u, v}`` with probability ``A_hat[u, v]``, independently.

        Args:
            seed: any int of at least 0.

        Returns:
            int64 ``[2, E]``, both directions.

        Raises:
            InputError: another seed.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed: {seed!r}, wanted an int of at least 0")
        pairs = sampled_pairs(self.owner, self.super_index, self.pairs, self.density, seed)
        return torch.cat([pairs, pairs.flip(0)], dim=1)

    def _nodes(self, name: str, given: Tensor | int) -> Tensor:
        nodes = torch.as_tensor(given)
        if nodes.dtype not in (torch.int32, torch.int64):
            raise InputError(f"{name}: {nodes.dtype}, wanted int64 nodes")
        if nodes.numel() and not 0 <= int(nodes.min()) <= int(nodes.max()) < self.num_nodes:
            raise InputError(
                f"{name}: {int(nodes.min())}..{int(nodes.max())}, wanted 0..{self.num_nodes - 1}"
            )
        return nodes.long()


def _at_least_one(iterations: int) -> None:
    if iterations < 1:
        raise InputError(f"iterations: {iterations}, wanted at least 1")
