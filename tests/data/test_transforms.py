"""Worked cases of the specification, PyG's own transforms, and dense linear algebra."""

import math

import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.transforms import AddRandomWalkPE as PyGRandomWalkPE
from torch_geometric.transforms import VirtualNode

from graphkit import data
from graphkit.data import PackedGraphs, spectra
from graphkit.data.transforms import (
    AddLaplacianPE,
    AddRandomWalkPE,
    AppendVirtualNode,
    create_transform,
)
from graphkit.errors import InputError
from graphkit.models import FastRP
from graphkit.tasks.embedding_transform import AddFastRP


def path_graph(**attributes) -> Data:
    return Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3, **attributes)


def test_append_virtual_node_on_the_path_of_the_specification():
    graph = path_graph(
        x=torch.tensor([[5, 1], [6, 1], [7, 0]]),
        edge_attr=torch.tensor([1, 1, 2, 2]),
        y=torch.tensor([3, 4, 5]),
    )
    grown = AppendVirtualNode(kinds={"y": "node"})(graph)
    assert grown.x.tolist() == [[5, 1], [6, 1], [7, 0], [0, 0]]
    assert grown.edge_index.tolist() == [
        [0, 1, 1, 2, 0, 1, 2, 3, 3, 3],
        [1, 0, 2, 1, 3, 3, 3, 0, 1, 2],
    ]
    assert grown.edge_attr.tolist() == [1, 1, 2, 2, 0, 0, 0, 0, 0, 0]
    assert grown.edge_type.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert grown.y.tolist() == [3, 4, 5, 0]
    assert grown.vn_mask.tolist() == [False, False, False, True]


def test_append_leaves_graph_targets_alone_even_when_all_sizes_agree():
    # Three nodes, three edges, three targets: sizes say nothing, only the kind of the key does.
    graph = Data(
        x=torch.ones(3, 1),
        edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]),
        edge_attr=torch.ones(3),
        y=torch.tensor([[1.0, 2.0, 3.0]]),
    )
    grown = AppendVirtualNode()(graph)
    assert grown.y.tolist() == [[1.0, 2.0, 3.0]]
    assert grown.x.shape == (4, 1)
    assert grown.edge_attr.shape == (9,)


def test_append_equals_pyg_on_every_graph_of_a_set():
    demo = data.load("demo").graphs.select(range(20))
    grown = AppendVirtualNode().apply(demo)
    for number in range(20):
        wanted = VirtualNode()(demo[number])
        for key in ("x", "edge_index", "edge_attr", "edge_type"):
            assert torch.equal(grown[number][key], wanted[key]), (number, key)


def test_append_gives_edge_weights_of_one_and_raises_types_per_graph():
    first = path_graph(
        edge_weight=torch.tensor([0.5, 0.5, 2.0, 2.0]), edge_type=torch.tensor([0, 1, 2, 0])
    )
    second = path_graph(edge_weight=torch.ones(4), edge_type=torch.zeros(4, dtype=torch.long))
    packed = PackedGraphs.from_data_list([first, second], {"edge_type": "edge"})
    grown = AppendVirtualNode().apply(packed)
    assert grown[0].edge_weight.tolist() == [0.5, 0.5, 2.0, 2.0, *[1.0] * 6]
    assert grown[0].edge_type.tolist() == [0, 1, 2, 0, 3, 3, 3, 4, 4, 4]
    assert grown[1].edge_type.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_pure_keeps_only_the_new_edges():
    grown = AppendVirtualNode(pure=True)(path_graph())
    assert grown.edge_index.tolist() == [[0, 1, 2, 3, 3, 3], [3, 3, 3, 0, 1, 2]]


def test_append_twice_is_refused():
    with pytest.raises(InputError, match="already have a virtual node"):
        AppendVirtualNode()(AppendVirtualNode()(path_graph()))


def test_random_walk_on_a_path():
    found = AddRandomWalkPE(4)(path_graph()).rwse
    assert found.tolist() == [[0, 0.5, 0, 0.5], [0, 1, 0, 1], [0, 0.5, 0, 0.5]]


