"""How good an embedding of nodes is: one-vs-rest logistic regression at several label rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphkit.errors import InputError
from graphkit.models.label_regression import Bools, Floats, LabelRegression, most_probable

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class LabelRate:
    """F1 at one share of labelled nodes, over repeats.

    Attributes:
        share: of all nodes whose labels are trained on.
        micro, macro: F1 of each repeat.
    """

    share: float
    micro: tuple[float, ...]
    macro: tuple[float, ...]

    def mean(self) -> tuple[float, float]:
        """Mean micro-F1 and macro-F1."""
        return float(np.mean(self.micro)), float(np.mean(self.macro))

    def std(self) -> tuple[float, float]:
        """Their standard deviations over repeats (``ddof=1``; 0 for a single one)."""
        if len(self.micro) < 2:
            return 0.0, 0.0
        return float(np.std(self.micro, ddof=1)), float(np.std(self.macro, ddof=1))


def label_rate_sweep(
    embedding: Any,
    labels: Any,
    shares: Sequence[float] = SHARES,
    *,
    repeats: int = 5,
    C: float = 0.1,
) -> list[LabelRate]:
    r"""Train on a share of the nodes, predict the labels of the others.

    The protocol of DeepWalk (Perozzi, Al-Rfou, Skiena, KDD 2014), which FastRP and its peers
    report: an L2-regularised logistic regression for each class (liblinear, the intercept
    regularised too); for a test node the *number* of its true labels is given, and so many classes
    of the highest probability are predicted. That number is not known in practice: figures of this
    protocol stand beside each other only.

    Args:
        embedding: ``[n, d]`` floats, standardised columns.
        labels: ``[n, C]`` zeros and ones, dense or scipy sparse, or ``[n]`` classes.
        shares: of the nodes, to train on.
        repeats: shuffles, with the seeds 0, 1, ...; the same for every share.
        C: inverse strength of the regularisation.

    Raises:
        InputError: sizes that differ, a share outside (0, 1), or values that are not finite.

    Example:
        >>> import numpy as np
        >>> classes = np.arange(40) % 2
        >>> sweep = label_rate_sweep(np.eye(2)[classes], classes, [0.5], repeats=2, C=10.0)
        >>> sweep[0].mean()
        (1.0, 1.0)
    """
    z, y = _checked(embedding, labels)
    if repeats < 1 or not 0 < C < float("inf"):
        raise InputError(f"repeats, C: {repeats}, {C}, wanted at least 1, and a positive number")
    found = []
    for share in shares:
        if not 0 < share < 1 or not 0 < int(share * len(z)) < len(z):
            raise InputError(f"shares: {share} of {len(z)} nodes, wanted some but not all")
        runs = [_one(z, y, share, seed, C) for seed in range(repeats)]
        micro, macro = zip(*runs, strict=True)
        found.append(LabelRate(float(share), micro, macro))
    return found


def _checked(embedding: Any, labels: Any) -> tuple[Floats, Bools]:
    z = np.asarray(embedding, dtype=np.float64)
    y = labels.toarray() if hasattr(labels, "toarray") else np.asarray(labels)
    if y.ndim == 1:
        if y.size and (not np.issubdtype(y.dtype, np.integer) or y.min() < 0):
            raise InputError(f"labels: {y.dtype}, wanted classes from 0, or [n, C] zeros and ones")
        y = np.eye(int(y.max(initial=0)) + 1)[y]
    if z.ndim != 2 or y.ndim != 2 or len(z) != len(y):
        raise InputError(
            f"embedding, labels: {list(z.shape)} and {list(y.shape)}, wanted [n, d] and [n, C]"
        )
    if not np.isfinite(z).all():
        raise InputError("embedding: NaN or infinite values, wanted finite ones")
    if not np.isin(y, (0, 1)).all():
        raise InputError("labels: other values than 0 and 1, wanted [n, C] zeros and ones")
    return z, y.astype(bool)


def _one(z: Floats, y: Bools, share: float, seed: int, strength: float) -> tuple[float, float]:
    from sklearn.metrics import f1_score

    order = np.random.default_rng(seed).permutation(len(z))
    train, test = np.split(order, [int(share * len(z))])
    regression = LabelRegression(strength).fit(z[train], y[train])
    guess = most_probable(regression.probabilities(z[test]), y[test].sum(1))
    scores = (f1_score(y[test], guess, average=how, zero_division=0) for how in ("micro", "macro"))
    micro, macro = (float(score) for score in scores)
    return micro, macro


def plot_label_rates(sweeps: dict[str, list[LabelRate]], path: Path | str) -> None:
    """Draw micro-F1 and macro-F1 over the share of labelled nodes, with the standard deviations.

    Args:
        sweeps: what :func:`label_rate_sweep` gave, by the name of the method.
        path: the picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for at, (axis, title) in enumerate(zip(axes, ("micro-F1", "macro-F1"), strict=True)):
        for name, sweep in sweeps.items():
            shares = [100 * each.share for each in sweep]
            mean, std = ([getattr(each, what)()[at] for each in sweep] for what in ("mean", "std"))
            axis.errorbar(shares, mean, std, marker="o", markersize=3, capsize=2, label=name)
        axis.set_xlabel("labelled nodes in percent")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=150)
