"""Recipe files and overrides from anybody: one clear error, in no time, nothing executed."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphkit import recipes
from graphkit.errors import RecipeError
from graphkit.recipes.overrides import parse_override
from graphkit.recipes.reading import parse_yaml

GOOD = "dataset: {name: demo}\nmodel: {name: mpnn_vn}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b]\n"

HOSTILE = {
    "python tag": (GOOD + "note: !!python/object/apply:os.system ['touch hacked']\n", "not plain"),
    "anchors bomb": (BOMB, "anchors and aliases"),
    "self reference": ("a: &a [*a]\n", "anchors and aliases"),
    "unknown key": (GOOD + "trainr: {max_epochs: 3}\n", "did you mean 'trainer'"),
    "unknown nested key": (GOOD + "trainer: {max_epoch: 3}\n", "'trainer.max_epochs'"),
    "key at the wrong level": (GOOD + "lr: 0.1\n", "did you mean 'optimizer.lr'"),
    "key given twice": (GOOD + "seeds: 3\nseeds: 4\n", "'seeds' is given twice"),
    "nan": (GOOD + "optimizer: {lr: .nan}\n", "'optimizer.lr'"),
    "infinite": (GOOD.replace("mpnn_vn", "mpnn_vn, dropout: .inf"), "'model.dropout'"),
    "negative size": (GOOD + "trainer: {max_epochs: -3}\n", "'trainer.max_epochs'"),
    "true for a number": (GOOD + "trainer: {max_epochs: yes}\n", "'trainer.max_epochs'"),
    "text for a number": (GOOD + "optimizer: {lr: fast}\n", "'optimizer.lr'"),
    "list for a mapping": (GOOD + "trainer: [1]\n", "'trainer'"),
    "path in the name": (GOOD.replace("demo", "../../etc"), "dataset.name"),
    "same seed twice": (GOOD + "seeds: [1, 1]\n", "'seeds'"),
    "figure without source": (
        GOOD + "published: [{label: a, metric: b, value: 0.1, source: ''}]\n",
        "'published.0.source'",
    ),
    "missing model": ("dataset: {name: demo}\n", "'model' is missing"),
    "not a mapping": ("[1, 2]\n", "a mapping of keys is wanted"),
    "empty": ("", "a mapping of keys is wanted"),
    "broken syntax": ("dataset: {name: demo\n", "line"),
    "deep nesting": (GOOD + "note: " + "[" * 500 + "]" * 500 + "\n", "nested deeper"),
    "too large": (GOOD + "note: " + "x" * 70_000, "more than 65536 bytes"),
    "date": (GOOD.replace("mpnn_vn", "mpnn_vn, conv: 2024-01-01"), "'model.conv'"),
    "impossible date": (GOOD + "note: 2024-99-99\n", ""),
    "not text": (b"\xff\xfe\x00", "not UTF-8"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_recipe_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[case]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(RecipeError) as caught:
        recipes.load(str(path))
    assert message in str(caught.value)
    assert time.process_time() - start < 1
    assert not (tmp_path / "hacked").exists()


def test_a_recipe_of_my_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD + "optimizer: {lr: 1e-3}\n")
    recipe = recipes.load(str(tmp_path / "mine.yaml"))
    assert recipe.name == "demo/mine"
    assert recipe.optimizer.lr == 0.001


@pytest.mark.parametrize("name", ["demo/gnc", "demo", "../demo/gcn", "demo/../gcn", "", "a/b/c"])
def test_unknown_recipe_says_what_there_is(name: str) -> None:
    with pytest.raises(RecipeError, match="no recipe"):
        recipes.load(name)


def test_nearest_recipe_is_named() -> None:
    with pytest.raises(RecipeError, match="did you mean 'demo/gcn'"):
        recipes.load("demo/gnc")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1e-3", 0.001), ("a=3", 3), ("a=null", None), ("a=[1, 2]", [1, 2]), ("a=true", True),
        ("a=relu", "relu"), ("a={x: 1e5}", {"x": 1e5}), ("a=", None), ("a=b=c", "b=c"),
    ],
)  # fmt: skip
def test_override_values_are_typed(text: str, value: object) -> None:
    assert parse_override(text) == (["a"], value)


def test_overrides_reach_lists_by_name_and_position() -> None:
    recipe = recipes.load("peptides-func/gcn_vn")
    by_name = recipes.apply_overrides(recipe, ["plugins.lr_schedule.patience=5"])
    by_position = recipes.apply_overrides(recipe, ["plugins.0.patience=5"])
    assert by_name.plugins[0].arguments["patience"] == 5
    assert by_name.hash == by_position.hash != recipe.hash
    assert recipes.apply_overrides(recipe, ["plugins=[]"]).plugins == []
    assert recipe.plugins[0].arguments["patience"] == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr", "key=value"), ("=3", "key=value"), ("a..b=3", "key=value"),
        ("lr=3", "did you mean 'optimizer.lr'"), ("trainer.max_epoch=1", "max_epochs"),
        ("published=[]", "fixed"), ("name=x", "fixed"), ("dataset.name=demo-node", "of your own"),
        ("plugins.ema.decay=1", "no element 'ema'"), ("model.conv.x=1", "plain value"),
        ("optimizer.lr=-1", "greater than 0"), ("plugins.99.x=1", "no element '99'"),
    ],
)  # fmt: skip
def test_bad_override_is_named(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.apply_overrides(recipes.load("peptides-func/gcn_vn"), [text])
    assert message in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(RecipeError):
        parse_yaml(text, "here")


@given(st.text(alphabet="abc.=[]{}:1e-&*!\n ", max_size=60))
def test_any_override_is_applied_or_refused(text: str) -> None:
    recipe = recipes.load("demo/gcn")
    with contextlib.suppress(RecipeError):
        recipes.apply_overrides(recipe, [text])