@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_random_walk_equals_pyg(steps):
    graphs = data.load("demo").graphs.select(range(40))
    found = AddRandomWalkPE(steps).apply(graphs)
    for number in range(40):
        wanted = PyGRandomWalkPE(steps, attr_name="pe")(graphs[number]).pe
        torch.testing.assert_close(found[number].rwse, wanted)


def test_random_walk_on_directed_graphs_with_loops_repeats_and_isolated_nodes():
    generator = torch.Generator().manual_seed(0)
    graphs = [
        Data(
            edge_index=torch.randint(0, size, (2, 3 * size), generator=generator),
            num_nodes=size + 1,
        )
        for size in (1, 4, 9)
    ]
    packed = AddRandomWalkPE(5).apply(PackedGraphs.from_data_list(graphs))
    for number, graph in enumerate(graphs):
        size = graph.num_nodes
        adjacency = torch.zeros(size, size, dtype=torch.float64)
        adjacency.index_put_(
            tuple(graph.edge_index), torch.ones(1, dtype=torch.float64), accumulate=True
        )
        walk = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
        wanted = torch.stack(
            [torch.linalg.matrix_power(walk, k).diagonal() for k in range(1, 6)], 1
        )
        torch.testing.assert_close(packed[number].rwse.double(), wanted, rtol=1e-5, atol=1e-6)


