"""The poisoned graphs: exact counts on the held files, refusals on files written here."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, load_npz, save_npz

from graphkit import data
from graphkit.data import robust
from graphkit.data.cards import card
from graphkit.data.load import _parse
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError

EDGES = {
    "cora": (5069, {0.05: 5322, 0.1: 5567, 0.15: 5809, 0.2: 6040, 0.25: 6246}),
    "citeseer": (3668, {0.05: 3851, 0.1: 4032, 0.15: 4196, 0.2: 4375, 0.25: 4549}),
    "polblogs": (16714, {0.05: 17349, 0.1: 17813, 0.15: 18131, 0.2: 17794, 0.25: 17636}),
    "pubmed": (44324, {0.05: 46540, 0.1: 48756, 0.15: 50972, 0.2: 53188, 0.25: 55395}),
    "cora-ml": (7981, {0.05: 8374, 0.1: 8683, 0.15: 8864, 0.2: 9019, 0.25: 9278}),
}
ATTACKED = [(n, r) for n, (_, rates) in EDGES.items() for r in rates]


def held(name, data_root, **options):
    try:
        return data.load(f"robust-{name}", data_root, **options)
    except DatasetNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "rate"), ATTACKED)
def test_attacked_edges_are_counted_exactly(data_root, name, rate):
    dataset = held(name, data_root, attack="metattack", rate=rate)
    assert dataset.graphs.edge_index.size(1) == 2 * EDGES[name][1][rate]
    edges = dataset.graphs.edge_index
    assert bool((edges[0] != edges[1]).all())
    n = dataset.graphs.num_nodes
    ids = torch.cat(list(dataset.splits.values()))
    assert len(ids.unique()) == len(ids)
    assert int(ids.max()) < n


@pytest.mark.parametrize(("name", "found"), [("cora", 5069), ("citeseer", 3668), ("pubmed", 44324)])
def test_clean_graph_is_recovered_from_the_attacked_ones(data_root, name, found):
    recovered = held(name, data_root, clean="recovered").graphs.edge_index
    assert recovered.size(1) == 2 * found
    assert torch.equal(recovered, held(name, data_root).graphs.edge_index)


def test_recovered_polblogs_is_near_clean_only(data_root):
    recovered = held("polblogs", data_root, clean="recovered").graphs.edge_index
    assert recovered.size(1) == 2 * 16721


@pytest.mark.parametrize("name", ["cora", "citeseer", "polblogs"])
def test_features_and_labels_are_those_stable_published(data_root, name):
    folder = data_root / "robust" / "stable"
    if not (folder / f"{name}_features.npz").is_file():
        pytest.skip(f"STABLE's own features of {name} are not at hand")
    dataset = held(name, data_root)
    published = torch.from_numpy(load_npz(folder / f"{name}_features.npz").toarray()).float()
    labels = torch.from_numpy(np.load(folder / f"{name}_labels.npy", allow_pickle=False)).long()
    assert torch.equal(dataset.graphs.y, labels)
    x = dataset.graphs.x
    assert torch.equal(x @ x.t(), published @ published.t())
    if name != "polblogs":  # there the columns of the one-hot rows are numbered otherwise
        assert torch.equal(x, published)


def test_nettack_is_judged_on_its_targets(data_root):
    targets = {"cora": 83, "citeseer": 63, "polblogs": 540, "pubmed": 186}
    for name, count in targets.items():
        dataset = held(name, data_root, attack="nettack", rate=5)
        assert len(dataset.splits["test"]) == count


# --- files written here ---


def write(folder, n=6, edges=((0, 1), (1, 2), (2, 3), (3, 4), (4, 5)), split=None):
    folder.mkdir(exist_ok=True)
    u, v = np.array(edges).T
    matrix = csr_matrix((np.ones(2 * len(u), np.float32), (np.r_[u, v], np.r_[v, u])), (n, n))
    names = np.array(["a", None], dtype=object)  # never to be unpickled
    np.savez(
        folder / "tiny.npz", adj_data=matrix.data, adj_indices=matrix.indices,
        adj_indptr=matrix.indptr, adj_shape=np.array([n, n]), labels=np.arange(n) % 2,
        node_names=names, attr_names=names,
    )  # fmt: skip
    split = split or {"idx_train": [0, 1], "idx_val": [2], "idx_test": [3, 4]}
    (folder / "tiny_prognn_splits.json").write_text(json.dumps(split))
    about = card("robust-cora").model_copy(
        update={"name": "robust-tiny", "options": {"prefix": "tiny"}, "sha256": {}}
    )
    return about, Source(folder, folder.parent, "", {}, True), matrix


def test_clean_graph_without_attributes_and_with_object_arrays(tmp_path):
    about, source, _ = write(tmp_path / "robust")
    parsed = robust.read(about, source)
    assert parsed.graphs.edge_index.size(1) == 10
    assert torch.equal(parsed.graphs.x, torch.eye(6))


def test_only_the_largest_component_is_kept(tmp_path):
    about, source, _ = write(
        tmp_path / "robust", n=8, edges=((2, 3), (3, 4), (4, 5), (5, 6), (6, 2))
    )
    parsed = robust.read(about, source)
    assert parsed.graphs.num_nodes == 5
    assert parsed.graphs.x.argmax(1).tolist() == [2, 3, 4, 5, 6]


def test_wrong_files_and_options_are_refused(tmp_path):
    about, source, matrix = write(tmp_path / "robust")
    for options, word in (
        ({"attack": "dice"}, "attack"),
        ({"attack": "metattack", "rate": 0.3}, "rate"),
        ({"rate": 0.05}, "rate"),
        ({"rate": True}, "rate"),
        ({"clean": "maybe"}, "clean"),
    ):
        with pytest.raises(InputError, match=word):
            robust.read(about, source, **options)
    with pytest.raises(DatasetNotFoundError, match="tiny_meta_adj_0.2.npz is not in"):
        robust.read(about, source, attack="metattack", rate=0.2)
    attacked = source.base / "tiny_meta_adj_0.05.npz"
    save_npz(attacked, csr_matrix((7, 7), dtype=np.float32))
    with pytest.raises(CorruptFileError, match="7 x 7"):
        robust.read(about, source, attack="metattack", rate=0.05)
    for bad in (matrix * 2, matrix + csr_matrix(np.eye(6)), csr_matrix(np.triu(matrix.toarray()))):
        save_npz(attacked, bad.astype(np.float32).tocsr())
        with pytest.raises(CorruptFileError, match="symmetric"):
            robust.read(about, source, attack="metattack", rate=0.05)
    with_zeros = matrix.copy()
    with_zeros.data[:] = 1
    save_npz(attacked, with_zeros)
    assert robust.read(about, source, attack="metattack", rate=0.05).graphs.num_nodes == 6


@pytest.mark.parametrize(
    "split",
    [
        {"idx_train": [0, 1], "idx_val": [1], "idx_test": [3]},
        {"idx_train": [0, 9], "idx_val": [1], "idx_test": [3]},
        {"idx_train": [0, -1], "idx_val": [1], "idx_test": [3]},
    ],
)
def test_splits_that_overlap_or_leave_the_graph_are_refused(tmp_path, split):
    about, source, _ = write(tmp_path / "robust", split=split)
    with pytest.raises(CorruptFileError, match="splits.json"):
        robust.read(about, source)


def test_another_file_under_the_right_name_is_refused(tmp_path):
    about, source, matrix = write(tmp_path / "robust")
    name = "tiny_meta_adj_0.05.npz"
    save_npz(source.base / name, matrix)
    about = about.model_copy(update={"sha256": {f"?{name}": "0" * 64}})
    with pytest.raises(CorruptFileError, match="checksum"):
        robust.read(about, source, attack="metattack", rate=0.05)


def test_files_that_cannot_be_read_are_named(tmp_path):
    """A graph that is not on the card, such as metattack at 0.2, has no checksum to stop it."""
    about, source, matrix = write(tmp_path / "robust")
    reader = SimpleNamespace(read=robust.read)
    options = {"attack": "metattack", "rate": 0.2}
    attacked = source.base / "tiny_meta_adj_0.2.npz"
    save_npz(attacked, matrix)
    for content in (attacked.read_bytes()[:-40], b"<html>", b""):
        attacked.write_bytes(content)
        with pytest.raises(CorruptFileError, match="could not be read"):
            _parse(reader, about, source, options)
    for content in ("[]", '{"idx_train": null}', '{"idx_train": ["a"]}'):
        (source.base / "tiny_prognn_splits.json").write_text(content)
        with pytest.raises(CorruptFileError, match="wanted lists of node ids: idx_train"):
            _parse(reader, about, source, {})


def test_majority_keeps_what_enough_graphs_have():
    edge, other = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1, 2], [2, 1]])
    graphs = [edge, torch.cat([edge, other], 1), other]
    assert robust.recover_clean(graphs, 3, 2).size(1) == 4
    assert robust.recover_clean(graphs, 3, 3).size(1) == 0
    with pytest.raises(InputError, match="at_least"):
        robust.recover_clean(graphs, 3, 4)
