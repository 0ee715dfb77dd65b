"""CSR: sorted right, built once per tensor, transposed and read back."""

import gc
import weakref

import pytest
import torch
from op_cases import GRAPHS, Graph, random_graph

from graphkit.ops import CSR, aggregate, backend, segment


@pytest.fixture(params=["native", "plain torch"], autouse=True)
def _with_and_without_kernels(request, monkeypatch):
    """Sorting has a fallback of its own, for machines without the compiled module."""
    if request.param == "native":
        request.getfixturevalue("native")
    else:
        monkeypatch.setattr("graphkit.ops.cpu.kernels", None)


def expected(graph: Graph) -> tuple[list, list, list]:
    source, target = graph.edge_index.tolist()
    order = sorted(range(len(target)), key=lambda e: target[e])  # Python's sort is stable
    starts = [sum(t < row for t in target) for row in range(graph.size[1] + 1)]
    return starts, [source[e] for e in order], order


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("name", [n for n in GRAPHS if n != "hub"])
def test_entries_are_sorted_by_destination_and_stable(name, dtype):
    graph = GRAPHS[name]
    csr = CSR.from_edge_index(graph.edge_index.to(dtype), size=graph.size)
    rowptr, col, eid = expected(graph)
    assert csr.rowptr.tolist() == rowptr
    assert csr.col.tolist() == col
    assert csr.eid.tolist() == eid
    assert (csr.num_cols, csr.num_rows, csr.num_entries) == (*graph.size, graph.edge_index.size(1))
    assert csr.degree.tolist() == [b - a for a, b in zip(rowptr, rowptr[1:], strict=False)]
    assert csr.row().tolist() == sorted(graph.edge_index[1].tolist())
    assert repr(csr) == f"CSR({graph.size[1]} x {graph.size[0]}, {len(eid)} entries)"


@pytest.mark.parametrize("name", GRAPHS)
def test_transpose_is_the_csr_of_the_reversed_edges(name):
    graph = GRAPHS[name]
    back = graph.csr().transpose()
    flipped = CSR.from_edge_index(graph.edge_index.flip(0), size=graph.size[::-1])
    assert torch.equal(back.rowptr, flipped.rowptr)
    # Within a row both list the same entries; the transpose keeps them in row order.
    for field in ("col", "eid"):
        key = torch.stack([back.row(), getattr(back, field)], 1).tolist()
        assert sorted(key) == sorted(
            torch.stack([flipped.row(), getattr(flipped, field)], 1).tolist()
        )
    source, target = graph.edge_index
    assert torch.equal(target[back.eid.long()], back.col.long())
    assert torch.equal(source[back.eid.long()], back.row().long())


@pytest.mark.parametrize("name", GRAPHS)
def test_transpose_twice_is_the_same_object(name):
    csr = GRAPHS[name].csr()
    assert csr.transpose() is csr.transpose()
    assert csr.transpose().transpose() is csr


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_sort_does_not_depend_on_threads(threads):
    graph = random_graph(700, 500, 100_000)
    torch.set_num_threads(threads)
    csr = CSR.from_edge_index(graph.edge_index.clone(), size=graph.size)
    order = torch.sort(graph.edge_index[1], stable=True).indices
    assert torch.equal(csr.eid.long(), order)
    back = csr.transpose()
    assert torch.equal(back.eid.long(), csr.eid.long()[torch.sort(csr.col, stable=True).indices])


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
def test_edge_index_round_trip(name, flow):
    graph = GRAPHS[name]
    csr = CSR.from_edge_index(graph.edge_index, size=graph.size, flow=flow)
    pair = graph.edge_index if flow == "source_to_target" else graph.edge_index.flip(0)
    assert torch.equal(csr.edge_index().long(), pair)


def test_flow_swaps_the_ends():
    graph = random_graph(9, 21, 90)
    csr = CSR.from_edge_index(graph.edge_index, size=graph.size, flow="target_to_source")
    assert (csr.num_rows, csr.num_cols) == (9, 21)
    x = torch.randn(21, 3)
    swapped = CSR.from_edge_index(graph.edge_index.flip(0).contiguous(), size=(21, 9))
    with backend("reference"):
        assert torch.equal(aggregate(csr, x), aggregate(swapped, x))


def test_number_of_nodes_is_found_when_not_given():
    assert CSR.from_edge_index(torch.tensor([[0, 6], [3, 1]])).num_rows == 7
    assert CSR.from_edge_index(torch.zeros(2, 0, dtype=torch.int64)).num_rows == 0


def test_non_contiguous_edge_index():
    graph = random_graph(20, 20, 100)
    for strided in (graph.edge_index.t().contiguous().t(), graph.edge_index.repeat(1, 2)[:, :100]):
        assert not strided.is_contiguous()
        csr = CSR.from_edge_index(strided, size=graph.size)
        assert torch.equal(csr.eid, graph.csr().eid)


