"""Recommendation recipes hold the published settings; their models can be built."""

import pytest
import torch

from graphkit import data, recipes
from graphkit.models import create_model
from graphkit.nn.embedding import resolve
from graphkit.results import build
from graphkit.train.schedule import EvalSchedule

NAMES = [
    name
    for file in recipes.names()
    if data.card(file.split("/")[0]).level == "recommendation"
    for name in (file, *recipes.variants(file))
]
# Learning rates and weight decays that GraphHash chose: full, graph, frequency, random,
# lsh_structure, double, double_frequency. NOT_PUBLISHED: a printing error in its table.
TABLES = ("graph", "frequency", "random", "lsh_structure", "double", "double_frequency")
NOT_PUBLISHED = None
GRID = {
    "gowalla/mf": [(5e-3, 1e-8), (1e-2, 1e-6), (5e-3, 1e-6), (1e-3, 1e-6), (1e-3, 1e-6),
                   (5e-3, 1e-6), (1e-3, 1e-6)],
    "yelp2018/mf": [(1e-2, 1e-6), (5e-3, 1e-6), (5e-3, 1e-6), (1e-3, 1e-6), (5e-3, 1e-6),
                    (1e-3, 1e-6), (1e-3, 1e-6)],
    "amazon-book/mf": [(1e-2, 1e-8), (1e-2, 1e-6), (1e-3, 1e-6), (5e-3, 1e-6), (1e-3, 1e-6),
                       (1e-3, 1e-6), (1e-3, 1e-8)],
    "gowalla/neumf": [(5e-3, 1e-8), (1e-3, 1e-6), (1e-3, 1e-4), (1e-3, 1e-4), (1e-2, 1e-4),
                      (1e-3, 1e-4), (1e-3, 1e-4)],
    "yelp2018/neumf": [(5e-3, 1e-8), (1e-3, 1e-6), (1e-3, 1e-4), (1e-3, 1e-4), (1e-2, 1e-4),
                       (1e-3, 1e-4), (1e-3, 1e-4)],
    "amazon-book/neumf": [(1e-3, 1e-8), (1e-3, 1e-8), *[(5e-3, 1e-6)] * 5],
    "gowalla/light_gcn": [(1e-3, 1e-8), (1e-3, 1e-8), (1e-3, 1e-6), (1e-3, 1e-6), (5e-3, 1e-6),
                          (5e-3, 1e-6), (1e-3, 1e-6)],
    "yelp2018/light_gcn": [(1e-3, 1e-8), (1e-3, 1e-8), (1e-3, 1e-6), (1e-3, NOT_PUBLISHED),
                           (1e-3, 1e-6), (1e-3, 1e-6), (1e-3, 1e-6)],
    "amazon-book/light_gcn": [*[(1e-3, 1e-8)] * 6, (1e-3, 1e-6)],
    "gowalla/mf_directau": [(1e-2, 1e-8), (1e-2, 1e-8), (1e-3, 1e-8), (1e-2, 1e-6), (1e-3, 1e-6),
                            (5e-3, 1e-4), (5e-3, 1e-6)],
    "yelp2018/mf_directau": [(1e-2, 1e-8), (5e-3, 1e-6), (1e-2, 1e-8), (5e-3, 1e-6), (1e-2, 1e-8),
                             (5e-3, 1e-4), (1e-3, 1e-4)],
    "amazon-book/mf_directau": [(1e-3, 1e-8), (1e-3, 1e-8), (1e-3, 1e-8), (1e-3, 1e-6),
                                (1e-3, 1e-8), (1e-3, 1e-4), (1e-3, 1e-6)],
}  # fmt: skip
# Of UltraGCN: d, lr, batch, w1 to w4, N, negative weight, gamma, lambda, init, sifted, patience.
ULTRAGCN = {
    "amazon-book": (64, 1e-3, 1024, 1e-8, 1, 1, 1e-8, 500, 500, 1e-4, 2.75, 1e-4, False, 15),
    "yelp2018": (64, 1e-3, 1024, 1e-8, 1, 1e-8, 1, 800, 300, 1e-4, 5e-4, 1e-4, False, 15),
    "gowalla": (64, 1e-4, 512, 1e-6, 1, 1e-6, 1, 1500, 300, 1e-4, 5e-4, 1e-4, False, 150),
    "ml-1m": (128, 1e-3, 1024, 1e-7, 1, 1e-7, 1, 200, 200, 1e-4, 1e-3, 1e-3, False, 50),
    "amazon-cds": (64, 1e-3, 1024, 1e-7, 1, 1e-7, 1, 1000, 1000, 1e-4, 1.0, 1e-4, False, 15),
    "amazon-electronics": (64, 1e-3, 2048, 1e-7, 1, 1e-7, 1, 75, 75, 5e-5, 1e-7, 1e-3, True, 250),
}


