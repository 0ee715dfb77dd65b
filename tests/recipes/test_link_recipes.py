"""Link-prediction recipes hold the published settings, sizes and figures to the digit."""

from dataclasses import replace

import pytest

from graphkit import data, recipes, results
from graphkit.errors import DatasetNotFoundError
from graphkit.models import create_model
from graphkit.models.ncn import PREDICTORS
from graphkit.recipes.schema import Optimizer
from graphkit.results import build
from graphkit.results.runner import method_name

FEATURES = {
    "cora-link": 1433, "citeseer-link": 3703, "pubmed-link": 500, "ogbl-collab": 128,
    "ogbl-citation2": 128,
}  # fmt: skip
# xdp, tdp, gnndp, gnnedp, preedp, predp; rates; epochs, batch, evaluation batch; parameters
SETTINGS = {
    "cora-link/ncn": ((0.7, 0.3, 0.05, 0, 0.4, 0.05), (0.0043, 0.0024), (100, 1152, 8192), 764163),
    "citeseer-link/ncn": ((0.4, 0, 0.75, 0, 0, 0.55), (0.0085, 0.0078), (100, 384, 4096), 1411587),
    "pubmed-link/ncn": ((0.3, 0, 0.1, 0, 0, 0.05), (0.0097, 0.002), (100, 2048, 8192), 525315),
    "ogbl-collab/ncn": (
        (0.25, 0.05, 0.1, 0.25, 0, 0.3), (0.0082, 0.0037), (100, 65536, 131072), 33922,
    ),
    "ogbl-ppa/ncn": ((0, 0, 0, 0.1, 0, 0.1), (0.0013, 0.0013), (25, 16384, 65536), 33538),
    "ogbl-ddi/ncn": ((0.05, 0, 0.4, 0, 0, 0.6), (0.0021, 0.0018), (100, 24576, 131072), 1412098),
    "ogbl-ddi/ncnc": ((0.05, 0, 0.4, 0, 0, 0.6), (0, 0.0025), (2, 24576, 24576), 1462723),
    "ogbl-citation2/ncn": ((0, 0.3, 0.2, 0, 0, 0.2), (0.0088, 0.0058), (20, 32768, 65536), 33794),
    "ogbl-citation2/ncnc": ((0, 0.3, 0.2, 0, 0, 0.2), (0.0088, 0.001), (20, 24576, 65536), None),
}  # fmt: skip
# scale, offset, pt, alpha
COMPLETION = {
    "cora-link": (4.3, 2.8, 0.75, 1.0), "citeseer-link": (6.5, 4.4, 0.75, 0.4),
    "pubmed-link": (5.3, 0.5, 0.5, 0.3), "ogbl-collab": (2.5, 6.0, 0.1, 1.05),
    "ogbl-ppa": (4.0, 8.5, 0.1, 0.9), "ogbl-ddi": (10.0, 3.0, 0.1, 0.5),
    "ogbl-citation2": (1.4, -0.3, 0.25, 1.0),
}  # fmt: skip
FIGURES = {
    "cora-link": ((89.05, 0.96), (89.65, 1.36)), "citeseer-link": ((91.56, 1.43), (93.47, 0.95)),
    "pubmed-link": ((79.05, 1.16), (81.29, 0.95)), "ogbl-collab": ((64.76, 0.87), (66.61, 0.71)),
    "ogbl-ppa": ((61.19, 0.85), (61.42, 0.73)), "ogbl-citation2": ((88.09, 0.06), (89.12, 0.40)),
    "ogbl-ddi": ((82.32, 6.10), (84.11, 3.67)),
}  # fmt: skip


def model_of(name):
    arguments = dict(recipes.load(name).model.arguments)
    arguments.setdefault("in_channels", FEATURES.get(name.split("/")[0]))
    return create_model("ncn", **arguments)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_and_sizes_are_the_published_ones(name):
    drops, rates, (epochs, batch, evaluation), size = SETTINGS[name]
    recipe = recipes.load(name)
    given = recipe.model.arguments
    names = ("xdp", "tdp", "gnndp", "gnnedp", "preedp", "predp")
    assert tuple(given[key] for key in names) == drops
    groups = recipe.optimizer.groups
    assert (groups["encoder"].lr, groups["predictor"].lr) == rates
    assert (recipe.trainer.max_epochs, recipe.trainer.batch_size) == (epochs, batch)
    assert recipe.task.model_extra["eval_batch_size"] == evaluation
    assert recipe.optimizer.model_dump()["weight_decay"] == 0
    if size is not None:
        assert sum(p.numel() for p in model_of(name).parameters()) == size
        assert recipe.num_params in (size, None)


