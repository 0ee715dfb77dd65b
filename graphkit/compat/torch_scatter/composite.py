"""torch_scatter.composite: standard deviation, softmax and log-sum-exp of groups."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.compat.torch_scatter.groups import Groups
from graphkit.compat.torch_scatter.reduce import (
    Rows,
    check_dim,
    fits,
    grouped,
    groups_of,
    into,
    size_along,
    spread_index,
)
from graphkit.errors import InputError


class _Scores:
    """Values with their groups: what each composite function reduces and spreads again."""

    def __init__(
        self, src: Tensor, index: Tensor, dim: int, out: Tensor | None, dim_size: int | None
    ) -> None:
        self.src, self.dim = src, check_dim(src, dim)
        self.index = spread_index(src, index, self.dim)
        seen = index if src.numel() else self.index
        self.size = size_along(src, seen, self.dim, out, dim_size)
        self.groups: tuple[Rows, Groups] | None = None
        if fits(src, index):
            self.groups = groups_of(src, self.index, self.dim, self.size)

    def reduce(self, values: Tensor, reduce: str) -> Tensor:
        return grouped(values, self.index, self.dim, self.size, reduce)[0]

    def spread(self, values: Tensor) -> Tensor:
        if self.groups is None:
            return values.gather(self.dim, self.index.long())
        rows, groups = self.groups
        return rows.back(groups.spread(rows.of(values)), self.src.size(self.dim))

    def shift(self, out: Tensor | None = None) -> Tensor:
        """The largest finite value of each group, so that exponentials stay in range."""
        top = self.reduce(self.src.detach(), "max")
        if out is not None:
            top = torch.maximum(top, out.detach())
        return torch.where(top.isfinite(), top, 0.0)


def _floating(src: Tensor, function: str) -> None:
    if not src.is_floating_point():
        raise InputError(f"src: dtype {src.dtype}, but {function} wants floating-point values")


def scatter_std(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    unbiased: bool = True,
) -> Tensor:
    r"""Standard deviation of each group (``torch_scatter.scatter_std``).

    .. math::
        out_i = \sqrt{\frac{\sum_k (src_k - \mu_i)^2}{\max(n_i - 1, 1) + 10^{-6}}}

    over the :math:`n_i` entries of group :math:`i`; with :math:`n_i` below the line if not
    ``unbiased``. Its gradient is zero where the deviation is.

    Args:
        src: floating-point values.
        index: as for :func:`graphkit.compat.torch_scatter.scatter`.
        dim: the dimension of ``src`` to reduce.
        out: added to the sums of squares, which it is left with.
        dim_size: number of groups; the largest index and one if not given.
        unbiased: divide by one less than the number of entries.

    Shapes:
        - **out:** as ``src`` with ``dim_size`` groups along ``dim``. An empty group gives 0.

    Raises:
        InputError: as for scatter, and values that are not floating-point.

    Example:
        >>> scatter_std(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 0])).round().tolist()
        [2.0]
    """
    _floating(src, "scatter_std")
    scores = _Scores(src, index, dim, out, dim_size)
    centred = src - scores.spread(scores.reduce(src, "mean"))
    square = centred * centred
    total = into(out, square, scores.index, scores.dim, scores.size, "sum")[0]
    count = scores.reduce(src.new_ones(()).expand(src.shape), "sum")
    below = (count - 1 if unbiased else count).clamp(min=1) + 1e-6
    variance = total / below
    # The root has no derivative at 0; a NaN must not count as 0.
    root = torch.where(variance == 0, 1.0, variance).sqrt()
    return torch.where(variance == 0, 0.0, root)


def scatter_softmax(
    src: Tensor, index: Tensor, dim: int = -1, dim_size: int | None = None
) -> Tensor:
    r"""Softmax over the entries of each group (``torch_scatter.scatter_softmax``).

    .. math::
        out_k = \frac{\exp(src_k)}{\sum_{l:\, index(l) = index(k)} \exp(src_l)}

    Args:
        src: floating-point values.
        index: as for :func:`graphkit.compat.torch_scatter.scatter`.
        dim: the dimension that is indexed.
        dim_size: number of groups; the largest index and one if not given.

    Shapes:
        - **out:** that of ``src``.

    Raises:
        InputError: as for scatter, and values that are not floating-point.

    Example:
        >>> scatter_softmax(torch.tensor([1.0, 1.0, 5.0]), torch.tensor([0, 0, 1])).tolist()
        [0.5, 0.5, 1.0]
    """
    _floating(src, "scatter_softmax")
    scores = _Scores(src, index, dim, None, dim_size)
    weight = (src - scores.spread(scores.shift())).exp()
    return weight / scores.spread(scores.reduce(weight, "sum"))


def scatter_log_softmax(
    src: Tensor, index: Tensor, dim: int = -1, eps: float = 1e-12, dim_size: int | None = None
) -> Tensor:
    r"""Logarithm of :func:`scatter_softmax`, ``eps`` added to each (shifted) sum.

    Args:
        src, index, dim, dim_size: as for :func:`scatter_softmax`.
        eps: keeps the logarithm of an empty sum finite.

    Shapes:
        - **out:** that of ``src``.

    Raises:
        InputError: as for scatter, and values that are not floating-point.

    Example:
        >>> scatter_log_softmax(torch.tensor([2.0, 5.0]), torch.tensor([0, 1])).tolist()
        [0.0, 0.0]
    """
    _floating(src, "scatter_log_softmax")
    scores = _Scores(src, index, dim, None, dim_size)
    shifted = src - scores.spread(scores.shift())
    return shifted - scores.spread((scores.reduce(shifted.exp(), "sum") + eps).log())


def scatter_logsumexp(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    eps: float = 1e-12,
) -> Tensor:
    r"""Logarithm of the sum of exponentials of each group (``torch_scatter.scatter_logsumexp``).

    .. math::
        out_i = m_i + \log\Bigl(\varepsilon + \sum_{k:\, index(k) = i} \exp(src_k - m_i)\Bigr)

    with :math:`m_i` the largest value of group :math:`i`. A group without entries, or of
    :math:`-\infty` alone, gives 0.

    Args:
        src: floating-point values.
        index: as for :func:`graphkit.compat.torch_scatter.scatter`.
        dim: the dimension of ``src`` to reduce.
        out: one more value of each group that has entries; written to.
        dim_size: number of groups; the largest index and one if not given.
        eps: added to each shifted sum.

    Shapes:
        - **out:** as ``src`` with ``dim_size`` groups along ``dim``.

    Raises:
        InputError: as for scatter, and values that are not floating-point.

    Example:
        >>> x = torch.tensor([1.0, 1.0]).log()
        >>> scatter_logsumexp(x, torch.tensor([0, 0])).exp().round().tolist()
        [2.0]
    """
    _floating(src, "scatter_logsumexp")
    scores = _Scores(src, index, dim, out, dim_size)
    top = scores.shift(out)
    total = scores.reduce((src - scores.spread(top)).exp(), "sum")
    if out is not None:
        filled = scores.reduce(src.new_ones(()).expand(src.shape), "sum") > 0
        total = torch.where(filled, total + (out - top).exp(), 0.0)
    value = torch.where(total == 0, 0.0, torch.where(total == 0, 1.0, total + eps).log() + top)
    return value if out is None else out.copy_(value)
