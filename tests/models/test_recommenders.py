"""Recommenders: worked cases, their definitions in dense form, and what they can learn."""

import math

import pytest
import torch

from graphkit.data import Interactions
from graphkit.errors import InputError
from graphkit.models import (
    InteractionBatch,
    LightGCN,
    MatrixFactorization,
    MostPop,
    NeuMF,
    Sampling,
    create_model,
)
from graphkit.models.ranking_losses import bpr, direct_au, half_squares
from graphkit.tasks.interaction_batches import TrainInteractions

pytestmark = pytest.mark.usefixtures("one_thread")
USERS, ITEMS = 9, 13


def pairs(seed=0, users=USERS, items=ITEMS):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(users, items, generator=generator) < 0.3
    mask[-1] = False  # a user and an item without pairs
    mask[:, -1] = False
    mask[0, 0] = True
    return Interactions(mask.nonzero().t(), users, items)


def batch_of(interactions, negatives=1):
    users, items = interactions.edge_index
    drawn = torch.randint(interactions.num_items, (users.numel(), negatives))
    return InteractionBatch(users, items, drawn)


def prepared(name, **options):
    model = create_model(name, num_users=USERS, num_items=ITEMS, **options)
    model.prepare(pairs())
    return model


def test_light_gcn_without_layers_is_matrix_factorisation():
    gcn = prepared("light_gcn", num_layers=0, dim=4, reg=0.3)
    mf = prepared("mf", dim=4, reg=0.3)
    mf.load_state_dict(gcn.state_dict())
    batch = batch_of(pairs(), 3)
    assert torch.equal(gcn.training_loss(batch), mf.training_loss(batch))
    assert torch.equal(gcn.scores(torch.arange(USERS)), mf.scores(torch.arange(USERS)))


def test_light_gcn_on_one_user_and_one_item():
    model = LightGCN(1, 1, dim=3, num_layers=1)
    model.prepare(Interactions(torch.tensor([[0], [0]])))
    mean = (model.rows("user_table") + model.rows("item_table")) / 2
    for found in model.representations():
        torch.testing.assert_close(found, mean)


@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_light_gcn_is_the_normalised_matrix_applied(eps):
    model = prepared("light_gcn", dim=5, num_layers=3, degree_eps=eps)
    interactions = pairs()
    joint = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    users, items = interactions.edge_index
    joint[users, items + USERS] = joint[items + USERS, users] = 1.0
    degree = joint.sum(1) + eps
    root = torch.where(degree > 0, degree.rsqrt(), torch.zeros(()).double())
    joint = root[:, None] * joint * root
    first = torch.cat([model.rows("user_table"), model.rows("item_table")]).double()
    layers = [first]
    for _ in range(3):
        layers.append(joint @ layers[-1])
    wanted = torch.stack(layers).mean(0)
    found = torch.cat(model.representations())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    grads = torch.cat([model.user_table.weight.grad, model.item_table.weight.grad])
    power = [torch.linalg.matrix_power(joint, k) for k in range(4)]
    exact = torch.stack(power).mean(0).t() @ weight.double()
    torch.testing.assert_close(grads.double(), exact, rtol=1e-5, atol=1e-6)


def test_edges_are_dropped_in_training_only():
    model = prepared("light_gcn", dim=4, num_layers=1, keep_prob=0.6)
    whole = prepared("light_gcn", dim=4, num_layers=1)
    whole.load_state_dict(model.state_dict())
    assert whole.keep_prob == 1.0
    torch.testing.assert_close(whole.train().representations(), whole.eval().representations())
    torch.testing.assert_close(model.eval().representations(), whole.representations())
    model.train()
    with torch.no_grad():
        drawn = torch.stack([torch.cat(model.representations()) for _ in range(3000)])
        wanted = torch.cat(whole.representations())
    # What stays is divided by the probability, so the mean is that of the whole graph.
    error = (drawn.mean(0) - wanted).abs()
    assert bool((error <= 5 * drawn.std(0) / 3000**0.5 + 1e-6).all())
    assert not torch.equal(drawn[0], drawn[1])
    # One user and one item: each direction stays by itself, and then weighs 1 / 0.6.
    single = LightGCN(1, 1, dim=1, num_layers=1, keep_prob=0.6)
    single.prepare(Interactions(torch.tensor([[0], [0]])))
    with torch.no_grad():
        single.user_table.weight.fill_(0.0)
        single.item_table.weight.fill_(1.0)
        users = torch.cat([single.representations()[0] for _ in range(500)])
    values = users.unique().tolist()
    assert values == pytest.approx([0.0, 0.5 / 0.6])
    assert float((users > 0).float().mean()) == pytest.approx(0.6, abs=0.08)


