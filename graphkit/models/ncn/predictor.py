"""NCN's link predictors: one class, whose variants differ in what they pool around a pair."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.models.ncn.adjacency import adjacency, checked_pairs, drop_adj
from graphkit.models.ncn.completion import (
    check_completion,
    check_limit,
    completion_probability,
    log_of,
    pieces,
    sample_rows,
    two_hop,
)
from graphkit.models.ncn.encoder import check_probability, dropout
from graphkit.nn.norm_act import run_layers
from graphkit.ops import CSR, aggregate, intersect, intersect_sum

_ELEMENTS = 1 << 20  # of one [pairs, H] tensor of completion: 4 MiB in float32
_ENTRIES = 1 << 25  # of the packed sets of one piece of work


@dataclass(frozen=True)
class Structure:
    """What a variant adds to the pair's own features.

    Attributes:
        pools: whether there is anything besides the pair's features.
        counts: numbers of nodes are pooled, not features.
        joined: concatenated with the pair's features, not added.
        completes: nodes of one neighbourhood only count by the belief in the missing link.
        beyond: ``two_hop``, ``residual``, ``higher`` or nothing.
        depth: how often completion looks into completion, where the name says it.
    """

    pools: bool = True
    counts: bool = False
    joined: bool = False
    completes: bool = False
    beyond: str | None = None
    depth: int | None = None


PREDICTORS = {
    "cn0": Structure(pools=False),
    "scn1": Structure(counts=True),
    "catscn1": Structure(counts=True, joined=True),
    "cn1": Structure(),
    "cn1.5": Structure(beyond="two_hop"),
    "cn1res": Structure(beyond="residual"),
    "cn2": Structure(beyond="higher"),
    "incn1cn1": Structure(completes=True),
    "sincn1cn1": Structure(counts=True, completes=True),
}
_ALIASES = {
    "gae": "cn0",
    "gae_cn": "scn1",
    "gae_cat_cn": "catscn1",
    "ncn": "cn1",
    "ncn2": "cn1.5",
    "ncn_diff": "cn1res",
    "ncn_higher": "cn2",
}
PREDICTORS |= {alias: PREDICTORS[name] for alias, name in _ALIASES.items()}
PREDICTORS |= {
    "ncnc": replace(PREDICTORS["incn1cn1"], depth=1),
    "ncnc2": replace(PREDICTORS["incn1cn1"], depth=2),
    "gae_cnc": replace(PREDICTORS["sincn1cn1"], depth=1),
}


@dataclass(frozen=True)
class _Level:
    """What all pairs of one call share: features, what is pooled of them, the graph drawn."""

    x: Tensor
    pooled: Tensor
    adj: CSR
    undropped: CSR


class LinkPredictor(nn.Module):
    r"""The predictors of NCN and NCNC (Wang, Yang, Zhang, ICLR 2024, arXiv 2302.00890).

    .. math::
        p = x_i \odot x_j, \qquad x' = x + \mathrm{xlin}(x), \qquad
        c = \sum_{u \in N(i) \cap N(j)} x'_u, \qquad
        \mathrm{logit} = \mathrm{lin}(\beta \, \mathrm{xcnlin}(c) + \mathrm{xijlin}(p))

    on the rows of the graph after DropAdj. Completion adds to :math:`c`

    .. math::
        \sum_{u \in N(i) \setminus N(j)} P(l_{ju}) x'_u + \sum_{u \in N(j) \setminus N(i)}
        P(l_{iu}) x'_u

    with :math:`l` the logits of this same predictor, one level less deep and without gradient, and
    :math:`P` of :func:`~graphkit.models.ncn.completion.completion_probability`.

    ===================================  ====================================================
    ``predictor``                        beside ``xijlin(p)``
    ===================================  ====================================================
    ``cn0``, ``gae``                     nothing
    ``scn1``, ``gae_cn``                 ``beta * xcnlin(|C|)``
    ``catscn1``, ``gae_cat_cn``          ``|C|``, concatenated
    ``cn1``, ``ncn``                     ``beta * xcnlin(c)``
    ``cn1.5``, ``ncn2``                  and ``xcn12lin`` of the sums over :math:`N(i) \cap
                                         N_2(j)` and :math:`N_2(i) \cap N(j)`
    ``cn1res``, ``ncn_diff``             and ``xcnreslin`` of the sums over both differences
    ``cn2``, ``ncn_higher``              three orders, weighted by a cumulative product
    ``incn1cn1`` with ``depth``          ``beta * xcnlin`` of the completed ``c``
    ``ncnc``, ``ncnc2``                  the same with depth 1 or 2 unless ``depth`` is given
    ``sincn1cn1`` with ``depth``,        the same on counts
    ``gae_cnc``
    ===================================  ====================================================

    Args:
        hidden_channels: ``H``.
        predictor: as in the table.
        depth: ``K``, how often completion looks into completion; 0 is NCN. Read by ``incn1cn1`` and
            ``sincn1cn1``, which want it said.
        use_xlin, tailact, twolayerlin, lnnn: have ``xlin``; leave out the last map of ``xcnlin``
            and ``xijlin``; a second block in ``lin``; LayerNorm in all of them.
        beta: where the learned factor starts.
        preedp, predp: dropout of edges (drawn at every call) and in the maps.
        cndeg: largest number of draws from a common neighbourhood, -1 for all.
        trndeg, tstdeg: the same for the differences, in training and in evaluation.
        alpha, pt, scale, offset: of :math:`P`; buffers, not learned.
        learnpt: compute ``pt`` from ``p``. Its map ``ptlin`` exists without it too, as in published
            parameter counts, and gets no gradient: DDP wants ``find_unused_parameters`` then.
        nested_transform: score missing links from :math:`x'` and the graph already dropped, which
            transforms and drops a second time: the published code. Else from ``x`` and the graph.
        splitsize: at most so many missing links are scored at once; -1: as many as fit 4 MiB.

    Shapes:
        - **x:** ``[N, H]``, **pairs:** ``[2, B]``
        - **adj:** undirected, no self-loops: see :class:`~graphkit.models.NCN`
        - **out:** ``[B, 1]`` logits

    Raises:
        InputError: an argument that is unknown, missing or out of range; a graph with self-loops,
            directions or repeated edges; pairs that are no node ids.

    Example:
        >>> from graphkit.models.ncn.adjacency import adjacency
        >>> path = adjacency(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> predictor = LinkPredictor(8, "ncnc")
        >>> predictor(torch.randn(3, 8), path, torch.tensor([[0], [2]])).shape
        torch.Size([1, 1])
    """

    def __init__(
        self,
        hidden_channels: int,
        predictor: str = "cn1",
        depth: int | None = None,
        use_xlin: bool = False,
        tailact: bool = False,
        twolayerlin: bool = False,
        beta: float = 1.0,
        lnnn: bool = True,
        preedp: float = 0.0,
        predp: float = 0.0,
        cndeg: int = -1,
        trndeg: int = -1,
        tstdeg: int = -1,
        alpha: float = 1.0,
        pt: float = 0.5,
        scale: float = 5.0,
        offset: float = 3.0,
        learnpt: bool = False,
        nested_transform: bool = True,
        splitsize: int = -1,
    ) -> None:
        super().__init__()
        if predictor not in PREDICTORS:
            raise InputError(
                f"predictor: {predictor!r} is not one of {', '.join(PREDICTORS)}"
                f"{nearest(predictor, PREDICTORS)}"
            )
        self.structure = form = PREDICTORS[predictor]
        self.depth = _depth(predictor, form, depth)
        for name, p in (("preedp", preedp), ("predp", predp)):
            check_probability(name, p)
        for name, limit in (("cndeg", cndeg), ("trndeg", trndeg), ("tstdeg", tstdeg)):
            check_limit(name, limit)
        check_limit("splitsize", splitsize)
        check_completion(alpha, pt, scale, offset)
        if hidden_channels < 1:
            raise InputError(f"hidden_channels: {hidden_channels}, wanted at least 1")
        self.preedp, self.cndeg, self.trndeg, self.tstdeg = preedp, cndeg, trndeg, tstdeg
        self.nested_transform, self.splitsize = nested_transform, splitsize
        self.hidden_channels = h = hidden_channels

        def block(first: int | None = h) -> list[nn.Module]:
            """Lin, LN, D, ReLU."""
            norm = nn.LayerNorm(h) if lnnn else nn.Identity()
            return [nn.Linear(first or h, h), norm, dropout(predp), nn.ReLU()]

        def structural(first: int = h) -> MLP:
            tail = [] if tailact else [nn.Linear(h, h)]
            return MLP(nn.Linear(first, h), dropout(predp), nn.ReLU(), *block(), *tail)

        # Common to several variants and in this order: one seed starts them from the same weights.
        self.xlin: MLP | None = None
        if use_xlin and form.pools and not form.counts:
            self.xlin = MLP(nn.Linear(h, h), dropout(predp), nn.ReLU(), *block())
        self.xijlin = MLP(*block(), *([] if tailact else [nn.Linear(h, h)]))
        second = block() if twolayerlin else []
        self.lin = MLP(*block(h + 1 if form.joined else h), *second, nn.Linear(h, 1))
        if form.pools and not form.joined:
            self.beta = nn.Parameter(torch.tensor([float(beta)]))
            self.xcnlin = structural(1 if form.counts else h)
        if form.beyond == "two_hop":
            self.xcn12lin = structural()
        if form.beyond == "residual":
            self.xcnreslin = structural()
        if form.beyond == "higher":
            self.order = nn.Parameter(torch.ones(3))
            self.xcn2lin, self.xcn4lin = structural(), structural()
        self.learnpt = learnpt
        if form.completes:
            for name, value in (("alpha", alpha), ("pt", pt), ("scale", scale), ("offset", offset)):
                self.register_buffer(name, torch.tensor([float(value)]))
            self.ptlin = MLP(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 1))

    alpha: Tensor
    pt: Tensor
    scale: Tensor
    offset: Tensor

    def reset_parameters(self, beta: float = 1.0) -> None:
        """Redraw every parameter."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        for name, value in (("beta", beta), ("order", 1.0)):
            if hasattr(self, name):
                nn.init.constant_(getattr(self, name), value)

    def forward(self, x: Tensor, adj: CSR | Tensor, pairs: Tensor) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.hidden_channels:
            raise InputError(
                f"x: shape {list(x.shape)}, wanted [N, {self.hidden_channels}] as of the encoder"
            )
        graph = adjacency(adj, x.size(0))
        return self._score(self._enter(x, graph), checked_pairs(pairs, graph), self.depth)

    def _enter(self, x: Tensor, adj: CSR) -> _Level:
        dropped, _ = drop_adj(adj, self.preedp, self.training)
        if self.structure.counts:
            pooled = x.new_ones(x.size(0), 1)
        else:
            pooled = x if self.xlin is None else x + self.xlin(x)
        return _Level(x, pooled, dropped, adj)

    def _score(self, level: _Level, pairs: Tensor, depth: int) -> Tensor:
        p = pair_product(level.x, pairs)
        own: Tensor = self.xijlin(p)
        form = self.structure
        if not form.pools:
            return self.lin(own)  # type: ignore[no-any-return]
        c = self._common(level, pairs)
        if depth > 0 and float(self.alpha) > 0.0:
            c = c + self._completed(level, pairs, p, depth)
        if form.joined:
            return self.lin(torch.cat([own, c], dim=1))  # type: ignore[no-any-return]
        if form.beyond == "higher":
            return self.lin(self._higher(level, pairs, c) + self.beta * own)  # type: ignore[no-any-return]
        structural = self.beta * self.xcnlin(c)
        if form.beyond == "two_hop":
            one, other = self._two_hop_sums(level, pairs)
            structural = structural + self.xcn12lin(one + other)
        if form.beyond == "residual":
            rest = intersect_sum(level.adj, _both_ways(pairs), level.pooled, kind="difference")
            structural = structural + self.xcnreslin(_halves(rest).sum(0))
        return self.lin(structural + own)  # type: ignore[no-any-return]

    def _common(self, level: _Level, pairs: Tensor) -> Tensor:
        if self.cndeg < 0 or self.structure.counts:  # the weights of a sampled row sum to its size
            return intersect_sum(level.adj, pairs, level.pooled)
        found, weight = sample_rows(intersect(level.adj, pairs).csr, self.cndeg)
        if weight is None:
            return aggregate(found, level.pooled)
        return aggregate(found, level.pooled, weight.to(level.pooled.dtype), message="scale")

    def _completed(self, level: _Level, pairs: Tensor, p: Tensor, depth: int) -> Tensor:
        cost = level.adj.degree.long()[pairs].sum(0)  # no difference holds more
        parts = [
            self._completed_piece(level, pairs[:, piece], p[piece], depth)
            for piece in pieces(cost, pairs.size(1), _ENTRIES)
        ]
        return torch.cat(parts) if parts else level.pooled.new_zeros(0, level.pooled.size(1))

    def _completed_piece(self, level: _Level, pairs: Tensor, p: Tensor, depth: int) -> Tensor:
        ends = _both_ways(pairs)
        found = intersect(level.adj, ends, kind="difference").csr
        limit = self.trndeg if self.training else self.tstdeg
        rest, weight = sample_rows(found, limit)
        owner = rest.row()
        missing = torch.stack([ends[1].index_select(0, owner), rest.col.long()])
        logit = self._missing_links(level, missing, depth - 1)
        log_pt = self.pt.log()
        if self.learnpt:
            log_pt = gather(log_of(self.ptlin(p)), owner % pairs.size(1)).view(-1)
        belief = completion_probability(logit, self.alpha, log_pt, self.scale, self.offset)
        belief = belief if weight is None else belief * weight
        pooled = level.pooled
        sums = aggregate(rest, pooled, belief.to(pooled.dtype), message="scale")
        return _halves(sums).sum(0)

    @torch.no_grad()
    def _missing_links(self, level: _Level, missing: Tensor, depth: int) -> Tensor:
        if not self.nested_transform:
            inner = self._enter(level.x, level.undropped)
        else:
            inner = self._enter(level.x if self.structure.counts else level.pooled, level.adj)
        degree = inner.adj.degree.long()
        one, two = degree[missing[0]], degree[missing[1]]
        cost = one + two if depth else torch.minimum(one, two)
        size = self.splitsize if self.splitsize > 0 else max(_ELEMENTS // level.x.size(1), 1)
        logits = [
            self._score(inner, missing[:, piece], depth).view(-1)
            for piece in pieces(cost, size, _ENTRIES)
        ]
        return torch.cat(logits) if logits else level.x.new_empty(0)

    def _higher(self, level: _Level, pairs: Tensor, c: Tensor) -> Tensor:
        first, second, third = torch.sigmoid(self.order).cumprod(0)
        sums = self._two_hop_sums(level, pairs, both=True)
        mixed = self.xcn2lin(sums[0]) * self.xcn2lin(sums[1])
        return first * self.xcnlin(c) + second * mixed + third * self.xcn4lin(sums[2])

    def _two_hop_sums(self, level: _Level, pairs: Tensor, both: bool = False) -> list[Tensor]:
        """Sums over N(i) and N2(j), N2(i) and N(j) and, if asked for, N2(i) and N2(j)."""
        adj, x = level.adj, level.pooled
        degree = adj.degree.to(torch.float64)
        walks = aggregate(adj, degree[:, None]).view(-1).long()
        parts: list[list[Tensor]] = []
        for piece in pieces(walks[pairs].sum(0), pairs.size(1), _ENTRIES):
            ends = pairs[:, piece]
            nodes, place = torch.unique(ends, return_inverse=True)
            far = two_hop(adj, nodes)
            sums = [
                intersect_sum(adj, torch.stack([ends[0], place[1]]), x, csr_b=far),
                intersect_sum(adj, torch.stack([ends[1], place[0]]), x, csr_b=far),
            ]
            if both:
                sums.append(intersect_sum(far, place, x))
            parts.append(sums)
        if not parts:
            return [x.new_zeros(0, x.size(1))] * (3 if both else 2)
        return [torch.cat(column) for column in zip(*parts, strict=True)]


class MLP(nn.Sequential):
    """Layers one after the other; norm, dropout and ReLU run as one.

    Example:
        >>> MLP(nn.Linear(2, 3), nn.ReLU())(torch.ones(4, 2)).shape
        torch.Size([4, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        return run_layers(self, x)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` whose gradient is summed in one order, whatever the number of threads.

    Example:
        >>> gather(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1, 0])).view(-1)
        tensor([2., 2., 1.])
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x.index_select(0, index)
    one_each = torch.arange(index.numel() + 1, device=index.device, dtype=index.dtype)
    return aggregate(CSR(one_each, index.contiguous(), None, index.numel(), x.size(0)), x)


def pair_product(x: Tensor, pairs: Tensor) -> Tensor:
    """Elementwise product of the features of both ends.

    Example:
        >>> pair_product(torch.tensor([[2.0], [3.0]]), torch.tensor([[0], [1]]))
        tensor([[6.]])
    """
    one, other = _halves(gather(x, pairs.reshape(-1))).unbind(0)
    return one * other


def _both_ways(pairs: Tensor) -> Tensor:
    return torch.cat([pairs, pairs.flip(0)], dim=1)


def _halves(x: Tensor) -> Tensor:
    return x.view(2, x.size(0) // 2, x.size(1))


def _depth(predictor: str, form: Structure, depth: int | None) -> int:
    if depth is not None and depth < 0:
        raise InputError(f"depth: {depth}, wanted at least 0")
    if not form.completes:
        return 0
    depth = form.depth if depth is None else depth
    if depth is None:
        raise InputError(
            f"depth: missing, but predictor={predictor!r} completes to a depth; 'ncnc' has depth 1"
        )
    return depth
