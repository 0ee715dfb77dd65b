"""edge_softmax: PyG's softmax over destinations, on CSR."""

import pytest
import torch
from op_cases import GRAPHS, random_graph
from torch_geometric.utils import softmax

from graphkit.errors import InputError
from graphkit.ops import CSR, attention, backend, edge_softmax

EVERY = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
HEADS = pytest.mark.parametrize("heads", [(), (1,), (3,)], ids=["flat", "one", "three"])


def scores(csr, heads=(), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(csr.num_entries, *heads, generator=generator, dtype=dtype)


def run(function, score):
    leaf = score.clone().requires_grad_()
    out = function(leaf)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return out.detach(), torch.autograd.grad(out, leaf, cotangent)[0]


@EVERY
@HEADS
def test_equals_pyg_and_the_reference(graph, heads):
    csr = graph.csr()
    score = scores(csr, heads)
    ours = run(lambda s: edge_softmax(csr, s), score)
    wanted = run(lambda s: softmax(s, graph.edge_index[1].long(), num_nodes=graph.size[1]), score)
    with backend("reference"):
        plain = run(lambda s: edge_softmax(csr, s), score)
    for a, b, c in zip(ours, wanted, plain, strict=True):
        assert a.shape == score.shape
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)  # PyG adds 1e-16 to the sums
        torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-12)


@HEADS
def test_gradcheck(heads):
    csr = random_graph(6, 6, 14, seed=3).csr()
    leaf = scores(csr, heads).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: edge_softmax(csr, s), leaf, nondet_tol=0.0)


def test_weights_are_those_of_attention():
    csr = random_graph(20, 20, 90).csr()
    generator = torch.Generator().manual_seed(2)
    value = torch.randn(20, 8, generator=generator, dtype=torch.float64)
    src, dst = (torch.randn(20, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    sources, targets = csr.edge_index().long()
    score = torch.nn.functional.leaky_relu(src[sources] + dst[targets], 0.2)
    weight = edge_softmax(csr, score)
    messages = (value[sources].view(-1, 2, 4) * weight[:, :, None]).flatten(1)
    summed = torch.zeros_like(value).index_add(0, targets, messages)
    wanted = attention(csr, value, dst, src, heads=2, score="additive", negative_slope=0.2)
    torch.testing.assert_close(summed, wanted)


def test_large_scores_and_rows_that_are_shut_off():
    csr = CSR.from_edge_index(torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 1, 2]]), 3)
    inf = float("inf")
    out = edge_softmax(csr, torch.tensor([1e4, 1e4, -inf, -inf, -1e30]))
    assert out.tolist() == [0.5, 0.5, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_types(dtype):
    csr = random_graph(30, 30, 200).csr()
    score = scores(csr, (4,)).to(dtype)
    out, gradient = run(lambda s: edge_softmax(csr, s), score)
    wide = edge_softmax(csr, score.double())
    assert out.dtype == gradient.dtype == dtype
    torch.testing.assert_close(out, wide.to(dtype))


def test_same_bits_for_any_number_of_threads():
    csr = random_graph(300, 300, 20_000).csr()
    score, before = scores(csr, (4,), torch.float32), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(run(lambda s: edge_softmax(csr, s), score))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_compiled_in_one_graph():
    def weigh(edge_index, score):
        return edge_softmax(CSR.from_edge_index(edge_index, 20), score)

    graph = random_graph(20, 20, 90)
    score = scores(graph.csr(), (2,))
    compiled = torch.compile(weigh, fullgraph=True, backend="aot_eager")
    ours = run(lambda s: compiled(graph.edge_index.clone(), s), score)
    for a, b in zip(ours, run(lambda s: weigh(graph.edge_index, s), score), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (torch.zeros(4), r"score: shape \[4\], wanted \[3\] or \[3, H\]"),
        (torch.zeros(3, 1, 1), r"score: shape \[3, 1, 1\]"),
        (torch.zeros(3, dtype=torch.int64), "score: dtype torch.int64"),
    ],
)
def test_refuses(score, words):
    csr = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 1]]), 3)
    with pytest.raises(InputError, match=words):
        edge_softmax(csr, score)
