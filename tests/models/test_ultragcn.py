"""UltraGCN: worked numbers, its three kinds of negatives, what it learns, what it refuses."""

import math
import sys
import warnings

import pytest
import torch

from graphkit import ops
from graphkit.data.interactions import Interactions
from graphkit.errors import InputError
from graphkit.models import InteractionBatch, UltraGCN, create_model
from graphkit.models.ultragcn import constraint_weights
from graphkit.ops import dense_logistic

pytestmark = pytest.mark.usefixtures("one_thread")
# R = [[1,1,0],[0,1,1],[0,1,0]]
TOY = Interactions(torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 1]]))
BACKENDS = [
    pytest.param("native", marks=pytest.mark.skipif(ops.cpu.kernels is None, reason="no kernels")),
    "reference",
]


def toy(**arguments):
    settings = {"dim": 4, "num_neighbours": 2, "num_negatives": 2, "w1": 1e-7, "w3": 1e-7}
    model = UltraGCN(3, 3, **(settings | arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.prepare(TOY)
    return model.double()


def random_pairs(users=20, items=15, number=90, seed=0):
    order = torch.randperm(users * items, generator=torch.Generator().manual_seed(seed))[:number]
    return Interactions(torch.stack([order // items, order % items]), users, items)


def batch_of(pairs, model, seed=0, number=None):
    g = torch.Generator().manual_seed(seed)
    users, items = pairs.edge_index[:, :number]
    shape = (
        (model.num_negatives,) if model.sampling.shared else (users.numel(), model.num_negatives)
    )
    if not model.sampling.num_negatives:
        return InteractionBatch(users, items)
    return InteractionBatch(users, items, torch.randint(pairs.num_items, shape, generator=g))


def test_constraint_weights_of_the_toy():
    beta_user, beta_item = constraint_weights(TOY.user_degree, TOY.item_degree)
    assert beta_user.tolist() == pytest.approx([0.8660254, 0.8660254, 1.4142136], abs=1e-7)
    assert beta_item.tolist() == pytest.approx([0.7071068, 0.5, 0.7071068], abs=1e-7)
    beta = torch.outer(beta_user, beta_item)
    row = [0.6123724, 0.4330127, 0.6123724]
    assert beta.flatten().tolist() == pytest.approx([*row, *row, 1, 0.7071068, 1], abs=1e-7)


@pytest.mark.parametrize("name", BACKENDS)
def test_item_graph_of_the_toy(name):
    with ops.backend(name):
        neighbours, weights = ops.cooccurrence(TOY.users, 3)
        alone, others = ops.cooccurrence(TOY.users, 2, include_self=False)
    omega = torch.zeros(3, 3).double().scatter_(1, neighbours, weights)
    wanted = [0.5, 0.3535534, 0, 0.2828427, 0.6, 0.2828427, 0, 0.3535534, 0.5]
    assert omega.flatten().tolist() == pytest.approx(wanted, abs=1e-7)
    assert neighbours.tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0]]  # ties: smallest first
    assert alone.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert others[:, 0].tolist() == pytest.approx([0.3535534, 0.2828427, 0.3535534], abs=1e-7)
    with pytest.raises(InputError, match=r"k: 4, wanted 0\.\.3"):
        ops.cooccurrence(TOY.users, 4)


@pytest.mark.skipif(ops.cpu.kernels is None, reason="no kernels")
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(
    ("users", "items", "number", "k"),
    [(30, 20, 150, 10), (40, 60, 90, 59), (5, 4, 0, 3), (90, 700, 9000, 10)],
)
def test_item_graph_is_that_of_the_dense_product(users, items, number, k, include_self):
    pairs = random_pairs(users, items, number)
    torch.set_num_threads(2)
    neighbours, weights = ops.cooccurrence(pairs.users, k, include_self=include_self)
    with ops.backend("reference"):
        wanted = ops.cooccurrence(pairs.users, k, include_self=include_self)
    assert torch.equal(neighbours, wanted[0])
    assert torch.equal(weights, wanted[1])
    r = torch.zeros(users, items).double()
    r[pairs.edge_index[0], pairs.edge_index[1]] = 1
    g = r.T @ r
    total = g.sum(1)
    omega = g * ((total + 1).sqrt() / total.clamp(min=1))[:, None] / (total + 1).sqrt()
    if not include_self:
        omega.fill_diagonal_(-1)
    torch.testing.assert_close(weights, omega.sort(1, descending=True).values[:, :k])


@pytest.mark.skipif(ops.cpu.kernels is None, reason="no kernels")
def test_item_graph_of_a_corrupt_csr_is_refused():
    csr = random_pairs().users
    csr.transpose()
    csr.col.numpy()[3] = 99
    with pytest.raises((IndexError, InputError)):
        ops.cooccurrence(csr, 2)


@pytest.mark.parametrize("name", BACKENDS)
def test_loss_at_zero_is_worked_by_hand(name):
    model = toy(init_std=0.0, negative_weight=2.0, lambda_=0.5)
    batch = InteractionBatch(torch.tensor([0]), torch.tensor([0]), torch.tensor([[1, 2]]))
    with ops.backend(name):
        assert model.training_loss(batch).item() == pytest.approx(1.4448893, abs=2e-7)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("negatives", ["sampled", "shared", "exact"])
@pytest.mark.parametrize("arguments", [{}, {"num_negatives": 1}, {"num_neighbours": 0},
                                       {"lambda_": 0.0}])  # fmt: skip
def test_equals_the_formula_written_out(name, negatives, arguments):
    pairs = random_pairs()
    settings = {"num_negatives": 7, "num_neighbours": 3, "gamma": 0.02, "lambda_": 0.3,
                "w1": 0.2, "w3": 0.1, "negative_weight": 5.0, "init_std": 0.7}  # fmt: skip
    model = UltraGCN(20, 15, 6, negatives=negatives, **(settings | arguments))
    model.prepare(pairs)
    model.double()
    batch = batch_of(pairs, model, number=13)
    with ops.backend(name):
        loss = model.training_loss(batch)
        loss.backward()
    own = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    user, item = model.representations()
    s = torch.nn.functional.softplus
    wanted = model.gamma / 2 * (user.square().sum() + item.square().sum())
    for b, (u, i) in enumerate(zip(batch.users.tolist(), batch.items.tolist(), strict=True)):
        beta = model.beta_user[u].double() * model.beta_item.double()
        ids = torch.arange(15) if batch.negatives is None else batch.negatives
        ids = ids if ids.dim() == 1 else ids[b]
        wanted = wanted + (model.weights[0] + model.weights[1] * beta[i]) * s(-user[u] @ item[i])
        each = (model.weights[2] + model.weights[3] * beta[ids]) * s(item[ids] @ user[u])
        wanted = wanted + model.negative_weight * each.mean()
        if model.neighbours is not None:
            scores = item[model.neighbours[i]] @ user[u]
            wanted = wanted + model.lambda_ * (model.neighbour_weights[i] * s(-scores)).sum()
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=0)
    for ours, theirs in zip(own, torch.autograd.grad(wanted, model.parameters()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("negatives", ["sampled", "shared"])
def test_samples_estimate_the_exact_loss(negatives):
    pairs = random_pairs()
    settings = {"num_negatives": 3, "num_neighbours": 2, "negative_weight": 5.0, "init_std": 1.0}
    sampled = UltraGCN(20, 15, 6, negatives=negatives, **settings)
    exact = UltraGCN(20, 15, 6, negatives="exact", **settings)
    exact.load_state_dict(sampled.state_dict())
    for model in (sampled, exact):
        model.prepare(pairs)
        model.double()
    with torch.no_grad():
        batch = batch_of(pairs, exact, number=4)
        wanted = float(exact.training_loss(batch))
        draws = torch.stack([
            sampled.training_loss(batch_of(pairs, sampled, seed, number=4)) for seed in range(2000)
        ])  # fmt: skip
    assert abs(float(draws.mean()) - wanted) < 3 * float(draws.std()) / 2000**0.5


def test_exact_leaves_positives_out_when_sifted():
    pairs = random_pairs()
    model = UltraGCN(20, 15, 6, negatives="exact", sift_pos=True, init_std=0.5, lambda_=0.0,
                     gamma=0.0, w1=0.0, w2=0.0)  # fmt: skip
    model.prepare(pairs)
    user, item = model.representations()
    loss = model.training_loss(InteractionBatch(*pairs.edge_index[:, 30:50]))
    wanted = 0.0
    for u in pairs.edge_index[0, 30:50].tolist():
        free = [i for i in range(15) if i not in pairs.of(u).tolist()]
        weight = 1e-6 + model.beta_user[u] * model.beta_item[free]
        each = weight * torch.nn.functional.softplus(item[free] @ user[u])
        wanted += model.negative_weight * each.mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)


def test_dense_logistic_goes_by_blocks(monkeypatch):
    user, item = torch.randn(9, 3).double(), torch.randn(5, 3).double()
    excluded = (torch.tensor([0, 2, 2, 7]), torch.tensor([1, 0, 4, 2]))
    rest = {"beta_user": torch.rand(9).double(), "beta_item": torch.rand(5).double(),
            "weights": (0.3, 0.7), "excluded": excluded}  # fmt: skip
    found = []
    for block in (1 << 19, 10, 1):
        monkeypatch.setattr(sys.modules["graphkit.ops.dense_logistic"], "_BLOCK", block)
        leaves = [user.clone().requires_grad_(), item.clone().requires_grad_()]
        loss = dense_logistic(*leaves, torch.arange(9).double(), **rest)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    leaves = [user.requires_grad_(), item.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda *t: dense_logistic(*t, torch.arange(9).double(), **rest), leaves
    )
    for bad in ({"beta_user": None}, {"beta_item": rest["beta_item"][1:]}):
        with pytest.raises(InputError, match="beta"):
            dense_logistic(user, item, torch.arange(9).double(), **(rest | bad))
    with pytest.raises(InputError, match="item: shape"):
        dense_logistic(user, item[:, 1:], torch.arange(9).double())


def train(model, pairs, steps, lr=0.05):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model.training_loss(batch_of(pairs, model, step))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("negatives", ["sampled", "shared", "exact"])
def test_overfits_a_tiny_set(negatives):
    pairs = random_pairs(12, 10, 40)
    torch.manual_seed(0)
    model = UltraGCN(
        12, 10, dim=16, num_negatives=10, negative_weight=10.0, negatives=negatives,
        sift_pos=negatives == "exact", num_neighbours=3, init_std=0.1, w1=1.0, w3=1.0,
    )  # fmt: skip
    model.prepare(pairs)
    losses = train(model, pairs, 150)
    assert losses[-1] < losses[0]
    hit = [
        len(set(model.recommend([u], k=len(pairs.of(u)), exclude_seen=False)[0][0].tolist())
            & set(pairs.of(u).tolist())) for u in range(12) if len(pairs.of(u))
    ]  # fmt: skip
    assert sum(hit) >= 39


def test_same_seed_same_bits_for_any_number_of_threads():
    pairs = random_pairs(60, 40, 500)
    found = []
    for threads in (1, 1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(3)
        model = UltraGCN(60, 40, dim=8, num_negatives=50)
        model.prepare(pairs)
        train(model, pairs, 5)
        found.append(model.state_dict())
    for other in found[1:]:
        assert all(torch.equal(other[key], found[0][key]) for key in found[0])


def test_saves_what_it_learnt_alone():
    pairs = random_pairs()
    model = UltraGCN(20, 15, dim=8, num_negatives=4)
    model.prepare(pairs)
    train(model, pairs, 3)
    assert sorted(model.state_dict()) == ["item_embedding.weight", "user_embedding.weight"]
    other = create_model("ultragcn", **model.config)
    other.load_state_dict(model.state_dict())
    other.prepare(pairs)
    assert torch.equal(other.scores(torch.arange(20)), model.scores(torch.arange(20)))
    batch = batch_of(pairs, model)
    assert torch.equal(other.training_loss(batch), model.training_loss(batch))


def test_ids_without_training_pairs_weigh_nothing():
    pairs = Interactions(torch.tensor([[0, 0, 2], [0, 1, 1]]), num_users=4, num_items=3)
    model = UltraGCN(4, 3, dim=4, num_negatives=2, num_neighbours=2)
    with pytest.warns(UserWarning, match="no training pair") as said:
        model.prepare(pairs)
    text = " ".join(str(w.message) for w in said)
    assert "2 of 4 users" in text
    assert "the first is 1" in text
    assert "1 of 3 items" in text
    assert model.beta_user[1] == model.beta_user[3] == model.beta_item[2] == 0
    assert model.neighbour_weights[2].tolist() == [0.0, 0.0]
    assert model.training_loss(batch_of(pairs, model)).isfinite()
    with pytest.raises(InputError, match="2 of 4 users have no training pair"):
        UltraGCN(4, 3, dim=4, num_neighbours=2, strict=True).prepare(pairs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"w1": -1.0}, "w1: -1"),
        ({"w4": math.nan}, "w4: nan"),
        ({"gamma": -1e-4}, "gamma"),
        ({"lambda_": -1.0}, "lambda_"),
        ({"negative_weight": math.inf}, "negative_weight"),
        ({"num_negatives": 0}, "num_negatives: 0"),
        ({"num_neighbours": 4}, r"num_neighbours: 4, wanted 0\.\.3"),
        ({"num_neighbours": 3, "include_self": False}, r"num_neighbours: 3, wanted 0\.\.2"),
        ({"dim": 0}, "dim: 0"),
        ({"init_std": -1.0}, "init_std"),
        ({"negatives": "exakt"}, "negatives: 'exakt' is not one of .*did you mean 'exact'"),
        ({"negatives": "shared", "sift_pos": True}, "sift_pos"),
    ],
)
def test_refuses(arguments, words):
    with pytest.raises(InputError, match=words):
        UltraGCN(3, 3, **({"num_neighbours": 2} | arguments))


def test_refuses_what_leaves_no_negative_and_batches_without_them():
    full = Interactions(torch.tensor([[0, 0, 1], [0, 1, 1]]))
    with pytest.raises(InputError, match="sift_pos: user 0 has a training pair with every item"):
        UltraGCN(2, 2, num_neighbours=1, sift_pos=True).prepare(full)
    model = toy()
    with pytest.raises(InputError, match="batch.negatives: none"):
        model.training_loss(InteractionBatch(*TOY.edge_index))
    with pytest.raises(InputError, match=r"batch.negatives: \[5, 3\], wanted 2"):
        model.training_loss(InteractionBatch(*TOY.edge_index, torch.zeros(5, 3).long()))
    with pytest.raises(InputError, match="prepare"):
        UltraGCN(3, 3, num_neighbours=2).training_loss(InteractionBatch(*TOY.edge_index))
