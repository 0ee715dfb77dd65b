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
from graphkit.errors import DatasetNotFoundError, InputError

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


def test_progress_counts_both_passes(tmp_path: Path) -> None:
    seen: list[int] = []
    read_graph_file(write(tmp_path, ".txt"), progress=seen.append)
    assert seen == [500, 1000]


def test_an_empty_file_is_an_empty_graph(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("# nothing\n", encoding="ascii")
    graph = read_graph_file(tmp_path / "g.txt")
    assert (graph.csr.num_rows, graph.csr.num_entries) == (0, 0)


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
