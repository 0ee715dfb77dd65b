"""OGB's raw layouts, written by these tests, are read as OGB reads them."""

import gzip
import warnings

import numpy as np
import pytest
import torch

from graphkit import data
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(",".join("" if v is None else str(v) for v in row) for row in rows)
    path.write_bytes(gzip.compress((lines + "\n").encode()))


@pytest.fixture
def molecules(tmp_path):
    """Three graphs in the layout of ogbg-molbace: a path of three, a single atom, one bond."""
    base = tmp_path / "ogbg_molbace"
    write_csv(base / "raw/edge.csv.gz", [(0, 1), (1, 2), (0, 1)])
    write_csv(base / "raw/num-node-list.csv.gz", [(3,), (1,), (2,)])
    write_csv(base / "raw/num-edge-list.csv.gz", [(2,), (0,), (1,)])
    write_csv(base / "raw/node-feat.csv.gz", [(i, *[0] * 8) for i in range(6)])
    write_csv(base / "raw/edge-feat.csv.gz", [(0, 1, 0), (3, 0, 1), (1, 0, 0)])
    write_csv(base / "raw/graph-label.csv.gz", [(1,), (0,), (1,)])
    for part, ids in (("train", [0]), ("valid", [2]), ("test", [1])):
        write_csv(base / f"split/scaffold/{part}.csv.gz", [(i,) for i in ids])
    return tmp_path


def test_each_bond_is_followed_by_its_reverse(molecules):
    dataset = data.load("ogbg-molbace", root=molecules)
    graph = dataset.graphs[0]
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graph.edge_attr.tolist() == [[0, 1, 0], [0, 1, 0], [3, 0, 1], [3, 0, 1]]
    assert dataset.graphs[2].x[:, 0].tolist() == [4, 5]
    assert dataset.graphs[1].edge_index.shape == (2, 0)
    assert dataset.splits["valid"].tolist() == [2]
    assert dataset.model_args() == {
        "in_channels": "atom",
        "edge_dim": "bond",
        "out_channels": 1,
        "level": "graph",
    }


def test_missing_labels_stay_nan(molecules):
    path = molecules / "ogbg_molbace/raw/graph-label.csv.gz"
    write_csv(path, [(1,), ("nan",), (0,)])
    assert data.load("ogbg-molbace", root=molecules).graphs.y.isnan().flatten().tolist() == [
        0,
        1,
        0,
    ]


def test_a_changed_file_is_read_again(molecules):
    before = data.load("ogbg-molbace", root=molecules)
    write_csv(molecules / "ogbg_molbace/raw/graph-label.csv.gz", [(0,), (0,), (1,)])
    after = data.load("ogbg-molbace", root=molecules)
    assert before.graphs.y.flatten().tolist() == [1, 0, 1]
    assert after.graphs.y.flatten().tolist() == [0, 0, 1]
    assert before.sha256 != after.sha256


@pytest.mark.parametrize("keep", [0, 1, 10, 25])
def test_truncated_files_are_named(molecules, keep):
    path = molecules / "ogbg_molbace/raw/node-feat.csv.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        (CorruptFileError, InputError), match="node-feat|x: expected one row per node"
    ):
        data.load("ogbg-molbace", root=molecules)


def test_an_edge_out_of_range_is_named(molecules):
    write_csv(molecules / "ogbg_molbace/raw/edge.csv.gz", [(0, 1), (1, 7), (0, 1)])
    with pytest.raises(InputError, match="edge 2 of graph 0 is 1 -> 7"):
        data.load("ogbg-molbace", root=molecules)


def test_text_where_numbers_belong_is_refused(molecules):
    write_csv(molecules / "ogbg_molbace/raw/edge.csv.gz", [("<html>", "404")])
    with pytest.raises(CorruptFileError, match="edge.csv.gz: holds text"):
        data.load("ogbg-molbace", root=molecules)


def test_a_split_beyond_the_data_is_refused(molecules):
    write_csv(molecules / "ogbg_molbace/split/scaffold/test.csv.gz", [(3,)])
    with pytest.raises(CorruptFileError, match="test: ids must lie in 0..2, got 3"):
        data.load("ogbg-molbace", root=molecules)