@pytest.mark.parametrize("dataset", COMPLETION)
def test_completion_and_figures(dataset):
    ncn, ncnc = (recipes.load(f"{dataset}/{model}") for model in ("ncn", "ncnc"))
    given = ncnc.model.arguments
    keys = ("scale", "offset", "pt", "alpha")
    assert tuple(given[key] for key in keys) == COMPLETION[dataset]
    for recipe, figure in zip((ncn, ncnc), FIGURES[dataset], strict=True):
        entry = recipe.published[0]
        assert (entry.value, entry.std) == pytest.approx([value / 100 for value in figure])
    predictor = model_of(f"{dataset}/ncnc").predictor
    assert predictor.depth == 1
    assert float(predictor.alpha) == pytest.approx(COMPLETION[dataset][3])


@pytest.mark.parametrize("dataset", ["cora-link", "citeseer-link", "pubmed-link"])
def test_planetoid_models_differ_in_the_predictor_only(dataset):
    ncn, ncnc, gae = (recipes.load(f"{dataset}/{m}").deciding() for m in ("ncn", "ncnc", "gae"))
    assert [one["model"].pop("predictor") for one in (ncn, ncnc, gae)] == ["ncn", "ncnc", "gae"]
    for key in ("scale", "offset", "pt", "alpha"):
        ncnc["model"].pop(key)
    assert ncn == ncnc == gae


@pytest.mark.parametrize("dataset", ["ogbl-collab", "ogbl-ppa"])
def test_completion_on_ogb_differs_in_its_own_settings_only(dataset):
    ncn, ncnc = (recipes.load(f"{dataset}/{m}").deciding() for m in ("ncn", "ncnc"))
    for key in ("predictor", "scale", "offset", "pt", "alpha", "splitsize"):
        ncn["model"].pop(key, None)
        ncnc["model"].pop(key, None)
    assert ncn == ncnc


# conv, layers, width; jk, res; use_xlin, tailact, twolayerlin; maskinput
SHAPES = {
    "cora-link": ("puregcn", 1, 256, True, False, True, True, False, True),
    "citeseer-link": ("puregcn", 1, 256, True, False, True, True, True, True),
    "pubmed-link": ("puregcn", 1, 256, True, False, True, True, False, True),
    "ogbl-collab": ("gcn", 1, 64, False, True, True, True, False, True),
    "ogbl-ppa": ("gcn", 3, 64, False, True, False, True, False, True),
    "ogbl-ddi": ("puresum", 1, 224, False, True, True, False, True, True),
    "ogbl-citation2": ("puregcn", 3, 64, False, True, True, True, False, False),
}  # fmt: skip


@pytest.mark.parametrize("dataset", SHAPES)
@pytest.mark.parametrize("model", ["ncn", "ncnc"])
def test_switches_are_the_published_ones(dataset, model):
    recipe = recipes.load(f"{dataset}/{model}")
    given = model_of(f"{dataset}/{model}").config
    names = ("conv", "num_layers", "hidden_channels", "jk", "res", "use_xlin", "tailact",
             "twolayerlin")  # fmt: skip
    found = (*(given[name] for name in names), recipe.task.model_extra["maskinput"])
    wanted = SHAPES[dataset]
    if (dataset, model) == ("ogbl-citation2", "ncnc"):  # over the node embeddings of ncn
        wanted = ("none", 0, *wanted[2:])
    assert found == wanted
    assert given["ln"]
    assert given["lnnn"]
    assert given["beta"] == 1.0
    assert given["nested_transform"]


def test_draws_and_pieces_are_the_published_ones():
    found = {
        name: tuple(model_of(name).config[key] for key in ("cndeg", "trndeg", "tstdeg"))
        for name in (*SETTINGS, "ogbl-ppa/ncnc", "ogbl-collab/ncnc", "cora-link/ncnc")
    }
    assert found.pop("ogbl-citation2/ncn") == (-1, 128, 128)
    assert found.pop("ogbl-citation2/ncnc") == (-1, 96, 96)
    assert set(found.values()) == {(-1, -1, -1)}
    assert model_of("ogbl-ppa/ncnc").config["splitsize"] == 131072
    assert model_of("ogbl-ddi/ncnc").config["splitsize"] == 262144