def test_one_tensor_is_sorted_once():
    edge_index = random_graph(10, 10, 50).edge_index
    csr = CSR.from_edge_index(edge_index, 10)
    assert CSR.from_edge_index(edge_index, 10) is csr
    assert CSR.from_edge_index(edge_index, size=(10, 10)) is csr
    assert CSR.from_edge_index(edge_index, 11) is not csr
    assert CSR.from_edge_index(edge_index, 10, flow="target_to_source") is not csr
    assert CSR.from_edge_index(edge_index.clone(), 10) is not csr


def test_a_changed_tensor_is_sorted_again():
    edge_index = torch.tensor([[0, 1], [1, 2]])
    before = CSR.from_edge_index(edge_index, 3)
    edge_index[1, 0] = 0
    after = CSR.from_edge_index(edge_index, 3)
    assert after is not before
    assert after.rowptr.tolist() == [0, 1, 1, 2]


def test_the_memory_goes_with_the_tensor():
    edge_index = random_graph(10, 10, 50).edge_index
    kept = weakref.ref(CSR.from_edge_index(edge_index, 10))
    assert kept() is not None
    del edge_index
    gc.collect()
    assert kept() is None


def test_lookups_do_not_pile_up_on_a_graph_that_lives_long():
    csr = random_graph(10, 10, 50).csr()
    x, table = torch.randn(10, 4), torch.randn(3, 4)
    held = []
    for step in range(20):
        lookup = torch.full((50,), step % 3)
        aggregate(csr, x, table, lookup=lookup, message="add")
        held.append(weakref.ref(lookup))
    del lookup
    gc.collect()
    assert sum(ref() is not None for ref in held) <= 4


def test_a_changed_lookup_is_read_again():
    csr = random_graph(10, 10, 50).csr()
    x, table = torch.randn(10, 4), torch.randn(3, 4)
    lookup = torch.zeros(50, dtype=torch.int64)
    aggregate(csr, x, table, lookup=lookup, message="add")
    lookup.fill_(2)
    out = aggregate(csr, x, table, lookup=lookup, message="add")
    wanted = aggregate(csr, x, table[[2]].expand(50, 4), message="add")
    torch.testing.assert_close(out, wanted)


def test_moving_to_a_device_keeps_the_structure():
    csr = random_graph(10, 10, 50).csr()
    moved = csr.to("meta")
    assert moved.rowptr.device.type == moved.col.device.type == moved.eid.device.type == "meta"
    assert (moved.num_rows, moved.num_cols, moved.num_entries) == (10, 10, 50)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_from_ptr_is_the_csr_of_consecutive_rows(dtype):
    ptr = torch.tensor([0, 0, 3, 3, 3, 7, 7], dtype=dtype)
    csr = CSR.from_ptr(ptr)
    assert (csr.num_rows, csr.num_cols, csr.num_entries) == (6, 7, 7)
    assert csr.degree.tolist() == [0, 3, 0, 0, 4, 0]
    assert csr.edge_index().tolist() == [list(range(7)), [1, 1, 1, 4, 4, 4, 4]]
    back = csr.transpose()
    assert back.rowptr.tolist() == list(range(8))
    assert back.col.tolist() == [1, 1, 1, 4, 4, 4, 4]


@pytest.mark.parametrize(
    "sizes",
    [[0, 3, 2], [3, 0, 2], [3, 2, 0], [0, 0, 0], [0], [5], [], [1] * 6, [0, 2, 0, 0, 3, 0]],
    ids=str,
)
@pytest.mark.parametrize("reduce", ["sum", "mean", "min", "max", "var", "std"])
def test_segments_with_empty_ones_anywhere(sizes, reduce):
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    x = torch.randn(sum(sizes), 4, dtype=torch.float64, requires_grad=True)
    out = segment(x, ptr, reduce)
    functions = {
        "sum": lambda part: part.sum(0),
        "mean": lambda part: part.mean(0),
        "min": lambda part: part.amin(0),
        "max": lambda part: part.amax(0),
        "var": lambda part: part.var(0, correction=0),
        "std": lambda part: part.var(0, correction=0).clamp(min=1e-300).sqrt(),
    }
    parts = torch.split(x, sizes) if sizes else ()
    wanted = [functions[reduce](part) if len(part) else x.new_zeros(4) for part in parts]
    wanted = torch.stack(wanted) if wanted else x.new_zeros(0, 4)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
    if reduce not in ("var", "std") and sum(sizes):
        ours = torch.autograd.grad(out.square().sum(), x)[0]
        theirs = torch.autograd.grad(wanted.square().sum(), x)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(segment(x, CSR.from_ptr(ptr), reduce), out)


def test_several_segment_reduces_share_a_pass():
    ptr, x = torch.tensor([0, 2, 2, 5]), torch.randn(5, 3)
    both = segment(x, ptr, ["mean", "max"])
    assert both.shape == (3, 2, 3)
    assert torch.equal(both[:, 1], segment(x, ptr, "max"))
    torch.testing.assert_close(both[:, 0], segment(x, ptr, "mean"))
