"""Your own graphs become a data set with honest splits, and mistakes are named."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from graphkit import data
from graphkit.errors import InputError

EDGES = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])


def path(y: torch.Tensor, value: float = 1.0) -> Data:
    return Data(x=torch.full((3, 2), value), edge_index=EDGES, y=y)


def test_graph_level_set_serves_the_graphs_it_was_given() -> None:
    graphs = [path(torch.tensor([i % 2]), float(i)) for i in range(20)]
    own = data.from_graphs(graphs, "binary", name="paths")
    assert (own.level, own.metric, own.num_tasks, own.maximize) == ("graph", "rocauc", 1, True)
    assert {key: len(ids) for key, ids in own.splits.items()} == {
        "train": 16, "valid": 2, "test": 2,
    }  # fmt: skip
    batch = next(iter(own.loader("train", batch_size=16)))
    wanted = torch.stack([graphs[i].x for i in own.splits["train"].tolist()]).flatten(0, 1)
    assert torch.equal(batch.x, wanted)
    assert own.model_args() == {
        "in_channels": 2, "edge_dim": None, "out_channels": 1, "level": "graph",
    }  # fmt: skip


def test_node_level_set_takes_its_split_from_the_masks() -> None:
    graph = path(torch.tensor([0, 2, 1]))
    for key, row in (("train_mask", 0), ("val_mask", 1), ("test_mask", 2)):
        graph[key] = torch.arange(3) == row
    own = data.from_graphs(graph, "multiclass")
    assert {key: ids.tolist() for key, ids in own.splits.items()} == {
        "train": [0], "valid": [1], "test": [2],
    }  # fmt: skip
    assert (own.level, own.num_tasks, own.metric) == ("node", 3, "acc")
    assert "train_mask" in graph  # the caller's object is untouched
    assert own.evaluate(torch.tensor([0, 2]), torch.eye(3)[[0, 1]]) == {"acc": 0.5}


def test_the_checksum_follows_every_value() -> None:
    graphs = [path(torch.tensor([float(i)]), float(i)) for i in range(10)]
    first = data.from_graphs(graphs, "regression").sha256
    assert data.from_graphs(graphs, "regression").sha256 == first
    graphs[3].x[1, 1] += 1
    assert data.from_graphs(graphs, "regression").sha256 != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "binray"}, "did you mean 'binary'"),
        ({"metric": "mae"}, "'mae' does not judge binary"),
        ({"splits": {"train": torch.tensor([0])}}, "wanted train, valid and test"),
        (
            {"splits": {k: torch.tensor([9]) for k in ("train", "valid", "test")}},
            r"ids must lie in 0\.\.2, got 9\.\.9",
        ),
        (
            {"splits": {k: torch.tensor([1]) for k in ("train", "valid", "test")}},
            "an id is in two splits",
        ),
        ({}, "too few for a random split"),
        ({"graphs": []}, "at least one Data object"),
        ({"graphs": [Data(x=torch.ones(1, 1), edge_index=EDGES[:, :0])]}, "has no labels"),
        ({"task": "multiclass", "graphs": [path(torch.tensor([0.5]))]}, "must be integers"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    arguments = {"graphs": [path(torch.tensor([1]))] * 3, "task": "binary", **change}
    with pytest.raises(InputError, match=message):
        data.from_graphs(arguments.pop("graphs"), arguments.pop("task"), **arguments)
