"""The acceptance figures of the evaluation protocol, through ``dataset.evaluate``."""

import subprocess
import sys

import pytest
import torch

from graphkit import data
from graphkit.data.evaluation import evaluate, evaluate_links
from graphkit.errors import InputError

NAN = float("nan")


def score(name, y_true, y_pred, tasks=1):
    return evaluate(data.card(name), torch.tensor(y_true), torch.tensor(y_pred), num_tasks=tasks)


def test_rocauc_and_ap_of_the_worked_case():
    y_true, y_pred = [1.0, 0, 1, 0, 0], [0.9, 0.8, 0.5, 0.5, 0.1]
    assert score("ogbg-molhiv", y_true, y_pred) == {"rocauc": 0.75}
    assert score("peptides-func", y_true, y_pred)["ap"] == pytest.approx(0.75)


def test_tasks_with_one_class_are_left_out_and_nan_labels_ignored():
    y_true = [[1.0, 1], [0, 1], [1, 1], [0, 1], [0, 1], [NAN, 1]]
    y_pred = [[0.9, 0.1], [0.8, 0.1], [0.5, 0.1], [0.5, 0.1], [0.1, 0.1], [0.7, 0.1]]
    assert score("ogbg-moltox21", y_true, y_pred, 2) == {"rocauc": 0.75}
    with pytest.raises(InputError, match="rocauc"):
        score("ogbg-molhiv", [1.0, 1.0], [0.1, 0.2])


def test_regression_metrics():
    assert score("ogbg-molesol", [1.0, 2.0], [1.0, 4.0])["rmse"] == pytest.approx(2**0.5)
    assert score("peptides-struct", [[1.0, 2.0]], [[0.0, 4.0]], 2) == {"mae": 1.5}


def test_accuracy_and_macro_f1():
    y_true, classes = [0, 0, 1, 1, 2], [0, 1, 1, 1, 1]
    logits = torch.nn.functional.one_hot(torch.tensor(classes), 3).float().tolist()
    assert score("cora", y_true, classes, 3) == {"acc": 0.6}
    assert score("cora", y_true, logits, 3) == {"acc": 0.6}
    assert score("pascalvoc-sp", y_true, logits, 3)["f1"] == pytest.approx(0.444444, abs=1e-6)


def test_hits_counts_ties_as_misses():
    positive, negative = torch.tensor([0.9, 0.8, 0.5, 0.3]), torch.tensor([0.85, 0.8, 0.4, 0.2])
    card = data.card("ogbl-ddi")
    for k, wanted in ((1, 0.25), (2, 0.25), (3, 0.75), (20, 1.0)):
        chosen = card.model_copy(update={"metric": f"hits@{k}"})
        assert evaluate_links(chosen, positive, negative) == {f"hits@{k}": wanted}


def test_mrr_is_the_mean_of_optimistic_and_pessimistic_ranks():
    card = data.card("ogbl-citation2")
    found = evaluate_links(
        card, torch.tensor([0.9, 0.5]), torch.tensor([[0.95, 0.9, 0.1], [0.4, 0.5, 0.5]])
    )
    assert found["mrr"] == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("name", "y_true", "y_pred", "tasks", "says"),
    [
        ("ogbg-molhiv", [1.0, 0.0], [NAN, 0.0], 1, "y_pred: row 0 is NaN"),
        ("ogbg-molhiv", [1.0, 0.0], [0.1], 1, r"y_pred: has shape \[1, 1\]"),
        ("ogbg-molhiv", [], [], 1, "nothing to evaluate"),
        ("cora", [0.0, 1.0], [0, 1], 2, "y_true: class labels must be integers"),
        ("cora", [0, 1], [0.1, 0.9], 2, "y_pred: give class logits"),
        ("cora", [0, 7], [0, 1], 7, r"y_true: classes must lie in 0..6"),
        ("cora", [0, 1, 2], [0, 1], 7, "y_pred: has 2 rows, but y_true has 3"),
    ],
)
def test_bad_input_is_named(name, y_true, y_pred, tasks, says):
    with pytest.raises(InputError, match=says):
        score(name, y_true, y_pred, tasks)


def test_link_and_graph_sets_are_not_confused():
    with pytest.raises(InputError, match="graph-level set"):
        evaluate_links(data.card("demo"), torch.ones(1), torch.ones(1))


def test_the_evaluator_of_ogb_is_used_without_its_network_check():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('network used')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import builtins; builtins.input = refuse\n"
        "import sys, threading, torch\n"
        "from graphkit import data\n"
        "print(data.load('demo').evaluate(torch.tensor([1., 0.]), torch.tensor([1., 0.])))\n"
        "print('ogb' in sys.modules, 'outdated' in sys.modules, threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["{'rocauc': 1.0}", "False False 1"]