def test_light_gcn_wants_its_pairs():
    model = LightGCN(USERS, ITEMS)
    with pytest.raises(InputError, match="call prepare"):
        model.representations()
    with pytest.raises(InputError, match="made for 9 and 13"):
        model.prepare(Interactions(torch.tensor([[0], [0]])))


def test_bpr_and_its_l2_term():
    positive, negative = torch.tensor([2.0, -1.0]), torch.tensor([[0.5], [4.0]])
    wanted = (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(5.0))) / 2
    assert float(bpr(positive, negative)) == pytest.approx(wanted, rel=1e-6)
    assert float(bpr(torch.tensor([-200.0]), torch.tensor([[0.0]]))) == 200.0
    model = MatrixFactorization(USERS, ITEMS, dim=4, reg=0.1)
    plain = MatrixFactorization(USERS, ITEMS, dim=4)
    plain.load_state_dict(model.state_dict())
    batch = batch_of(pairs())
    users, items = (x.detach() for x in model.representations())
    rows = (users[batch.users], items[batch.items], items[batch.negatives[:, 0]])
    extra = 0.1 * sum(float(row.square().sum()) for row in rows) / (2 * len(batch.users))
    found = model.training_loss(batch) - plain.training_loss(batch)
    assert float(found) == pytest.approx(extra, rel=1e-4)
    assert float(half_squares(*rows)) == pytest.approx(extra / 0.1, rel=1e-5)


def test_direct_au_is_its_formula():
    users, items = torch.randn(6, 4), torch.randn(6, 4)
    left, right = (torch.nn.functional.normalize(x, dim=1) for x in (users, items))

    def uniformity(x):
        return torch.pdist(x).square().mul(-2).exp().mean().log()

    wanted = (left - right).square().sum(1).mean()
    wanted = wanted + 0.7 * (uniformity(left) + uniformity(right)) / 2
    torch.testing.assert_close(direct_au(users, items, 0.7), wanted)
    # What an epoch leaves over may be one pair: it ends no training.
    torch.testing.assert_close(direct_au(users[:1], items[:1]), (left - right)[0].square().sum())
    with pytest.raises(InputError, match="no pairs"):
        direct_au(users[:0], items[:0])


def test_neumf_ranks_by_what_it_trains():
    model = NeuMF(USERS, ITEMS, dim=8)
    users, items = torch.arange(USERS), torch.arange(ITEMS)
    grid = model(users[:, None].expand(USERS, ITEMS), items.expand(USERS, ITEMS))
    torch.testing.assert_close(model.scores(users), grid)
    flat = torch.cat([model.mlp_user(users[:1]), model.mlp_item(items[:1])], dim=1)
    hidden = model.third(model.second(model.first(flat).relu()).relu())
    product = model.gmf_user(users[:1]) * model.gmf_item(items[:1])
    wanted = model.last(torch.cat([product, hidden], dim=1))[0, 0]
    torch.testing.assert_close(grid[0, 0], wanted)
    with pytest.raises(InputError, match="no dot product"):
        model.representations()