def test_large_graphs_go_another_way_to_the_same_numbers(monkeypatch):
    graphs = data.load("demo-node").graphs
    small = AddRandomWalkPE(6).apply(graphs).rwse, AddLaplacianPE(4).apply(graphs).lap_val
    monkeypatch.setattr(spectra, "_DENSE_NODES", 100)
    monkeypatch.setattr(spectra, "_BLOCK_ENTRIES", 60_000)
    large = AddRandomWalkPE(6).apply(graphs).rwse, AddLaplacianPE(4).apply(graphs).lap_val
    torch.testing.assert_close(small[0], large[0])
    # Lanczos stops at machine precision of float64, far below float32's.
    torch.testing.assert_close(small[1], large[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("normalization", "values"), [("sym", [0, 1, 2]), (None, [0, 1, 3])])
def test_laplacian_eigenvalues_of_a_path(normalization, values):
    found = AddLaplacianPE(3, normalization)(path_graph())
    torch.testing.assert_close(found.lap_val, torch.tensor([values] * 3).float(), atol=1e-6, rtol=0)


def test_laplacian_vectors_are_eigenvectors_of_length_one_with_a_fixed_sign():
    graphs = data.load("demo").graphs.select(range(10))
    found = AddLaplacianPE(5).apply(graphs)
    for number in range(10):
        graph = found[number]
        size = graph.num_nodes
        adjacency = torch.zeros(size, size)
        adjacency[graph.edge_index[0], graph.edge_index[1]] = 1
        scale = adjacency.sum(1).rsqrt()
        laplacian = torch.eye(size) - scale[:, None] * adjacency * scale
        torch.testing.assert_close(
            laplacian @ graph.lap_vec, graph.lap_vec * graph.lap_val, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(graph.lap_vec.norm(dim=0), torch.ones(5))
        size_of = graph.lap_vec.abs()
        first = (size_of >= 0.9985 * size_of.amax(0)).int().argmax(0, keepdim=True)
        assert (graph.lap_vec.gather(0, first) > 0).all()


def test_small_graphs_are_padded_with_nan():
    found = AddLaplacianPE(5)(path_graph())
    assert found.lap_vec.isnan().tolist() == [[False] * 3 + [True] * 2] * 3
    assert found.lap_val.isnan()[0].tolist() == [False] * 3 + [True] * 2


def test_encodings_before_the_virtual_node_are_zero_on_it():
    steps = [{"name": "AddRandomWalkPE", "walk_length": 4}, {"name": "AppendVirtualNode"}]
    graph = data.load("demo", transforms=steps).graphs[0]
    assert graph.rwse[-1].tolist() == [0, 0, 0, 0]
    assert graph.rwse[:-1].abs().sum() > 0


def test_transforms_by_name_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'AddRandomWalkPE'"):
        create_transform({"name": "AddRandomWalk"})
    with pytest.raises(InputError, match="AddRandomWalkPE: .*walk_lenght"):
        create_transform({"name": "AddRandomWalkPE", "walk_lenght": 3})
    with pytest.raises(InputError, match="walk_length: must be at least 1"):
        create_transform({"name": "AddRandomWalkPE", "walk_length": 0})


def test_return_probability_of_a_cycle_has_its_closed_form():
    size, steps = 12, 6
    ring = torch.arange(size)
    graph = Data(
        edge_index=torch.stack(
            [torch.cat([ring, ring]), torch.cat([(ring + 1) % size, (ring - 1) % size])]
        ),
        num_nodes=size,
    )
    wanted = [0.0 if k % 2 else math.comb(k, k // 2) / 2**k for k in range(1, steps + 1)]
    found = AddRandomWalkPE(steps)(graph).rwse
    torch.testing.assert_close(found, torch.tensor([wanted] * size))


def test_fastrp_of_each_graph_and_by_name():
    graphs = data.load("demo").graphs.select(range(3))
    step = {"name": "AddFastRP", "dim": 8, "variant": "gds", "seed": 3}
    embedded = create_transform(step).apply(graphs)
    assert create_transform(step).config == {**step, "key": "fastrp"}
    for number in range(3):
        wanted = FastRP(8, variant="gds", seed=3).fit_transform(graphs[number].edge_index)
        assert torch.equal(embedded[number].fastrp, wanted)
    mixed = AddFastRP(8, variant="gds", property_ratio=0.5)(
        Data(edge_index=path_graph().edge_index, x=torch.eye(3))
    )
    plain = FastRP(8, variant="gds", property_ratio=0.5)
    assert torch.equal(mixed.fastrp, plain.fit_transform(mixed.edge_index, x=torch.eye(3)))
    with pytest.raises(InputError, match="transforms: AddFastRP"):
        create_transform({"name": "AddFastRP", "dims": 8})


def test_fastrp_fills_in_features_of_a_heterogeneous_graph():
    graph = HeteroData()
    graph["author"].x, graph["paper"].num_nodes = torch.eye(2), 3
    edges = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
    graph["author", "writes", "paper"].edge_index = edges
    filled = AddFastRP(8, key="x")(graph)
    both = torch.cat(
        [edges + torch.tensor([[0], [2]]), (edges + torch.tensor([[0], [2]])).flip(0)], 1
    )
    wanted = FastRP(8).fit_transform(both)
    assert torch.equal(filled["paper"].x, wanted[2:])
    assert torch.equal(filled["author"].x, torch.eye(2))
    assert "x" not in graph["paper"]
    assert torch.equal(AddFastRP(8)(graph)["author"].fastrp, wanted[:2])
    graph["paper", "by", "author"].edge_index = edges.flip(0)  # the same again
    assert torch.equal(AddFastRP(8)(graph)["paper"].fastrp, wanted[2:])
    graph["paper", "by", "author"].edge_index = torch.tensor([[3], [0]])
    with pytest.raises(InputError, match="'by'.* names nodes 3 to 3 of 'paper', wanted 0 to 2"):
        AddFastRP(8)(graph)
    for wrong, seen in (
        (edges.float(), r"torch.float32 \[2, 4\]"),
        (edges[0], "int64"),
        (None, "None"),
    ):
        graph["paper", "by", "author"].edge_index = wrong
        with pytest.raises(InputError, match=f"edge_index: .*{seen}.* wanted"):
            AddFastRP(8)(graph)
    with pytest.raises(InputError, match="property_ratio"):
        AddFastRP(8, variant="gds", property_ratio=0.5)(graph)
