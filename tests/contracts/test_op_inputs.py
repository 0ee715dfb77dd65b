"""Bad input gives one clear error that names the argument and the place, and never a crash."""

import pytest
import torch
from op_cases import random_graph

from graphkit.errors import InputError
from graphkit.ops import CSR, aggregate, backend, gated_aggregate, segment

OPS = torch.ops.graphkit
EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])


def csr4() -> CSR:
    return CSR.from_edge_index(EDGES, num_nodes=4)


@pytest.fixture(params=["native", "reference"])
def anywhere(request):
    """Arguments are checked before a backend is chosen, so all of them refuse alike."""
    if request.param == "native":
        request.getfixturevalue("native")
    with backend(request.param):
        yield


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(
    ("row", "bad", "words"),
    [
        (0, 4, "node id 4 in row 0 at edge 2"),
        (1, 4, "node id 4 in row 1 at edge 2"),
        (0, -1, "negative node id -1 in row 0 at edge 2"),
        (1, -7, "negative node id -7 in row 1 at edge 2"),
        (1, 2**31 - 1, "node id 2147483647 in row 1 at edge 2"),
        (0, -(2**31), "negative node id -2147483648 in row 0 at edge 2"),
    ],
)
def test_index_out_of_range(dtype, row, bad, words):
    edge_index = EDGES.to(dtype).clone()
    edge_index[row, 2] = bad
    for flow in ("source_to_target", "target_to_source"):
        with pytest.raises(InputError, match=words):
            CSR.from_edge_index(edge_index, num_nodes=4, flow=flow)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("bad", [2**31, 2**32 + 1, 2**63 - 1, -(2**63)])
def test_index_beyond_32_bits_is_not_cut_down(bad):
    edge_index = EDGES.clone()
    edge_index[0, 1] = bad
    with pytest.raises(InputError, match=str(bad)):
        CSR.from_edge_index(edge_index, num_nodes=4)


@pytest.mark.usefixtures("anywhere")
def test_an_edge_of_a_graph_without_nodes():
    with pytest.raises(InputError, match="there are 0 nodes"):
        CSR.from_edge_index(torch.zeros(2, 1, dtype=torch.int64), num_nodes=0)


@pytest.mark.parametrize(
    ("edge_index", "words"),
    [
        (EDGES.float(), "edge_index: dtype torch.float32"),
        (EDGES.bool(), "edge_index: dtype torch.bool"),
        (EDGES.to(torch.int16), "edge_index: dtype torch.int16"),
        (EDGES.t(), r"edge_index: shape \[4, 2\]"),
        (EDGES[0], r"edge_index: shape \[4\]"),
        (EDGES[None], r"edge_index: shape \[1, 2, 4\]"),
        ([[0], [1]], "edge_index: list"),
    ],
)
def test_edge_index_of_the_wrong_kind(edge_index, words):
    with pytest.raises(InputError, match=words):
        CSR.from_edge_index(edge_index, num_nodes=4)


def test_unknown_flow():
    with pytest.raises(InputError, match="flow: 'sideways'"):
        CSR.from_edge_index(EDGES, 4, flow="sideways")


ONES = torch.ones(4, 6)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": torch.ones(5, 6)}, r"x: shape \[5, 6\], wanted \[4, F\]"),
        ({"x": torch.ones(4)}, r"x: shape \[4\]"),
        ({"x": torch.ones(4, 2, 3)}, r"x: shape \[4, 2, 3\]"),
        ({"x": ONES.long()}, "x: dtype torch.int64"),
        ({"x": ONES.bool()}, "x: dtype torch.bool"),
        ({"x": ONES.cfloat()}, "x: dtype torch.complex64"),
        ({"message": "sum"}, "message: 'sum' is not one of"),
        ({"message": "add_rleu"}, "did you mean 'add_relu'"),
        ({"reduce": "average"}, "reduce: 'average' is not one of"),
        ({"reduce": []}, r"reduce: \[\], wanted at least one"),
        ({"reduce": ["sum", "max", "sum"]}, "each at most once"),
        ({"edge": ONES}, "edge: given, but message='copy'"),
        ({"message": "add"}, "edge: missing"),
        ({"message": "add", "edge": ONES.double()}, "edge: dtype torch.float64"),
        ({"message": "add", "edge": torch.ones(3, 6)}, "edge: 3 rows, but edge_index has 4 edges"),
        ({"message": "mul", "edge": torch.ones(4, 5)}, r"edge: shape \[4, 5\], wanted \[E, 6\]"),
        ({"message": "mul", "edge": torch.ones(4)}, r"edge: shape \[4\]"),
        ({"message": "mul", "edge": torch.ones(4, 6, 1)}, r"edge: shape \[4, 6, 1\]"),
        ({"message": "scale", "edge": torch.tensor(1.0)}, r"edge: shape \[\]"),
        ({"message": "scale", "edge": torch.ones(4, 4)}, "H a divisor of 6"),
        ({"message": "scale", "edge": torch.ones(4, 0)}, "H a divisor of 6"),
        (
            {"message": "add", "edge": ONES, "lookup": torch.zeros(3, dtype=torch.int64)},
            r"lookup: torch.int64 of shape \[3\], wanted \[4\]",
        ),
        ({"message": "add", "edge": ONES, "lookup": torch.zeros(4)}, "lookup: torch.float32"),
    ],
)
def test_aggregate_refuses(arguments, words):
    with pytest.raises(InputError, match=words):
        aggregate(csr4(), **{"x": ONES, **arguments})


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("bad", [3, -1, 2**32 + 1])
def test_lookup_outside_its_table(bad):
    lookup = torch.tensor([0, 1, bad, 2])
    for grad in (False, True):
        table = torch.ones(3, 6, requires_grad=grad)
        with pytest.raises(InputError, match=f"lookup: {bad} at edge 2"):
            aggregate(csr4(), ONES, table, lookup=lookup, message="add")


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    ("position", "tensor", "words"),
    [
        (0, torch.ones(3, 6), r"gate_dst: shape \[3, 6\], wanted \[4, 6\]"),
        (1, torch.ones(4, 5), r"gate_src: shape \[4, 5\]"),
        (2, torch.ones(4), r": shape \["),
        (2, torch.tensor(1.0), r": shape \["),
        (3, torch.ones(5, 6), r"edge: shape \[5, 6\], wanted \[4, 6\]"),
        (1, ONES.double(), "gate_src: dtype torch.float64"),
        (3, ONES.half(), "edge: dtype torch.float16"),
    ],
)
def test_gated_aggregate_refuses(position, tensor, words):
    tensors = [ONES, ONES, ONES, ONES]
    tensors[position] = tensor
    with pytest.raises(InputError, match=words):
        gated_aggregate(csr4(), *tensors)


