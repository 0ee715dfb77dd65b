"""Recommendation recipes hold the published settings; their models can be built."""

import pytest

from graphkit import data, recipes
from graphkit.models import create_model
from graphkit.results import build
from graphkit.train.schedule import EvalSchedule

NAMES = [
    name
    for file in recipes.names()
    if data.card(file.split("/")[0]).level == "recommendation"
    for name in (file, *recipes.variants(file))
]
# Learning rate and weight decay of GraphHash's grid, uncompressed tables.
GRID = {
    "gowalla/mf": (5e-3, 1e-8), "yelp2018/mf": (1e-2, 1e-6), "amazon-book/mf": (1e-2, 1e-8),
    "gowalla/neumf": (5e-3, 1e-8), "yelp2018/neumf": (5e-3, 1e-8),
    "amazon-book/neumf": (1e-3, 1e-8),
    "gowalla/mf_directau": (1e-2, 1e-8), "yelp2018/mf_directau": (1e-2, 1e-8),
    "amazon-book/mf_directau": (1e-3, 1e-8), "gowalla/light_gcn@graphhash": (1e-3, 1e-8),
    "lastfm/mf": (1e-2, 1e-6),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_recipe_can_be_built(name):
    recipe = recipes.load(name)
    build.check_names(recipe)
    model = create_model(recipe.model.name, num_users=4, num_items=5, **recipe.model.arguments)
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
    assert (options.get("protocol") == "official") == name.endswith("official")


@pytest.mark.parametrize("name", GRID)
def test_settings_of_graphhash(name):
    recipe = recipes.load(name)
    chosen = recipe.optimizer
    assert (chosen.lr, chosen.weight_decay) == GRID[name]
    assert recipe.dataset.options == {"protocol": "ninth", "convention": "graphhash"}
    # Every tenth epoch, the first among them.
    due = EvalSchedule.of(recipe.trainer.eval_every.model_dump()).due
    assert [epoch for epoch in range(1, 40) if due(epoch)] == [1, 11, 21, 31]


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