def test_directed_node_set_and_its_symmetric_form(tmp_path):
    base = tmp_path / "ogbn_arxiv"
    write_csv(base / "raw/edge.csv.gz", [(0, 1), (2, 1)])
    write_csv(base / "raw/num-node-list.csv.gz", [(3,)])
    write_csv(base / "raw/num-edge-list.csv.gz", [(2,)])
    write_csv(base / "raw/node-feat.csv.gz", [(0.5, 1.0), (0.25, 0.0), (1.0, 2.0)])
    write_csv(base / "raw/node_year.csv.gz", [(2015,), (2018,), (2020,)])
    write_csv(base / "raw/node-label.csv.gz", [(4,), (0,), (39,)])
    for part, node in (("train", 0), ("valid", 1), ("test", 2)):
        write_csv(base / f"split/time/{part}.csv.gz", [(node,)])
    dataset = data.load("ogbn-arxiv", root=tmp_path)
    assert dataset.graphs.edge_index.tolist() == [[0, 2], [1, 1]]
    assert dataset.graphs.y.tolist() == [4, 0, 39]
    assert dataset.graphs.node_year.tolist() == [2015, 2018, 2020]
    assert dataset.num_tasks == 40
    both = data.load("ogbn-arxiv", root=tmp_path, undirected=True)
    assert both.graphs.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert both.evaluate(torch.tensor([4, 0, 39]), torch.tensor([4, 1, 39])) == {"acc": 2 / 3}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_link_splits_as_arrays_in_pt_files_are_read_as_data(tmp_path, zipped, protocol):
    base = tmp_path / "ogbl_collab"
    write_csv(base / "raw/edge.csv.gz", [(0, 1), (1, 2)])
    write_csv(base / "raw/num-node-list.csv.gz", [(4,)])
    write_csv(base / "raw/num-edge-list.csv.gz", [(2,)])
    write_csv(base / "raw/node-feat.csv.gz", [(float(i),) for i in range(4)])
    write_csv(base / "raw/edge_weight.csv.gz", [(2,), (1,)])
    write_csv(base / "raw/edge_year.csv.gz", [(2000,), (2001,)])
    folder = base / "split/time"
    folder.mkdir(parents=True)
    pairs = np.array([[0, 1], [2, 3]])
    for part in ("train", "valid", "test"):
        values = {"edge": pairs, "weight": np.ones(2)}
        if part != "train":
            values["edge_neg"] = np.array([[0, 3]])
        torch.save(
            values,
            folder / f"{part}.pt",
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=zipped,
        )
    dataset = data.load("ogbl-collab", root=tmp_path)
    assert dataset.links["train/edge"].tolist() == [[0, 2], [1, 3]]
    assert dataset.links["valid/edge_neg"].tolist() == [[0], [3]]
    assert dataset.graphs.edge_weight.tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pt_file_that_would_run_code_is_refused(tmp_path, zipped, protocol):
    from graphkit.data.tensor_files import read_tensor_file

    class Bomb:
        def __reduce__(self):
            return (warnings.warn, ("ran",))

    torch.save(
        {"edge": Bomb()},
        tmp_path / "train.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CorruptFileError, match="train.pt: holds something else"):
            read_tensor_file(tmp_path / "train.pt")


def test_binary_layout(tmp_path):
    base = tmp_path / "ogbn_papers100M"
    (base / "raw").mkdir(parents=True)
    np.savez(
        base / "raw/data.npz",
        edge_index=np.array([[0, 1], [1, 2]]),
        num_nodes_list=np.array([3]),
        num_edges_list=np.array([2]),
        node_feat=np.ones((3, 4), dtype=np.float32),
        node_year=np.array([[1], [2], [3]]),
    )
    np.savez(base / "raw/node-label.npz", node_label=np.array([[3.0], [np.nan], [5.0]]))
    for part, node in (("train", 0), ("valid", 1), ("test", 2)):
        write_csv(base / f"split/time/{part}.csv.gz", [(node,)])
    dataset = data.load("ogbn-papers100M", root=tmp_path)
    assert dataset.graphs.y.tolist() == [3, -1, 5]
    assert dataset.graphs.edge_index.tolist() == [[0, 1], [1, 2]]


def test_missing_set_says_where_it_looked_how_to_get_it_and_what_it_weighs(tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        data.load("ogbg-molpcba", root=tmp_path)
    text = str(caught.value)
    assert str(tmp_path / "ogbg_molpcba") in text
    assert "pcba.zip" in text
    assert "MB" in text


def test_a_wrong_checksum_is_a_corrupt_file(tmp_path, data_root):
    import shutil

    shutil.copytree(data_root / "ogb/ogbg_molfreesolv", tmp_path / "ogbg_molfreesolv")
    path = tmp_path / "ogbg_molfreesolv/raw/graph-label.csv.gz"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError, match="graph-label.csv.gz: SHA-256"):
        data.load("ogbg-molfreesolv", root=tmp_path)


def test_arrays_of_every_kind_survive_the_reader(tmp_path):
    from graphkit.data.array_pickle import read_array_pickle

    values = {
        "a": np.arange(12).reshape(3, 4),
        "b": np.asfortranarray(np.random.rand(2, 5)),
        "c": np.zeros((0, 2), dtype=np.int32),
        "d": np.array([True, False]),
        "e": [1, 2.5, "text", None, (True, {"f": np.float32([1, 2])})],
    }
    torch.save(values, tmp_path / "a.pt", pickle_protocol=4)
    found = read_array_pickle(tmp_path / "a.pt")
    for key in "abcd":
        assert found[key].dtype == values[key].dtype
        assert np.array_equal(found[key], values[key])
    assert found["e"][:4] == values["e"][:4]
    assert found["e"][4][1]["f"].tolist() == [1, 2]


def test_damaged_array_files_are_refused(tmp_path):
    from graphkit.data.tensor_files import read_tensor_file

    path = tmp_path / "a.pt"
    torch.save(
        {"edge": np.arange(100)}, path, pickle_protocol=4, _use_new_zipfile_serialization=False
    )
    good = path.read_bytes()
    for cut in (0, 1, 10, 50, len(good) // 2):
        path.write_bytes(good[:cut])
        with pytest.raises(CorruptFileError, match="a.pt"):
            read_tensor_file(path)


def test_ranked_links_of_citation2(tmp_path):
    """Directed citations, and for each of them false destinations of its own."""
    from graphkit.tasks import create_task

    base = tmp_path / "ogbl_citation2"
    write_csv(base / "raw/edge.csv.gz", [(0, 1), (1, 2), (3, 1)])
    write_csv(base / "raw/num-node-list.csv.gz", [(5,)])
    write_csv(base / "raw/num-edge-list.csv.gz", [(3,)])
    write_csv(base / "raw/node-feat.csv.gz", [(float(i), 1.0) for i in range(5)])
    write_csv(base / "raw/node_year.csv.gz", [(2000 + i,) for i in range(5)])
    folder = base / "split/time"
    folder.mkdir(parents=True)
    ends = {"source_node": np.array([0, 1, 3]), "target_node": np.array([1, 2, 1])}
    torch.save(ends, folder / "train.pt")
    for part, node in (("valid", 2), ("test", 4)):
        # 2 -> 1 is held out, 1 -> 2 is for training: papers may cite each other.
        held = {"source_node": np.array([node, 0]), "target_node": np.array([1, 3])}
        held["target_node_neg"] = np.array([[1, 3, 4], [2, 4, 0]])
        torch.save(held, folder / f"{part}.pt")
    dataset = data.load("ogbl-citation2", root=tmp_path)
    assert dataset.positive_links("train").tolist() == [[0, 1, 3], [1, 2, 1]]
    assert dataset.splits["test"].tolist() == [[4, 1], [0, 3]]
    task = create_task(dataset, maskinput=False, negatives="destinations")
    graph = task.graph("test")
    assert graph.rowptr.tolist() == [0, 1, 4, 5, 6, 6]
    assert graph.col.tolist() == [1, 0, 2, 3, 1, 1]
    batch = next(iter(task.loader("valid")))
    assert batch.ranked
    assert batch.negative.tolist() == [[1, 3, 4], [2, 4, 0]]
    scores = torch.tensor([[0.5, 0.5, 0.7, 0.1], [0.9, 0.1, 0.2, 0.3]])
    # Ranks 1 + (1 + 2) / 2 and 1.
    assert task.evaluate(scores, task.target(batch))["mrr"] == pytest.approx((0.4 + 1.0) / 2)
