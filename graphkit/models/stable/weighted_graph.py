"""Graphs with one weight per entry, and the normalisations of the pipeline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.ncn.adjacency import rows_of_keys
from graphkit.ops import CSR, aggregate
from graphkit.ops.rows import SORTED


@dataclass(frozen=True)
class WeightedGraph:
    """A sparse matrix ``[N, N]``; ``graph @ h`` is a fused sum over the entries of each row.

    Attributes:
        csr: its structure, rows sorted.
        weight: ``[E]`` in the order of ``csr.col``.
    """

    csr: CSR
    weight: Tensor

    def __matmul__(self, h: Tensor) -> Tensor:
        return aggregate(self.csr, h, self.weight.to(h.dtype), message="scale")

    def to_dense(self) -> Tensor:
        """``[N, N]``, for small graphs."""
        out = self.weight.new_zeros(self.csr.num_rows, self.csr.num_cols)
        out[self.csr.row().long(), self.csr.col.long()] = self.weight
        return out


def keys_of(csr: CSR) -> Tensor:
    """``[E]`` int64, ascending: ``row * N + col`` of each entry of sorted rows."""
    return csr.row().long() * csr.num_cols + csr.col


def graph_of(keys: Tensor, num_nodes: int) -> CSR:
    """The graph of any keys; repeats count once."""
    csr = rows_of_keys(torch.unique(keys), num_nodes, num_nodes, torch.int32)
    csr.derived[SORTED] = True
    return csr


def pairs_of(csr: CSR) -> Tensor:
    """``[2, E / 2]`` int64: the edges ``u < v`` of a symmetric graph, ascending.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> pairs_of(csr).tolist()
        [[0, 1], [1, 2]]
    """
    row, col = csr.row().long(), csr.col.long()
    once = row < col
    return torch.stack([row[once], col[once]])


def graph_of_pairs(pairs: Tensor, num_nodes: int) -> CSR:
    """The symmetric graph of edges that are listed once."""
    u, v = pairs
    csr = graph_of(torch.cat([u * num_nodes + v, v * num_nodes + u]), num_nodes)
    csr.derived["is_symmetric"] = True
    return csr


def _with_loops(csr: CSR) -> CSR:
    n = csr.num_rows
    loops = torch.arange(n, device=csr.col.device) * (n + 1)
    return graph_of(torch.cat([keys_of(csr), loops]), n)


def symmetric_normalisation(csr: CSR, loop: float) -> WeightedGraph:
    r"""Normalise a graph with self-loops of weight ``loop``.

    .. math:: M = D^{-1/2} (A + \beta I) D^{-1/2}, \qquad D_{ii} = \beta + \sum_j A_{ij}

    Args:
        csr: an unweighted, symmetric graph without self-loops.
        loop: :math:`\beta`, positive.

    Raises:
        InputError: a weight that is not positive.

    Example:
        >>> path = CSR.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> symmetric_normalisation(path, 2.0).to_dense()[1]
        tensor([0.2887, 0.5000, 0.2887])
    """
    if not 0.0 < loop < math.inf:
        raise InputError(f"loop: {loop}, wanted a positive number")
    whole = _with_loops(csr)
    root = (csr.degree.double() + loop).rsqrt()
    row, col = whole.row().long(), whole.col.long()
    weight = root[row] * root[col]
    weight = torch.where(row == col, weight * loop, weight)
    return WeightedGraph(whole, weight.float())


def degree_power_normalisation(csr: CSR, alpha: float, self_loops: bool = True) -> WeightedGraph:
    r"""Weigh neighbours by a power of their degree; rows sum to one unless ``alpha`` is -0.5.

    Equation 9 of STABLE (arXiv 2207.00012): attackers tend to hit nodes of low degree, so
    :math:`\alpha > 0` trusts the others more.

    .. math::
        \tilde A = A + I, \quad d_i = \sum_j \tilde A_{ij}, \qquad
        W_{ij} = \tilde A_{ij} d_i^\alpha d_j^\alpha \; \Big[ / \sum_l \tilde A_{il} d_i^\alpha
        d_l^\alpha \text{ if } \alpha \neq -\tfrac12 \Big]

    Args:
        csr: an unweighted graph, directed or not, without self-loops.
        alpha: the power.
        self_loops: add :math:`I`.

    Raises:
        InputError: ``alpha`` is not finite, or negative where a node has degree 0.

    Example:
        >>> path = CSR.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> degree_power_normalisation(path, 0.6).to_dense()[0]
        tensor([0.4395, 0.5605, 0.0000])
    """
    if not math.isfinite(alpha):
        raise InputError(f"alpha: {alpha}, wanted a finite number")
    degree = csr.degree.double()
    if self_loops:
        csr, degree = _with_loops(csr), degree + 1.0
    lonely = (degree == 0).nonzero()
    if alpha < 0 and lonely.numel():
        raise InputError(
            f"alpha: {alpha} with node {int(lonely[0])} of degree 0, wanted self_loops=True or "
            "alpha >= 0"
        )
    power = degree.pow(alpha)
    row, col = csr.row().long(), csr.col.long()
    if alpha == -0.5:
        return WeightedGraph(csr, (power[row] * power[col]).float())
    # d_i^alpha cancels in the row.
    weight = power[col]
    total = torch.zeros_like(power).index_add_(0, row, weight)
    return WeightedGraph(csr, (weight / total[row]).float())
