"""graphkit.compat.torch_scatter beside the package: values, places, gradients, signatures."""

import gc
import inspect
import weakref

import pytest
import torch

from graphkit.compat import torch_scatter as ours
from graphkit.compat.torch_scatter import groups
from graphkit.errors import InputError
from graphkit.ops import backend

pytestmark = pytest.mark.usefixtures("one_thread")

theirs = pytest.importorskip("torch_scatter")

SCATTER = ("sum", "add", "mul", "mean", "min", "max")
SEGMENT = ("sum", "add", "mean", "min", "max")
COMPOSITE = ("std", "softmax", "log_softmax", "logsumexp")
FUNCTIONS = [name for name in ours.__all__ if callable(getattr(ours, name))]
DTYPES = (torch.float32, torch.float64, torch.int64)
# shape of src, dim, shape of the index
LAYOUTS = [
    ((9,), 0, (9,)),
    ((9,), -1, (9,)),
    ((9, 5), 0, (9,)),
    ((9, 5), 1, (5,)),
    ((9, 5), -1, (5,)),
    ((9, 5), 0, (9, 1)),
    ((9, 5), 0, (9, 5)),
    ((9, 5), -2, (9, 5)),
    ((4, 6, 3), 0, (4,)),
    ((4, 6, 3), 1, (6,)),
    ((4, 6, 3), 2, (3,)),
    ((4, 6, 3), -2, (1, 6)),
    ((4, 6, 3), 1, (4, 6)),
    ((4, 6, 3), 1, (4, 6, 3)),
    ((4, 6, 3), 2, (1, 6, 3)),
]


def values(shape, dtype=torch.float64):
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(-9, 9, shape, dtype=dtype)


def indices(shape, high=4):
    return torch.randint(0, high, shape)


def tuple_of(result):
    return result if isinstance(result, tuple) else (result,)


def both(name, src, index, out=None, gradient=True, **options):
    """Call the function in both packages and compare results, ``out`` and gradients."""
    seen = []
    for package in (ours, theirs):
        leaf = src.clone().requires_grad_(gradient and src.is_floating_point())
        kept = None if out is None else out.clone()
        if kept is not None:
            options["out"] = kept
        result = tuple_of(getattr(package, name)(leaf, index, **options))
        grad = None
        if leaf.requires_grad:
            weight = torch.linspace(1, 2, result[0].numel(), dtype=src.dtype)
            (result[0] * weight.view(result[0].shape)).sum().backward()
            grad = leaf.grad
        seen.append((result, kept, grad))
    (a, kept_a, grad_a), (b, kept_b, grad_b) = seen
    close = {"rtol": 1e-5, "atol": 1e-5} if src.dtype == torch.float32 else {}
    for mine, wanted in zip(a, b, strict=True):
        assert mine.is_contiguous()
        torch.testing.assert_close(mine, wanted, **close)
    if out is not None:
        torch.testing.assert_close(kept_a, kept_b, **close)
    if grad_a is not None:
        torch.testing.assert_close(grad_a, grad_b, **close)
    return a


