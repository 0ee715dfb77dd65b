"""The loss of pairs against sampled negatives: right, differentiable, the same from run to run."""

import math

import pytest
import torch
from logistic_cases import assert_near, make, run

from graphkit.errors import InputError
from graphkit.ops import backend, cpu, sampled_logistic

pytestmark = pytest.mark.usefixtures("one_thread")
needs_kernels = pytest.mark.skipif(cpu.kernels is None, reason="no native kernels")
BACKENDS = [pytest.param("native", marks=needs_kernels), "reference"]
SHAPES = {
    "usual": {},
    "one_negative": {"num_negatives": 1},
    "no_negatives": {"num_negatives": 0},
    "no_neighbours": {"num_neighbours": 0},
    "one_pair": {"pairs": 1},
    "no_pairs": {"pairs": 0},
    "one_of_each": {"users": 1, "items": 1, "pairs": 4},
    "many_neighbours": {"num_neighbours": 40, "items": 50},
    "registers": {"width": 64, "num_negatives": 48, "pairs": 30, "items": 300},
    "registers_and_rest": {"width": 83, "num_negatives": 37, "pairs": 9, "items": 700},
    "narrow": {"width": 1},
    "no_width": {"width": 0},
    "several_tiles": {"items": 5000, "num_negatives": 100, "width": 32},
}


def by_reference(**given):
    with backend("reference"):
        return sampled_logistic(**given)


@pytest.fixture
def native():
    before = cpu.kernels.isa()
    yield cpu.kernels
    cpu.kernels.use_isa(before)


@needs_kernels
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_materialised_loss(shape, shared):
    given = make(**SHAPES[shape], shared=shared)
    wanted = run(given, by_reference)
    assert_near(run(given), wanted, 1e-13)
    single = {k: t.float() if torch.is_tensor(t) and t.is_floating_point() else t
              for k, t in given.items()}  # fmt: skip
    assert_near(run(single), wanted, 1e-5)
    loss = run(given)[0]
    with torch.no_grad():
        assert torch.equal(sampled_logistic(**given), loss)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instruction_set_agrees(native, dtype):
    given = make(width=37, num_negatives=45, dtype=dtype, items=200, pairs=20)
    wanted = run({k: t.double() if torch.is_tensor(t) and t.is_floating_point() else t
                  for k, t in given.items()}, by_reference)  # fmt: skip
    for isa in native.isas():
        native.use_isa(isa)
        assert_near(run(given), wanted, 1e-13 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shape", ["usual", "one_negative", "no_neighbours", "one_of_each"])
def test_gradcheck_with_repeated_items(name, shape):
    given = make(**SHAPES[shape])
    negatives = given["negatives"]
    assert shape == "one_negative" or (negatives[0].unique().numel() < negatives.size(1))
    rest = {k: v for k, v in given.items() if k not in ("user", "item")}
    tables = [given[k].requires_grad_() for k in ("user", "item")]
    with backend(name):
        assert torch.autograd.gradcheck(
            lambda u, i: sampled_logistic(u, i, **rest), tables, nondet_tol=0.0
        )


@pytest.mark.parametrize("name", BACKENDS)
def test_gradients_by_scores_are_weighted_sigmoids(name):
    """One value per row and one row of ones: the gradients of the items are those of the scores."""
    s = torch.tensor([2.0, -1.5, 0.25], dtype=torch.float64)
    item = s[:, None].clone().requires_grad_()
    one = torch.ones(1, 1, dtype=torch.float64)
    beta_item = torch.tensor([0.5, 0.25, 2.0], dtype=torch.float64)
    with backend(name):
        loss = sampled_logistic(
            one, item, torch.tensor([0]), torch.tensor([0]), torch.tensor([[1, 2, 2, 1]]),
            beta_user=2 * one[0], beta_item=beta_item, weights=(0.1, 0.2, 0.3, 0.4),
            negative_weight=8.0,
        )  # fmt: skip
    loss.backward()
    above, below = 0.1 + 0.2 * 2 * 0.5, [0.3 + 0.4 * 2 * b for b in (0.25, 2.0)]
    wanted = [-above * torch.sigmoid(-s[0])] + [
        8 / 4 * 2 * w * torch.sigmoid(x) for w, x in zip(below, s[1:], strict=True)
    ]
    torch.testing.assert_close(item.grad.flatten(), torch.stack(wanted), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", BACKENDS)
def test_zero_embeddings_give_the_weights_times_log_2(name):
    """The toy of three users and three items, worked by hand."""
    beta_user = torch.tensor([0.75**0.5, 0.75**0.5, 2**0.5], dtype=torch.float64)
    beta_item = torch.tensor([0.5**0.5, 0.5, 0.5**0.5], dtype=torch.float64)
    neighbours = torch.tensor([[0, 1], [1, 0], [2, 1]])
    omega = torch.tensor([[0.5, 0.125**0.5], [0.6, 0.08**0.5], [0.5, 0.125**0.5]]).double()
    parts = []
    for negative_weight, scale in ((2.0, 0.5), (0.0, 0.0), (2.0, 0.0)):
        with backend(name):
            loss = sampled_logistic(
                torch.zeros(3, 4).double(), torch.zeros(3, 4).double(), torch.tensor([0]),
                torch.tensor([0]), torch.tensor([[1, 2]]), beta_user=beta_user,
                beta_item=beta_item, weights=(1e-7, 1, 1e-7, 1), negative_weight=negative_weight,
                neighbours=neighbours, neighbour_weights=omega, neighbour_scale=scale, decay=1e-4,
            )  # fmt: skip
        parts.append(float(loss))
    total, positive, without = parts
    assert total == pytest.approx(1.4448893, abs=2e-7)
    assert positive == pytest.approx(0.4244643, abs=1e-7)
    assert without - positive == pytest.approx(0.7246059, abs=2e-7)
    assert total - without == pytest.approx(0.2958191, abs=1e-7)


@needs_kernels
@pytest.mark.parametrize("shared", [False, True])
def test_same_bits_for_any_number_of_threads(shared):
    given = make(
        users=40, items=3000, width=20, pairs=200, num_negatives=150, dtype=torch.float32,
        shared=shared,
    )  # fmt: skip
    first = run(given)
    for threads in (2, 3, 4, 2, 4):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(run(given), first, strict=True))


@needs_kernels
def test_same_bits_in_both_index_types_and_layouts():
    given = make(width=21, num_negatives=30)
    first = run(given)
    narrow = dict(given)
    for key in ("users", "items", "negatives", "neighbours"):
        narrow[key] = given[key].int()
    assert all(torch.equal(a, b) for a, b in zip(run(narrow), first, strict=True))
    mixed = narrow | {"neighbours": given["neighbours"]}
    assert all(torch.equal(a, b) for a, b in zip(run(mixed), first, strict=True))
    strided = dict(given)
    for key in ("users", "beta_user", "beta_item", "items"):
        strided[key] = torch.stack([given[key]] * 2, -1)[..., 0]
    for key in ("negatives", "neighbours", "neighbour_weights", "user", "item"):
        strided[key] = torch.cat([given[key]] * 2, 1)[:, : given[key].size(1)]
    leaves = [strided[k].requires_grad_() for k in ("user", "item")]
    loss = sampled_logistic(**strided)
    found = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))


