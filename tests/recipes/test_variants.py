"""Variants: several settings of one recipe in one file, each a recipe of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphkit import recipes
from graphkit.errors import RecipeError
from graphkit.models.prognn import PUBLISHED_SETTINGS
from graphkit.results import build
from graphkit.results.runner import method_name

OWN = """
dataset:
  name: demo-node
  options: {}
model:
  name: mpnn_vn
  conv: gcn
  num_layers: 2
published:
- {label: A, metric: acc, value: 0.5, source: here}
variants:
  deep:
    model:
      num_layers: 4
  "2":
    published:
    - {label: B, metric: acc, value: 0.6, source: here}
"""


def write(folder: Path, text: str = OWN) -> str:
    (folder / "own.yaml").write_text(text)
    return str(folder / "own.yaml")


@pytest.mark.parametrize(
    ("variant", "alpha", "k", "jt", "ct", "rate", "figure"),
    [
        ("", -0.3, 5, 0.03, 0.1, 0.05, 0.8140), ("@0", -0.5, 1, 0, 0.1, 0.0, 0.8558),
        ("@10", 0.3, 7, 0.03, 0.1, 0.1, 0.8049), ("@15", 0.6, 7, 0.03, 0.2, 0.15, 0.7855),
        ("@20", 0.6, 7, 0.03, 0.25, 0.2, 0.7780), ("@25", 0.6, 7, 0.03, 0.25, 0.25, None),
    ],
)  # fmt: skip
def test_published_settings_of_stable_on_cora(variant, alpha, k, jt, ct, rate, figure):
    recipe = recipes.load(f"robust-cora/stable{variant}")
    assert recipe.name == f"robust-cora/stable{variant}"
    found = recipe.model.arguments
    assert (found["alpha"], found["k"], found["jt"], found["ct"]) == (alpha, k, jt, ct)
    assert found["beta"] == 2
    assert recipe.dataset.options == {"attack": "metattack", "rate": rate}
    assert [p.value for p in recipe.published] == ([] if figure is None else [figure])
    assert not any(p.confirmed for p in recipe.published)


def test_published_settings_of_citeseer_and_polblogs():
    cite = [recipes.load(f"robust-citeseer/stable{v}") for v in ("@0", "", "@10", "@15", "@20")]
    assert [r.model.arguments["alpha"] for r in cite] == [-0.5, -0.3, -0.1, -0.1, 0.1]
    assert [r.model.arguments["k"] for r in cite] == [3, 3, 5, 5, 5]
    assert [r.model.arguments["jt"] for r in cite] == [0, 0.02, 0.02, 0.04, 0.03]
    blogs = [recipes.load(f"robust-polblogs/stable{v}") for v in ("@0", "", "@10", "@15", "@20")]
    assert [r.model.arguments["alpha"] for r in blogs] == [-0.5, 0.3, 0.5, 2, 2]
    assert [r.model.arguments["beta"] for r in blogs] == [2, 1, 1, 2, 2]
    assert [r.model.arguments["k"] for r in blogs] == [0, 3, 3, 3, 3]
    assert {r.model.arguments["jt"] for r in blogs} == {0}
    gcn = recipes.load("robust-cora/gcn@20").published[0]
    assert (gcn.value, gcn.std) == (0.5956, 0.0272)


@pytest.mark.parametrize("dataset", ["cora", "citeseer", "polblogs"])
def test_recipes_of_prognn_have_the_published_settings_and_figures(dataset):
    kinds = ["prognn"] if dataset != "polblogs" else []
    for kind in (*kinds, "prognn_fs", "prognn_lowrank"):
        file = f"robust-{dataset}/{kind}"
        for name in (file, *recipes.variants(file)):
            recipe = recipes.load(name)
            wanted = dict(PUBLISHED_SETTINGS[dataset])
            if kind == "prognn_fs":
                wanted["lambda_"] = 0.0
            assert wanted.items() <= recipe.model.arguments.items()
            features = recipe.model.arguments["lambda_"] > 0
            assert {p.label for p in recipe.published} <= {"Pro-GNN" if features else "Pro-GNN-fs"}
            body = "Pro-GNN-lowrank" if kind.endswith("lowrank") else "Pro-GNN"
            assert method_name(recipe) == body + ("" if features else "-fs")
    assert "@nettack3" in "".join(recipes.variants(file))


def test_published_figures_of_prognn():
    fine, coarse = (recipes.load(f"robust-cora/prognn{k}@10").published[0] for k in ("", "_fs"))
    assert (fine.value, fine.std) == (0.7903, 0.0059)
    assert (coarse.value, coarse.std) == (0.7791, 0.0086)
    assert recipes.load("robust-citeseer/prognn@15").published[0].value == 0.7203
    assert not recipes.load("robust-citeseer/prognn_fs@15").published


def test_nettack_variants_change_the_attack():
    for target in (1, 5):
        recipe = recipes.load(f"robust-pubmed/gcn@nettack{target}")
        assert recipe.dataset.options == {"attack": "nettack", "rate": float(target)}
        assert not recipe.published


def test_variants_of_an_own_file(tmp_path):
    path = write(tmp_path)
    assert recipes.load(path).model.arguments["num_layers"] == 2
    assert recipes.variants(path) == [f"{path}@deep", f"{path}@2"]
    deep = recipes.load(f"{path}@deep")
    assert deep.name == "demo-node/own@deep"
    assert deep.model.arguments == {"conv": "gcn", "num_layers": 4}
    assert deep.published == []  # the figure above belongs to other settings
    assert recipes.load(f"{path}@2").published[0].label == "B"
    assert deep.hash != recipes.load(path).hash == recipes.load(f"{path}@2").hash


def test_wrong_variants_are_refused(tmp_path):
    path = write(tmp_path)
    with pytest.raises(RecipeError, match="no variant 'wide'; there are: deep, 2"):
        recipes.load(f"{path}@wide")
    with pytest.raises(RecipeError, match="no variant 'x'; there are: none"):
        recipes.load("demo/gcn@x")
    for text in ("variants: [1]", "variants: {a: 1}", "variants: {'../b': {}}"):
        with pytest.raises(RecipeError, match="variants"):
            recipes.load(write(tmp_path, OWN[: OWN.index("variants")] + text))
    with pytest.raises(RecipeError, match="no recipe"):
        recipes.load("@10")


def test_settings_that_would_have_no_effect_are_refused():
    recipe = recipes.load("robust-cora/gcn")
    for text in ("optimizer.lr=0.1", "trainer.max_epochs=3", "plugins=[{name: ema}]"):
        with pytest.raises(RecipeError, match=r"trains itself.*model\.lr"):
            build.check_names(recipes.apply_overrides(recipe, [text]))
    build.check_names(recipes.apply_overrides(recipe, ["model.lr=0.1"]))
