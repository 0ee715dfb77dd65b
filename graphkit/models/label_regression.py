"""One logistic regression per label, judged by a rule that is told the number of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_NEVER = -1e4  # a logit whose probability is 0


class LabelRegression:
    """L2-regularised logistic regressions by liblinear, which regularises the intercept too.

    Args:
        C: inverse strength of the regularisation.

    Attributes:
        weight, bias: ``[L, d]`` and ``[L]`` of each label; a label that no or every node has is
            never or always given.

    Example:
        >>> z, y = np.eye(4), np.array([[1, 0], [1, 0], [0, 0], [0, 0]], dtype=bool)
        >>> (LabelRegression(100.0).fit(z, y).probabilities(z) > 0.5).tolist()
        [[True, False], [True, False], [False, False], [False, False]]
    """

    weight: Floats
    bias: Floats

    def __init__(self, C: float = 0.1) -> None:
        self.C = C

    def fit(self, z: Floats, y: Bools) -> LabelRegression:
        """Train on ``z`` ``[n, d]`` and ``y`` ``[n, L]``."""
        from sklearn.linear_model import LogisticRegression

        self.weight = np.zeros((y.shape[1], z.shape[1]))
        self.bias = np.zeros(y.shape[1])
        for label in range(y.shape[1]):
            target = y[:, label]
            if target.all() or not target.any():  # nothing to tell apart
                self.bias[label] = -_NEVER if target.all() and len(target) else _NEVER
                continue
            model = LogisticRegression(C=self.C, solver="liblinear").fit(z, target)
            self.weight[label], self.bias[label] = model.coef_[0], model.intercept_[0]
        return self

    def probabilities(self, z: Floats) -> Floats:
        """Of each label, ``[n, L]``."""
        from scipy.special import expit

        found: Any = expit(z @ self.weight.T + self.bias)
        return np.asarray(found, dtype=np.float64)


def most_probable(probability: Floats, counts: npt.NDArray[Any]) -> Bools:
    """Mark so many labels of each row, the most probable ones; of equals the last.

    Example:
        >>> most_probable(np.array([[0.2, 0.5, 0.3]]), np.array([2])).tolist()
        [[False, True, True]]
    """
    rank = np.argsort(np.argsort(probability, axis=1, kind="stable"), axis=1)
    chosen: Bools = rank >= probability.shape[1] - counts[:, None]
    return chosen
