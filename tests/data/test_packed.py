"""A packed batch is the batch that PyG would build, and wrong graphs are refused by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from graphkit.data import PackedGraphs
from graphkit.errors import InputError


def random_graphs(count: int, seed: int, max_nodes: int = 6) -> PackedGraphs:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, max_nodes + 1, (count,), generator=generator)
    edges = torch.randint(0, 8, (count,), generator=generator)
    node_ptr = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    edge_ptr = torch.nn.functional.pad(edges.cumsum(0), (1, 0))
    limit = torch.repeat_interleave(sizes, edges)
    edge_index = (torch.rand(2, int(edges.sum()), generator=generator) * limit).long()
    return PackedGraphs(
        node_ptr,
        edge_ptr,
        edge_index,
        node={
            "x": torch.randint(0, 119, (int(sizes.sum()), 9), generator=generator),
            "pe": torch.rand(int(sizes.sum()), 3, generator=generator),
        },
        edge={"edge_attr": torch.randint(0, 5, (int(edges.sum()), 3), generator=generator)},
        graph={"y": torch.rand(count, 2, generator=generator)},
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ids=st.lists(st.integers(0, 11), min_size=1, max_size=20),
    run=st.booleans(),
)
def test_batch_equals_the_batch_of_pyg(seed, ids, run):
    graphs = random_graphs(12, seed)
    chosen = torch.arange(min(ids), max(ids) + 1) if run else torch.tensor(ids)
    batch = graphs.batch(chosen)
    wanted = Batch.from_data_list([graphs[int(i)] for i in chosen])
    for key in ("x", "pe", "edge_index", "edge_attr", "y", "batch", "ptr"):
        assert torch.equal(batch[key], wanted[key]), key
        assert batch[key].dtype == wanted[key].dtype, key
    assert batch.num_graphs == len(chosen)
    assert batch.num_nodes == wanted.num_nodes
    for ours, theirs in zip(batch.to_data_list(), wanted.to_data_list(), strict=True):
        for key in ("x", "pe", "edge_index", "edge_attr", "y"):
            assert torch.equal(ours[key], theirs[key]), key


def test_data_list_round_trip_and_select():
    graphs = random_graphs(9, seed=3)
    again = PackedGraphs.from_data_list(list(graphs), kinds={"pe": "node"})
    picked = graphs.select([4, 0, 4])
    for number, source in enumerate([4, 0, 4]):
        for key in ("x", "edge_index", "edge_attr", "y", "pe"):
            assert torch.equal(picked[number][key], graphs[source][key])
            assert torch.equal(again[source][key], graphs[source][key])


def test_graphs_without_features_keep_isolated_nodes():
    graphs = PackedGraphs(
        torch.tensor([0, 3, 4]), torch.tensor([0, 1, 1]), torch.tensor([[0], [1]])
    )
    batch = graphs.batch(torch.tensor([1, 0]))
    assert batch.num_nodes == 4
    assert [data.num_nodes for data in batch.to_data_list()] == [1, 3]


def test_a_batch_can_be_changed_without_changing_the_data_set():
    graphs = random_graphs(4, seed=1)
    for ids in (torch.arange(4), torch.tensor([3, 1])):
        batch = graphs.batch(ids)
        before = graphs.pe.clone(), graphs.y.clone()
        batch.pe.zero_()
        batch.y.zero_()
        assert torch.equal(graphs.pe, before[0])
        assert torch.equal(graphs.y, before[1])


def test_one_graph_gives_the_same_edge_index_object_each_time():
    # What the ops memoise per edge_index tensor is then built once per run, not once per epoch.
    graphs = PackedGraphs(torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([[0], [1]]))
    first, second = graphs.batch(torch.tensor([0])), graphs.batch(torch.tensor([0]))
    assert first.edge_index is second.edge_index
    first.extra = 1
    assert "extra" not in second


def test_integer_features_are_held_narrow_and_served_as_int64():
    graphs = random_graphs(5, seed=0)
    assert graphs._stored["x"].dtype == torch.int8
    assert graphs.x.dtype == torch.int64


def test_nan_targets_are_kept():
    y = torch.tensor([[float("nan"), 1.0], [0.0, float("nan")]])
    graphs = PackedGraphs(
        torch.tensor([0, 1, 2]),
        torch.zeros(3, dtype=torch.long),
        torch.zeros(2, 0, dtype=torch.long),
        graph={"y": y},
    )
    assert torch.equal(graphs.batch(torch.tensor([1, 0])).y.isnan(), y[[1, 0]].isnan())


POINTERS = (torch.tensor([0, 2, 5]), torch.tensor([0, 1, 3]))
EDGES = torch.tensor([[0, 0, 2], [1, 1, 0]])


def build(node_ptr=POINTERS[0], edge_ptr=POINTERS[1], edge_index=EDGES, **parts):
    return PackedGraphs(node_ptr, edge_ptr, edge_index, **parts)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edge_index": torch.tensor([[0, 0, 3], [1, 1, 0]])}, "edge 1 of graph 1 is 3 -> 0.*0..2"),
        ({"edge_index": torch.tensor([[0, 0, 2], [2, 1, 0]])}, "edge 0 of graph 0 is 0 -> 2"),
        ({"edge_index": torch.tensor([[0, -1, 2], [1, 1, 0]])}, "edge 0 of graph 1 is -1 -> 1"),
        ({"edge_index": EDGES.t()}, r"edge_index: expected .* shape \[2, E\], got int64 \[3, 2\]"),
        ({"edge_index": EDGES.float()}, "edge_index: expected int64 or int32, got torch.float32"),
        ({"edge_index": EDGES[:, :2]}, "edge_index: has 2 edges, but edge_ptr ends at 3"),
        ({"node_ptr": torch.tensor([0, 5, 5])}, "graph 1 has no nodes"),
        ({"node_ptr": torch.tensor([0, 5, 2])}, "node_ptr: graph 1 would have -3 rows"),
        ({"node_ptr": torch.tensor([1, 2, 5])}, "node_ptr: must start at 0"),
        ({"node": {"x": torch.ones(4, 2)}}, "x: expected one row per node .5 rows."),
        ({"edge": {"edge_attr": torch.ones(5)}}, "edge_attr: expected one row per edge"),
        ({"graph": {"y": torch.ones(5)}}, "y: expected one row per graph"),
        (
            {"node": {"x": torch.tensor([[0.0], [0.0], [0.0], [float("nan")], [0.0]])}},
            "x: node 1 of graph 1 is NaN",
        ),
        (
            {"edge": {"edge_attr": torch.tensor([0.0, 1.0, float("inf")])}},
            "edge 1 of graph 1 is NaN",
        ),
    ],
)
def test_wrong_graphs_are_refused_by_name(change, says):
    with pytest.raises(InputError, match=says):
        build(**change)


@pytest.mark.parametrize(
    "ids", [torch.tensor([2]), torch.tensor([-1]), torch.tensor([], dtype=torch.long)]
)
def test_wrong_ids_are_refused(ids):
    with pytest.raises(InputError, match="ids"):
        build().batch(ids)


def test_unknown_kinds_must_be_named():
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, mark=torch.ones(2))
    with pytest.raises(InputError, match="mark: its kind is unknown"):
        PackedGraphs.from_data_list([data])
