"""Graphs from files: every format gives the same graph, in pieces of any size; refusals."""

from __future__ import annotations

import gzip
from pathlib import Path

import networkx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from graphkit.data import graph_file, read_graph_file
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError

RNG = np.random.default_rng(0)
NAMES = np.sort(RNG.choice(10_000, 60, replace=False))
EDGES = NAMES[RNG.integers(60, size=(500, 2))]  # repeats and loops among them


def wanted(undirected: bool) -> dict[int, list[int]]:
    graph = networkx.DiGraph(e for e in EDGES.tolist() if e[0] != e[1])
    if undirected:
        graph = graph.to_undirected()
    graph.add_nodes_from(np.unique(EDGES).tolist())
    return {node: sorted(graph.neighbors(node)) for node in sorted(graph)}


def found(path: Path, undirected: bool) -> dict[int, list[int]]:
    graph = read_graph_file(path, undirected=undirected)
    start, ids = graph.csr.rowptr.tolist(), graph.ids.numpy()
    col = graph.csr.col.numpy()
    return {int(node): ids[col[start[i] : start[i + 1]]].tolist() for i, node in enumerate(ids)}


def write(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"graph{kind}"
    lines = "".join(f"{u}\t{v}\n" for u, v in EDGES)
    if kind == ".txt":
        path.write_text("# FromNodeId ToNodeId\n" + lines, encoding="ascii")
    elif kind == ".txt.gz":
        with gzip.open(path, "wt", encoding="ascii") as file:
            file.write("# SNAP\n" + lines)
    else:
        table = pd.DataFrame({"time": 0.5, "from": EDGES[:, 0], "to": EDGES[:, 1]})
        if kind == ".csv":
            table[["from", "to", "time"]].to_csv(path, index=False)
        else:
            pytest.importorskip("pyarrow")
            table[["from", "to", "time"]].to_parquet(path)
    return path


@pytest.mark.parametrize("kind", [".txt", ".txt.gz", ".csv", ".parquet"])
@pytest.mark.parametrize("undirected", [True, False])
@pytest.mark.parametrize("lines", [1 << 20, 37])
def test_every_edge_list_gives_the_graph(
    tmp_path: Path, kind: str, undirected: bool, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_file, "_LINES", lines)
    assert found(write(tmp_path, kind), undirected) == wanted(undirected)


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv")
    flipped = read_graph_file(path, undirected=False, columns=("to", "from"))
    straight = read_graph_file(path, undirected=False)
    assert flipped.csr.num_entries == straight.csr.num_entries
    assert not np.array_equal(flipped.csr.degree, straight.csr.degree)
    with pytest.raises(InputError, match="columns"):
        read_graph_file(path, columns=("from", "nowhere"))


def test_matrices_and_networkx_files(tmp_path: Path) -> None:
    matrix = scipy.sparse.random_array((30, 30), density=0.1, rng=np.random.default_rng(1))
    scipy.sparse.save_npz(tmp_path / "m.npz", scipy.sparse.csr_array(matrix))
    graph = networkx.from_scipy_sparse_array(matrix, create_using=networkx.DiGraph)
    networkx.write_graphml(graph, tmp_path / "g.graphml")
    for name in ("m.npz", "g.graphml"):
        read = read_graph_file(tmp_path / name, undirected=False).csr
        assert read.num_rows == 30
        ones = np.array(matrix.todense() != 0)
        np.fill_diagonal(ones, False)
        assert read.degree.tolist() == ones.sum(1).tolist()


def test_a_value_of_zero_is_no_edge(tmp_path: Path) -> None:
    values, places = np.array([1.0, 0.0]), (np.array([0, 0]), np.array([1, 2]))
    scipy.sparse.save_npz(tmp_path / "m.npz", scipy.sparse.csr_array((values, places), (3, 3)))
    assert read_graph_file(tmp_path / "m.npz").csr.degree.tolist() == [1, 1, 0]


@pytest.mark.parametrize("suffix", [".graphml", ".gml", ".graphml.gz"])
def test_nodes_of_networkx_files_keep_their_numbers(tmp_path: Path, suffix: str) -> None:
    graph = networkx.Graph([(100, 7), (7, 55)])
    path = tmp_path / f"g{suffix}"
    if suffix == ".gml":  # numbers without labels, as many files have them
        nodes = "".join(f"node [ id {v} ]\n" for v in graph)
        edges = "".join(f"edge [ source {u} target {v} ]\n" for u, v in graph.edges)
        path.write_text(f"graph [\n{nodes}{edges}]\n", encoding="ascii")
    else:
        networkx.write_graphml(graph, path)
    assert found(path, True) == {7: [55, 100], 55: [7], 100: [7]}


def test_nodes_with_names_are_counted(tmp_path: Path) -> None:
    networkx.write_graphml(networkx.Graph([("b", "a"), ("a", "7")]), tmp_path / "g.graphml")
    assert found(tmp_path / "g.graphml", True) == {0: [1], 1: [0, 2], 2: [1]}


def test_progress_counts_both_passes(tmp_path: Path) -> None:
    seen: list[int] = []
    read_graph_file(write(tmp_path, ".txt"), progress=seen.append)
    assert seen == [500, 1000]


def test_an_empty_file_is_an_empty_graph(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("# nothing\n", encoding="ascii")
    (tmp_path / "g.csv").write_text("from,to\n", encoding="ascii")
    for name in ("g.txt", "g.csv"):
        graph = read_graph_file(tmp_path / name)
        assert (graph.csr.num_rows, graph.csr.num_entries) == (0, 0)


def test_ids_of_all_of_64_bits_and_none_beyond(tmp_path: Path) -> None:
    largest = 2**63 - 1
    (tmp_path / "g.txt").write_text(f"{-largest} {largest}\n", encoding="ascii")
    assert read_graph_file(tmp_path / "g.txt").ids.tolist() == [-largest, largest]
    for beyond in (2**63, 2**64):  # the first of these fits an unsigned integer
        (tmp_path / "g.txt").write_text(f"1 2\n1 {beyond}\n", encoding="ascii")
        with pytest.raises(InputError, match="column 1 holds"):
            read_graph_file(tmp_path / "g.txt")


def test_ids_that_are_left_out_are_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"from": pd.array([1, None], dtype="Int64"), "to": [2, 3]})
    table.to_parquet(tmp_path / "g.parquet")
    with pytest.raises(InputError, match="'from' leaves values out"):
        read_graph_file(tmp_path / "g.parquet")