ABLATIONS = {
    "ncn@gae_cn": ("scn1", "GAE+CN"), "ncn@gae_cat_cn": ("catscn1", "cat GAE+CN"),
    "ncn@ncn2": ("cn1.5", "NCN2"), "ncn@ncn_diff": ("cn1res", "NCN-diff"),
    "ncn@ncn_higher": ("cn2", "NCN higher order"), "ncn@no_tlr": ("cn1", "NCN NoTLR"),
    "ncnc@ncnc2": ("incn1cn1", "NCNC2"), "ncnc@gae_cnc": ("sincn1cn1", "GAE+CNC"),
}  # fmt: skip


@pytest.mark.parametrize("dataset", ["cora-link", "citeseer-link", "pubmed-link"])
def test_every_ablation_of_the_paper_is_a_recipe(dataset):
    files = ("ncn", "ncnc")
    names = [name for file in files for name in recipes.variants(f"{dataset}/{file}")]
    assert names == [f"{dataset}/{name}" for name in ABLATIONS]
    hashes = {recipes.load(name).hash for name in (*names, f"{dataset}/ncn", f"{dataset}/ncnc")}
    assert len(hashes) == len(ABLATIONS) + 2
    for name, (published, title) in ABLATIONS.items():
        recipe = recipes.load(f"{dataset}/{name}")
        structure = PREDICTORS[recipe.model.arguments["predictor"]]
        assert replace(structure, depth=None) == PREDICTORS[published]
        assert method_name(recipe) == title
        assert (recipe.task.model_extra["maskinput"] is False) == name.endswith("no_tlr")
        assert ("Without target link" in recipe.note) == name.endswith("no_tlr")
        if recipe.num_params is not None:
            size = sum(p.numel() for p in model_of(f"{dataset}/{name}").parameters())
            assert size == recipe.num_params
    assert model_of(f"{dataset}/ncnc@ncnc2").predictor.depth == 2


def test_where_the_paper_hides_no_links_the_name_does_not_say_so():
    for model in ("ncn", "ncnc"):
        recipe = recipes.load(f"ogbl-citation2/{model}")
        assert method_name(recipe) == recipe.published[0].label == model.upper()
    shown = recipes.apply_overrides(recipes.load("cora-link/ncn"), ["task.maskinput=false"])
    assert method_name(shown) == "NCN NoTLR"


def test_what_is_special_about_single_sets():
    collab = recipes.load("ogbl-collab/ncn")
    assert collab.task.model_extra["use_valedges"] is True
    citation = recipes.load("ogbl-citation2/ncn")
    assert citation.task.model_extra["maskinput"] is False
    assert citation.task.model_extra["negatives"] == "destinations"
    clip = citation.plugins[0].arguments
    assert (clip["max_norm"], clip["parts"]) == (1.0, ["encoder", "predictor"])
    assert recipes.load("ogbl-ddi/ncnc").start_from.recipe == "ogbl-ddi/ncn"
    assert recipes.load("ogbl-citation2/ncnc").start_from.take == "node_embeddings"
    assert recipes.load("ogbl-citation2/ncnc").model.arguments["depth"] == 1


def test_start_and_groups_decide_a_run_and_absent_ones_leave_the_hash_alone():
    ncnc = recipes.load("ogbl-ddi/ncnc")
    cold = recipes.apply_overrides(ncnc, ["start_from=null"])
    assert cold.hash != ncnc.hash
    assert "start_from" not in cold.deciding()
    changed = recipes.apply_overrides(ncnc, ["optimizer.groups.encoder.lr=0.1"])
    assert changed.hash != ncnc.hash
    assert "groups" not in recipes.load("demo/gcn").deciding()["optimizer"]
    assert Optimizer().groups == {}


def test_rates_of_the_groups_reach_the_optimiser():
    recipe = recipes.load("demo-link/ncn")
    trainer = build.build_trainer(recipe, 0, None)
    assert trainer.optimizer["groups"] == {"encoder": {"lr": 0.01}, "predictor": {"lr": 0.005}}


def test_twenty_epochs_of_ncn_rank_three_of_four_links_of_cora(tmp_path, one_thread):
    recipe = recipes.load("cora-link/ncn")
    try:
        data.load(recipe.dataset.name)
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing).splitlines()[0])
    # Only the last epoch is evaluated: the split chooses nothing.
    changes = ["trainer.max_epochs=20", "trainer.eval_every=20"]
    record = results.run(recipe, seeds=[0], overrides=changes, runs=tmp_path)
    assert record.metric == "hits@100"
    assert record.test_mean > 0.75
