"""Tasks on data sets: targets, predictions, masks, official figures, refused input."""

from types import SimpleNamespace

import pytest
import torch
from torch_geometric.data import Batch, Data

from graphkit import data
from graphkit.data.cards import DatasetCard
from graphkit.data.evaluation import evaluate
from graphkit.errors import InputError
from graphkit.tasks import GraphTask, NodeTask, create_task

NAN = float("nan")


def dataset(task_type, num_tasks, metric, level="graph"):
    maximize = metric not in ("mae", "rmse")
    official = SimpleNamespace(
        name="none", metric=metric, task=task_type, level=level, reader="ogb", options={}
    )
    return SimpleNamespace(
        name="fake", level=level, task_type=task_type, num_tasks=num_tasks, metric=metric,
        maximize=maximize, card=official,
        evaluate=lambda y, p: evaluate(prototype(metric, task_type), y, p, num_tasks),
    )  # fmt: skip


def prototype(metric, task_type):
    """A card as the data part has it, of a set that is judged by ``metric``."""
    for name in data.names():
        card = data.card(name)
        if card.metric == metric and card.task == task_type and isinstance(card, DatasetCard):
            return card
    pytest.skip(f"no data set is judged by {metric}")


def batch_of(*targets, **extra):
    graphs = [
        Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]), y=y, **extra) for y in targets
    ]
    return Batch.from_data_list(graphs)


def test_roc_auc_of_the_specification():
    task = GraphTask(dataset("binary", 1, "rocauc"))
    scores = torch.tensor([[0.9], [0.8], [0.5], [0.5], [0.1]])
    y = torch.tensor([[1.0], [0.0], [1.0], [0.0], [0.0]])
    assert task.evaluate(scores, y)["rocauc"] == pytest.approx(0.75)


def test_ap_counts_only_tasks_with_both_classes_and_labelled_rows():
    task = GraphTask(dataset("multilabel", 2, "ap"))
    column = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    y = torch.stack([column, torch.ones(5)], 1)
    scores = torch.tensor([0.9, 0.8, 0.5, 0.5, 0.1]).repeat(2, 1).T
    assert task.evaluate(scores, y)["ap"] == pytest.approx(0.75)
    labelled = torch.cat([y, torch.tensor([[NAN, 1.0]])])
    more = torch.cat([scores, torch.tensor([[0.95, 0.0]])])
    assert task.evaluate(more, labelled)["ap"] == pytest.approx(0.75)
    with pytest.raises(InputError):
        task.evaluate(scores, torch.ones(5, 2))


