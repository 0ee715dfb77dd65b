"""Which stored row an id looks up: the hashing baselines of GraphHash."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.errors import InputError

PRIME = 2147483647  # products of two residues stay below 2^62


@dataclass(frozen=True)
class Codes:
    """Rows that ids look up in a table of ``num_rows``.

    Attributes:
        rows: int64 ``[n]``, or ``[n, h]`` where the ``h`` rows of an id are summed.
        num_rows: ``K``.

    Raises:
        InputError: another shape or type, or a row outside ``0..K-1``.
    """

    rows: Tensor
    num_rows: int

    def __post_init__(self) -> None:
        if self.rows.dtype != torch.int64 or self.rows.dim() not in (1, 2):
            raise InputError(
                f"codes: {self.rows.dtype} of shape {list(self.rows.shape)}, wanted int64 [n] or "
                "[n, h]"
            )
        if self.rows.numel():
            low, high = (int(v) for v in torch.aminmax(self.rows))
            if low < 0 or high >= self.num_rows:
                raise InputError(
                    f"codes: row {low if low < 0 else high}, but the table has rows "
                    f"0..{self.num_rows - 1}"
                )


def random_codes(num_ids: int, num_rows: int) -> Codes:
    """``id mod K``; ids are taken in the order of the file.

    Example:
        >>> random_codes(5, 2).rows.tolist()
        [0, 1, 0, 1, 0]
    """
    _check(num_ids, num_rows)
    return Codes(torch.arange(num_ids) % num_rows, num_rows)


def frequency_codes(counts: Tensor, num_rows: int) -> Codes:
    """The ``t = K // 2`` most frequent ids get rows ``K-t..K-1``, others ``id mod (K-t)``.

    Ties go to the smaller id.

    Args:
        counts: ``[n]`` how often each id occurs in training.
        num_rows: ``K``.

    Raises:
        InputError: ``K`` below 2.

    Example:
        >>> frequency_codes(torch.arange(10, 0, -1), 4).rows.tolist()
        [2, 3, 0, 1, 0, 1, 0, 1, 0, 1]
    """
    _check(len(counts), num_rows, least=2)
    top, private, shared = _most_frequent(counts, num_rows)
    rows = torch.arange(len(counts)) % shared
    rows[top] = private
    return Codes(rows, num_rows)


def double_codes(num_ids: int, num_rows: int, generator: torch.Generator | None = None) -> Codes:
    """Two universal hashes ``((a id + b) mod p) mod K``, whose rows are summed.

    Double hashing: Zhang et al., RecSys 2020.

    Example:
        >>> double_codes(5, 3, torch.Generator().manual_seed(0)).rows.shape
        torch.Size([5, 2])
    """
    _check(num_ids, num_rows)
    hashes = [universal_hash(num_ids, num_rows, generator) for _ in range(2)]
    return Codes(torch.stack(hashes, 1), num_rows)


def double_frequency_codes(
    counts: Tensor, num_rows: int, generator: torch.Generator | None = None
) -> Codes:
    """As :func:`frequency_codes`, but ids without a row of their own take two hashed ones.

    Both codes of a frequent id name its private row, which then counts twice in the sum.

    Example:
        >>> double_frequency_codes(torch.tensor([3, 1, 2, 0]), 2).rows.tolist()
        [[1, 1], [0, 0], [0, 0], [0, 0]]
    """
    _check(len(counts), num_rows, least=2)
    top, private, shared = _most_frequent(counts, num_rows)
    rows = torch.stack([universal_hash(len(counts), shared, generator) for _ in range(2)], 1)
    rows[top] = private[:, None]
    return Codes(rows, num_rows)


def lsh_codes(features: Tensor, num_rows: int, generator: torch.Generator | None = None) -> Codes:
    """The signs of the projections on ``b = K.bit_length()`` Gaussian directions, as a number.

    The table gets ``max code + 1`` rows, which may be more than ``K``.

    Args:
        features: ``[n, F]`` dense or sparse; with the rows of the interaction matrix this is
            LSH-structure.
        num_rows: ``K``.
        generator: draws the directions.

    Example:
        >>> lsh_codes(torch.eye(3), 4, torch.Generator().manual_seed(0)).rows.shape
        torch.Size([3])
    """
    if features.dim() != 2 or not features.is_floating_point():
        raise InputError(
            f"features: {features.dtype} of shape {list(features.shape)}, wanted floats [n, F]"
        )
    _check(features.size(0), num_rows)
    bits = int(num_rows).bit_length()
    planes = torch.randn(features.size(1), bits, generator=generator, dtype=features.dtype)
    positive = (features @ planes > 0).long()
    rows = (positive << torch.arange(bits)).sum(1)
    return Codes(rows, int(rows.max()) + 1)


def double_graph_codes(clusters: Codes, generator: torch.Generator | None = None) -> Codes:
    """A universal hash beside the cluster: DoubleGraphHash; both rows are of one table.

    Example:
        >>> double_graph_codes(Codes(torch.tensor([0, 1, 1]), 2)).rows[:, 1].tolist()
        [0, 1, 1]
    """
    hashed = universal_hash(len(clusters.rows), clusters.num_rows, generator)
    return Codes(torch.stack([hashed, clusters.rows], 1), clusters.num_rows)


def universal_hash(num_ids: int, num_rows: int, generator: torch.Generator | None = None) -> Tensor:
    """``((a id + b) mod p) mod K`` of ids ``0..n-1`` with ``a``, ``b`` drawn, ``p = 2^31 - 1``.

    Example:
        >>> bool((universal_hash(9, 4) < 4).all())
        True
    """
    _check(num_ids, num_rows)
    if num_ids >= PRIME:
        raise InputError(f"num_ids: {num_ids}, wanted fewer than {PRIME}")
    a = int(torch.randint(1, PRIME, (), generator=generator))
    b = int(torch.randint(0, PRIME, (), generator=generator))
    return (torch.arange(num_ids) * a + b) % PRIME % num_rows


def _most_frequent(counts: Tensor, num_rows: int) -> tuple[Tensor, Tensor, int]:
    """The most frequent ids, their private rows, and how many rows the others share."""
    count = min(num_rows // 2, len(counts))
    top = torch.sort(counts, descending=True, stable=True).indices[:count]
    return top, torch.arange(count) + (num_rows - num_rows // 2), num_rows - num_rows // 2


def _check(num_ids: int, num_rows: int, least: int = 1) -> None:
    if num_ids < 1:
        raise InputError(f"num_ids: {num_ids}, wanted at least 1")
    if isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < least:
        why = "; half of the rows are private, the others share at least one" * (least > 1)
        raise InputError(f"num_rows: {num_rows!r}, wanted an integer of at least {least}{why}")