PACKED = gzip.compress("".join(f"{u} {v}\n" for u, v in EDGES).encode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("g.txt.gz", b"no gzip at all"),
        ("g.txt.gz", PACKED[:-20]),
        ("g.txt.gz", PACKED[:40] + b"\x00\xff\x11" + PACKED[43:]),
        ("g.npz", b"no archive"),
        ("g.graphml", b"<graphml"),
        ("g.graphml.gz", b"no gzip at all"),
        ("g.gml", b"graph [ node"),
        ("g.parquet", b"PAR1 and no more"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, name: str, content: bytes) -> None:
    if name == "g.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=f"{name}: damaged"):
        read_graph_file(tmp_path / name)


def test_other_archives_are_no_graph(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x=np.zeros(3))
    with pytest.raises(CorruptFileError, match="no graph as .npz"):
        read_graph_file(tmp_path / "m.npz")
    (tmp_path / "m.npz.gz").write_bytes(b"x")
    with pytest.raises(InputError, match="wanted a file of edges"):
        read_graph_file(tmp_path / "m.npz.gz")


@pytest.mark.parametrize(("name", "columns"), [("g.txt", ("a", "b")), ("g.csv", ("a",))])
def test_columns_that_cannot_be_chosen(tmp_path: Path, name: str, columns: tuple[str, ...]) -> None:
    (tmp_path / name).write_text("1 2\n", encoding="ascii")
    with pytest.raises(InputError, match="columns: .*wanted two names"):
        read_graph_file(tmp_path / name, columns=columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.txt", "1 2\n1 x\n"),
        ("g.txt", "1\n2\n"),
        ("g.txt", "1 2\n3\n"),
        ("g.txt", "1.5 2\n"),
        ("g.txt", "1 2 0.5\n"),
        ("g.csv", "a,b\nx,y\n"),
        ("g.doc", "1 2\n"),
    ],
)
def test_files_that_hold_no_edges_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="ascii")
    with pytest.raises(InputError, match=name):
        read_graph_file(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        read_graph_file(tmp_path / "g.txt")