@pytest.mark.parametrize("name", [*FUNCTIONS, "utils.broadcast"])
def test_signatures_are_those_of_the_package(name):
    def shape(package):
        function = package
        for part in name.split("."):
            function = getattr(function, part)
        return [
            (p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()
        ]

    assert shape(ours) == shape(theirs)


def test_nothing_of_the_package_is_missing():
    assert set(theirs.__all__) - {"torch_scatter", "__version__"} == set(FUNCTIONS)
    assert {n for n in dir(theirs.composite) if n.startswith("scatter_")} <= set(
        dir(ours.composite)
    )
    assert ours.__version__.split(".")[:2] == ["2", "1"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", SCATTER)
def test_scatter(name, layout, dtype):
    shape, dim, index_shape = layout
    src, index = values(shape, dtype), indices(index_shape)
    for dim_size in (None, 7):
        both(f"scatter_{name}", src, index, dim=dim, dim_size=dim_size)
    both("scatter", src, index, dim=dim, reduce=name)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", COMPOSITE)
def test_composite(name, layout):
    shape, dim, index_shape = layout
    # Two of each group at least: at a deviation of zero theirs has no gradient.
    along = torch.arange(shape[dim]) % 2 if shape[dim] > 3 else torch.zeros(shape[dim]).long()
    place = [1] * len(index_shape)
    place[(dim % len(shape)) if len(index_shape) > 1 else 0] = -1
    index = along.view(place).expand(index_shape)
    src = values(shape)
    both(f"scatter_{name}", src, index, dim=dim)
    if name == "std":
        both("scatter_std", src, index, dim=dim, unbiased=False)
    if name != "std":
        both(f"scatter_{name}", src, index, dim=dim, dim_size=5)
    else:
        torch.testing.assert_close(
            ours.scatter_std(src, index, dim, dim_size=5),
            theirs.scatter_std(src, index, dim, dim_size=5),
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x[1] == 0 or len(x[2]) > 1], ids=str)
@pytest.mark.parametrize("name", SEGMENT)
def test_segment_coo(name, layout, dtype):
    shape, _, index_shape = layout
    src, index = values(shape, dtype), indices(index_shape).sort(-1).values
    gradient = 1 not in index_shape  # there wrong or refused where the index is expanded
    for dim_size in (None, 7):
        both(f"segment_{name}_coo", src, index, gradient=gradient, dim_size=dim_size)
    both("segment_coo", src, index, gradient=gradient, reduce=name)


POINTERS = [
    ((9,), [0, 2, 2, 5, 9]),
    ((9, 5), [0, 9]),
    ((9, 5), [0, 0, 4, 9]),
    ((9,), [1, 2, 2, 5]),
    ((4, 6, 3), [[0, 2, 6]]),
    ((4, 6, 3), [[0, 2, 6], [0, 0, 6], [0, 3, 6], [0, 6, 6]]),
    ((4, 6, 3), [[0, 2, 5], [1, 1, 6], [0, 3, 6], [0, 6, 6]]),
    ((2, 2, 3, 2), [[[0, 1, 3], [0, 0, 3]]]),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "pointer"), POINTERS, ids=str)