@needs_kernels
def test_many_pairs_go_in_waves():
    """More items met, and more rows of users, than one wave of the kernel holds."""
    for sizes in ({"pairs": 9000, "num_negatives": 150}, {"pairs": 70_000, "num_negatives": 1}):
        given = make(users=50, items=60, width=2, num_neighbours=1, **sizes)
        assert_near(run(given), run(given, by_reference), 1e-12)


@pytest.mark.parametrize("name", BACKENDS)
def test_large_scores_stay_finite_and_nan_shows(name):
    given = make(width=1, pairs=2, users=2, num_negatives=2, dtype=torch.float32)
    given["user"] = torch.tensor([[1e4], [-1e4]])
    given["users"] = torch.tensor([0, 1])
    with backend(name):
        assert all(t.isfinite().all() for t in run(given))
        given["user"][1] = math.nan
        loss, grad_user, _ = run(given)
    assert loss.isnan()
    assert grad_user[1].isnan().all()
    assert grad_user[0].isfinite().all()


@needs_kernels
def test_gradients_are_scaled_and_made_once():
    given = make()
    loss, *grads = run(given)
    leaves = [given[k].requires_grad_() for k in ("user", "item")]
    out = sampled_logistic(**given)
    (3 * out).backward(retain_graph=True)
    for leaf, grad in zip(leaves, grads, strict=True):
        torch.testing.assert_close(leaf.grad, 3 * grad, rtol=1e-15, atol=0)
    out.backward()
    for leaf, grad in zip(leaves, grads, strict=True):
        torch.testing.assert_close(leaf.grad, 4 * grad, rtol=1e-14, atol=1e-16)


@needs_kernels
@pytest.mark.parametrize("traced", [False, True])
def test_a_second_derivative_is_refused_not_wrong(traced):
    given = make()
    leaves = [given[k].requires_grad_() for k in ("user", "item")]
    if traced:
        names = ("users", "items", "negatives", "beta_user", "beta_item", "neighbours")
        rest = [given[k] for k in (*names, "neighbour_weights")]
        factors = [*given["weights"], 4.0, 0.7, 0.05]
        loss = torch.ops.graphkit.sampled_logistic(*leaves, *rest, factors, True)[0]
    else:
        loss = sampled_logistic(**given)
    first = torch.autograd.grad(3 * loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="twice|autograd formula"):
        (sum(g.square().sum() for g in first) + leaves[0].sum()).backward()


@needs_kernels
@pytest.mark.parametrize("key", ["user", "item"])
def test_only_what_is_asked_for_gets_a_gradient(key):
    given = make()
    wanted = run(given)[1 + (key == "item")]
    given[key].requires_grad_()
    (found,) = torch.autograd.grad(sampled_logistic(**given), given[key])
    assert torch.equal(found, wanted)


