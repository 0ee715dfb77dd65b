"""R-GCN, HGT and HAN on whole heterogeneous graphs: graphs they see, learning, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hetero_cases import academic, means, with_labels
from torch_geometric.data import HeteroData

from graphkit.data import HeteroNodes
from graphkit.errors import InputError
from graphkit.models import HeteroGNN, create_model
from graphkit.tasks import HeteroGraphTask, create_task, model_args
from graphkit.tasks.hetero_graph import along_metapaths, both_ways
from graphkit.train import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
PATHS = [["paper", "author", "paper"], ["paper", "paper"], ["paper", "term", "paper"]]


def test_both_directions_once() -> None:
    data = academic()
    for source, relation, destination in list(data.edge_types):
        flipped = data[source, relation, destination].edge_index.flip(0)
        data[destination, f"rev_{relation}", source].edge_index = flipped
    graph = both_ways(data, "paper")
    assert len(graph.edge_types) == 9  # four relations both ways, citations symmetric
    assert graph["paper", "cites", "paper"].edge_index.size(1) == 50


def test_names_of_relations_may_be_anything() -> None:
    data = academic()
    data["author", "rev_has|x", "term"].edge_index = torch.tensor([[0, 1], [2, 2]])
    data["paper", "has|x", "author"].edge_index = torch.tensor([[3, 4], [0, 0]])
    # Not the reverse of "writes", in spite of its name.
    data["paper", "rev_writes", "author"].edge_index = torch.tensor([[7], [1]])
    graph = both_ways(data, "paper")
    assert len(graph.edge_types) == 7 * 2 + 1
    for source, relation, destination in data.edge_types:
        edges = data[source, relation, destination].edge_index
        if source != destination:
            assert torch.equal(graph[source, relation, destination].edge_index, edges)
            assert any(
                torch.equal(graph[key].edge_index, edges.flip(0))
                for key in graph.edge_types
                if (key[0], key[2]) == (destination, source)
            )


def test_metapaths_are_products() -> None:
    data = academic()
    graph = along_metapaths(data, "paper", PATHS)
    assert graph.node_types == ["paper"]
    writes, cites = means(data)["author|writes|paper"], means(data)["paper|cites|paper"]
    for number, wanted in ((0, writes[2] @ writes[3]), (1, cites[2])):
        found = torch.zeros(31, 31)
        ends = graph["paper", f"path_{number}", "paper"].edge_index
        found[ends[1], ends[0]] = 1
        assert torch.equal(found, (wanted > 0).float())
        assert ends.size(1) == int(found.sum())


@pytest.mark.parametrize("conv", ["rgcn", "hgt", "han"])
@pytest.mark.parametrize("multilabel", [False, True])
def test_learns(conv: str, multilabel: bool) -> None:
    data = with_labels(academic())
    if multilabel:
        data["paper"].y = (data["paper"].x[:, :4] > 0).float()
    dataset = HeteroNodes(data, "paper")
    options: dict[str, Any] = {"whole_graph": True, "criterion": "f1_mean"}
    if conv == "han":
        options["metapaths"] = PATHS
    task = create_task(dataset, **options)
    assert isinstance(task, HeteroGraphTask)
    torch.manual_seed(0)
    model = create_model(
        "hetero_gnn", out_channels=dataset.num_tasks, conv=conv, hidden_channels=16, heads=4,
        num_layers=1, dropout=0.1, **model_args(dataset, options),
    )  # fmt: skip
    assert json.loads(json.dumps(model.config)) == model.config
    result = Trainer(max_epochs=40, optimizer={"name": "Adam", "lr": 0.02}, progress=False).fit(
        model, task
    )
    assert result.history[-1]["train_loss"] < 0.6 * result.history[0]["train_loss"]
    assert {"valid_f1_macro", "valid_f1_mean"} <= set(result.metrics)


@pytest.mark.parametrize("conv", ["rgcn", "hgt", "han"])
@pytest.mark.parametrize("target", ["items", "type", "web.site", "training", ""])
def test_types_may_have_any_name(conv: str, target: str) -> None:
    data, ends = HeteroData(), torch.tensor([[0, 1, 2], [0, 1, 1]])
    data[target].x, data["web#site"].num_nodes = torch.eye(3), 2
    for source, name, edges in ((target, "a.b", ends), ("web#site", "rev.a.b", ends.flip(0))):
        other = "web#site" if source == target else target
        data[source, name, other].edge_index = edges
    sizes = {target: [3, 3], "web#site": [2, 0]}
    torch.manual_seed(0)
    model = HeteroGNN(sizes, data.edge_types, target, 4, conv, hidden_channels=8, heads=2).eval()
    found = model(data)
    assert found.shape == (3, 4)
    assert found.isfinite().all()
    again = HeteroGNN(**model.config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(data), found)


@pytest.mark.parametrize("conv", ["hgt", "han"])
def test_weights_of_the_usual_relation_keep_their_names(conv: str) -> None:
    """``to`` is PyG's own name, and that of most relations of HGB."""
    sizes, types = {"a": [2, 2], "b": [2, 2]}, [("a", "to", "b"), ("b", "to", "a")]
    names = HeteroGNN(sizes, types, "a", 2, conv, hidden_channels=4, heads=2).state_dict()
    assert any(name.endswith("a__to__b") for name in names)


def test_refusals() -> None:
    def refused(message: str, **change: Any) -> None:
        settings = {
            "node_types": {"a": [2, 3], "b": [4, 0]}, "edge_types": [["a", "to", "b"]],
            "target": "a", "out_channels": 2, **change,
        }  # fmt: skip
        with pytest.raises(InputError, match=message):
            HeteroGNN(**settings)

    refused("conv: 'gat'", conv="gat")
    refused("target: 'c'", target="c")
    refused("end at", edge_types=[["a", "to", "c"]])
    refused("heads: 7", heads=7)
    refused("dropout", dropout=1.0)
    refused("num_layers", num_layers=0)
    dataset = HeteroNodes(with_labels(academic()), "paper")
    for paths, message in (
        ([["author", "paper"]], "begin and end"),
        ([["paper", "city", "paper"]], "no relation between"),
    ):
        with pytest.raises(InputError, match=message):
            HeteroGraphTask(dataset, metapaths=paths)
