"""FastRP: node embeddings by a very sparse random projection, without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.fastrp_powers import Run, Start, Step, scale_rows, standardize
from graphkit.models.graph_input import GraphInput, read_graph
from graphkit.models.node_estimator import check_seed

_SMALL = 64 << 20  # bytes of an embedding that is propagated in one piece
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
        self.dim, self.seed = _at_least_one("dim", chosen["dim"]), check_seed(chosen["seed"])
        self.variant, self.gds = chosen["variant"], chosen["variant"] == "gds"
        self.merge, self.input_matrix = chosen["merge"], chosen["input_matrix"]
        self.projection, self.rng = chosen["projection"], chosen["rng"]
        self.normalize_rows = self.gds or bool(chosen["normalize_rows"])
        self.standardize = not self.gds and bool(chosen["standardize"])
        self.progress: Callable[[int, int], None] | None = chosen["progress"]
        default = _GDS if self.gds else _PAPER
        given = default if chosen["weights"] is None else chosen["weights"]
        self.weights = _finite("weights", given)
        beta = (0.0 if self.gds else -0.628) if chosen["beta"] is None else chosen["beta"]
        (self.beta,) = _finite("beta", (beta,))
        (self.self_influence,) = _finite("self_influence", (chosen["self_influence"],))
        (self.property_ratio,) = _finite("property_ratio", (chosen["property_ratio"],))
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
        x: Any = None,
        num_nodes: int | None = None,
        node_ids: Any = None,
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
            InputError: a graph, weights or features that do not fit, or an embedding that float32
                cannot hold.
        """
        self.embedding_ = self._embed(read_graph(graph, edge_weight, num_nodes), x, node_ids)
        return self

    def fit_transform(self, graph: Any, **inputs: Any) -> Tensor:
        """:meth:`fit`, and its embedding float32 ``[n, d]`` (``[n, q d]`` if concatenated)."""
        return self.fit(graph, **inputs).embedding_

    @torch.no_grad()
    def _embed(self, graph: GraphInput, x: Any, node_ids: Any) -> Tensor:
        n = graph.num_nodes
        ids = torch.arange(n) if node_ids is None else _tensor("node_ids", node_ids)
        if ids.shape != (n,) or ids.dtype not in (torch.int32, torch.int64):
            raise InputError(f"node_ids: {ids.dtype} {list(ids.shape)}, wanted [{n}] integers")
        start = Start(self, graph, ids.to(graph.csr.col.device), self._features(x, n))
        step = Step(self, graph)
        concat = self.merge == "concat"
        out = torch.empty(n, self.dim * (len(self.weights) if concat else 1), device=start.device)
        if n == 0:
            return out
        width = self.dim
        total = self.dim * n * 4
        if total > _SMALL:
            # What is made beside a large result stays below a fifth of it; a smaller one affords
            # wide blocks, which read the graph less often.
            width = max(16, max(_SMALL // 2, total // 32) // (4 * n) // 16 * 16)
        blocks = [(c, min(c + width, self.dim)) for c in range(0, self.dim, width)]
        Run(self, start, step, out, blocks, self.normalize_rows and not concat).all(concat)
        if concat and self.normalize_rows:
            for at in range(0, out.size(1), self.dim):
                scale_rows(out[:, at : at + self.dim], 1.0)
        # Unlike a sum in float64 or a mask, the extremes need no copy; they keep NaN.
        if not all(math.isfinite(value) for value in torch.aminmax(out)):
            raise InputError(
                f"weights, edge_weight: {list(self.weights)} and powers of the graph give numbers "
                "that float32 cannot hold, wanted smaller ones"
            )
        if not concat and self.standardize:
            for first, last in blocks:
                standardize(out[:, first:last])
        return out

    def _features(self, given: Any, n: int) -> Tensor | None:
        if not self.gds or self.property_ratio == 0:
            return None
        x = None if given is None else _tensor("x", given).float()
        if x is None or x.dim() != 2 or x.size(0) != n or not x.size(1):
            seen = None if x is None else list(x.shape)
            raise InputError(f"x: {seen}, wanted [{n}, F] features for property_ratio > 0")
        if not bool(torch.isfinite(x).all()):
            raise InputError(
                "x: NaN or infinite values, wanted features that are finite in float32"
            )
        return x


def _tensor(name: str, given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: {type(given).__name__}, wanted a tensor or an array") from None


def _finite(name: str, given: Any) -> tuple[float, ...]:
    try:
        numbers = () if isinstance(given, str) else tuple(float(v) for v in given)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if isinstance(given, str) or not all(math.isfinite(v) for v in numbers):
        raise InputError(f"{name}: {given!r}, wanted finite numbers")
    return numbers


def _at_least_one(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}: {value!r}, wanted an int of at least 1")
    return value