@pytest.mark.parametrize("name", SEGMENT)
def test_segment_csr(name, shape, pointer, dtype):
    src, pointer = values(shape, dtype), torch.tensor(pointer)
    # The gradient of what lies in no range is not initialised there.
    gradient = bool((pointer[..., 0] == 0).all() and (pointer[..., -1] == max(shape[:2])).all())
    both("segment_csr", src, pointer, gradient=gradient, reduce=name)
    result = both(f"segment_{name}_csr", src, pointer, gradient=gradient)[0]
    out = values(result.shape, dtype)
    both(f"segment_{name}_csr", src, pointer, gradient=gradient, out=out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gather(dtype):
    for shape, index in (
        ((4,), [0, 0, 2, 3, 3]),
        ((4, 3), [3, 1, 1]),
        ((2, 4, 3), [[0, 0, 2], [1, 3, 3]]),
    ):
        src, index = values(shape, dtype), torch.tensor(index).sort(-1).values
        result = both("gather_coo", src, index)[0]
        both("gather_coo", src, index, out=values(result.shape, dtype))
    for shape, pointer in (
        ((4,), [0, 2, 2, 3, 7]),
        ((4, 3), [0, 2, 2, 3, 7]),
        ((2, 3, 2), [[0, 2, 2, 4], [0, 1, 3, 4]]),
        ((2, 3, 2), [[0, 2, 2, 4]]),
    ):
        src = values(shape, dtype)
        result = both("gather_csr", src, torch.tensor(pointer))[0]
        both("gather_csr", src, torch.tensor(pointer), out=values(result.shape, dtype))
    src = values((3, 2), dtype)
    assert ours.gather_coo(src[None], torch.tensor([[2, 0]])).tolist() == [src[[2, 0]].tolist()]
    assert ours.gather_csr(values((0, 2)), torch.tensor([0])).shape == (0, 2)
    assert ours.gather_coo(src, torch.tensor([], dtype=torch.long)).shape == (0, 2)
    assert ours.gather_csr(values((2,)), torch.tensor([2, 3, 4]))[:2].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_out_takes_part(layout, dtype):
    shape, dim, index_shape = layout
    src, index = values(shape, dtype), indices(index_shape)
    size = list(shape)
    size[dim] = 6
    for name in SCATTER:
        both(f"scatter_{name}", src, index, dim=dim, out=values(size, dtype))
    if dtype.is_floating_point:
        for name in ("std", "logsumexp"):
            mine, wanted = values(size, dtype), None
            wanted = mine.clone().abs_()
            mine.abs_()
            a = getattr(ours, f"scatter_{name}")(src, index, dim, out=mine)
            b = getattr(theirs, f"scatter_{name}")(src, index, dim, out=wanted)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


def test_out_of_a_graph():
    def run(package, name):
        src = torch.arange(1.0, 6.0, dtype=torch.float64).requires_grad_()
        start = torch.full((4,), 3.0, dtype=torch.float64, requires_grad=True)
        out = start * 1
        result = getattr(package, name)(src, torch.tensor([0, 0, 1, 1, 3]), out=out)
        assert tuple_of(result)[0] is out
        (out * torch.arange(1.0, 5.0)).sum().backward()
        return out.detach(), src.grad, start.grad

    for name in ("scatter_sum", "scatter_mean"):
        for mine, wanted in zip(run(ours, name), run(theirs, name), strict=True):
            torch.testing.assert_close(mine, wanted)
    for name in ("scatter_mul", "scatter_max", "segment_sum_coo", "segment_mean_coo"):
        mine, wanted = run(ours, name), run(theirs, name)
        torch.testing.assert_close(mine[:2], wanted[:2])
        assert mine[2] is not None  # they give none
    value, place = ours.segment_min_coo(
        torch.tensor([3.0, 1.0]), torch.tensor([0, 1]), out=torch.full((3,), 2.0)
    )
    assert value.tolist() == [2, 1, 2]
    assert place.tolist() == [2, 1, 2]


@pytest.mark.parametrize("shape", [(0,), (0, 2), (3, 0), (2, 0, 3)], ids=str)
def test_empty(shape):
    dim = shape.index(0) if 0 in shape[:1] or len(shape) == 3 else 0
    src, index = values(shape), indices((shape[dim],), 2)
    assert (ours.scatter_mul(src, index, dim, dim_size=3) == 1).all()
    for name in ("sum", "mean", "min", "max"):
        both(f"scatter_{name}", src, index, dim=dim, dim_size=3)
        if not (name == "mean" and shape == (3, 0)):  # theirs fails
            both(f"scatter_{name}", src, index, dim=dim)
    for name in COMPOSITE:
        assert getattr(ours, f"scatter_{name}")(src, index, dim).numel() == 0
    if dim == 0:  # their backward pass divides by zero
        pointer = torch.tensor([0, 0, shape[0]])
        for name in SEGMENT:
            both(f"segment_{name}_coo", src, index.sort().values, gradient=False, dim_size=3)
            both(f"segment_{name}_csr", src, pointer, gradient=False)
            both(f"segment_{name}_csr", src, pointer[:1], gradient=False)
            for function, where in (
                (f"segment_{name}_coo", index),
                (f"segment_{name}_csr", pointer),
            ):
                leaf = src.clone().requires_grad_()
                tuple_of(getattr(ours, function)(leaf, where))[0].sum().backward()
                assert leaf.grad.shape == shape


@pytest.mark.parametrize("largest", [False, True])
def test_ties_go_to_the_first(largest):
    src = torch.randint(0, 3, (60, 4)).double()
    index = indices((60,), 5)
    name = "max" if largest else "min"
    for function, where in (
        (f"scatter_{name}", {"index": index, "dim": 0}),
        (f"segment_{name}_coo", {"index": index.sort().values}),
        (f"segment_{name}_csr", {"index": torch.tensor([0, 7, 7, 40, 60])}),
    ):
        places = both(function, src, **where)[1]
        integers = tuple_of(getattr(ours, function)(src.long(), *where.values()))[1]
        assert torch.equal(places, integers)
    for chosen in ("reference", "torch_scatter"):
        with backend(chosen):
            again = ours.scatter_max(src, index, 0)
        torch.testing.assert_close(again, theirs.scatter_max(src, index, 0))


def test_nan_and_infinity():
    src = torch.tensor([1.0, float("nan"), 2.0, -torch.inf, -torch.inf])
    index = torch.tensor([0, 0, 1, 2, 2])
    for tensor in (src, src[:, None].expand(-1, 2)[:, :1]):
        value, place = ours.scatter_max(tensor, index, 0)
        assert place.flatten().tolist() == [1, 2, 3]
        assert value.flatten()[0].isnan()
        assert value.flatten()[2] == -torch.inf
    x = torch.tensor([-torch.inf, -torch.inf, 1.0, -torch.inf], requires_grad=True)
    index = torch.tensor([0, 0, 1, 1])
    for name in ("softmax", "log_softmax", "logsumexp"):
        function = f"scatter_{name}"
        mine, wanted = getattr(ours, function)(x, index), getattr(theirs, function)(x, index)
        torch.testing.assert_close(mine, wanted, equal_nan=True)
    (grad,) = torch.autograd.grad(ours.scatter_logsumexp(x, index).sum(), x)
    assert grad.tolist() == [0, 0, 1, 0]


def differentiable():
    index, dense = indices((6,), 3), indices((6, 2), 3)
    pointer, gaps = torch.tensor([0, 2, 2, 6]), torch.tensor([1, 2, 2, 5])
    for name in SCATTER:
        for where in (index, dense):
            yield f"scatter_{name}", (6, 2), (where, 0)
    for name in SEGMENT:
        yield f"segment_{name}_coo", (6, 2), (index.sort().values,)
        yield f"segment_{name}_csr", (6, 2), (pointer,)
        yield f"segment_{name}_csr", (6, 2), (gaps,)
    for name in COMPOSITE:
        yield f"scatter_{name}", (6, 2), (torch.tensor([0, 1, 0, 1, 0, 1]), 0)
        yield f"scatter_{name}", (2, 6), (torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]]), 1)
    yield "gather_coo", (3, 2), (index,)
    yield "gather_csr", (3, 2), (pointer,)


