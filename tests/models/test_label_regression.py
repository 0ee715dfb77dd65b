"""Logistic regressions per label, and the rule that is told how many labels a node has."""

from __future__ import annotations

import numpy as np

from graphkit.models.label_regression import LabelRegression, most_probable


def test_so_many_labels_as_there_are_are_predicted() -> None:
    probability = np.array([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.2, 0.1, 0.0]])
    chosen = most_probable(probability, np.array([2, 1, 0]))
    assert chosen.tolist() == [[False, True, True], [False, False, True], [False, False, False]]


def test_a_class_nobody_was_seen_with_is_never_probable() -> None:
    z = np.random.default_rng(0).normal(size=(20, 3))
    y = np.zeros((20, 3), dtype=bool)
    y[:10, 0] = True
    y[:, 1] = True
    y[15, 2] = True
    probability = LabelRegression(1.0).fit(z[:15], y[:15]).probabilities(z[15:])
    assert (probability[:, 2] == 0).all()
    assert (probability[:, 1] == 1).all()
    assert ((probability[:, 0] > 0) & (probability[:, 0] < 1)).all()


def test_probabilities_are_those_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    z = rng.normal(size=(80, 4))
    y = (z @ rng.normal(size=(4, 2)) + rng.normal(size=(80, 2))) > 0
    found = LabelRegression(0.3).fit(z, y).probabilities(z)
    for label in range(2):
        model = LogisticRegression(C=0.3, solver="liblinear").fit(z, y[:, label])
        np.testing.assert_allclose(found[:, label], model.predict_proba(z)[:, 1], atol=1e-12)
