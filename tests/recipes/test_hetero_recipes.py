"""Recipes of heterogeneous sets: published settings, exact sizes, one short run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from graphkit import data, recipes, results
from graphkit.data import HeteroNodes
from graphkit.errors import DatasetNotFoundError
from graphkit.models import create_model
from graphkit.results import build
from graphkit.tasks import PropagatedNodeTask, model_args

# Relations as the archives list them; widths of the types with features; target, its classes.
SCHEMAS: dict[str, tuple[str, dict[str, int], str, int]] = {
    "hgb-dblp": (
        "author-paper paper-term paper-venue paper-author term-paper venue-paper",
        {"author": 334, "paper": 4231, "term": 50}, "author", 4,
    ),
    "hgb-acm": (
        "paper-cite-paper paper-ref-paper paper-author author-paper paper-subject subject-paper "
        "paper-term term-paper",
        {"paper": 1902, "author": 1902, "subject": 1902}, "paper", 3,
    ),
    "hgb-imdb": (
        "movie-director director-movie movie-actor actor-movie movie-keyword keyword-movie",
        {"movie": 3489, "director": 3341, "actor": 3341}, "movie", 5,
    ),
    "ogbn-mag": (
        "author-affiliated_with-institution author-writes-paper paper-cites-paper "
        "paper-has_topic-field_of_study",
        {"paper": 128}, "paper", 349,
    ),
}  # fmt: skip
# iterations, embedding size, use_input, hidden, fusion, input dropout, dropout, layers of group and
# head, batch, epochs, evaluations without improvement, epochs between them.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "hgb-dblp/rphgnn": (5, 1024, False, 512, "concat", 0.8, 0.8, 2, 2, 10000, 500, 4, 10),
    "hgb-acm/rphgnn": (6, 256, True, 64, "mean", 0.8, 0.7, 2, 2, 1000, 500, 101, 1),
    "hgb-imdb/rphgnn": (3, 1024, True, 256, "concat", 0.8, 0.7, 2, 2, 10000, 500, 51, 1),
    "hgb-freebase/rphgnn": (6, 512, False, 256, "concat", 0.7, 0.7, 1, 1, 10000, 150, 6, 10),
    "ogbn-mag/rphgnn": (5, 512, True, 512, "concat", 0.0, 0.5, 2, 2, 10000, 200, 4, 10),
    "ogbn-mag/rphgnn@leaderboard": (
        3, 512, True, 512, "concat", 0.1, 0.4, 2, 2, 10000, 500, 6, 10,
    ),
}  # fmt: skip
CRITERION = {"hgb-dblp": "loss", "ogbn-mag": "metric"}
RPHGNN = [
    name
    for file in recipes.names("*/rphgnn")
    for name in (file, *recipes.variants(file))
    if not name.startswith("hgb-freebase")
]


def schema(name: str) -> HeteroNodes:
    """A graph of a few nodes whose types, relations and widths are those of a set."""
    relations, widths, target, classes = SCHEMAS[name]
    graph = HeteroData()
    for number, text in enumerate(relations.split()):
        source, *middle, destination = text.split("-")
        for kind in (source, destination):
            graph[kind].num_nodes = 3
            if kind in widths:
                graph[kind].x = torch.ones(3, widths[kind])
        edges = torch.tensor([[0, 1, 2, 0], [0, 1, 1, number % 2]])
        key = (source, middle[0] if middle else "to", destination)
        other = graph.edge_types and any(
            (d, s) == (source, destination) and (s, r, d) != key for s, r, d in graph.edge_types
        )
        if other:  # the archives list most relations in both directions
            first = next(t for t in graph.edge_types if (t[2], t[0]) == (source, destination))
            edges = graph[first].edge_index.flip(0)
        graph[key].edge_index = edges
    multilabel = data.card(name).task == "multilabel"
    graph[target].y = torch.zeros(3, classes) if multilabel else torch.zeros(3, dtype=torch.long)
    return HeteroNodes(graph, target, "f1_micro", classes)


@pytest.mark.parametrize("name", SETTINGS)
def test_published_settings(name: str) -> None:
    recipe = recipes.load(name)
    build.check_names(recipe)
    task, model = recipe.task.model_extra or {}, recipe.model.arguments
    plugin = next(p for p in recipe.plugins if p.name == "early_stopping").arguments
    found = (
        task["propagation"]["iterations"], task["propagation"]["embedding_size"],
        task["propagation"].get("use_input", False), model["hidden_channels"],
        model.get("fusion", "concat"), model["input_dropout"], model["dropout"],
        model.get("group_layers", 2), model.get("head_layers", 2), task["batch_size"],
        recipe.trainer.max_epochs, plugin["patience"], recipe.trainer.eval_every,
    )  # fmt: skip
    assert found == SETTINGS[name]
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.weight_decay) == (
        "Adam", 3e-3, 0.0,
    )  # fmt: skip
    criterion = CRITERION.get(name.split("/")[0], "f1_mean")
    assert plugin["monitor"] == criterion
    assert task.get("criterion", "metric") == criterion
    assert recipe.seed_list() == ([1, 2, 3, 4, 5] if name.startswith("hgb") else list(range(10)))
    build.build_trainer(recipe, 1, None)


@pytest.mark.parametrize("name", RPHGNN)
def test_sizes(name: str) -> None:
    recipe = recipes.load(name)
    dataset = schema(recipe.dataset.name)
    arguments = model_args(dataset, recipe.task.model_extra or {})
    model = create_model(
        "rphgnn", out_channels=dataset.num_tasks, **arguments, **recipe.model.arguments
    )
    count = sum(p.numel() for p in model.parameters())
    if recipe.num_params is not None:
        assert count == recipe.num_params
    wanted = {
        "hgb-dblp/rphgnn": 5_727_777, "hgb-dblp/rphgnn@cpu": 526_625,
        "hgb-imdb/rphgnn@cpu": 1_577_544, "ogbn-mag/rphgnn@leaderboard": 7_720_368,
    }  # fmt: skip
    assert count == wanted.get(name, count)


def test_shapes_of_the_specification() -> None:
    def shapes(name: str) -> list[list[int]]:
        recipe = recipes.load(name)
        found: list[list[int]] = model_args(
            schema(recipe.dataset.name), recipe.task.model_extra or {}
        )["groups"]
        return found

    assert shapes("hgb-dblp/rphgnn") == [[5, 4231], [5, 334]]
    assert sorted(shapes("hgb-imdb/rphgnn")) == sorted(
        [[3, 3341], [3, 3341], [3, 1024], *[[4, 3489]] * 3]
    )
    acm = shapes("hgb-acm/rphgnn")
    assert [slots for slots, _ in acm] == [6, 7] * 4
    assert shapes("ogbn-mag/rphgnn@leaderboard")[-4:] == [[1, 349]] * 4


def test_leaderboard_loss_and_decay() -> None:
    recipe = recipes.load("ogbn-mag/rphgnn@leaderboard")
    task = recipe.task.model_extra or {}
    assert (task["views"], task["consistency"]) == (3, 0.6)
    assert task["line"] == {"window": 2, "epochs": 40}
    decay = next(p.arguments for p in recipe.plugins if p.name == "lr_schedule")
    assert (decay["schedule"], decay["step_size"], decay["gamma"]) == ("step", 1, 0.99)
    test, valid = (p for p in recipe.published[:2])
    assert (test.value, test.params, valid.value) == (0.5773, 7_720_368, 0.5973)
    # The options themselves are accepted.
    dataset = schema("ogbn-mag")
    for number, part in enumerate(("train_mask", "val_mask", "test_mask")):
        dataset.data["paper"][part] = torch.arange(3) == number
    assert PropagatedNodeTask(dataset, **{**task, "loss": None}).labels


def test_starts_on_the_real_set(tmp_path: Any, one_thread: None) -> None:
    recipe = recipes.load("hgb-acm/rphgnn@cpu")
    try:
        data.load(recipe.dataset.name)
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing).splitlines()[0])
    changes = ["trainer.max_epochs=2", "trainer.eval_every=1", "task.propagation.iterations=1"]
    record = results.run(recipe, seeds=[1], overrides=changes, runs=tmp_path)
    assert record.metric == "f1_micro"
    assert {"f1_macro", "f1_micro_full", "f1_macro_full"} <= set(record.other_metrics)
