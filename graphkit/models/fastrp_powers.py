"""The powers of a graph that FastRP adds up: its random start, one product, and all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.fastrp_gds import gds_entries
from graphkit.models.graph_input import GraphInput
from graphkit.ops import aggregate, random_signs
from graphkit.ops.hashing import hashed

if TYPE_CHECKING:
    from graphkit.models.fastrp import FastRP

_EPS = 1e-18  # shorter rows count as zeros: squares of their entries leave float32


class Start:
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
        lost = bool((base > 0).any()) and not bool(self.scale.any())
        if lost or not bool(torch.isfinite(self.scale).all()):
            raise InputError(
                f"beta: {model.beta} makes powers of the degrees that float32 cannot hold, wanted "
                "one nearer to -1..0"
            )
        self.random = model.dim - int(model.dim * model.property_ratio)
        self.gds_rng = model.rng == "gds"

    def entries(self, first: int, last: int) -> Tensor:
        """Entries 1, 0, -1 of R, or its Gaussian ones in units of ``sqrt(s / d)``."""
        if self.gds_rng:
            return gds_entries(self.ids, self.model.seed, first, last)
        if self.model.projection == "gaussian":
            return gaussian(self.ids, first, last, self.model.seed) / math.sqrt(self.s)
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


class Step:
    """One product with P, A or GDS's mean of neighbours."""

    def __init__(self, model: FastRP, graph: GraphInput) -> None:
        self.csr, self.weight = graph.csr, graph.weight
        self.mean = model.gds or model.input_matrix == "trans"
        raw = model.gds or not self.mean  # weights are not divided by their sums
        if raw and model.normalize_rows and self.weight is not None and self.weight.numel():
            # Lengths of rows do not count: small weights must not vanish in high powers, nor large
            # ones overflow. A power of two changes no digit.
            exponent = math.frexp(float(self.weight.max()))[1]
            self.weight = self.weight * 2.0 ** -min(max(exponent, -120), 120)
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


class Run:
    """Powers of all columns. Norms need all columns of a row, and the powers of all columns do not
    fit: a first sweep over blocks of columns measures the norms and keeps the first power that
    counts, a second one takes the powers after it again."""

    def __init__(
        self,
        model: FastRP,
        start: Start,
        step: Step,
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


def scale_rows(x: Tensor, weight: float) -> None:
    """Bring every row to one length, in place; rows of zeros stay."""
    x.mul_(_inverse(torch.linalg.vector_norm(x, dim=1), weight))


def standardize(x: Tensor) -> None:
    """Bring every column to mean 0 and standard deviation 1, in place."""
    var, mean = torch.var_mean(x, dim=0, correction=0)
    x.sub_(mean).mul_(torch.where(var > 0, var.rsqrt(), 0.0))


def gaussian(ids: Tensor, first: int, last: int, seed: int) -> Tensor:
    """Standard normal entries, decided by seed, id and column (Box and Muller)."""
    column = torch.arange(first, last, device=ids.device)[None, :]
    bits = hashed(hashed(seed, ids)[:, None], column)
    radius = ((bits & 0xFFFFFFFF).double() + 1) / 2.0**32
    turn = ((bits >> 32) & 0xFFFFFFFF).double() / 2.0**32
    return ((-2 * radius.log()).sqrt() * (2 * math.pi * turn).cos()).float()