def test_gated_aggregate_refuses_integers():
    with pytest.raises(InputError, match="dtype torch.int64"):
        gated_aggregate(csr4(), *[ONES.long()] * 4)


@pytest.mark.parametrize(
    ("ptr", "words"),
    [
        ([1, 4], "begin with 0"),
        ([0, 3, 2, 4], "non-decreasing"),
        ([0, -1, 4], "non-decreasing"),
        ([], "wanted \\[G \\+ 1\\]"),
        ([[0, 4]], "wanted \\[G \\+ 1\\]"),
        ([0.0, 4.0], "torch.float32"),
        ([0, 3], r"x: shape \[4, 6\], wanted \[3, F\]"),
        ([0, 9], r"x: shape \[4, 6\], wanted \[9, F\]"),
    ],
)
def test_segment_refuses(ptr, words):
    ptr = torch.tensor(ptr) if ptr else torch.tensor([], dtype=torch.int64)
    with pytest.raises(InputError, match=words):
        segment(ONES, ptr)


def test_unknown_or_missing_backend_and_isa(native):
    with pytest.raises(InputError, match="backend: 'natve' is not one of .*did you mean 'native'"):
        backend("natve").__enter__()
    with pytest.raises(ValueError, match="isa: 'mmx' is not one of baseline"):
        native.use_isa("mmx")


# Below: arrays that no public constructor would build, straight into the custom ops.
def corrupt(csr: CSR, where: str, change) -> list:
    back = csr.transpose()
    arrays = {
        "rowptr": csr.rowptr, "col": csr.col, "eid": csr.eid,
        "rowptr_t": back.rowptr, "col_t": back.col, "eid_t": back.eid,
    }  # fmt: skip
    arrays = {name: tensor.clone() for name, tensor in arrays.items()}
    arrays[where] = change(arrays[where])
    return list(arrays.values())


def put(position: int, value: int):
    def change(tensor):
        tensor[position] = value
        return tensor

    return change


def aggregate_on(arrays, nodes, edges, message="add", reduces="sum", grad=False):
    x = torch.ones(nodes, 8, requires_grad=grad)
    edge = torch.ones(edges, 8, requires_grad=grad) if message != "copy" else None
    out = OPS.aggregate(x, edge, *arrays, message, reduces, False, grad)[0]
    if grad:
        out.sum().backward()


def gated_on(arrays, nodes, edges, grad=False):
    tensors = [torch.ones(n, 8, requires_grad=grad) for n in (nodes, nodes, nodes, edges)]
    out = OPS.gated_aggregate(*tensors, *arrays, True, 1e-6, grad)[0]
    if grad:
        out.sum().backward()


