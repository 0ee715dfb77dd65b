"""Degree scalers against PyG's DegreeScalerAggregation: values, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.nn.aggr import DegreeScalerAggregation

from graphkit.errors import InputError
from graphkit.ops import CSR, SCALERS, aggregate, available, average_degrees, backend

pytestmark = pytest.mark.usefixtures("one_thread")

BACKENDS = [name for name in ("native", "reference") if available()[name] is None]
REDUCES = ["mean", "min", "max", "std"]
NODES, EDGES, WIDTH = 31, 170, 6


def edges() -> torch.Tensor:
    """The last four nodes receive nothing, and the last one sends nothing either."""
    return torch.stack([torch.randint(NODES - 1, (EDGES,)), torch.randint(NODES - 4, (EDGES,))])


def histogram(edge_index) -> torch.Tensor:
    return torch.bincount(torch.bincount(edge_index[1], minlength=NODES))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "scalers", [list(SCALERS), ["attenuation", "identity"], ["identity"], ["linear"]]
)
@pytest.mark.parametrize("reduces", [REDUCES, ["sum"], ["var", "sum", "max"]])
def test_equals_pyg_in_value_layout_and_gradient(name, scalers, reduces):
    edge_index = edges()
    theirs = DegreeScalerAggregation(reduces, scalers, histogram(edge_index)).double()
    ours_x, x = (torch.randn(NODES, WIDTH, dtype=torch.float64) for _ in range(2))
    ours_x.copy_(x)
    ours_x.requires_grad_()
    x.requires_grad_()
    wanted = theirs(x[edge_index[0]], edge_index[1], dim_size=NODES)
    averages = {"lin": theirs.avg_deg_lin, "log": theirs.avg_deg_log}
    with backend(name):
        csr = CSR.from_edge_index(edge_index, num_nodes=NODES)
        found = aggregate(csr, ours_x, reduce=reduces, scalers=scalers, avg_degree=averages)
        assert found.shape == (NODES, len(scalers), len(reduces), WIDTH)
        torch.testing.assert_close(found.flatten(1), wanted, rtol=1e-12, atol=1e-12)
        cotangent = torch.randn_like(wanted)
        (ours,) = torch.autograd.grad(found.flatten(1), ours_x, cotangent)
    (gradient,) = torch.autograd.grad(wanted, x, cotangent)
    torch.testing.assert_close(ours, gradient, rtol=1e-11, atol=1e-11)
    assert torch.equal(found[-4:], torch.zeros_like(found[-4:]))  # without messages
    assert not ours[-1].any()


@pytest.mark.parametrize("message", ["scale", "add_relu"])
def test_messages_with_edges_are_scaled_the_same_way(message):
    edge_index = edges()
    csr = CSR.from_edge_index(edge_index, num_nodes=NODES)
    x = torch.randn(NODES, WIDTH)
    edge = torch.randn(EDGES) if message == "scale" else torch.randn(EDGES, WIDTH)
    averages = average_degrees(histogram(edge_index))
    theirs = DegreeScalerAggregation(REDUCES, list(SCALERS), histogram(edge_index))
    rows = x[edge_index[0]]
    rows = rows * edge[:, None] if message == "scale" else (rows + edge).relu()
    wanted = theirs(rows, edge_index[1], dim_size=NODES)
    found = aggregate(
        csr, x, edge, message=message, reduce=REDUCES, scalers=SCALERS, avg_degree=averages
    )
    torch.testing.assert_close(found.flatten(1), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_gradcheck_of_features_and_averages(name):
    edge_index = torch.tensor([[0, 1, 2, 2, 3, 1, 0], [1, 0, 1, 0, 1, 2, 2]])
    csr = CSR.from_edge_index(edge_index, num_nodes=5)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    averages = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (1.4, 0.8)]

    def run(x, lin, log):
        return aggregate(
            csr, x, reduce=["mean", "max", "std"], scalers=SCALERS,
            avg_degree={"lin": lin, "log": log},
        )  # fmt: skip

    with backend(name):
        assert torch.autograd.gradcheck(run, (x, *averages))


def test_a_name_alone_adds_no_dimension():
    edge_index = edges()
    csr = CSR.from_edge_index(edge_index, num_nodes=NODES)
    x, lin = torch.randn(NODES, WIDTH), {"lin": 2.5}
    plain = aggregate(csr, x, reduce=["sum", "max"])
    factor = csr.degree[:, None, None] / 2.5
    found = aggregate(csr, x, reduce=["sum", "max"], scalers="linear", avg_degree=lin)
    torch.testing.assert_close(found, plain * factor)
    assert aggregate(csr, x, scalers="linear", avg_degree=lin).shape == (NODES, WIDTH)
    assert aggregate(csr, x, scalers=["linear"], avg_degree=lin).shape == (NODES, 1, WIDTH)
    assert torch.equal(aggregate(csr, x, scalers="identity"), aggregate(csr, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factors_of_half_types_are_computed_in_float(dtype):
    """3,000 messages: more than bfloat16 counts one by one."""
    edge_index = torch.stack([torch.zeros(3000, dtype=torch.int64), torch.arange(3000) * 0 + 1])
    csr = CSR.from_edge_index(edge_index, num_nodes=2)
    x = torch.ones(2, 4, dtype=dtype)
    found = aggregate(csr, x, reduce="mean", scalers="linear", avg_degree={"lin": 1500.0})
    assert found.dtype == dtype
    assert torch.equal(found[1], torch.full((4,), 2.0, dtype=dtype))


def test_nothing_has_a_row_per_edge():
    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(t, torch.Tensor) and t.is_floating_point() and t.dim():
                    largest.append(t.numel())
            return out

    largest: list[int] = []
    edge_index = torch.randint(NODES, (2, 5000))
    csr = CSR.from_edge_index(edge_index, num_nodes=NODES)
    csr.transpose()
    x = torch.randn(NODES, 8, requires_grad=True)
    averages = average_degrees(histogram(edge_index))
    with Rows():
        out = aggregate(csr, x, reduce=REDUCES, scalers=SCALERS[:3], avg_degree=averages)
        out.sum().backward()
    assert max(largest) == NODES * 3 * 4 * 8


def test_compiled_in_one_graph():
    edge_index = edges()
    csr = CSR.from_edge_index(edge_index, num_nodes=NODES)
    csr.transpose()
    averages = average_degrees(histogram(edge_index))

    def run(x):
        return aggregate(csr, x, reduce=REDUCES, scalers=SCALERS, avg_degree=averages)

    x = torch.randn(NODES, WIDTH)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x))


def test_averages_are_pygs():
    counts = histogram(edges())
    theirs = DegreeScalerAggregation(REDUCES, list(SCALERS), counts)
    found = average_degrees(counts)
    assert found["lin"] == pytest.approx(theirs.init_avg_deg_lin, rel=1e-6)
    assert found["log"] == pytest.approx(theirs.init_avg_deg_log, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scalers": ["amplify"]}, "scalers: 'amplify' is not one of .*did you mean 'amplif"),
        ({"scalers": []}, "scalers: .* at least one"),
        ({"scalers": ["identity", "identity"]}, "scalers: .* at most once"),
        ({"scalers": "linear"}, "avg_degree: missing, wanted 'lin' for the scaler 'linear'"),
        ({"scalers": "attenuation", "avg_degree": {"lin": 1.0}}, "has 'lin', wanted 'log'"),
        ({"scalers": "linear", "avg_degree": {"lin": 0.0}}, "'lin' is 0.0, wanted a positive"),
        ({"scalers": "linear", "avg_degree": {"lin": -2}}, "'lin' is -2.0, wanted a positive"),
        ({"scalers": "linear", "avg_degree": {"lin": float("nan")}}, "'lin' is nan"),
        ({"scalers": "linear", "avg_degree": {"lin": torch.zeros(1)}}, "'lin' is 0.0"),
        ({"scalers": "linear", "avg_degree": {"lin": torch.ones(2)}}, r"shape \[2\], wanted one"),
        ({"avg_degree": {"lin": 1.0}}, "avg_degree: given without scalers"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, words):
    csr = CSR.from_edge_index(torch.tensor([[0], [1]]), num_nodes=2)
    with pytest.raises(InputError, match=words):
        aggregate(csr, torch.ones(2, 3), **options)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (torch.ones(2, 2), r"shape \[2, 2\]"),
        (torch.zeros(3), "0.0 nodes, wanted at least one"),
        (torch.zeros(0), "0.0 nodes"),
        (torch.tensor([3, -1]), "holds -1.0"),
        (torch.tensor([True]), "torch.bool"),
    ],
)
def test_a_histogram_that_is_none_is_refused(counts, words):
    with pytest.raises(InputError, match=f"histogram: .*{words}"):
        average_degrees(counts)
