"""ops.attention against plain torch: values, gradients, masks, hubs, threads, refusals."""

import pytest
import torch

from graphkit import ops
from graphkit.errors import InputError
from graphkit.ops import CSR, attention, cpu, reference

SCORES = ["additive", "gatv2", "dot"]
NATIVE = pytest.mark.skipif(cpu.kernels is None, reason=f"no native kernels: {cpu.why_missing}")


def case(score, heads, width, *, edges=True, n=20, m=15, e=120, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ends = [torch.randint(0, k, (e,), generator=generator) for k in (m, max(n - 2, 1))]
    csr = CSR.from_edge_index(torch.stack(ends), size=(m, n))
    columns = heads if score == "additive" else heads * width

    def draw(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    tensors = [draw(m, heads * width), draw(n, columns), draw(m, columns)]
    tensors.append(draw(e, columns) if edges else None)
    options = {"score": score, "heads": heads, "bias": draw(e, heads) if edges else None}
    options["att"] = draw(heads * width) if score == "gatv2" else None
    return csr, tensors, options


def gradients(out, tensors, options):
    wanted = [t for t in (*tensors, options["att"], options["bias"]) if t is not None]
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad(out, wanted, cotangent)


@NATIVE
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (2, 3), (8, 16), (3, 20), (2, 64), (17, 2)])
@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_equals_plain_torch(score, heads, width, edges, dropout):
    csr, tensors, options = case(score, heads, width, edges=edges)
    more = {"dropout": dropout, "seed": torch.tensor([12345678901234])}
    ours = attention(csr, *tensors, **options, **more)
    theirs = reference.attention(csr, *tensors, **options, **more, scale=width**-0.5)
    assert torch.allclose(ours, theirs, atol=1e-12)
    pairs = zip(gradients(ours, tensors, options), gradients(theirs, tensors, options), strict=True)
    for mine, other in pairs:
        assert torch.allclose(mine, other, atol=1e-11)


