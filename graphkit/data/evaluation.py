"""Official metrics: OGB's Evaluator as it is, and LRGB's definitions."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.errors import InputError

_FAMILY = {"ogbg": "graphproppred", "ogbn": "nodeproppred", "ogbl": "linkproppred"}
# The metric code of these sets is reused for other sets of the same metric, with their own number
# of tasks: LRGB and our own sets define ROC-AUC, AP and RMSE as OGB does.
_PROTOTYPE = {"rocauc": "ogbg-molhiv", "ap": "ogbg-molpcba", "rmse": "ogbg-molesol"}


@lru_cache(maxsize=8)
def ogb_folder() -> Path:
    """Return where the ``ogb`` package is installed, without importing it.

    ``import ogb`` starts a thread that asks PyPI for the newest version; the files that hold the
    evaluators and the tables are read on their own instead.

    Raises:
        InputError: ogb is not installed.
    """
    spec = importlib.util.find_spec("ogb")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("ogb is not installed, but its Evaluator judges this set: pip install ogb")
    return Path(spec.submodule_search_locations[0])


@lru_cache(maxsize=8)
def _evaluator_class(family: str) -> Callable[[str], Any]:
    path = ogb_folder() / family / "evaluate.py"
    spec = importlib.util.spec_from_file_location(f"_graphkit_ogb_{family}_evaluate", path)
    if spec is None or spec.loader is None:
        raise InputError(f"ogb: {path} is missing; reinstall ogb")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    evaluator: Callable[[str], Any] = module.Evaluator
    return evaluator


@lru_cache(maxsize=64)
def ogb_evaluator(name: str) -> Any:
    """Return OGB's own ``Evaluator`` object for one of its data sets.

    Example:
        >>> ogb_evaluator("ogbg-molhiv").eval_metric
        'rocauc'
    """
    return _evaluator_class(_FAMILY[name.split("-")[0]])(name)


def _numbers(name: str, values: Tensor | np.ndarray) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.size == 0:
        raise InputError(f"{name}: nothing to evaluate, got shape {list(array.shape)}")
    return array


def _finite(array: np.ndarray) -> np.ndarray:
    if np.issubdtype(array.dtype, np.floating):
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise InputError(
                f"y_pred: row {int(bad.argmax())} is NaN or infinite ({int(bad.sum())} such rows); "
                "the model diverged"
            )
    return array


def _classes(
    y_true: np.ndarray, y_pred: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    truth = y_true.reshape(-1)
    if np.issubdtype(truth.dtype, np.floating):
        raise InputError(f"y_true: class labels must be integers, got {truth.dtype}")
    wide = y_pred.ndim == 2 and y_pred.shape[1] > 1
    guess = y_pred.argmax(axis=1) if wide else y_pred.reshape(-1)
    if np.issubdtype(guess.dtype, np.floating):
        raise InputError(
            f"y_pred: give class logits of shape [n, {num_classes}] or integer classes, "
            f"got {guess.dtype} {list(y_pred.shape)}"
        )
    if len(truth) != len(guess):
        raise InputError(f"y_pred: has {len(guess)} rows, but y_true has {len(truth)}")
    for name, values in (("y_true", truth), ("y_pred", guess)):
        if values.min() < 0 or values.max() >= num_classes:
            raise InputError(
                f"{name}: classes must lie in 0..{num_classes - 1}, "
                f"got {values.min()}..{values.max()}"
            )
    return truth, guess


def _official(name: str, metric: str, y_true: np.ndarray, y_pred: np.ndarray, tasks: int) -> float:
    evaluator = ogb_evaluator(name)
    registered, evaluator.num_tasks = evaluator.num_tasks, tasks
    try:
        return float(evaluator.eval({"y_true": y_true, "y_pred": y_pred})[metric])
    except RuntimeError as error:
        raise InputError(f"{metric}: {error}") from error
    finally:
        evaluator.num_tasks = registered


def _ogb_name(card: DatasetCard) -> str:
    return str(card.options.get("ogb_name", card.name))


def evaluate(
    card: DatasetCard, y_true: Tensor | np.ndarray, y_pred: Tensor | np.ndarray, num_tasks: int
) -> dict[str, float]:
    """Score predictions of graphs or nodes by the metric on the card.

    Args:
        card: whose metric to use.
        y_true: targets, NaN where unlabelled.
        y_pred: scores, values, logits or classes.
        num_tasks: number of targets, or of classes.

    Shapes:
        y_true: ``[n, T]`` or ``[n]``; y_pred: ``[n, T]``, ``[n, C]`` or ``[n]``.

    Raises:
        InputError: shapes differ, predictions are not finite, labels are outside the classes, or no
            task has both classes.

    Example:
        >>> from graphkit import data
        >>> import torch
        >>> y_true, y_pred = torch.tensor([1, 0, 1, 0, 0]), torch.tensor([.9, .8, .5, .5, .1])
        >>> data.load("demo").evaluate(y_true, y_pred)
        {'rocauc': 0.75}
    """
    truth, guess = _numbers("y_true", y_true), _finite(_numbers("y_pred", y_pred))
    found: dict[str, float] = {}
    for metric in (card.metric, *card.also):
        found.update(_metric(card, metric, truth, guess, num_tasks))
    return found


def _metric(
    card: DatasetCard, metric: str, truth: np.ndarray, guess: np.ndarray, num_tasks: int
) -> dict[str, float]:
    if metric in ("acc", "f1", "f1_micro"):
        if metric == "acc" or card.task == "multiclass":
            truth, guess = _classes(truth, guess, num_tasks)
        if metric == "acc":
            if card.reader.startswith("ogb"):
                column = {"y_true": truth[:, None], "y_pred": guess[:, None]}
                return {"acc": float(ogb_evaluator(_ogb_name(card)).eval(column)["acc"])}
            return {"acc": float((truth == guess).mean())}
        from sklearn.metrics import f1_score

        if card.task == "multilabel":
            guess = (
                (guess > 0).astype(np.int64) if np.issubdtype(guess.dtype, np.floating) else guess
            )
        average = "micro" if metric == "f1_micro" else "macro"
        return {metric: float(f1_score(truth, guess, average=average, zero_division=0))}
    truth = truth.reshape(len(truth), -1)
    guess = guess.reshape(len(guess), -1)
    if truth.shape != guess.shape:
        raise InputError(
            f"y_pred: has shape {list(guess.shape)}, but y_true has {list(truth.shape)}"
        )
    if metric == "mae":
        labelled = ~np.isnan(truth)
        if not labelled.any():
            raise InputError("y_true: every entry is NaN, nothing to evaluate")
        return {"mae": float(np.abs(truth - guess)[labelled].mean())}
    official = _ogb_name(card) if card.reader == "ogb" else _PROTOTYPE.get(metric)
    if official is None:
        raise InputError(
            f"metric: {metric!r} is not one of acc, ap, f1, f1_micro, mae, rmse, rocauc"
        )
    return {metric: _official(official, metric, truth, guess, truth.shape[1])}


def evaluate_links(
    card: DatasetCard, positive: Tensor, negative: Tensor, metrics: Sequence[str] | None = None
) -> dict[str, float]:
    """Score links by the metric on the card: Hits@K or MRR as OGB defines them, or ROC-AUC.

    Hits@K is the share of positives scored strictly above the K-th highest negative; a tie misses.

    Args:
        card: whose metric to use.
        positive: scores of true edges.
        negative: scores of false edges; for MRR one row per positive.
        metrics: names of metrics to give instead of the card's, such as ``hits@20``.

    Shapes:
        positive: ``[P]``; negative: ``[M]`` (Hits@K, ROC-AUC) or ``[P, M]`` (MRR).

    Raises:
        InputError: the set is not judged by links, scores are not finite, or there are none.

    Warns:
        UserWarning: fewer than K negatives, which makes Hits@K 1 whatever the scores are.

    Example:
        >>> from graphkit import data
        >>> positive, negative = torch.tensor([0.9, 0.5, 0.5]), torch.tensor([0.5, 0.4, 0.3])
        >>> evaluate_links(data.card("demo-link"), positive, negative, ["hits@1", "hits@2"])
        {'hits@1': 0.3333333333333333, 'hits@2': 1.0}
    """
    if card.level != "link":
        raise InputError(f"{card.name} is a {card.level}-level set; use evaluate(y_true, y_pred)")
    for name, scores in (("positive", positive), ("negative", negative)):
        _finite(_numbers(name, scores))
    positive, negative = torch.as_tensor(positive).reshape(-1), torch.as_tensor(negative)
    return {name: _link_metric(name, positive, negative) for name in metrics or [card.metric]}


def _link_metric(name: str, positive: Tensor, negative: Tensor) -> float:
    if name == "mrr":
        if negative.dim() != 2 or len(negative) != positive.numel():
            raise InputError(
                f"negative: expected one row per positive ({positive.numel()}), "
                f"got {list(negative.shape)}"
            )
        pair = {"y_pred_pos": positive, "y_pred_neg": negative}
        return float(ogb_evaluator("ogbl-citation2").eval(pair)["mrr_list"].mean())
    negative = negative.reshape(-1)
    if name.startswith("hits@"):
        k = int(name.removeprefix("hits@"))
        if negative.numel() < k:
            warnings.warn(
                f"{name}: only {negative.numel()} negatives, at least {k} are wanted; the value "
                "is 1 by definition and says nothing about the model",
                stacklevel=3,
            )
        evaluator = ogb_evaluator("ogbl-ddi")
        registered, evaluator.K = evaluator.K, k
        try:
            scores = {"y_pred_pos": positive, "y_pred_neg": negative}
            return float(evaluator.eval(scores)[name])
        finally:
            evaluator.K = registered
    if name != "rocauc":
        raise InputError(f"metric: {name!r} is not hits@K, mrr or rocauc, which judge links")
    from sklearn.metrics import roc_auc_score

    truth = np.concatenate([np.ones(positive.numel()), np.zeros(negative.numel())])
    return float(roc_auc_score(truth, torch.cat([positive, negative]).numpy()))