def test_macro_f1_of_the_specification():
    task = NodeTask(dataset("multiclass", 3, "f1", level="node"))
    y, guess = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 1])
    assert task.evaluate(guess, y)["f1"] == pytest.approx(0.444444, abs=1e-6)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_predictions_that_are_not_finite_are_refused(bad):
    task = GraphTask(dataset("binary", 1, "rocauc"))
    batch = batch_of(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    with pytest.raises(InputError, match="1 of 2 values on the valid split"):
        task.predictions(torch.tensor([[0.0], [bad]]), batch, "valid")
    with pytest.raises(InputError, match="NaN or infinite"):
        task.evaluate(torch.tensor([[0.0], [bad]]), torch.tensor([[0.0], [1.0]]))


def test_evaluation_needs_rows_that_match():
    task = GraphTask(dataset("binary", 1, "rocauc"))
    with pytest.raises(InputError, match="0 rows"):
        task.evaluate(torch.zeros(0, 1), torch.zeros(0, 1))
    with pytest.raises(InputError, match="2 rows for 3 targets"):
        task.evaluate(torch.zeros(2, 1), torch.zeros(3, 1))


def test_multiclass_targets_and_predictions_are_class_ids():
    task = GraphTask(dataset("multiclass", 3, "acc"))
    batch = batch_of(torch.tensor([[2]]), torch.tensor([[0]]))
    out = torch.tensor([[0.0, 0.0, 9.0], [1.0, 2.0, 3.0]])
    assert task.target(batch).tolist() == [2, 0]
    assert task.predictions(out, batch).tolist() == [2, 2]
    assert task.sample_loss(out, batch).mean() == pytest.approx(task.loss(out, batch).item())


def test_weight_counts_labelled_targets():
    task = GraphTask(dataset("multilabel", 2, "ap"))
    batch = batch_of(torch.tensor([[1.0, NAN]]), torch.tensor([[0.0, 1.0]]))
    assert task.weight(batch) == 3
    rows = task.sample_loss(torch.zeros(2, 2), batch)
    assert rows.tolist() == pytest.approx([0.693147, 0.693147])


def test_only_graph_batches_of_one_are_skipped():
    graphs, nodes = (
        GraphTask(dataset("binary", 1, "rocauc")),
        NodeTask(dataset("multiclass", 2, "acc", level="node")),
    )
    one = batch_of(torch.tensor([[1.0]]))
    two = batch_of(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    assert graphs.should_skip(one)
    assert not graphs.should_skip(two)
    assert not nodes.should_skip(one)


def test_node_task_sees_only_the_nodes_of_its_split():
    task = NodeTask(dataset("multiclass", 2, "acc", level="node"))
    graph = Data(
        x=torch.ones(4, 1), edge_index=torch.tensor([[0], [1]]), y=torch.tensor([0, 1, 1, 0]),
        train_mask=torch.tensor([True, True, False, False]),
        valid_mask=torch.tensor([False, False, True, False]),
        test_mask=torch.tensor([False, False, False, True]),
    )  # fmt: skip
    out = torch.tensor([[5.0, 0.0], [5.0, 0.0], [0.0, 5.0], [0.0, 5.0]], requires_grad=True)
    assert task.target(graph, "train").tolist() == [0, 1]
    assert task.predictions(out, graph, "valid").tolist() == [1]
    assert task.weight(graph, "test") == 1
    task.loss(out, graph, "train").backward()
    assert torch.equal(out.grad.abs().sum(1) > 0, graph.train_mask)


def test_node_task_on_many_graphs_takes_every_node():
    task = NodeTask(dataset("multiclass", 2, "f1", level="node"), loss="weighted_cross_entropy")
    batch = batch_of(torch.tensor([0, 1]), torch.tensor([1, 1]))
    assert task.target(batch, "valid").tolist() == [0, 1, 1, 1]
    assert task.loss(torch.zeros(4, 2), batch).item() == pytest.approx(0.693147, abs=1e-6)


def test_wrong_shapes_are_refused_with_what_was_wanted():
    task = GraphTask(dataset("multilabel", 2, "ap"))
    batch = batch_of(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(InputError, match=r"wants \[n, 2\]; build the model with out_channels=2"):
        task.loss(torch.zeros(2, 3), batch)
    with pytest.raises(InputError, match="one row per graph"):
        task.loss(torch.zeros(4, 2), batch)
    batch.y = None
    with pytest.raises(InputError, match="no targets y"):
        task.loss(torch.zeros(2, 2), batch)
    node = NodeTask(dataset("multiclass", 2, "acc", level="node"))
    graph = batch_of(torch.tensor([0, 1]), train_mask=torch.tensor([True]))
    with pytest.raises(InputError, match="train_mask"):
        node.loss(torch.zeros(2, 2), graph)


def test_create_task_by_level_and_bad_options():
    demo = data.load("demo")
    assert isinstance(create_task(demo), GraphTask)
    assert create_task(demo, batch_size=64).batch_size == 64
    with pytest.raises(InputError, match="did you mean 'loss'"):
        create_task(demo, los="bce")
    with pytest.raises(InputError, match="batch_size"):
        create_task(demo, batch_size=0)
    with pytest.raises(InputError, match="edge-level"):
        create_task(dataset("binary", 1, "rocauc", level="edge"))


def test_the_embedded_set_trains_end_to_end():
    from torch import nn

    from graphkit.train import Trainer

    demo = data.load("demo")

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(demo.graphs.x.size(1), 16)
            self.last = nn.Linear(16, demo.num_tasks)

        def forward(self, batch):
            h = self.first(batch.x.float()).relu()
            pooled = torch.zeros(batch.num_graphs, 16).index_add(0, batch.batch, h)
            return self.last(pooled)

    result = Trainer(max_epochs=2, progress=False).fit(Sum(), create_task(demo))
    assert set(result.metrics) >= {"valid_rocauc", "test_rocauc", "valid_loss", "train_loss"}
    assert 0 <= result.test <= 1
