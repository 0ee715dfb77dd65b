"""Every shipped recipe: well formed, with sourced figures, and buildable by name."""

from __future__ import annotations

import pytest
import yaml

from graphkit import data, recipes
from graphkit.results import build

FILES = recipes.names()
NAMES = [name for file in FILES for name in (file, *recipes.variants(file))]
WANTED = {
    "demo": "gcn mpnn_vn",
    "demo-node": "gcn",
    "ogbg-molhiv": "gin_vn gcn_vn gin gcn mpnn_dsvn mpnn_vn-cpu gin-cpu",
    "ogbg-molpcba": "gin_vn gcn_vn gin gcn mpnn_dsvn",
    "ogbg-molbbbp": "mpnn_vn-cpu gin-cpu",
    "ogbg-molesol": "mpnn_vn-cpu gin-cpu",
    "ogbg-molfreesolv": "mpnn_vn-cpu gin-cpu",
    "demo-link": "ncn cn",
    "cora-link": "ncn ncnc gae cn aa ra katz ppr",
    "citeseer-link": "ncn ncnc gae cn aa ra katz ppr",
    "pubmed-link": "ncn ncnc gae cn aa ra katz ppr",
    "ogbl-ddi": "ncn ncnc cn aa ra",
    "ogbl-collab": "ncn ncnc cn aa ra",
    "ogbl-ppa": "ncn ncnc cn aa ra",
    "ogbl-citation2": "ncn ncnc cn aa ra",
    "seal-usair": "ncn cn katz",
    "seal-yeast": "ncn cn katz",
    "seal-power": "ncn cn katz",
    "ego-facebook-link": "ncn ncnc cn aa ra katz ppr",
    "demo-rec": "popularity mf light_gcn",
    "ml-1m": "popularity mf light_gcn",
    "amazon-cds": "popularity mf light_gcn",
    "lastfm": "popularity mf light_gcn",
    "gowalla": "popularity mf mf_directau neumf light_gcn",
    "yelp2018": "popularity mf mf_directau neumf light_gcn",
    "amazon-electronics": "popularity mf light_gcn",
    "amazon-book": "popularity mf mf_directau neumf light_gcn",
    "blogcatalog": "fastrp deepwalk node2vec",
    "robust-cora": "stable gcn gat gcn_jaccard gcn_svd prognn prognn_fs prognn_lowrank",
    "robust-citeseer": "stable gcn gat gcn_jaccard gcn_svd prognn prognn_fs prognn_lowrank",
    "robust-polblogs": "stable gcn gat gcn_svd prognn_fs prognn_lowrank",
    "robust-pubmed": "stable gcn gat gcn_jaccard gcn_svd",
    "hgb-dblp": "rphgnn metapaths rgcn hgt han",
    "hgb-acm": "rphgnn metapaths rgcn hgt han",
    "hgb-imdb": "rphgnn metapaths rgcn hgt han",
    "hgb-freebase": "rphgnn",
    "ogbn-mag": "rphgnn",
    "peptides-func": "gcn_vn gine_vn gatedgcn_vn gatedgcn_rwse_vn gcn gine gatedgcn gcn-tuned "
    "gine-tuned gatedgcn-tuned gcn-cpu gcn_vn-cpu",
    "peptides-struct": "gcn_vn gine_vn gatedgcn_vn gatedgcn_rwse_vn gcn gine gatedgcn gcn-tuned "
    "gine-tuned gatedgcn-tuned",
}


def test_the_promised_recipes_are_there() -> None:
    wanted = {f"{dataset}/{m}" for dataset, models in WANTED.items() for m in models.split()}
    assert wanted <= set(FILES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_file_is_whole(name: str) -> None:
    recipe = recipes.load(name)
    dataset, model = name.split("/")
    assert recipe.dataset.name == dataset
    drawn = data.card(dataset).split_kind == "protocol"
    if data.card(dataset).level == "recommendation":
        return  # tests/recipes/test_recommendation_recipes.py
    if dataset.startswith(("hgb-", "ogbn-mag")):
        return  # tests/recipes/test_hetero_recipes.py
    small = drawn or dataset.startswith(("demo", "seal-", "ego-", "robust"))
    assert recipe.size == ("cpu" if model.endswith("-cpu") or small else "full")
    for entry in recipe.published:
        assert entry.source.strip()
        assert 0 < entry.value < 1
    if recipe.size == "full":
        assert recipe.published, "a full-size recipe stands beside a published figure"
    wanted_seeds = 4 if dataset.startswith("peptides") else 5 if dataset == "blogcatalog" else 10
    if recipe.size == "full" or drawn:
        assert recipe.seed_list() == list(range(wanted_seeds))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_names_what_exists(name: str) -> None:
    # Unknown data sets, models, model arguments and plugins are refused here.
    build.check_names(recipes.load(name))


@pytest.mark.parametrize(
    "dataset", ["ogbg-molhiv", "ogbg-molbbbp", "ogbg-molesol", "ogbg-molfreesolv"]
)
def test_virtual_node_pairs_differ_in_nothing_else(dataset: str) -> None:
    with_vn = recipes.load(f"{dataset}/mpnn_vn-cpu").deciding()
    without = recipes.load(f"{dataset}/gin-cpu").deciding()
    assert with_vn["model"].pop("virtual_node") == "ogb"
    assert without["model"].pop("virtual_node") is None
    assert with_vn == without


def test_peptides_pair_differs_in_the_virtual_node_only() -> None:
    with_vn = recipes.load("peptides-func/gcn_vn-cpu").deciding()
    without = recipes.load("peptides-func/gcn-cpu").deciding()
    assert with_vn["model"].pop("virtual_node") is not None
    assert without["model"].pop("virtual_node") is None
    assert with_vn == without


def test_published_figures_of_the_specification() -> None:
    gin_vn = recipes.load("ogbg-molhiv/gin_vn")
    assert (gin_vn.published[0].value, gin_vn.published[0].std) == (0.7707, 0.0149)
    assert gin_vn.published[0].params == 3_336_306
    assert gin_vn.num_params == 3_336_606
    assert recipes.load("peptides-func/gatedgcn_rwse_vn").published[0].value == 0.6685


@pytest.mark.parametrize("name", NAMES)
def test_hash_ignores_what_decides_nothing(name: str) -> None:
    recipe = recipes.load(name)
    other = recipe.model_copy(update={"note": "x", "seeds": 7, "published": []})
    assert other.hash == recipe.hash
    assert recipes.apply_overrides(recipe, ["optimizer.lr=0.123"]).hash != recipe.hash
    assert yaml.safe_load(yaml.safe_dump(recipe.deciding())) == recipe.deciding()


def test_hashes_are_distinct() -> None:
    assert len({recipes.load(n).hash for n in NAMES}) == len(NAMES)