def settings_of(base, method):
    """The recipe of a backbone with one kind of table."""
    if base.endswith("light_gcn"):  # full tables and compressed ones are in two files
        if method == "full":
            return recipes.load(f"{base}@graphhash")
        return recipes.load(f"{base}_hash" + (f"@{method}" if method != "graph" else ""))
    return recipes.load(base if method == "full" else f"{base}@{method}")


@pytest.mark.parametrize("name", NAMES)
def test_recipe_can_be_built(name):
    recipe = recipes.load(name)
    build.check_names(recipe)
    model = create_model(recipe.model.name, num_users=4, num_items=12, **recipe.model.arguments)
    assert model.num_users == 4
    every = recipe.trainer.eval_every
    EvalSchedule.of(every if isinstance(every, int) else every.model_dump())
    build.build_trainer(recipe, 0, None)
    for entry in recipe.published:
        assert 0 < entry.value < 1
        assert "test" in entry.source, "say how the epoch of a published figure was chosen"


@pytest.mark.parametrize("name", NAMES)
def test_selection_on_test_pairs_is_named(name):
    options = recipes.load(name).dataset.options
    assert (options.get("protocol") == "official") == ("@official" in name)


@pytest.mark.parametrize("name", GRID)
def test_settings_of_graphhash(name):
    for method, (lr, decay) in zip(("full", *TABLES), GRID[name], strict=True):
        recipe = settings_of(name, method)
        chosen = recipe.optimizer
        assert chosen.lr == lr, method
        assert decay in (chosen.weight_decay, NOT_PUBLISHED), method
        assert recipe.dataset.options == {"protocol": "ninth", "convention": "graphhash"}
        # Every tenth epoch, the first among them; 51 epochs after the last gain it is over.
        due = EvalSchedule.of(recipe.trainer.eval_every.model_dump()).due
        assert [epoch for epoch in range(1, 40) if due(epoch)] == [1, 11, 21, 31]
        stopping = recipe.plugins[0].model_dump()
        assert (stopping["patience"], stopping["counts"]) == (51, "epochs")
        table = recipe.model.arguments.get("table")
        assert table == (None if method == "full" else {"method": method, "gamma": 200})
        model = recipe.model.arguments
        assert recipe.trainer.max_epochs == 1000
        if model.get("sampling") == "full":
            assert (name.split("/")[1], model["init"]) == ("mf", "xavier_uniform")
        else:
            assert (model["sampling"], recipe.trainer.batch_size) == ("pairs", 1024)
        if name.endswith("light_gcn"):
            assert (model["num_layers"], model["init_std"], model["reg"]) == (2, 1.0, 0.0)
            assert model["degree_eps"] == 1e-7


@pytest.mark.parametrize("name", ULTRAGCN)
def test_settings_of_ultragcn(name):
    recipe = recipes.load(f"{name}/ultragcn")
    model = recipe.model.arguments
    keys = ("num_negatives", "negative_weight", "gamma", "lambda_", "init_std", "sift_pos")
    found = (
        model["dim"], recipe.optimizer.lr, recipe.trainer.batch_size,
        *(model[key] for key in ("w1", "w2", "w3", "w4", *keys)),
        recipe.plugins[0].model_dump()["patience"],
    )  # fmt: skip
    assert found == ULTRAGCN[name]
    assert (model["num_neighbours"], recipe.trainer.max_epochs) == (10, 2000)
    assert recipe.optimizer.name == "Adam"
    assert not recipe.optimizer.weight_decay
    # Counted from 0: epochs 0, 5, ..., 45, then every one.
    due = EvalSchedule.of(recipe.trainer.eval_every.model_dump()).due
    assert [e - 1 for e in range(1, 55) if due(e)] == [*range(0, 50, 5), *range(50, 54)]


@pytest.mark.parametrize("file", ["mf_quarter", "light_gcn_quarter"])
def test_a_quarter_of_the_parameters_for_every_method(file):
    """With LastFM's numbers of users and items, on pairs made up."""
    pairs = torch.stack([torch.arange(9000) * 7919 % 1892, torch.arange(9000) * 104729 % 4489])
    interactions = data.Interactions(pairs, 1892, 4489, dedupe=True)
    names = [f"lastfm/{file}", *recipes.variants(f"lastfm/{file}")]
    assert len(names) >= 5
    for name in names:
        spec = recipes.load(name).model.arguments["table"]
        sizes = [resolve(spec, interactions, side).num_rows for side in ("user", "item")]
        assert sizes == [473, 1122]  # of 1892 and 4489


def test_settings_of_light_gcn():
    recipe = recipes.load("gowalla/light_gcn")
    model = recipe.model.arguments
    assert (model["dim"], model["num_layers"], model["init_std"], model["reg"]) == (
        64,
        3,
        0.1,
        1e-4,
    )
    assert (model["sampling"], recipe.trainer.batch_size, recipe.optimizer.lr) == (
        "users",
        2048,
        1e-3,
    )
    assert recipe.dataset.options == {"convention": "lightgcn"}
    book = recipes.load("amazon-book/light_gcn")
    assert (book.model.arguments["num_layers"], book.trainer.batch_size) == (2, 8192)
