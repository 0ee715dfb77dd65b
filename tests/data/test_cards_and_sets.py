"""Every card is complete, every held set is what its card says, and splits do not leak."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from graphkit import data
from graphkit.data.cards import datasets_folder
from graphkit.errors import DatasetNotFoundError, InputError

NAMES = data.names()
# More than five seconds of parsing, or of no use without the rest of a large family.
SLOW = {"collab", "hgb-dblp", "hgb-imdb", "hgb-acm", "reddit-binary", "coauthor-cs"}
FEATURES = "features"


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete(name):
    card = data.card(name)
    assert card.name == name
    assert card.title
    assert card.source
    assert card.licence
    assert card.citation
    assert card.how_to_get
    assert card.size_bytes > 0
    assert card.metric in {
        "rocauc",
        "ap",
        "rmse",
        "mae",
        "acc",
        "f1",
        "f1_micro",
        "mrr",
        "hits@20",
        "hits@50",
        "hits@100",
        "recall@20",
    }
    assert card.maximize == (card.metric not in ("rmse", "mae"))
    population = card.reader == "lrgb" or card.split_kind == "protocol"  # as their papers do
    assert card.std_kind == ("population" if population else "unbiased")
    assert all(len(digest) == 64 for digest in card.sha256.values())


def load_held(name):
    try:
        return data.load(name)
    except DatasetNotFoundError as missing:
        pytest.skip(f"{name} is not below GRAPHKIT_DATA: {str(missing).splitlines()[0]}")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SLOW])
def test_statistics_are_those_of_the_card(name, request):
    if data.card(name).reader != "embedded":
        request.getfixturevalue("data_root")
    dataset = load_held(name)
    if dataset.level == "recommendation":
        pytest.skip("test_recsys_held.py looks at these")
    card, graphs = dataset.card, dataset.graphs
    if not card.statistics:
        pytest.skip(f"the card of {name} has published figures only")
    wanted = card.statistics
    assert graphs.num_nodes == wanted["nodes"]
    assert graphs.num_edges == wanted["edges"]
    assert len(graphs) == wanted.get("graphs", 1)
    if "mean_nodes" in wanted:
        assert graphs.num_nodes / len(graphs) == pytest.approx(wanted["mean_nodes"], abs=1e-4)
    if FEATURES in wanted:
        assert graphs.x.size(1) == wanted[FEATURES]
    if "positives" in wanted:
        assert int((graphs.y == 1).sum()) == wanted["positives"]
        assert int(graphs.y.isnan().sum()) == wanted["unlabelled"]
    if dataset.level == "link":
        sizes = {key: len(links) for key, links in dataset.splits.items()}
        assert sizes == {key: card.split_sizes[key] for key in ("train", "valid", "test")}
    else:
        assert {key: len(ids) for key, ids in dataset.splits.items()} == card.split_sizes
        check_splits(dataset)
    published = card.published
    if card.split_kind == "official" and "train" in published and dataset.level == "graph":
        assert card.split_sizes == {key: published[key] for key in ("train", "valid", "test")}
    if "graphs" in published and card.split_kind == "official":
        assert len(graphs) == published["graphs"]
    if "edges_once" in published and dataset.level == "node":
        assert graphs.num_edges == 2 * published["edges_once"]


def check_splits(dataset):
    total = len(dataset) if dataset.level == "graph" else dataset.graphs.num_nodes
    for number in range(dataset.num_splits):
        parts = list(dataset.select_split(number).splits.values())
        together = torch.cat(parts)
        assert int(together.min()) >= 0
        assert int(together.max()) < total
        assert len(together.unique()) == len(together), f"split {number} of {dataset.name} leaks"
    dataset.select_split(0)


@pytest.mark.parametrize(
    "name", ["demo-link", "cora-link", "ogbl-ddi", "seal-usair", "seal-ns", "seal-yeast"]
)
def test_no_evaluation_edge_or_its_reverse_is_a_message_edge(name, request):
    if name != "demo-link":
        request.getfixturevalue("data_root")
    dataset = load_held(name)
    size = dataset.graphs.num_nodes

    def keys(edges):
        low, high = edges.sort(0).values
        return set((low * size + high).tolist())

    message = keys(dataset.graphs.edge_index)
    assert keys(dataset.links["train/edge"]) == message
    positive = message
    for part in ("valid", "test"):
        edges = keys(dataset.links[f"{part}/edge"])
        assert not edges & positive
        positive = positive | edges
    for part in ("valid", "test"):
        assert not keys(dataset.links[f"{part}/edge_neg"]) & positive


def test_molhiv_is_labelled_as_rebuilt(data_root):
    dataset = load_held("ogbg-molhiv")
    assert dataset.split_kind == "official"
    assert dataset.data_kind == "rebuilt"
    assert "rebuilt features" in repr(dataset)
    assert dataset.std_kind == "unbiased"


def test_peptides_interleave_bonds_and_report_population_std(data_root):
    dataset = load_held("peptides-func")
    edge_index = dataset.graphs[7].edge_index
    assert torch.equal(edge_index[:, 0::2], edge_index[:, 1::2].flip(0))
    assert dataset.std_kind == "population"
    assert dataset.graphs.y.sum(0).min() > 0


def test_geom_gcn_splits_of_cora(data_root):
    dataset = data.load("cora", split_name="geom-gcn", split=3)
    assert dataset.num_splits == 10
    assert dataset.split_number == 3
    assert [len(ids) for ids in data.load("cora", split_name="geom-gcn").splits.values()] == [
        1192,
        796,
        497,
    ]


def test_planetoid_equals_pyg_apart_from_pickle(data_root, tmp_path):
    import shutil

    from torch_geometric.datasets import Planetoid

    shutil.copytree(data_root / "planetoid/CiteSeer", tmp_path / "CiteSeer")
    wanted = Planetoid(str(tmp_path), "CiteSeer")._data
    ours = data.load("citeseer")
    assert torch.equal(ours.graphs.x, wanted.x)
    by_target = ours.graphs.edge_index.flip(0)
    wanted_by_target = wanted.edge_index.flip(0)
    order = [pairs[0].mul(3327).add(pairs[1]).argsort() for pairs in (by_target, wanted_by_target)]
    assert torch.equal(by_target[:, order[0]], wanted_by_target[:, order[1]])
    assert torch.equal(ours.graphs.y, wanted.y)
    assert torch.equal(ours.splits["test"], wanted.test_mask.nonzero().flatten())


def test_tu_equals_pyg(data_root, tmp_path):
    from torch_geometric.datasets import TUDataset

    from graphkit.data.archives import extract

    extract(data_root / "tu/ENZYMES.zip", tmp_path)
    (tmp_path / "ENZYMES").rename(tmp_path / "raw")
    (tmp_path / "ENZYMES").mkdir()
    (tmp_path / "raw").rename(tmp_path / "ENZYMES/raw")
    wanted = TUDataset(str(tmp_path), "ENZYMES", use_node_attr=True)
    ours = data.load("enzymes")
    for number in (0, 17, 599):
        for key in ("x", "edge_index", "y"):
            assert torch.equal(ours.graphs[number][key], wanted[number][key]), key


def test_hgb_counts(data_root):
    dataset = load_held("hgb-acm")
    hetero = dataset.hetero()
    assert {name: hetero[name].num_nodes for name in hetero.node_types} == {
        "paper": 3025,
        "author": 5959,
        "subject": 56,
        "term": 1902,
    }
    assert hetero["paper", "cite", "paper"].edge_index.size(1) == 5343
    assert hetero["paper", "to", "author"].edge_index.size(1) == 9949
    assert int(hetero["paper"].test_mask.sum()) == 1059
    assert int((hetero["paper"].train_mask | hetero["paper"].val_mask).sum()) == 907
    assert len(data.load("hgb-acm", test="full").splits["test"]) == 2118


def test_embedded_sets_are_what_their_script_makes():
    if not (datasets_folder() / "build_embedded.py").is_file():
        pytest.skip("the script is in source checkouts only")
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "build_embedded", datasets_folder() / "build_embedded.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    total = 0
    for name, make in module.SETS.items():
        path = datasets_folder() / f"{name}.npz"
        total += path.stat().st_size
        with np.load(path, allow_pickle=False) as stored:
            made = make()
            assert set(stored.files) == set(made)
            for key in stored.files:
                assert stored[key].dtype == made[key].dtype
                assert np.array_equal(stored[key], made[key]), (name, key)
    assert total < 1_000_000


def test_demo_needs_both_far_ends():
    # Counts of atoms, pooled and read linearly, say nothing; their product with the far end's sign
    # says everything.
    demo = data.load("demo")
    atoms = demo.graphs.x[:, 0]
    graph = torch.repeat_interleave(torch.arange(len(demo)), demo.graphs.nodes_per_graph)

    def count(atom):
        return torch.bincount(graph[atoms == atom], minlength=len(demo))

    excess, end = count(6) - count(7), count(15) - count(14)
    y = demo.graphs.y
    assert torch.equal((excess * end > 0).float()[:, None], y)
    for half in (excess, end, excess + 3 * end):
        score = demo.evaluate(y, half.float()[:, None])["rocauc"]
        assert 0.4 < score < 0.6


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ogbg-molhv", "ogbg-molhiv"), ("Coora", "cora"), ("peptide-func", "peptides-func")],
)
def test_unknown_names_get_the_nearest(name, nearest):
    with pytest.raises(DatasetNotFoundError, match=f"did you mean '{nearest}'"):
        data.load(name)


@pytest.mark.parametrize("name", ["../demo", "a/b", "", "."])
def test_names_are_no_paths(name):
    with pytest.raises(DatasetNotFoundError):
        data.card(name)


def test_unknown_options_get_the_nearest():
    with pytest.raises(InputError, match="split_nam.*did you mean 'split_name'"):
        data.load("cora", split_nam="geom-gcn")


def test_random_splits_depend_on_their_seed_and_say_so():
    first, again, other = (data.load("demo", split_seed=seed) for seed in (1, 1, 2))
    assert first.split_kind == "random"
    assert torch.equal(first.splits["train"], again.splits["train"])
    assert not torch.equal(first.splits["train"], other.splits["train"])


def test_import_is_light_and_quiet():
    code = (
        "import sys, graphkit.data; "
        "heavy = {'pandas', 'ogb', 'scipy', 'sklearn', 'networkx', 'pooch', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # torch itself may bring one of these in on some versions; ours must not add to it.
    torch_only = subprocess.run(
        [sys.executable, "-c", code.replace("graphkit.data", "torch")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == torch_only.stdout