@pytest.mark.parametrize("name", ["mf", "light_gcn", "neumf"])
def test_several_negatives_are_the_mean_over_them(name):
    model = prepared(name, dim=4, **({} if name == "neumf" else {"reg": 0.0}))
    batch = batch_of(pairs(), 3)
    single = [
        model.training_loss(InteractionBatch(batch.users, batch.items, batch.negatives[:, [k]]))
        for k in range(3)
    ]
    torch.testing.assert_close(model.training_loss(batch), torch.stack(single).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mf", {"sampling": "full"}),
        ("mf", {"loss": "directau"}),
        ("light_gcn", {"reg": 0.0}),
        ("light_gcn", {"loss": "directau", "sampling": "pairs"}),
        ("neumf", {}),
    ],
)
def test_a_small_set_can_be_learnt_by_heart(name, options):
    interactions = pairs(users=8, items=12)
    model = create_model(name, num_users=8, num_items=12, dim=16, **options)
    model.prepare(interactions)
    loader = TrainInteractions(interactions, model.sampling, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(150):
        for batch in loader:
            optimizer.zero_grad()
            model.training_loss(batch).backward()
            optimizer.step()
    hit = total = 0
    for user in range(8):
        own = set(interactions.of(user).tolist())
        if own:
            best = model.recommend([user], k=len(own), exclude_seen=False)[0]
            hit, total = hit + len(own & set(best[0].tolist())), total + len(own)
    assert hit >= (0.8 if options.get("loss") == "directau" else 0.95) * total


def test_recommend_leaves_out_what_is_known():
    model, interactions = prepared("light_gcn", dim=4), pairs()
    ids = torch.tensor([3, 0, 8, 3])
    items, values = model.recommend(ids, k=5)
    assert not interactions.contains(ids[:, None], items).any()
    scores = model.scores(ids)
    torch.testing.assert_close(values, scores.gather(1, items))
    assert bool((values[:, :-1] >= values[:, 1:]).all())
    assert torch.equal(items[0], items[3])
    everything, _ = model.recommend(ids, k=ITEMS, exclude_seen=False)
    assert torch.equal(everything.sort(1).values, torch.arange(ITEMS).expand(4, ITEMS))
    assert model.recommend([], k=2)[0].shape == (0, 2)
    with pytest.raises(InputError, match=r"user_ids: 9\.\.9, wanted 0\.\.8"):
        model.recommend([USERS])
    with pytest.raises(InputError, match="not masked"):
        model.recommend(ids, k=ITEMS)
    with pytest.raises(InputError, match="call prepare"):
        MatrixFactorization(USERS, ITEMS).recommend([0], k=1)


def test_renamed_users_and_items_change_nothing_but_names():
    interactions = pairs()
    order_u, order_i = torch.randperm(USERS), torch.randperm(ITEMS)
    users, items = interactions.edge_index
    back_u, back_i = order_u.argsort(), order_i.argsort()
    renamed = Interactions(torch.stack([back_u[users], back_i[items]]), USERS, ITEMS)
    model = prepared("light_gcn", dim=4)
    other = LightGCN(USERS, ITEMS, dim=4)
    other.prepare(renamed)
    with torch.no_grad():
        other.user_table.weight.copy_(model.user_table.weight[order_u])
        other.item_table.weight.copy_(model.item_table.weight[order_i])
    wanted = model.scores(order_u)[:, order_i]
    torch.testing.assert_close(other.scores(torch.arange(USERS)), wanted)


def test_most_popular_counts_users():
    model = MostPop(USERS, ITEMS)
    with pytest.raises(InputError, match="call prepare"):
        model.scores(torch.tensor([0]))
    model.prepare(pairs())
    assert model.scores(torch.tensor([4]))[0].tolist() == pairs().item_degree.tolist()
    left, right = model.representations()
    assert torch.equal(left @ right.t(), model.scores(torch.arange(USERS)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatrixFactorization(0, 3), "num_users: 0"),
        (lambda: MatrixFactorization(3, 3, loss="bprr"), "did you mean 'bpr'"),
        (lambda: MatrixFactorization(3, 3, init="uniform"), "init: 'uniform'"),
        (lambda: MatrixFactorization(3, 3, reg=-1.0), "reg"),
        (lambda: MatrixFactorization(3, 3, num_negatives=0), "num_negatives: 0"),
        (lambda: MatrixFactorization(3, 3, sampling="triples"), "kind: 'triples'"),
        (lambda: MatrixFactorization(3, 3, table={"method": "no"}), "table"),
        (lambda: MatrixFactorization(3, 3, loss="directau", sampling="full"), "E x E"),
        (lambda: LightGCN(3, 3, keep_prob=0.0), "keep_prob: 0.0"),
        (lambda: LightGCN(3, 3, keep_prob=1.5), "keep_prob: 1.5"),
        (lambda: LightGCN(3, 3, num_layers=-1), "num_layers: -1"),
        (lambda: LightGCN(3, 3, init_std=0.0), "init_std: 0.0"),
        (lambda: Sampling("pairs", -1), "num_negatives: -1"),
        (lambda: Sampling("pairs", 5, shared=True, exclude_positives=True), "shared"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
