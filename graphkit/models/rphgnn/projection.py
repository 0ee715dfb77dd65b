"""The random matrices of RpHGNN, drawn by a hash of what they are for."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import CSR, aggregate, random_signs
from graphkit.ops.linear import product

SQUASHES = ("projection", "gaussian", "mean")
_EPS = 1e-12
_DENSEST = 1 / 8  # share of entries that are not 0, up to which a matrix is worth a sparse form


def seed_of(*parts: object) -> int:
    """A seed of 62 bits for what ``parts`` name; the order of drawing decides nothing.

    Example:
        >>> seed_of(1, "author") == seed_of(1, "author") != seed_of(2, "author")
        True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2


def projection_matrix(rows: int, columns: int, seed: int, kind: str = "projection") -> Tensor:
    r"""A random matrix that keeps distances.

    ``projection``: entries :math:`\pm\sqrt 3` with probability 1/6 each, else 0 (Achlioptas, PODS
    2001). ``gaussian``: :math:`N(0, 2 / (rows + columns))`.

    Args:
        rows: width of what is projected.
        columns: width of the result.
        seed: see :func:`seed_of`.
        kind: one of the above.

    Shapes:
        - **out:** float32 ``[rows, columns]``

    Raises:
        InputError: another kind.

    Example:
        >>> sorted({round(v, 3) for v in projection_matrix(8, 8, seed=0).flatten().tolist()})
        [-1.732, 0.0, 1.732]
    """
    if kind == "projection":
        signs = random_signs(torch.arange(rows), (0, columns), density=1 / 3, seed=seed)
        return signs.mul_(math.sqrt(3.0))
    if kind != "gaussian":
        raise InputError(f"kind: {kind!r}, wanted 'projection' or 'gaussian'")
    generator = torch.Generator().manual_seed(seed)
    std = math.sqrt(2.0 / (rows + columns))
    return torch.randn(rows, columns, generator=generator).mul_(std)


def random_features(nodes: int, width: int, seed: int) -> Tensor:
    r"""Features of a type that has none: :math:`N(0, 1) / \sqrt{width}`, float32 ``[n, width]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, width, generator=generator).div_(math.sqrt(width))


def add_normalized(total: Tensor, rows: Tensor) -> None:
    """``total += rows / max(|row|, 1e-12)``; rows of zeros stay zeros."""
    total.addcmul_(rows, (1.0 / _norms(rows))[:, None])


def normalize_rows(rows: Tensor) -> Tensor:
    """Divide each row by its length, in place; rows of zeros stay zeros."""
    return rows.mul_((1.0 / _norms(rows))[:, None])


def _norms(rows: Tensor) -> Tensor:
    # torch shares the sum of a single row among its threads, and then its last digits depend on
    # their number: never ask for a single one.
    if rows.size(0) == 1:
        return torch.linalg.vector_norm(rows.expand(2, -1), dim=1)[:1].clamp_min(_EPS)
    return torch.linalg.vector_norm(rows, dim=1).clamp_min(_EPS)


class Features:
    """Features of one node type, with their non-zero entries where these are few.

    Args:
        x: float32 ``[n, d]``.
        look: whether to look for zeros (raw features); what a projection made has none.

    Example:
        >>> Features(torch.eye(16)).entries
        16
    """

    def __init__(self, x: Tensor, look: bool = True) -> None:
        self.x = x
        self._sparse = _sparse(x) if look else None

    @property
    def entries(self) -> int | None:
        """Number of entries that are not 0, ``None`` where there are too many to matter."""
        return None if self._sparse is None else self._sparse[1].numel()

    def times(self, matrix: Tensor) -> Tensor:
        """``x @ matrix``, the same to the last digit for any number of threads."""
        if self._sparse is None:
            return product(self.x, matrix)
        csr, value = self._sparse
        return aggregate(csr, matrix, value, message="scale")


def _sparse(x: Tensor) -> tuple[CSR, Tensor] | None:
    if x.numel() < 1 << 8:
        return None
    degree = torch.count_nonzero(x, dim=1)
    if int(degree.sum()) > _DENSEST * x.numel():
        return None
    there = x != 0
    rowptr = torch.zeros(x.size(0) + 1, dtype=torch.int64)
    torch.cumsum(degree, 0, out=rowptr[1:])
    return CSR(rowptr, there.nonzero()[:, 1], None, x.size(0), x.size(1)), x[there]