@NATIVE
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-5), (torch.float16, 8e-3), (torch.bfloat16, 6e-2)]
)
def test_narrow_types_stay_near_float64(score, dtype, bound):
    csr, tensors, options = case(score, 4, 16)
    wide = attention(csr, *tensors, **options)
    exact = gradients(wide, tensors, options)

    def narrow(t):
        return None if t is None else t.detach().to(dtype).requires_grad_()

    tensors = [narrow(t) for t in tensors]
    options = {k: narrow(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    out = attention(csr, *tensors, **options)
    assert out.dtype == dtype
    for mine, other in zip((out, *gradients(out, tensors, options)), (wide, *exact), strict=True):
        assert float((mine - other).detach().abs().max() / other.detach().abs().max()) < bound


@pytest.mark.parametrize("score", SCORES)
def test_gradcheck(score):
    csr, tensors, options = case(score, 2, 3, n=6, m=5, e=14)
    given = [t for t in (*tensors, options["att"], options["bias"]) if t is not None]

    def call(*flat):
        left = list(flat)
        four = [left.pop(0) for _ in range(4)]
        att = left.pop(0) if score == "gatv2" else None
        return attention(csr, *four, score=score, heads=2, att=att, bias=left.pop(0))

    assert torch.autograd.gradcheck(call, given)


@NATIVE
@pytest.mark.parametrize("score", SCORES)
def test_same_bits_for_any_number_of_threads_and_hubs_are_right(score):
    generator = torch.Generator().manual_seed(1)
    e, n = 40_000, 300
    target = torch.randint(0, n, (e,), generator=generator)
    target[: e // 2] = 7  # longer than what is reduced in one piece
    source = torch.randint(0, n, (e,), generator=generator)
    source[e // 2 :] = 9
    csr = CSR.from_edge_index(torch.stack([source, target]), num_nodes=n)
    columns = 4 if score == "additive" else 64
    tensors = [torch.randn(n, 64, generator=generator).requires_grad_()]
    tensors += [torch.randn(n, columns, generator=generator).requires_grad_() for _ in range(2)]
    tensors.append(torch.randn(e, columns, generator=generator).requires_grad_())
    options = {"score": score, "heads": 4, "bias": None}
    options["att"] = (
        torch.randn(64, generator=generator).requires_grad_() if score == "gatv2" else None
    )
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            out = attention(csr, *tensors, **options, dropout=0.2, seed=torch.tensor([3]))
            found.append((out, *gradients(out, tensors, options)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    exact = reference.attention(
        csr, *(t.double() for t in tensors), score=score, heads=4, scale=0.25, dropout=0.2,
        att=None if options["att"] is None else options["att"].double(), seed=torch.tensor([3]),
    )  # fmt: skip
    assert torch.allclose(found[0][0].double(), exact, atol=2e-4)


@pytest.mark.parametrize("score", SCORES)
def test_large_scores_neither_overflow_nor_lose_the_winner(score):
    csr = CSR.from_edge_index(torch.tensor([[0, 1, 2], [0, 0, 0]]), num_nodes=3)
    value = torch.tensor([[1.0], [2.0], [4.0]])
    src = torch.tensor([[1e4], [3e4], [2e4]])
    att = torch.ones(1) if score == "gatv2" else None
    out = attention(csr, value, torch.ones(3, 1), src, score=score, att=att)
    assert out[:, 0].tolist() == [2.0, 0.0, 0.0]


def test_minus_infinity_masks_an_edge_and_its_gradient():
    csr = CSR.from_edge_index(torch.tensor([[0, 1, 0], [2, 2, 1]]), num_nodes=3)
    value = torch.tensor([[1.0], [3.0], [5.0]], requires_grad=True)
    zeros = torch.zeros(3, 1)
    bias = torch.tensor([[float("-inf")], [0.0], [float("-inf")]])
    out = attention(csr, value, zeros, zeros, bias=bias)
    assert out[:, 0].tolist() == [0.0, 0.0, 3.0]  # node 1 has no edge left
    (grad,) = torch.autograd.grad(out.sum(), value)
    assert grad[:, 0].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("where", ["value", "src"])
def test_a_nan_reaches_the_rows_that_read_it_only(where):
    csr = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 1, 0]]), num_nodes=3)
    tensors = {name: torch.ones(3, 1) for name in ("value", "dst", "src")}
    tensors[where][0] = float("nan")
    out = attention(csr, **tensors)[:, 0]
    assert bool(out[1].isnan())
    assert out[0] == 1.0
    assert out[2] == 0.0


def test_empty_graphs_and_isolated_nodes():
    for n, e in ((0, 0), (3, 0), (1, 1)):
        csr = CSR.from_edge_index(torch.zeros(2, e, dtype=torch.int64), num_nodes=n)
        value = torch.ones(n, 4, requires_grad=True)
        scores = torch.zeros(n, 2)
        out = attention(csr, value, scores, scores, heads=2)
        assert out.shape == (n, 4)
        (grad,) = torch.autograd.grad(out.sum(), value)
        assert grad.sum() == 4.0 * e


def test_dropout_keeps_the_promised_share_and_scale():
    factors = reference.keep_factors(torch.tensor([99]), torch.arange(50_000), 4, 0.3)
    assert abs(float((factors == 0).double().mean()) - 0.3) < 0.005
    assert torch.allclose(factors[factors > 0], torch.tensor(1 / 0.7))
    other = reference.keep_factors(torch.tensor([100]), torch.arange(50_000), 4, 0.3)
    agree = ((factors == 0) & (other == 0)).double().mean()
    assert abs(float(agree) - 0.09) < 0.005  # independent of each other
    pairs = ((factors[:, 0] == 0) & (factors[:, 1] == 0)).double().mean()
    assert abs(float(pairs) - 0.09) < 0.005


def test_compiles_whole():
    csr, tensors, options = case("dot", 2, 8, dtype=torch.float32)
    leaves = [t.detach() for t in tensors]

    def call(*t):
        return attention(csr, *t, score="dot", heads=2)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(*leaves), call(*leaves), atol=1e-6)


@NATIVE
def test_opcheck():
    csr, tensors, options = case("gatv2", 2, 4)
    t = csr.transpose()
    arguments = (
        *tensors, options["att"], options["bias"], None, csr.rowptr, csr.col, csr.eid, t.rowptr,
        t.col, t.eid, "gatv2", 2, 0.2, 1.0, 0.0, True,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.graphkit.attention, arguments)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"score": "gat"}, "score: 'gat'"),
        ({"heads": 3}, "heads: 3"),
        ({"value": torch.zeros(2, 4)}, "value: shape"),
        ({"dst": torch.zeros(3, 4)}, "dst: shape"),
        ({"src": torch.zeros(3, 2, dtype=torch.float64)}, "src: dtype"),
        ({"bias": torch.zeros(1, 2)}, "bias: shape"),
        ({"dst": torch.zeros(3, 2, device="meta")}, "dst: on meta"),
        ({"att": torch.zeros(4)}, "att: given"),
        ({"dropout": 1.5}, "dropout: 1.5"),
    ],
)
def test_bad_input_is_named(change, named):
    csr = CSR.from_edge_index(torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
    arguments = {
        "value": torch.zeros(3, 4), "dst": torch.zeros(3, 2), "src": torch.zeros(3, 2), "heads": 2,
    }  # fmt: skip
    with pytest.raises(InputError, match=named):
        attention(csr, **{**arguments, **change})


@NATIVE
def test_a_corrupt_graph_is_refused_not_followed():
    rowptr, col = torch.tensor([0, 1, 2]), torch.tensor([0, 10**12])
    with pytest.raises(IndexError, match="col"):
        attention(CSR(rowptr, col, None, 2, 2), *(torch.zeros(2, 1) for _ in range(3)))


def test_the_reference_backend_serves_too():
    csr, tensors, options = case("dot", 2, 4)
    with ops.backend("reference"):
        other = attention(csr, *tensors, **options)
    assert torch.allclose(attention(csr, *tensors, **options), other)


def test_features_of_no_width_are_no_error():
    csr, tensors, options = case("dot", 2, 0)
    assert attention(csr, *tensors, **options).shape == (20, 0)


@pytest.mark.parametrize("seed", [-1, -(2**63)])
def test_a_negative_seed_draws_the_mask_of_the_reference(seed):
    csr, tensors, options = case("additive", 2, 4)
    more = {"dropout": 0.5, "seed": torch.tensor([seed])}
    with ops.backend("reference"):
        other = attention(csr, *tensors, **options, **more)
    assert torch.allclose(attention(csr, *tensors, **options, **more), other)
