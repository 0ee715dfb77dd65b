"""Your own graphs become checked ``Data``; what is wrong with them is said by name."""

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch

from graphkit.data import from_csv, from_edges, from_networkx, from_scipy
from graphkit.errors import DatasetNotFoundError, InputError


@pytest.mark.parametrize(
    "edges",
    [
        [(0, 1), (1, 2), (0, 2)],
        np.array([[0, 1], [1, 2], [0, 2]]),
        torch.tensor([[0, 1, 0], [1, 2, 2]]),
        torch.tensor([[0, 1, 0], [1, 2, 2]], dtype=torch.int32),
    ],
)
def test_edges_in_any_form(edges):
    data = from_edges(edges)
    assert data.edge_index.tolist() == [[0, 1, 0], [1, 2, 2]]
    assert data.edge_index.dtype == torch.int64
    assert data.num_nodes == 3


def test_undirected_edges_carry_their_features_both_ways():
    data = from_edges([(0, 1), (1, 2)], edge_attr=[1.0, 2.0], undirected=True)
    assert data.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert data.edge_attr.tolist() == [1, 1, 2, 2]


def test_a_graph_without_edges():
    data = from_edges([], x=torch.ones(3, 2))
    assert data.edge_index.shape == (2, 0)
    assert data.num_nodes == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"edges": [(0, 3)], "num_nodes": 3}, "edges: edge 0 is 0 -> 3, but num_nodes is 3"),
        ({"edges": [(0, 1), (-1, 2)]}, "edges: edge 1 is -1 -> 2"),
        ({"edges": [(0.5, 1.0)]}, "edges: expected int64"),
        ({"edges": [(0, 1, 2)]}, r"edges: expected an integer tensor of shape \[2, E\]"),
        ({"edges": [("a", "b")]}, "edges: expected pairs"),
        (
            {"edges": [(0, 1)], "x": torch.tensor([[1.0], [float("nan")]])},
            "x: node 1 of graph 0 is NaN",
        ),
        (
            {"edges": [(0, 1)], "x": torch.ones(3, 1), "num_nodes": 2},
            "x: expected one row per node",
        ),
        ({"edges": [(0, 1)], "edge_attr": [1.0, 2.0]}, "edge_attr: expected one row per edge"),
        ({"edges": []}, "no nodes"),
    ],
)
def test_bad_edges(arguments, says):
    with pytest.raises(InputError, match=says):
        from_edges(**arguments)


def test_networkx_equals_its_adjacency():
    graph = networkx.karate_club_graph()
    data = from_networkx(graph, edge_features=["weight"])
    dense = torch.zeros(34, 34)
    dense[data.edge_index[0], data.edge_index[1]] = data.edge_attr[:, 0]
    assert np.allclose(dense.numpy(), networkx.to_numpy_array(graph))
    with pytest.raises(InputError, match="node_features: .*missing"):
        from_networkx(graph, node_features=["age"])


def test_scipy_equals_its_entries():
    matrix = scipy.sparse.random(6, 6, 0.4, random_state=0)
    data = from_scipy(matrix)
    dense = torch.zeros(6, 6)
    dense[data.edge_index[0], data.edge_index[1]] = data.edge_weight
    assert np.allclose(dense.numpy(), matrix.toarray())
    with pytest.raises(InputError, match="must be square, got 2 x 3"):
        from_scipy(scipy.sparse.eye(2, 3))


def test_csv_with_named_nodes(tmp_path):
    (tmp_path / "edges.csv").write_text("from,to,w\nann,bob,0.5\nbob,cid,2\n")
    (tmp_path / "nodes.csv").write_text("id,age,team\nann,30,red\nbob,40,blue\ncid,50,red\n")
    data = from_csv(
        tmp_path / "edges.csv",
        source="from",
        target="to",
        edge_features=["w"],
        undirected=True,
        nodes=tmp_path / "nodes.csv",
        node_features=["age"],
        label="team",
    )
    assert data.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert data.x.flatten().tolist() == [30, 40, 50]
    assert data.edge_attr.flatten().tolist() == [0.5, 0.5, 2, 2]
    assert data.y.tolist() == [1, 0, 1]


def test_csv_errors_name_file_row_and_column(tmp_path):
    edges, nodes = tmp_path / "edges.csv", tmp_path / "nodes.csv"
    with pytest.raises(DatasetNotFoundError, match="edges.csv: no such file"):
        from_csv(edges)
    edges.write_text("source,target\na,b\na,z\n")
    with pytest.raises(InputError, match="must be whole numbers"):
        from_csv(edges)
    with pytest.raises(InputError, match="no column 'start'"):
        from_csv(edges, source="start")
    nodes.write_text("id\na\nb\n")
    with pytest.raises(InputError, match="edge 1 is 'a' -> 'z'"):
        from_csv(edges, nodes=nodes)
    nodes.write_text("id\na\na\n")
    with pytest.raises(InputError, match="id 'a' occurs more than once"):
        from_csv(edges, nodes=nodes)
