"""Properties of the ops on graphs that nobody thought of: hypothesis draws them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Graph

from graphkit.ops import CSR, REDUCES, aggregate, backend, gated_aggregate, segment

pytestmark = pytest.mark.usefixtures("native")
MANY = settings(max_examples=120, deadline=None)


@st.composite
def graphs(draw):
    sources, destinations = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    edges = draw(st.integers(0, 150))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    # Powers of a uniform draw give skewed degrees: hubs and isolated nodes on the same graph.
    power = draw(st.sampled_from([1, 3, 8]))
    ends = [
        (torch.rand(edges, generator=generator) ** power * limit).long().clamp(max=limit - 1)
        for limit in (sources, destinations)
    ]
    return Graph(torch.stack(ends), (sources, destinations)), generator


def features(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@MANY
@given(graphs(), st.sampled_from(REDUCES), st.integers(1, 40))
def test_aggregate_equals_torch_scatter(drawn, reduce, width):
    """An oracle by other authors, over the edges as they were given."""
    torch_scatter = pytest.importorskip("torch_scatter")
    graph, generator = drawn
    source, target = graph.edge_index
    x = features(generator, graph.size[0], width)
    out = aggregate(graph.csr(), x, reduce=reduce)
    rows = graph.size[1]
    if reduce in ("var", "std"):
        mean = torch_scatter.scatter_mean(x[source], target, 0, dim_size=rows)
        centred = (x[source] - mean[target]).square()
        wanted = torch_scatter.scatter_mean(centred, target, 0, dim_size=rows)
        if reduce == "std":
            wanted = torch.where(wanted > 1e-5, wanted.sqrt(), 0.0)
    else:
        wanted = torch_scatter.scatter(x[source], target, 0, dim_size=rows, reduce=reduce)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


@MANY
@given(
    graphs(), st.sampled_from(["mul", "add", "add_relu"]), st.sampled_from(["sum", "mean", "max"])
)
def test_messages_equal_torch_scatter_with_gradients(drawn, message, reduce):
    torch_scatter = pytest.importorskip("torch_scatter")
    graph, generator = drawn
    source, target = graph.edge_index
    x = features(generator, graph.size[0], 5).requires_grad_()
    edge = features(generator, source.numel(), 5).requires_grad_()
    sent = {"mul": x[source] * edge, "add": x[source] + edge}.get(message)
    if sent is None:
        sent = (x[source] + edge).relu()
    wanted = torch_scatter.scatter(sent, target, 0, dim_size=graph.size[1], reduce=reduce)
    out = aggregate(graph.csr(), x, edge, message=message, reduce=reduce)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
    cotangent = features(generator, *out.shape)
    for ours, theirs in zip(
        torch.autograd.grad(out, [x, edge], cotangent),
        torch.autograd.grad(wanted, [x, edge], cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@MANY
@given(graphs(), st.booleans())
def test_gated_aggregate_equals_its_formula(drawn, normalize):
    torch_scatter = pytest.importorskip("torch_scatter")
    graph, generator = drawn
    source, target = graph.edge_index
    dst = features(generator, graph.size[1], 4)
    src, value = (features(generator, graph.size[0], 4) for _ in range(2))
    edge = features(generator, source.numel(), 4)
    out, gate = gated_aggregate(graph.csr(), dst, src, value, edge, normalize=normalize)
    wanted_gate = dst[target] + src[source] + edge
    opened = wanted_gate.sigmoid()
    wanted = torch_scatter.scatter_add(opened * value[source], target, 0, dim_size=graph.size[1])
    if normalize:
        wanted = wanted / (
            torch_scatter.scatter_add(opened, target, 0, dim_size=graph.size[1]) + 1e-6
        )
    torch.testing.assert_close(gate, wanted_gate, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


@MANY
@given(graphs(), st.sampled_from(REDUCES))
def test_order_of_edges_and_names_of_nodes_do_not_matter(drawn, reduce):
    graph, generator = drawn
    x = features(generator, graph.size[0], 3)
    edge = features(generator, graph.edge_index.size(1), 3)
    out = aggregate(graph.csr(), x, edge, message="mul", reduce=reduce)
    shuffle = torch.randperm(edge.size(0), generator=generator)
    names = [torch.randperm(n, generator=generator) for n in graph.size]
    renamed = torch.stack([n[e] for n, e in zip(names, graph.edge_index, strict=True)])[:, shuffle]
    moved = torch.empty_like(x)
    moved[names[0]] = x
    again = aggregate(
        CSR.from_edge_index(renamed, size=graph.size),
        moved,
        edge[shuffle],
        message="mul",
        reduce=reduce,
    )
    torch.testing.assert_close(again[names[1]], out, rtol=1e-11, atol=1e-11)


@MANY
@given(graphs())
def test_the_backward_of_a_sum_is_the_sum_over_the_transpose(drawn):
    """<A x, y> = <x, A' y>: the adjoint, bit for bit the op on the transposed graph."""
    graph, generator = drawn
    csr = graph.csr()
    x = features(generator, graph.size[0], 6).requires_grad_()
    y = features(generator, graph.size[1], 6)
    (gradient,) = torch.autograd.grad(aggregate(csr, x), x, y)
    torch.testing.assert_close(gradient, aggregate(csr.transpose(), y), rtol=1e-12, atol=1e-12)


@MANY
@given(st.lists(st.integers(0, 6), max_size=12), st.sampled_from(REDUCES), st.integers(0, 2**32))
def test_pooling_a_batch_is_pooling_each_graph(sizes, reduce, seed):
    generator = torch.Generator().manual_seed(seed)
    x = features(generator, sum(sizes), 3)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    whole = segment(x, ptr, reduce)
    for g, (begin, end) in enumerate(zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)):
        alone = segment(x[begin:end], torch.tensor([0, end - begin]), reduce)
        assert torch.equal(whole[g], alone[0])


@MANY
@given(graphs(), st.lists(st.sampled_from(REDUCES), min_size=1, unique=True))
def test_reduces_together_equal_reduces_alone(drawn, reduces):
    graph, generator = drawn
    x = features(generator, graph.size[0], 4)
    together = aggregate(graph.csr(), x, reduce=reduces)
    for position, reduce in enumerate(reduces):
        alone = aggregate(graph.csr(), x, reduce=reduce)
        torch.testing.assert_close(together[:, position], alone, rtol=1e-12, atol=1e-12)


@MANY
@given(graphs(), st.sampled_from(REDUCES), st.sampled_from([torch.float16, torch.bfloat16]))
def test_half_types_are_the_rounded_float32_result(drawn, reduce, dtype):
    """One rounding, at the end: exactly what float32 gives for the same values."""
    graph, generator = drawn
    x = features(generator, graph.size[0], 5).to(dtype)
    ours = aggregate(graph.csr(), x, reduce=reduce)
    wide = aggregate(graph.csr(), x.float(), reduce=reduce)
    assert torch.equal(ours, wide.to(dtype))
    with backend("reference"):
        oracle = aggregate(graph.csr(), x, reduce=reduce)
    torch.testing.assert_close(ours, oracle, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