@needs_kernels
@pytest.mark.parametrize("shape", ["one_negative", "no_pairs"])
def test_opcheck(shape):
    given = make(**SHAPES[shape])
    order = ("user", "item", "users", "items", "negatives", "beta_user", "beta_item", "neighbours",
             "neighbour_weights")  # fmt: skip
    tensors = [given[k] for k in order]
    for t in tensors[:2]:
        t.requires_grad_()
    factors = [*given["weights"], 4.0, 0.7, 0.05]
    torch.library.opcheck(torch.ops.graphkit.sampled_logistic, (*tensors, factors, True))
    grads = [t.detach() for t in tensors[:2]]
    torch.library.opcheck(
        torch.ops.graphkit.sampled_logistic_backward, (torch.tensor(2.0).double(), *grads)
    )


@needs_kernels
def test_compiles_whole():
    given = make(width=16)
    wanted = run(given)
    compiled = torch.compile(sampled_logistic, fullgraph=True, backend="aot_eager")
    assert_near(run(given, compiled), wanted, 1e-14)


@needs_kernels
def test_nothing_of_the_size_of_the_gathered_rows_is_kept(monkeypatch):
    given = make(users=50, items=400, width=64, pairs=64, num_negatives=256, dtype=torch.float32)
    sizes = []
    plain = cpu.empty

    def empty(like, shape):
        sizes.append(math.prod(shape))
        return plain(like, shape)

    monkeypatch.setattr(cpu, "empty", empty)
    run(given)
    assert sizes == [50 * 64, 400 * 64]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bad", [-1, 9, 2**31 - 1])
@pytest.mark.parametrize("key", ["users", "items", "negatives", "neighbours"])
def test_ids_out_of_range_are_refused_by_name(name, threads, grad, bad, key):
    torch.set_num_threads(threads)
    for dtype in (torch.int32, torch.int64):
        given = make(ids=dtype, users=9, pairs=300, num_negatives=40)
        given[key].flatten()[5] = bad
        given["user"].requires_grad_(grad)
        with backend(name), pytest.raises(InputError, match=f"^{key}: id {bad} .* wanted 0..8"):
            sampled_logistic(**given)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_table_without_rows(name):
    given = make(users=0)
    with backend(name), pytest.raises(InputError, match="^users: id 0 at position 0"):
        run(given)
    given = make(users=0, pairs=0)
    with backend(name):
        loss, grad_user, grad_item = run(given)
    assert float(loss) == pytest.approx(0.025 * float(given["item"].square().sum()))
    assert grad_user.shape == (0, 5)
    torch.testing.assert_close(grad_item, 0.05 * given["item"])


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("user", lambda t: t[0]),
        ("user", lambda t: t.half()),
        ("user", lambda t: t.long()),
        ("item", lambda t: t[:, 1:]),
        ("item", lambda t: t.float()),
        ("item", lambda t: t.to("meta")),
        ("users", lambda t: t[None]),
        ("users", lambda t: t.float()),
        ("users", lambda t: t.to(torch.int16)),
        ("items", lambda t: t[1:]),
        ("items", lambda t: t.int()),
        ("negatives", lambda t: t[1:]),
        ("negatives", lambda t: t.int()),
        ("negatives", lambda t: t[None]),
        ("negatives", lambda t: t.to("meta")),
        ("beta_user", lambda t: t[1:]),
        ("beta_user", lambda t: None),
        ("beta_user", lambda t: t.float()),
        ("beta_item", lambda t: t[:, None]),
        ("beta_item", lambda t: None),
        ("beta_item", lambda t: t.requires_grad_()),
        ("weights", lambda w: w[:3]),
        ("weights", lambda w: (*w[:3], -1.0)),
        ("weights", lambda w: (math.nan, *w[1:])),
        ("negative_weight", lambda w: -w),
        ("neighbour_scale", lambda w: math.inf),
        ("decay", lambda w: -w),
        ("neighbours", lambda t: t[1:]),
        ("neighbours", lambda t: None),
        ("neighbours", lambda t: t.float()),
        ("neighbours", lambda t: t.to("meta")),
        ("neighbour_weights", lambda t: t[:, 1:]),
        ("neighbour_weights", lambda t: None),
        ("neighbour_weights", lambda t: t.float()),
    ],
)
def test_what_does_not_fit_is_refused_by_name(key, change):
    given = make()
    given[key] = change(given[key])
    with pytest.raises(InputError, match=rf"^{key}(\[\d\])?: "):
        sampled_logistic(**given)


def test_weights_of_beta_need_the_betas():
    given = make() | {"beta_user": None, "beta_item": None}
    with pytest.raises(InputError, match="^beta_user: missing"):
        sampled_logistic(**given)
    given["weights"] = (1.0, 0.0, 1.0, 0.0)
    assert sampled_logistic(**given).isfinite()
