"""NCN's completion: the belief that a missing link exists, sampled rows, and work in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.ncn.adjacency import rows_of_keys
from graphkit.ops import CSR


def completion_probability(
    logit: Tensor,
    alpha: Tensor | float,
    log_pt: Tensor,
    scale: Tensor | float,
    offset: Tensor | float,
) -> Tensor:
    r"""The weight of a node that is a neighbour of one end only (NCNC, arXiv 2302.00890).

    .. math::
        P(l) = \alpha \frac{p_t q}{p_t q + 1 - q} = \alpha \, \sigma(z + \log p_t), \qquad
        q = \sigma(z), \quad z = s (l - o)

    The right-hand form neither overflows nor divides by zero.

    Args:
        logit: ``l``, score of the link to the other end.
        alpha: upper bound of the weight.
        log_pt: logarithm of :math:`p_t`, one number or one per logit.
        scale, offset: ``s`` and ``o``.

    Example:
        >>> pt = torch.tensor(0.75)
        >>> completion_probability(torch.tensor([2.8, 3.0]), 1.0, pt.log(), 4.3, 2.8)
        tensor([0.4286, 0.6393])
    """
    return alpha * torch.sigmoid(scale * (logit - offset) + log_pt)


def log_of(probability_logit: Tensor) -> Tensor:
    """Logarithm of a probability given by its logit.

    Example:
        >>> log_of(torch.tensor(0.0)).exp()
        tensor(0.5000)
    """
    return F.logsigmoid(probability_logit)


def increasing_alpha(epoch: int) -> float:
    """The published code's schedule of ``alpha``: 0 until epoch 5, then up to 1 at epoch 15.

    Example:
        >>> increasing_alpha(5), increasing_alpha(10), increasing_alpha(99)
        (0.0, 0.5, 1.0)
    """
    return min(max(0.1 * (epoch - 5), 0.0), 1.0)


def sample_rows(csr: CSR, limit: int) -> tuple[CSR, Tensor | None]:
    r"""Replace each row of more than ``limit`` entries by ``limit`` draws, without bias.

    Draws are with replacement. A draw from a row of :math:`n` entries weighs :math:`n /
    \text{limit}` and those of one entry are added up, so the expectation of any weighted sum over a
    row is its full sum. Shorter rows are kept (arXiv 2302.00890, official code).

    Args:
        csr: sets of nodes, one per row, each in ascending order.
        limit: largest number of draws, or -1 to keep all.

    Returns:
        The sampled sets, still in ascending order, and a float32 weight of each entry; ``None``
        where no row was longer than the limit.

    Raises:
        InputError: a limit below -1, or 0.

    Example:
        >>> full = CSR(torch.tensor([0, 1, 4]), torch.tensor([7, 0, 2, 5]), None, 2, 8)
        >>> kept, weight = sample_rows(full, 2)
        >>> weight.tolist()[0], sum(weight.tolist()[1:])
        (1.0, 3.0)
    """
    check_limit("limit", limit)
    if limit < 0 or not csr.num_entries:
        return csr, None
    degree = csr.degree.long()
    long_rows = (degree > limit).nonzero().view(-1)
    if not long_rows.numel():
        return csr, None
    device = csr.col.device
    n = degree[long_rows][:, None]
    # In float64: float32 has too few values to reach each entry of a long row equally often.
    place = torch.rand(long_rows.numel(), limit, device=device, dtype=torch.float64)
    entry = ((place * n).long().clamp(max=n - 1) + csr.rowptr[long_rows].long()[:, None]).view(-1)
    weight = torch.ones(csr.num_entries, device=device)
    short = degree <= limit
    weight *= short.float().repeat_interleave(degree, output_size=csr.num_entries)
    # Draws weigh the same within a row, so it does not matter in which order they are added.
    per_draw = (n.float() / limit).expand(-1, limit).reshape(-1)
    count = torch.bincount(entry, minlength=csr.num_entries)
    weight[entry] = per_draw * count[entry]
    keep = weight > 0
    before = csr.rowptr.new_zeros(keep.numel() + 1)
    torch.cumsum(keep, 0, dtype=before.dtype, out=before[1:])
    rowptr = before.index_select(0, csr.rowptr)
    return CSR(rowptr, csr.col[keep], None, csr.num_rows, csr.num_cols), weight[keep]


def check_completion(
    alpha: float, pt: float = 0.5, scale: float = 1.0, offset: float = 0.0
) -> None:
    """Refuse constants that make no weight of :func:`completion_probability`."""
    for name, value, least in (("alpha", alpha, "at least 0"), ("pt", pt, "above 0")):
        if not math.isfinite(value) or value < 0.0 or (name == "pt" and value == 0.0):
            raise InputError(f"{name}: {value}, wanted a finite number {least}")
    for name, value in (("scale", scale), ("offset", offset)):
        if not math.isfinite(value):
            raise InputError(f"{name}: {value}, wanted a finite number")


def check_limit(name: str, limit: int) -> None:
    """Refuse a number of draws that is neither positive nor -1."""
    if limit < -1 or limit == 0:
        raise InputError(f"{name}: {limit}, wanted -1 (keep all) or at least 1")


def pieces(cost: Tensor, rows: int, budget: int) -> Iterator[slice]:
    """Consecutive ranges of at most ``rows`` items whose cost stays within a budget.

    An item that exceeds the budget by itself is a piece of its own.

    Args:
        cost: ``[n]`` integers.
        rows: largest number of items.
        budget: largest sum of costs.

    Example:
        >>> [(s.start, s.stop) for s in pieces(torch.tensor([1, 1, 5, 1]), rows=3, budget=4)]
        [(0, 2), (2, 3), (3, 4)]
    """
    total = torch.cumsum(cost.long(), 0)
    n, start, spent = cost.numel(), 0, 0
    while start < n:
        stop = int(torch.searchsorted(total, spent + budget, right=True))
        stop = min(max(stop, start + 1), start + rows, n)
        yield slice(start, stop)
        start, spent = stop, int(total[stop - 1])


def two_hop(csr: CSR, nodes: Tensor) -> CSR:
    r"""What can be reached in exactly two steps from each of some nodes: rows of the support of
    :math:`A A`, the node itself and its neighbours included where a walk leads to them.

    Args:
        csr: the graph.
        nodes: ``[M]`` int64 rows of it.

    Shapes:
        - **out:** a CSR of ``M`` rows in ascending order

    Example:
        >>> path = CSR.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> two_hop(path, torch.tensor([0, 1])).col.tolist()
        [0, 2, 1]
    """
    owner, middle = _neighbours(csr, nodes)
    second, far = _neighbours(csr, middle)
    key = torch.unique(owner[second] * csr.num_cols + far)
    return rows_of_keys(key, nodes.numel(), csr.num_cols, csr.col.dtype)


def _neighbours(csr: CSR, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """All neighbours of some nodes, and for each which of ``nodes`` it belongs to."""
    degree = csr.degree.index_select(0, nodes).long()
    place = torch.arange(nodes.numel(), device=nodes.device)
    owner = place.repeat_interleave(degree)
    shift = csr.rowptr.index_select(0, nodes).long() - (torch.cumsum(degree, 0) - degree)
    entry = torch.arange(owner.numel(), device=nodes.device) + shift[owner]
    return owner, csr.col[entry].long()
