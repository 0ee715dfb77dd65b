"""torch_scatter's scatter functions: reduce by an index in any order."""

from __future__ import annotations

from torch import Tensor

from graphkit.compat.torch_scatter.reduce import (
    REDUCES,
    check_dim,
    check_reduce,
    into,
    size_along,
    spread_index,
)


def _scatter(
    src: Tensor, index: Tensor, dim: int, out: Tensor | None, dim_size: int | None, reduce: str
) -> tuple[Tensor, Tensor | None]:
    dim = check_dim(src, dim)
    full = spread_index(src, index, dim)
    size = size_along(src, index if src.numel() else full, dim, out, dim_size)
    return into(out, src, full, dim, size, reduce)


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    r"""Reduce the entries of ``src`` that share an index (``torch_scatter.scatter``).

    .. math::
        out_i = \mathrm{REDUCE}_{k:\, index(k) = i} \; src_k

    A floating-point ``src`` whose index is one-dimensional, or depends on no dimension after
    ``dim``, runs on the kernels of :func:`graphkit.ops.aggregate`; the sorted index is remembered.

    Args:
        src: the values.
        index: int64 or int32 groups; one dimension lies along ``dim``, several are the leading
            ones of ``src``, and size 1 stands for any size.
        dim: the dimension of ``src`` to reduce.
        out: reduced together with the groups and written to.
        dim_size: number of groups; the largest index and one if not given.
        reduce: ``sum``, ``add``, ``mul``, ``mean``, ``min`` or ``max``.

    Shapes:
        - **out:** as ``src`` with ``dim_size`` groups along ``dim``. An empty group gives 0, and 1
          under ``mul``.

    Raises:
        InputError: an index out of range or of a shape that does not broadcast, or an ``out``
            that does not fit, or an unknown reduce.

    Example:
        >>> import torch
        >>> scatter(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 0]), reduce="mean").tolist()
        [2.5, 0.0, 2.0]
    """
    return _scatter(src, index, dim, out, dim_size, check_reduce(reduce, REDUCES))[0]


def scatter_sum(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> Tensor:
    """Sum the entries of each group; see :func:`scatter`.

    Example:
        >>> import torch
        >>> scatter_sum(torch.tensor([1, 2, 4]), torch.tensor([0, 1, 0])).tolist()
        [5, 2]
    """
    return _scatter(src, index, dim, out, dim_size, "sum")[0]


def scatter_add(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> Tensor:
    """Another name of :func:`scatter_sum`."""
    return _scatter(src, index, dim, out, dim_size, "sum")[0]


def scatter_mul(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> Tensor:
    """Multiply the entries of each group, 1 for an empty one; see :func:`scatter`.

    Example:
        >>> import torch
        >>> scatter_mul(torch.tensor([3, 2, 4]), torch.tensor([0, 2, 0])).tolist()
        [12, 1, 2]
    """
    return _scatter(src, index, dim, out, dim_size, "mul")[0]


def scatter_mean(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> Tensor:
    """Average the entries of each group (integers round down); see :func:`scatter`.

    With ``out``, its values join the sums but not the counts.

    Example:
        >>> import torch
        >>> scatter_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 0])).tolist()
        [2.5, 2.0]
    """
    return _scatter(src, index, dim, out, dim_size, "mean")[0]


def scatter_min(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the least entry of each group and its place along ``dim``; see :func:`scatter`.

    The place is the first among equals, and ``src.size(dim)`` where the group is empty or ``out``
    held a value at least as small.

    Example:
        >>> import torch
        >>> value, place = scatter_min(torch.tensor([4.0, 1.0, 1.0]), torch.tensor([2, 0, 0]))
        >>> value.tolist(), place.tolist()
        ([1.0, 0.0, 4.0], [1, 3, 0])
    """
    value, place = _scatter(src, index, dim, out, dim_size, "min")
    assert place is not None
    return value, place


def scatter_max(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the largest entry of each group and its place; see :func:`scatter_min`.

    Example:
        >>> import torch
        >>> value, place = scatter_max(torch.tensor([4.0, 1.0, 2.0]), torch.tensor([2, 0, 0]))
        >>> value.tolist(), place.tolist()
        ([2.0, 0.0, 4.0], [2, 3, 0])
    """
    value, place = _scatter(src, index, dim, out, dim_size, "max")
    assert place is not None
    return value, place
