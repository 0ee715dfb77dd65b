"""FastRP: node embeddings by a very sparse random projection, without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.fastrp_gds import gds_entries
from graphkit.models.graph_input import GraphInput, read_graph
from graphkit.ops import aggregate, random_signs
from graphkit.ops.hashing import hashed

_SMALL = 64 << 20  # bytes of an embedding that is propagated in one piece
_EPS = 1e-12
_PAPER = (0.0, 0.0, 7.81, 45.28)
_GDS = (0.0, 1.0, 1.0)


class FastRP:
    r"""Node embeddings without training (Chen, Sultan, Tian, Chen, Skiena: "Fast and Accurate
    Network Embeddings via Very Sparse Random Projection", CIKM 2019, arXiv 1908.11512).

    ``variant="paper"``: with :math:`P = D^{-1} A`, :math:`L = \mathrm{diag}((d_j / 2m)^\beta)` and
    a random :math:`R \in \{\pm\sqrt s, 0\}^{n \times d} / \sqrt d`, :math:`s = \sqrt n`,

    .. math:: U_1 = P L R, \qquad U_i = P U_{i-1}, \qquad
        Z = \sum_i w_i \, \frac{U_i}{\lVert U_i \rVert_{\text{row}}}

    and each column of :math:`Z` is brought to mean 0 and standard deviation 1.

    ``variant="gds"``: what users know from Neo4j's Graph Data Science library. :math:`s = 3`, rows
    scaled by :math:`\deg^\beta`, a weight ``self_influence`` for the node itself, a share
    ``property_ratio`` of the columns projected from node features, the sum divided by the number
    of neighbours even where edges have weights, and no standardisation.

    Args:
        dim: ``d``.
        variant: ``"paper"`` or ``"gds"``.
        weights: of the first, second, ... power; by default those of the published BlogCatalog
            runs, or 0, 1, 1 for ``"gds"``. ``None`` with ``merge="concat"``.
        beta: exponent of the degrees: -1 takes all influence from hubs, 0 none. By default -0.628,
            or 0 for ``"gds"``, which calls it normalizationStrength.
        merge: ``"sum"``; or ``"concat"``: all powers beside each other, not standardised.
        input_matrix: ``"trans"`` for :math:`P`, ``"adj"`` for :math:`A` in its place.
        normalize_rows: divide by the norms above; every good published run does.
        standardize: the columns, at the end.
        projection: ``"sparse"`` or ``"gaussian"``, entries :math:`N(0, 1/d)`.
        self_influence, property_ratio: see ``"gds"``.
        rng: ``"counter"``: an entry is a hash of (seed, node, column). ``"gds"``: the generator of
            that library, whose figures are then reproduced to the last digits.
        seed: of the projection.
        progress: called with (products done, products in all).

    Attributes:
        embedding_: float32 ``[n, d]`` after :meth:`fit`.

    Raises:
        InputError: an argument that is unknown, out of range or belongs to the other variant.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> z = FastRP(dim=8, seed=1).fit_transform(path)
        >>> torch.allclose(z[0], z[2])
        True
    """

    def __init__(
        self,
        dim: int = 512,
        *,
        variant: str = "paper",
        weights: Sequence[float] | None = None,
        beta: float | None = None,
        merge: str = "sum",
        input_matrix: str = "trans",
        normalize_rows: bool = True,
        standardize: bool = True,
        projection: str = "sparse",
        self_influence: float = 0.0,
        property_ratio: float = 0.0,
        rng: str = "counter",
        seed: int = 42,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._settings = {
            "dim": dim, "variant": variant, "weights": weights, "beta": beta, "merge": merge,
            "input_matrix": input_matrix, "normalize_rows": normalize_rows,
            "standardize": standardize, "projection": projection,
            "self_influence": self_influence, "property_ratio": property_ratio, "rng": rng,
            "seed": seed, "progress": progress,
        }  # fmt: skip
        self._take()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn's ``clone`` asks for them."""
        return dict(self._settings)

    def set_params(self, **params: Any) -> FastRP:
        """Change arguments.

        Raises:
            InputError: as the constructor, which then has not changed anything.
        """
        type(self)(**{**self._settings, **params})
        self._settings.update(params)
        self._take()
        return self

    def _take(self) -> None:
        chosen: dict[str, Any] = self._settings
        for name, known in (
            ("variant", ("paper", "gds")), ("merge", ("sum", "concat")),
            ("rng", ("counter", "gds")), ("input_matrix", ("trans", "adj")),
            ("projection", ("sparse", "gaussian")),
        ):  # fmt: skip
            if chosen[name] not in known:
                raise InputError(f"{name}: {chosen[name]!r}, wanted {' or '.join(known)}")
        self.dim, self.seed = _at_least_one("dim", chosen["dim"]), int(chosen["seed"])
        self.variant, self.gds = chosen["variant"], chosen["variant"] == "gds"
        self.merge, self.input_matrix = chosen["merge"], chosen["input_matrix"]
        self.projection, self.rng = chosen["projection"], chosen["rng"]
        self.normalize_rows = self.gds or bool(chosen["normalize_rows"])
        self.standardize = not self.gds and bool(chosen["standardize"])
        self.progress: Callable[[int, int], None] | None = chosen["progress"]
        default = _GDS if self.gds else _PAPER
        given = default if chosen["weights"] is None else tuple(chosen["weights"])
        self.weights = tuple(float(w) for w in given)
        self.beta = (0.0 if self.gds else -0.628) if chosen["beta"] is None else chosen["beta"]
        self.self_influence = float(chosen["self_influence"])
        self.property_ratio = float(chosen["property_ratio"])
        for name, numbers in (
            ("weights", self.weights), ("beta", (self.beta,)),
            ("self_influence", (self.self_influence,)), ("property_ratio", (self.property_ratio,)),
        ):  # fmt: skip
            if not all(math.isfinite(v) for v in numbers):
                raise InputError(f"{name}: {list(numbers)}, wanted finite numbers")
        if not self.weights and not (self.gds and self.self_influence):
            raise InputError("weights: empty, wanted one for each power of the graph")
        if self.self_influence < 0 or not 0 <= self.property_ratio <= 1:
            raise InputError(
                f"self_influence, property_ratio: {self.self_influence}, {self.property_ratio}, "
                "wanted at least 0, and 0..1"
            )
        if not self.gds and (self.self_influence or self.property_ratio or self.rng == "gds"):
            raise InputError(
                "variant: 'paper' has no self_influence, property_ratio or rng='gds', wanted 'gds'"
            )
        own = (self.merge, self.input_matrix, self.projection)
        if self.gds and own != ("sum", "trans", "sparse"):
            raise InputError(
                "variant: 'gds' has no concatenated powers, no adjacency as input and no gaussian "
                "projection, wanted 'paper'"
            )

    # -- the estimator ----------------------------------------------------------------------------

    def fit(
        self,
        graph: Any,
        *,
        edge_weight: Any = None,
        x: Tensor | None = None,
        num_nodes: int | None = None,
        node_ids: Tensor | None = None,
    ) -> FastRP:
        """Embed the nodes of a graph.

        Args:
            graph: see :func:`~graphkit.models.graph_input.read_graph`.
            edge_weight: ``[E]``, at least 0.
            x: ``[n, F]`` node features, read where ``property_ratio > 0``.
            num_nodes: of an ``edge_index`` whose last nodes have no edge.
            node_ids: ``[n]`` integers that decide each node's random numbers, by default 0..n-1;
                a part of a graph embeds as the whole does if nodes bring their own.

        Raises:
            InputError: a graph, weights or features that do not fit.
        """
        self.embedding_ = self._embed(read_graph(graph, edge_weight, num_nodes), x, node_ids)
        return self

    def fit_transform(self, graph: Any, **inputs: Any) -> Tensor:
        """:meth:`fit`, and its embedding float32 ``[n, d]`` (``[n, q d]`` if concatenated)."""
        return self.fit(graph, **inputs).embedding_

    @torch.no_grad()
    def _embed(self, graph: GraphInput, x: Tensor | None, node_ids: Tensor | None) -> Tensor:
        n = graph.num_nodes
        ids = torch.arange(n) if node_ids is None else node_ids
        if ids.shape != (n,) or ids.dtype not in (torch.int32, torch.int64):
            raise InputError(f"node_ids: {ids.dtype} {list(ids.shape)}, wanted [{n}] integers")
        start = _Start(self, graph, ids.to(graph.csr.col.device), self._features(x, n))
        step = _Step(self, graph)
        concat = self.merge == "concat"
        out = torch.empty(n, self.dim * (len(self.weights) if concat else 1), device=start.device)
        if n == 0:
            return out
        width = self.dim
        if self.dim * n * 4 > _SMALL:
            # Two blocks of columns beside the result: less than a third of it.
            width = max(16, self.dim // 8 // 16 * 16)
        blocks = [(c, min(c + width, self.dim)) for c in range(0, self.dim, width)]
        _Run(self, start, step, out, blocks, self.normalize_rows and not concat).all(concat)
        if concat and self.normalize_rows:
            for at in range(0, out.size(1), self.dim):
                _scale_rows(out[:, at : at + self.dim], 1.0)
        if not concat and self.standardize:
            for first, last in blocks:
                _standardize(out[:, first:last])
        return out

    def _features(self, x: Tensor | None, n: int) -> Tensor | None:
        if not self.gds or self.property_ratio == 0:
            return None
        if x is None or x.dim() != 2 or x.size(0) != n or not x.size(1):
            seen = None if x is None else list(x.shape)
            raise InputError(f"x: {seen}, wanted [{n}, F] features for property_ratio > 0")
        if not bool(torch.isfinite(x.float()).all()):
            raise InputError("x: NaN or infinite values, wanted finite features")
        return x.float()


class _Start:
    """Columns of the matrix whose powers are taken: L R, or what GDS starts from."""

    def __init__(self, model: FastRP, graph: GraphInput, ids: Tensor, x: Tensor | None) -> None:
        self.model, self.ids, self.x = model, ids, x
        self.device = graph.csr.col.device
        n = graph.num_nodes
        degree = graph.csr.degree.to(torch.float64)
        if model.gds:
            self.s, base = 3.0, torch.where(degree > 0, degree, 1.0)
        else:
            self.s = math.sqrt(max(n, 1))
            base = _row_sums(graph)
            total = float(base.sum())
            base = base / total if total else base
        # A node without edges has no influence: beta may be negative.
        self.scale = torch.where(base > 0, base, 1.0).pow(model.beta) * (base > 0)
        self.scale = (self.scale * math.sqrt(self.s / model.dim)).float()[:, None]
        self.random = model.dim - int(model.dim * model.property_ratio)
        self.gds_rng = model.rng == "gds"

    def entries(self, first: int, last: int) -> Tensor:
        """Entries 1, 0, -1 of R, or its Gaussian ones in units of ``sqrt(s / d)``."""
        if self.gds_rng:
            return gds_entries(self.ids, self.model.seed, first, last)
        if self.model.projection == "gaussian":
            return _normal(self.ids, first, last, self.model.seed) / math.sqrt(self.s)
        return random_signs(self.ids, (first, last), density=1.0 / self.s, seed=self.model.seed)

    def block(self, first: int, last: int) -> Tensor:
        """``[n, last - first]``"""
        parts = []
        if first < self.random:
            parts.append(self.entries(first, min(last, self.random)).mul_(self.scale))
        if last > self.random:
            parts.append(self._properties(max(first, self.random), last))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _properties(self, first: int, last: int) -> Tensor:
        assert self.x is not None
        inputs = torch.arange(self.x.size(1), device=self.device)
        if self.gds_rng:  # one stream for all, column after column
            count = self.model.dim - self.random
            stream = gds_entries(None, self.model.seed, 0, count * len(inputs))
            vectors = stream.view(count, len(inputs)).t()[
                :, first - self.random : last - self.random
            ]
        else:
            seed = self.model.seed + 1  # not the numbers of nodes
            vectors = random_signs(inputs, (first, last), density=1 / self.s, seed=seed)
        return self.x @ (vectors.to(self.device) * math.sqrt(self.s / self.model.dim))


class _Step:
    """One product with P, A or GDS's mean of neighbours."""

    def __init__(self, model: FastRP, graph: GraphInput) -> None:
        self.csr, self.weight = graph.csr, graph.weight
        self.mean = model.gds or model.input_matrix == "trans"
        if self.mean and self.weight is not None:
            total = graph.csr.degree.float() if model.gds else _row_sums(graph).float()
            share = torch.where(total > 0, 1.0 / total, 0.0)
            self.weight = self.weight * share[graph.csr.row().long()]
        if self.csr.eid is not None and self.weight is not None:
            back = torch.empty_like(self.weight)  # aggregate reads weights by edge, not by entry
            back[self.csr.eid.long()] = self.weight
            self.weight = back

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight is not None:
            return aggregate(self.csr, x, self.weight, message="scale")
        return aggregate(self.csr, x, reduce="mean" if self.mean else "sum")


class _Run:
    """Powers of all columns. Norms need all columns of a row, and the powers of all columns do not
    fit: a first sweep over blocks of columns measures the norms and keeps the first power that
    counts, a second one takes the powers after it again."""

    def __init__(
        self,
        model: FastRP,
        start: _Start,
        step: _Step,
        out: Tensor,
        blocks: list[tuple[int, int]],
        normalize: bool,
    ) -> None:
        self.model, self.start, self.step, self.out = model, start, step, out
        self.blocks, self.normalize = blocks, normalize
        own = model.self_influence if model.gds else 0.0
        self.weights = (own, *model.weights)  # of powers 0, 1, ...
        counts = [i for i, w in enumerate(self.weights) if w != 0]
        self.first = counts[0] if counts else 0
        self.last = counts[-1] if counts else -1
        self.done, self.total = 0, 0

    def all(self, concat: bool) -> None:
        if concat:
            self.first, self.last = 1, len(self.weights) - 1
        again = self.normalize and len(self.blocks) > 1
        self.total = len(self.blocks) * (self.last + again * (self.last - self.first))
        if self.last < 0:
            self.out.zero_()
        elif concat:
            for first, last in self.blocks:
                for power, u in self._powers(self.start.block(first, last), 0):
                    if power:
                        at = (power - 1) * self.model.dim
                        self.out[:, at + first : at + last] = u
        elif not self.normalize or len(self.blocks) == 1:
            for first, last in self.blocks:
                self._add(self.out[:, first:last].zero_(), self.start.block(first, last), 0)
        else:
            self._twice()

    def _powers(self, u: Tensor, power: int) -> Any:
        """The given power and those after it."""
        yield power, u
        while power < self.last:
            u = self._first(u) if power == 0 and self._is_sparse() else self.step(u)
            power += 1
            self._tell()
            yield power, u

    def _add(self, out: Tensor, u: Tensor, power: int, share: Tensor | None = None) -> None:
        for i, v in self._powers(u, power):
            if self.weights[i] == 0:
                continue
            if share is not None:
                out.addcmul_(v, share[i][:, None])
            elif self.normalize:
                out.addcmul_(v, _inverse(torch.linalg.vector_norm(v, dim=1), self.weights[i]))
            else:
                out.add_(v, alpha=self.weights[i])

    def _twice(self) -> None:
        n = self.out.size(0)
        squares = torch.zeros(len(self.weights), n, device=self.out.device)
        for first, last in self.blocks:
            for power, u in self._powers(self.start.block(first, last), 0):
                if self.weights[power] != 0:
                    squares[power] += torch.linalg.vector_norm(u, dim=1).square_()
                if power == self.first:
                    self.out[:, first:last] = u
                del u
        share = torch.stack(
            [_inverse(s.sqrt(), w)[:, 0] for s, w in zip(squares, self.weights, strict=True)]
        )
        for first, last in self.blocks:
            block = self.out[:, first:last]
            u = block.clone()
            block.zero_()
            self._add(block, u, self.first, share)

    def _is_sparse(self) -> bool:
        return not self.model.gds and self.model.projection == "sparse"

    def _first(self, block: Tensor) -> Tensor:
        """The first product, along the few entries that are not 0."""
        node, column = block.nonzero(as_tuple=True)
        value = block[node, column]
        away = self.step.csr.transpose()  # row: who has this node as a neighbour
        degree = away.degree.long()[node]
        total = int(degree.sum())
        if total > block.numel() // 4:
            return self.step(block)
        entry = torch.arange(total, device=block.device)
        owner = torch.arange(len(node), device=block.device).repeat_interleave(degree)
        shift = away.rowptr.long()[node] - (torch.cumsum(degree, 0) - degree)
        entry += shift[owner]
        to = away.col[entry].long()
        value = value[owner]
        if self.step.weight is not None:
            edge = entry if away.eid is None else away.eid[entry].long()
            value = value * self.step.weight[edge]
        elif self.step.mean:
            value = value / self.step.csr.degree[to]
        width = block.size(1)
        out = block.zero_()
        out.view(-1).index_add_(0, to * width + column[owner], value)
        return out

    def _tell(self) -> None:
        self.done += 1
        if self.model.progress is not None:
            self.model.progress(self.done, self.total)


def _row_sums(graph: GraphInput) -> Tensor:
    """``[n]`` float64 sums of the weights of each row."""
    if graph.weight is None:
        return graph.csr.degree.to(torch.float64)
    sums = torch.zeros(graph.num_nodes, dtype=torch.float64, device=graph.weight.device)
    return sums.index_add_(0, graph.csr.row().long(), graph.weight.double())


def _inverse(norm: Tensor, weight: float) -> Tensor:
    """``[n, 1]`` weight / norm, 0 for rows of zeros."""
    found = torch.where((norm > _EPS) & torch.isfinite(norm), weight / norm, 0.0)
    return found[:, None]


def _scale_rows(x: Tensor, weight: float) -> None:
    x.mul_(_inverse(torch.linalg.vector_norm(x, dim=1), weight))


def _standardize(x: Tensor) -> None:
    var, mean = torch.var_mean(x, dim=0, correction=0)
    x.sub_(mean).mul_(torch.where(var > 0, var.rsqrt(), 0.0))


def _normal(ids: Tensor, first: int, last: int, seed: int) -> Tensor:
    """Standard normal entries, decided by seed, id and column (Box and Muller)."""
    column = torch.arange(first, last, device=ids.device)[None, :]
    bits = hashed(hashed(seed, ids)[:, None], column)
    radius = ((bits & 0xFFFFFFFF).double() + 1) / 2.0**32
    turn = ((bits >> 32) & 0xFFFFFFFF).double() / 2.0**32
    return ((-2 * radius.log()).sqrt() * (2 * math.pi * turn).cos()).float()


def _at_least_one(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}: {value!r}, wanted an int of at least 1")
    return value