def test_first_and_second_derivatives():
    for name, shape, where in differentiable():
        src = values(shape).requires_grad_()

        def run(x, name=name, where=where):
            return tuple_of(getattr(ours, name)(x, *where))[0]

        assert torch.autograd.gradcheck(run, src), name
        assert torch.autograd.gradgradcheck(run, src), name
    x = torch.tensor([0.0, 2.0, 3.0], requires_grad=True)
    ours.scatter_mul(x, torch.tensor([0, 0, 0])).sum().backward()
    assert x.grad.tolist() == [6, 0, 0]
    x = torch.tensor([2.0, 2.0, 5.0], requires_grad=True)
    ours.scatter_std(x, torch.tensor([0, 0, 1])).sum().backward()
    assert x.grad.tolist() == [0, 0, 0]


def test_results_can_be_changed_in_place():
    src, index = values((5, 3)).requires_grad_(), torch.tensor([0, 1, 1, 0, 2])
    pointer = torch.tensor([0, 2, 5])
    for result in (
        ours.scatter_sum(src, index, 0),
        ours.scatter_max(src, index, 0)[0],
        ours.scatter_mean(src, indices((3,)), 1),
        ours.segment_csr(src, pointer),
        ours.gather_coo(src, index),
    ):
        result[0] = 0
        result.add_(1).sum().backward()


def test_an_index_is_sorted_once(monkeypatch):
    built = []
    monkeypatch.setattr(
        groups, "sort_arrays", lambda *a, real=groups.sort_arrays: built.append(1) or real(*a)
    )
    edges, src = indices((2, 30)), values((30, 3))
    for _ in range(3):
        ours.scatter_sum(src, edges[1], 0)
        ours.scatter_max(src, edges[1][:, None].expand_as(src), 0, dim_size=4)
        ours.scatter_softmax(src.T, edges[1].view(1, -1).expand(3, -1), dim_size=4)
    assert len(built) == 1 or int(edges[1].max()) != 3
    before = ours.scatter_sum(src, edges[1], 0, dim_size=4)
    edges[1] = 0
    after = ours.scatter_sum(src, edges[1], 0, dim_size=4)
    torch.testing.assert_close(after[0], src.sum(0))
    assert not torch.equal(before, after)
    for start in range(20):  # windows over one tensor do not pile up
        ours.scatter_sum(src[:5], edges[0, start : start + 5], 0)
    assert len(groups._memo[edges][1]) <= groups._RECENT


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_memo_keeps_no_index_alive(dtype):
    index = indices((20,)).to(dtype)
    ours.scatter_sum(values((20, 2)), index, 0)
    ours.segment_csr(values((20, 2)), index.sort().values[:3])
    watched = weakref.ref(index)
    del index
    gc.collect()
    assert watched() is None


