"""NDCG and MRR over classes, as the Heterogeneous Graph Transformer's evaluation defines them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.errors import InputError


def relevance(y: Tensor, num_classes: int) -> Tensor:
    """Targets as float ``[n, C]``: classes become rows with a single one.

    Example:
        >>> relevance(torch.tensor([1]), 3).tolist()
        [[0.0, 1.0, 0.0]]
    """
    return F.one_hot(y, num_classes).float() if y.dim() == 1 else y.float()


def ranked(scores: Tensor, relevant: Tensor) -> Tensor:
    """Relevance of the classes in descending order of their scores, ``[n, C]``."""
    if scores.shape != relevant.shape or scores.dim() != 2 or scores.size(0) == 0:
        raise InputError(
            f"scores, relevant: {list(scores.shape)} and {list(relevant.shape)}, wanted [n, C]"
        )
    return relevant.gather(1, scores.argsort(stable=True, dim=1, descending=True))


def _gain(rows: Tensor) -> Tensor:
    # log2(i + 1) from rank 1 on: ranks 0 and 1 both count fully.
    rank = torch.arange(rows.size(1), dtype=torch.float64, device=rows.device)
    return (rows.double() / torch.log2((rank + 1).clamp(min=2))).sum(1)


def ndcg(scores: Tensor, relevant: Tensor) -> float:
    r"""Mean normalised discounted cumulative gain over all classes.

    .. math:: DCG = r_0 + \sum_{i \ge 1} \frac{r_i}{\log_2 (i + 1)}

    divided by its largest possible value (Hu, Dong, Wang, Sun, "Heterogeneous Graph Transformer",
    WWW 2020). Rows without a relevant class count as 0.

    Args:
        scores: ``[n, C]``.
        relevant: ``[n, C]``.

    Example:
        >>> round(ndcg(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0]])), 4)
        0.6309
    """
    best = _gain(relevant.sort(1, descending=True).values)
    found = _gain(ranked(scores, relevant))
    return float((found / best.clamp(min=1e-12)).mean())


def mrr(scores: Tensor, relevant: Tensor) -> float:
    """Mean reciprocal rank of the first relevant class; 0 for rows without one.

    Example:
        >>> mrr(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
        0.5
    """
    hits = ranked(scores, relevant) > 0
    first = hits.to(torch.uint8).argmax(1).double()
    return float((hits.any(1) / (first + 1)).mean())