FAULTS = [
    ("col", put(5, 1_000_000_000), "col at entry 5 is 1000000000"),
    ("col", put(0, -1), "col at entry 0 is -1"),
    ("eid", put(5, 1_000_000_000), "eid at entry 5 is 1000000000"),
    ("eid", put(7, -3), "eid at entry 7 is -3"),
    ("rowptr", put(4, 1_000_000_000), "rowptr: row [34] reaches"),
    ("rowptr", put(4, -1), "rowptr: row [34] reaches"),
    ("rowptr", put(-1, 1_000_000_000), "rowptr: row .* reaches"),
    ("rowptr", put(0, -5), "rowptr: row 0 reaches -5"),
]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("edges", [60, 40_000], ids=["serial", "parallel"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(("where", "change", "words"), FAULTS)
def test_corrupt_arrays_forward(edges, index, where, change, words):
    torch.set_num_threads(2)
    graph = random_graph(20, 20, edges)
    arrays = [a.to(index) for a in corrupt(graph.csr(), where, change)]
    for reduces in ("sum", "mean,min,max,std"):
        with pytest.raises(IndexError, match=words):
            aggregate_on(arrays, 20, edges, reduces=reduces)
    with pytest.raises(IndexError, match=words):
        gated_on(arrays, 20, edges)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("edges", [60, 40_000], ids=["serial", "parallel"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(("where", "change", "words"), FAULTS)
def test_corrupt_arrays_backward(edges, index, where, change, words):
    torch.set_num_threads(2)
    graph = random_graph(20, 20, edges)
    arrays = [a.to(index) for a in corrupt(graph.csr(), where + "_t", change)]
    for reduces in ("sum", "std"):
        with pytest.raises(IndexError, match=words):
            aggregate_on(arrays, 20, edges, reduces=reduces, grad=True)
    with pytest.raises(IndexError, match=words):
        gated_on(arrays, 20, edges, grad=True)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("col", lambda t: t.repeat_interleave(2)[::2]),
        ("eid", lambda t: t.repeat_interleave(2)[::2]),
        ("eid", lambda t: t[:-1]),
        ("col", lambda t: t.long()),
        ("eid", lambda t: t.float()),
        ("rowptr", lambda t: t.float()),
        ("rowptr", lambda t: t[:0]),
        ("rowptr", lambda t: t.repeat_interleave(2)[::2]),
    ],
)
def test_arrays_of_the_wrong_layout(where, change):
    graph = random_graph(20, 20, 60)
    arrays = corrupt(graph.csr(), where, change)
    with pytest.raises(InputError, match=f"^{where}: "):
        aggregate_on(arrays, 20, 60)
    if where != "rowptr":
        with pytest.raises(InputError, match=f"^{where}: "):
            gated_on(arrays, 20, 60)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("where", ["rowptr_t", "col_t", "eid_t"])
def test_a_transpose_of_another_graph(where):
    """Longer arrays would have gradients written past their end, shorter ones leave them unset."""
    for change in (lambda t: t[:-3].clone(), lambda t: torch.cat([t, t[-1:]])):
        arrays = corrupt(random_graph(20, 20, 60).csr(), where, change)
        for run in (aggregate_on, gated_on):
            with pytest.raises((IndexError, InputError)):
                run(arrays, 20, 60, grad=True)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", [-1, 50, 2**31 - 1])
def test_sort_and_transpose_never_write_out_of_range(threads, bad):
    torch.set_num_threads(threads)
    for edges in (30, 50_000):
        key = torch.randint(0, 50, (edges,))
        good = key.clone()
        key[edges // 2] = bad
        with pytest.raises(IndexError, match=f"key at entry {edges // 2} is {bad}"):
            OPS.csr_sort(key, good, 50, 50)
        with pytest.raises(IndexError, match=f"col at entry {edges // 2} is {bad}"):
            OPS.csr_sort(good, key, 50, 50)
        rowptr, col, eid = OPS.csr_sort(good, good, 50, 50)
        col[3] = bad
        with pytest.raises(IndexError, match=f"col at entry 3 is {bad}"):
            OPS.csr_transpose(rowptr, col, eid, 50)
        for position in (0, 7, -1):
            broken = rowptr.clone()
            broken[position] = bad
            with pytest.raises(IndexError, match="rowptr"):
                OPS.csr_transpose(broken, col.clamp(0, 49), eid, 50)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("reduce", ["sum", "mean", "min", "max", "var", "std"])
def test_not_a_number_stays_where_it_was_sent(reduce):
    """A NaN feature reaches exactly the rows that receive it, in every reduce."""
    graph = random_graph(12, 12, 40)
    csr = graph.csr()
    x = torch.randn(12, 3)
    clean = aggregate(csr, x, reduce=reduce)
    x[4, 1] = float("nan")
    out = aggregate(csr, x, reduce=reduce)
    reached = torch.zeros(12, 3, dtype=torch.bool)
    reached[graph.edge_index[1, graph.edge_index[0] == 4], 1] = True
    if reduce == "std":  # PyG's clamp calls a variance that is not above 1e-5 zero, NaN included
        reached &= out.isnan()
    assert torch.equal(out.isnan(), reached)
    untouched = torch.ones(12, dtype=torch.bool)
    untouched[graph.edge_index[1, graph.edge_index[0] == 4]] = False
    assert torch.equal(out[untouched], clean[untouched])


@pytest.mark.usefixtures("anywhere")
def test_float16_beyond_its_range_is_infinite_not_wrong():
    csr = CSR.from_edge_index(torch.tensor([[0, 1], [2, 2]]), num_nodes=3)
    x = torch.full((3, 2), 60_000.0, dtype=torch.float16)
    assert aggregate(csr, x)[2].tolist() == [float("inf")] * 2
    # The sum is taken in float32, so the mean of two such values is in range again.
    assert aggregate(csr, x, reduce="mean")[2].tolist() == [60_000.0 // 32 * 32] * 2