def test_other_types():
    src, index = values((20, 4)), indices((20,))
    wanted = theirs.scatter_max(src, index, 0)
    torch.testing.assert_close(ours.scatter_max(src, index.int(), 0), wanted)
    for dtype in (torch.float16, torch.bfloat16):
        mine, there = (p.scatter_max(src.to(dtype), index, 0) for p in (ours, theirs))
        torch.testing.assert_close(mine, there)
        exact = theirs.scatter_sum(src.to(dtype).double(), index, 0).to(dtype)
        torch.testing.assert_close(ours.scatter_sum(src.to(dtype), index, 0), exact)
    flags = torch.tensor([True, False, True])
    groups_of_flags = torch.tensor([0, 1, 0])
    assert ours.scatter_sum(flags, groups_of_flags).tolist() == [True, False]
    layer = torch.nn.Parameter(src)
    torch.testing.assert_close(ours.scatter_max(layer, index, 0)[1], wanted[1])
    with torch.inference_mode():
        torch.testing.assert_close(ours.scatter_max(src, index.clone(), 0), wanted)


def test_compiled():
    src, index = values((20, 4)), indices((20,))

    def run(x):
        total = ours.scatter_sum(x, index, 0, dim_size=4)
        return (
            ours.scatter_softmax(x, index, 0, dim_size=4),
            total,
            ours.scatter_max(x, index, 0, dim_size=4)[1],
        )

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(src), run(src))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, i: ours.scatter_sum(s, i, 0, dim_size=2), "index: 3 at position 4, wanted 0..1"),
        (lambda s, i: ours.scatter_max(s.long(), i, 0, dim_size=2), "index: 3 at position 4"),
        (lambda s, i: ours.scatter_mul(s, i - 1, 0), "index: -1 at position 0"),
        (lambda s, i: ours.scatter_softmax(s, i - 1, 0), "index: -1"),
        (lambda s, i: ours.scatter_sum(s, i, 0, dim_size=0), "has size 0"),
        (lambda s, i: ours.scatter_sum(s, i, 0, out=s.new_zeros(2, 3)), "index: 3"),
        (lambda s, i: ours.scatter_sum(s, i, 0, out=s.new_zeros(4, 2)), "out: shape"),
        (lambda s, i: ours.scatter_sum(s, i, 1), "index: shape"),
        (lambda s, i: ours.scatter_sum(s, i, 2), "dim: 2"),
        (lambda s, i: ours.scatter_sum(s, i, 0, dim_size=-1), "dim_size: -1"),
        (lambda s, i: ours.scatter_sum(s, i.double(), 0), "index: dtype"),
        (lambda s, i: ours.scatter(s, i, 0, reduce="summ"), "reduce: 'summ'.*mean 'sum'"),
        (lambda s, i: ours.scatter_softmax(s.long(), i, 0), "src: dtype"),
        (lambda s, i: ours.segment_coo(s, i, dim_size=3), "index: 3"),
        (lambda s, i: ours.segment_csr(s, torch.tensor([0, 6])), "indptr: values"),
        (lambda s, i: ours.segment_csr(s, torch.tensor([0, 3, 1, 5])), "indptr: values"),
        (lambda s, i: ours.segment_csr(s.long(), torch.tensor([-1, 3])), "indptr: values"),
        (lambda s, i: ours.segment_csr(s, torch.tensor([0, 5]), out=s), "out: shape"),
        (lambda s, i: ours.gather_coo(s, i + 2), "index: 5"),
        (lambda s, i: ours.gather_csr(s, torch.tensor([0, 5])), "indptr: 1 ranges"),
        (lambda s, i: ours.gather_csr(s, torch.tensor([0, 2, 1, 3, 4, 5])), "indptr: values"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call(values((5, 3)), torch.tensor([0, 1, 0, 2, 3]))
