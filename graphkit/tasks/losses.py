"""Losses over labelled entries: NaN targets mean "not measured" and never reach the gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.errors import InputError, nearest

Rowwise = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def labelled(target: Tensor) -> Tensor:
    """Mask of the entries that carry a label.

    Example:
        >>> labelled(torch.tensor([1.0, float("nan")])).tolist()
        [True, False]
    """
    if target.is_floating_point():
        return ~torch.isnan(target)
    return torch.ones_like(target, dtype=torch.bool)


def _mean_over_labelled(values: Rowwise, out: Tensor, y: Tensor) -> Tensor:
    mask = labelled(y)
    # NaN targets are replaced before the loss, not masked after it: NaN * 0 is NaN in the gradient.
    losses = values(out, torch.where(mask, y, torch.zeros_like(y))) * mask
    return losses.sum() / mask.sum().clamp(min=1)


def bce_with_logits(out: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy on logits, mean over labelled entries; 0 when there is none.

    Shapes:
        out: float ``[n, T]``; target: float ``[n, T]`` with NaN for unlabelled entries.

    Example:
        >>> round(bce_with_logits(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]])).item(), 4)
        0.6931
    """
    y = target.to(out.dtype)
    return _mean_over_labelled(
        lambda a, b: F.binary_cross_entropy_with_logits(a, b, reduction="none"), out, y
    )


def l1(out: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over labelled entries. Shapes: out and target ``[n, T]``."""
    return _mean_over_labelled(lambda a, b: (a - b).abs(), out, target.to(out.dtype))


def mse(out: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over labelled entries. Shapes: out and target ``[n, T]``."""
    return _mean_over_labelled(lambda a, b: (a - b).square(), out, target.to(out.dtype))


def cross_entropy(out: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy. Shapes: out float ``[n, C]``; target int64 ``[n]``."""
    if target.numel() == 0:
        return out.sum() * 0.0
    return F.cross_entropy(out, target)


def batch_class_weights(target: Tensor, num_classes: int) -> Tensor:
    """Class weights of one batch as in LRGB (arXiv 2206.08164): ``(V - n_c) / V``, 0 if absent.

    Example:
        >>> batch_class_weights(torch.tensor([0, 0, 0, 1]), 3).tolist()
        [0.25, 0.75, 0.0]
    """
    counts = torch.bincount(target, minlength=num_classes).to(torch.float32)
    total = max(target.numel(), 1)
    return torch.where(counts > 0, (total - counts) / total, torch.zeros_like(counts))


def weighted_cross_entropy(out: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with the class weights of the batch (the LRGB superpixel loss).

    A batch of a single class has weight zero everywhere; its loss is 0.

    Shapes:
        out: float ``[n, C]``; target: int64 ``[n]``.

    Example:
        >>> y = torch.tensor([0, 0, 0, 1])
        >>> round(weighted_cross_entropy(torch.zeros(4, 3), y).item(), 6)
        1.098612
    """
    weights = batch_class_weights(target, out.size(-1)).to(out.dtype)
    of_rows = weights[target]
    rows = F.cross_entropy(out, target, reduction="none")
    # Not F.cross_entropy(weight=...): it divides 0 by 0 when a batch holds a single class.
    return (of_rows * rows).sum() / of_rows.sum().clamp(min=torch.finfo(out.dtype).tiny)


def soft_cross_entropy(out: Tensor, target: Tensor) -> Tensor:
    r"""Cross-entropy with several right classes, :math:`-\sum_c y_c \log \mathrm{softmax}(z)_c`.

    Up to a constant the divergence of the scores from the targets; mean over the rows that have
    labels.

    Shapes:
        out: float ``[n, C]``; target: float ``[n, C]`` with NaN rows for unlabelled nodes.

    Example:
        >>> round(soft_cross_entropy(torch.zeros(1, 4), torch.tensor([[1.0, 1, 0, 0]])).item(), 4)
        2.7726
    """
    known = labelled(target)
    y = torch.where(known, target, torch.zeros_like(target)).to(out.dtype)
    rows = -(y * F.log_softmax(out, dim=1)).sum(1)
    return rows.sum() / known.any(1).sum().clamp(min=1)


LOSSES: dict[str, Loss] = {
    "bce": bce_with_logits,
    "cross_entropy": cross_entropy,
    "weighted_cross_entropy": weighted_cross_entropy,
    "soft_cross_entropy": soft_cross_entropy,
    "l1": l1,
    "mse": mse,
}

_OF_TASK = {
    "binary": ("bce",),
    "multilabel": ("bce", "soft_cross_entropy"),
    "multiclass": ("cross_entropy", "weighted_cross_entropy"),
    "regression": ("l1", "mse"),
}


def choose_loss(task_type: str, metric: str, name: str | None) -> tuple[str, Loss]:
    """Return the loss ``name``, or the usual one of a task type and metric.

    Raises:
        InputError: unknown task type, or a loss that does not fit it.

    Example:
        >>> choose_loss("regression", "mae", None)[0]
        'l1'
    """
    fitting = _OF_TASK.get(task_type)
    if fitting is None:
        raise InputError(
            f"task_type: unknown {task_type!r}; graph and node tasks know {', '.join(_OF_TASK)}"
        )
    if name is None:
        name = "mse" if task_type == "regression" and metric != "mae" else fitting[0]
    if name not in fitting:
        raise InputError(
            f"loss: {name!r} does not fit a {task_type} task{nearest(name, fitting)}; "
            f"choose {' or '.join(repr(one) for one in fitting)}"
        )
    return name, LOSSES[name]
