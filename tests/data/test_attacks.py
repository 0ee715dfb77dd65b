"""Structure attacks: exact budgets, sound graphs, closed forms, and that they hurt."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv as PyGGCNConv

from graphkit import data
from graphkit.data import PackedGraphs
from graphkit.data.attacks import (
    DICE,
    Metattack,
    PGDAttack,
    RandomAttack,
    SurrogateGCN,
    edge_changes,
)
from graphkit.data.attacks.metattack import Features, pair_gradient
from graphkit.data.attacks.pgd import project
from graphkit.data.attacks.structure import Victim, absent_pairs, edges_of, flipped, pairs_of
from graphkit.data.attacks.surrogate import propagate, trained_surrogate
from graphkit.data.transforms import create_transform, list_transforms
from graphkit.errors import InputError


@pytest.fixture(autouse=True)
def _one_thread_and_short_training(monkeypatch):
    monkeypatch.setattr("graphkit.data.attacks.surrogate._EPOCHS", 40)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blocks(seed: int, size: int = 20, classes: int = 3, inside=0.2, across=0.02) -> Data:
    """A planted partition with weak features and a quarter of the nodes for training."""
    g = torch.Generator().manual_seed(seed)
    nodes = size * classes
    y = torch.arange(nodes) // size
    chance = torch.where(y[:, None] == y, inside, across)
    upper = (torch.rand(nodes, nodes, generator=g) < chance).triu(1)
    means = torch.randn(classes, 8, generator=g)
    train = torch.zeros(nodes, dtype=torch.bool)
    for k in range(classes):
        train[k * size + torch.randperm(size, generator=g)[: size // 4]] = True
    return Data(
        x=means[y] + 2.5 * torch.randn(nodes, 8, generator=g),
        y=y,
        edge_index=(upper | upper.t()).nonzero().t().contiguous(),
        train_mask=train,
    )


def victim_of(graph: Data) -> Victim:
    return Victim(
        graph.num_nodes,
        pairs_of(graph.edge_index, graph.num_nodes),
        graph.x,
        graph.y,
        graph.train_mask.nonzero().flatten(),
    )


def trained(graph: Data, seed: int) -> SurrogateGCN:
    return trained_surrogate(victim_of(graph), torch.Generator().manual_seed(seed))


@torch.no_grad()
def accuracy(model: torch.nn.Module, graph: Data) -> float:
    right = model(graph.x, graph.edge_index).argmax(1) == graph.y
    return float(right[~graph.train_mask].float().mean())


ATTACKS = {
    "add": lambda **kw: RandomAttack(mode="add", **kw),
    "remove": lambda **kw: RandomAttack(mode="remove", **kw),
    "flip": lambda **kw: RandomAttack(mode="flip", **kw),
    "dice": lambda **kw: DICE(**kw),
    "pgd": lambda **kw: PGDAttack(steps=5, samples=3, **kw),
    "pgd_cw": lambda **kw: PGDAttack(steps=5, samples=3, loss="cw", labels="true", **kw),
    "pgd_few": lambda **kw: PGDAttack(steps=5, samples=3, candidates=40, **kw),
    "meta": lambda **kw: Metattack(inner_steps=5, **kw),
    "a_meta": lambda **kw: Metattack(inner_steps=5, approximate=True, lambda_=0.5, **kw),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_flips_its_budget_keeps_graphs_simple_and_its_seed(name):
    graph = blocks(0)
    before = graph.edge_index.clone()
    count = graph.num_edges // 2
    attack = ATTACKS[name](rate=0.13, seed=3)
    attacked = attack(graph)
    added, removed = edge_changes(graph, attacked)  # refuses loops, repeats and one-way edges
    assert added.size(1) + removed.size(1) == math.floor(0.13 * count) == attack.budget(count)
    assert torch.equal(graph.edge_index, before)
    assert attacked.x is graph.x
    assert attacked.y is graph.y
    keys = attacked.edge_index[0] * graph.num_nodes + attacked.edge_index[1]
    assert bool((keys.diff() > 0).all()), "sorted by source and target"
    assert torch.equal(ATTACKS[name](rate=0.13, seed=3)(graph).edge_index, attacked.edge_index)
    other = ATTACKS[name](rate=0.13, seed=4)(graph).edge_index
    assert name == "pgd_cw" or not torch.equal(other, attacked.edge_index)
    torch.testing.assert_close(ATTACKS[name](rate=0, seed=3)(graph).edge_index, before)


def test_global_random_numbers_are_neither_used_nor_moved():
    graph = blocks(1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [attack(rate=0.05, seed=0)(graph).edge_index for attack in ATTACKS.values()]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again = [attack(rate=0.05, seed=0)(graph).edge_index for attack in ATTACKS.values()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("rate", "edges", "flips"), [(0.29, 100, 29), (0.05, 5069, 253), (0.1, 9, 0), (1, 7, 7)]
)
def test_budgets_are_those_of_decimal_arithmetic(rate, edges, flips):
    assert RandomAttack(rate).budget(edges) == flips


def test_random_modes_only_do_what_they_say():
    graph = blocks(2)
    for mode, empty in (("add", 1), ("remove", 0)):
        changes = edge_changes(graph, RandomAttack(0.3, mode)(graph))
        assert changes[empty].size(1) == 0
    assert RandomAttack(1.0, "remove")(graph).num_edges == 0


def test_absent_pairs_are_uniform_whether_enumerated_or_rejected(monkeypatch):
    victim = Victim(6, torch.tensor([1, 8]))  # edges 0-1 and 1-2
    wanted = sorted({u * 6 + v for u in range(6) for v in range(u + 1, 6)} - {1, 8})
    for limit in (1 << 20, 0):
        monkeypatch.setattr("graphkit.data.attacks.structure._ENUMERATED", limit)
        g = torch.Generator().manual_seed(0)
        assert sorted(absent_pairs(victim, 13, g).tolist()) == wanted
        with pytest.raises(InputError, match="14 new edges, but only 13"):
            absent_pairs(victim, 14, g)
        draws = torch.stack([absent_pairs(victim, 2, g) for _ in range(1300)]).flatten()
        counts = torch.bincount(draws, minlength=36)[wanted].float()
        # 2600 draws over 13 cells: mean 200, standard deviation about 13.
        assert float((counts - 200).abs().max()) < 65, limit


def test_dice_disconnects_inside_and_connects_outside():
    graph = blocks(3)
    added, removed = edge_changes(graph, DICE(0.4)(graph))
    assert added.size(1) > 5
    assert removed.size(1) > 5
    assert bool((graph.y[added[0]] != graph.y[added[1]]).all())
    assert bool((graph.y[removed[0]] == graph.y[removed[1]]).all())
    assert edge_changes(graph, DICE(0.2, add_share=1.0)(graph))[1].size(1) == 0
    # Inside edges run out: additions take over, to the exact budget.
    tree = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), y=torch.tensor([0, 0, 1]))
    tree.num_nodes = 3
    added, removed = edge_changes(tree, DICE(1.0, add_share=0.0)(tree))
    assert (added.tolist(), removed.tolist()) == ([[0], [2]], [[0], [1]])


def test_projection_meets_its_optimality_conditions():
    g = torch.Generator().manual_seed(0)
    for budget in (1.0, 7.5, 40.0, 200.0):
        s = 4 * torch.randn(100, generator=g, dtype=torch.float64)
        p = project(s, budget)
        assert 0 <= float(p.min()) <= float(p.max()) <= 1
        assert float(p.sum()) <= budget + 1e-9
        if budget < float(s.clamp(0, 1).sum()):
            assert float(p.sum()) == pytest.approx(budget, abs=1e-9)
        between = (p > 0) & (p < 1)
        shift = (s - p)[between]  # the multiplier: the same for all that are not at a bound
        assert float(shift.max() - shift.min()) < 1e-9
        assert float(shift[0]) >= 0


def test_edge_weight_propagation_is_the_gcn_of_pyg():
    graph = blocks(4)
    weight = torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(0)).double()
    conv = PyGGCNConv(8, 8, bias=False).double()
    torch.nn.init.eye_(conv.lin.weight)
    for given in (None, weight):
        torch.testing.assert_close(
            propagate(graph.x.double(), graph.edge_index, given),
            conv(graph.x.double(), graph.edge_index, given),
        )
    assert torch.autograd.gradcheck(
        lambda w: propagate(graph.x.double()[:, :1], graph.edge_index, w),
        weight.requires_grad_(),
        fast_mode=True,
    )


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_meta_gradient_is_that_of_the_dense_expression(share):
    g = torch.Generator().manual_seed(0)
    nodes, width = 14, 40
    upper = (torch.rand(nodes, nodes, generator=g) < 0.3).triu(1).double()
    x = torch.rand(nodes, width, generator=g).double()
    x *= torch.rand(nodes, width, generator=g) < share
    toward = torch.rand(nodes, width, generator=g).double()
    change = torch.zeros(nodes, nodes, dtype=torch.float64, requires_grad=True)
    graph = upper + upper.t() + change.triu(1) + change.triu(1).t() + torch.eye(nodes)
    root = graph.sum(1).rsqrt()
    dense = root[:, None] * graph * root
    (dense @ dense @ x * toward).sum().backward()
    features = Features(x)
    assert (features.entries is not None) == (share < 0.1)
    edge_index = (upper + upper.t()).nonzero().t().contiguous()
    found = pair_gradient(toward, features, edge_index)
    torch.testing.assert_close(found.triu(1), change.grad)
    torch.testing.assert_close(found, found.t())


def test_meta_flip_is_the_argmax_of_the_unrolled_dense_training():
    """One flip against plain torch: dense matrices, autograd through everything."""
    graph = blocks(5, size=8)
    graph.x, nodes = graph.x.double(), graph.num_nodes
    attack = Metattack(1.0, inner_steps=20, seed=7)
    victim = victim_of(graph)
    edge = int(attack.flips(victim, 1, torch.Generator().manual_seed(7)))
    # The same draws in the same order: the surrogate's, then the inner model's.
    g = torch.Generator().manual_seed(7)
    surrogate = trained_surrogate(victim, g, relu=False)
    labels = graph.y.clone()
    train, others = victim.split()
    labels[others] = surrogate(graph.x, graph.edge_index).argmax(1)[others]
    w1, w2 = ((2 * torch.rand(*s, generator=g) - 1) / math.sqrt(s[1]) for s in ((8, 16), (16, 3)))
    w1, w2 = w1.double().requires_grad_(), w2.double().requires_grad_()
    adjacency = torch.zeros(nodes, nodes, dtype=torch.float64)
    adjacency[graph.edge_index[0], graph.edge_index[1]] = 1
    change = torch.zeros_like(adjacency, requires_grad=True)
    looped = adjacency + change.triu(1) + change.triu(1).t() + torch.eye(nodes)
    root = looped.sum(1).rsqrt()
    norm = root[:, None] * looped * root
    v1 = v2 = 0.0
    for _ in range(20):
        logits = norm @ (norm @ (graph.x @ w1) @ w2)
        loss = F.cross_entropy(logits[train], labels[train])
        g1, g2 = torch.autograd.grad(loss, (w1, w2), create_graph=True)
        v1, v2 = 0.9 * v1 + g1, 0.9 * v2 + g2
        w1, w2 = w1 - 0.1 * v1, w2 - 0.1 * v2
    logits = norm @ (norm @ (graph.x @ w1) @ w2)
    F.cross_entropy(logits[others], labels[others]).backward()
    score = (change.grad * (1 - 2 * adjacency)).masked_fill(
        torch.ones_like(adjacency).tril() > 0, -1e9
    )
    lonely = adjacency.sum(1) == 1
    score[(adjacency > 0) & (lonely[:, None] | lonely)] = -1e9
    assert edge == int(score.argmax())


def test_metattack_never_takes_the_last_edge_of_a_node_nor_flips_twice():
    # A matching: every edge is the last one of its ends, so only additions may come first.
    nodes = 12
    ends = torch.arange(nodes).view(-1, 2).t()
    graph = Data(
        x=torch.randn(nodes, 4, generator=torch.Generator().manual_seed(0)),
        y=torch.arange(nodes) % 2,
        edge_index=torch.cat([ends, ends.flip(0)], dim=1),
        train_mask=torch.arange(nodes) < 4,
    )
    attacked = Metattack(1.0, inner_steps=10)(graph)
    added, removed = edge_changes(graph, attacked)
    assert added.size(1) + removed.size(1) == 6
    assert int(torch.bincount(attacked.edge_index[0], minlength=nodes).min()) >= 1


def test_attacks_that_look_hurt_more_than_random_ones(monkeypatch):
    """Equal budgets of 20 %, mean over five graphs.

    Metattack poisons: the victim is trained on its graph. PGD evades: the victim is trained on the
    clean graph and meets the other one at test time.
    """
    monkeypatch.setattr("graphkit.data.attacks.surrogate._EPOCHS", 80)
    rate, graphs = 0.2, [blocks(seed) for seed in range(5)]
    clean = [trained(graph, 100) for graph in graphs]

    def evaded(attack):
        return sum(accuracy(m, attack(g)) for m, g in zip(clean, graphs, strict=True)) / 5

    def poisoned(attack):
        attacked = [attack(graph) for graph in graphs]
        return sum(accuracy(trained(graph, 100), graph) for graph in attacked) / 5

    noise = RandomAttack(rate)
    evasion, poison = evaded(noise), poisoned(noise)
    # Of 45 nodes per graph; the margins are half the differences seen.
    assert evaded(PGDAttack(rate, steps=30, samples=5, labels="true")) < evasion - 0.04
    assert evaded(PGDAttack(rate, steps=30, samples=5)) < evasion - 0.02
    assert poisoned(Metattack(rate, inner_steps=50)) < poison - 0.08


def test_pgd_draws_raise_the_loss_of_the_surrogate():
    graph = blocks(6)
    surrogate = trained_surrogate(victim_of(graph), torch.Generator().manual_seed(0))
    attacked = PGDAttack(0.2, steps=40, labels="true", surrogate=surrogate)(graph)
    noisy = RandomAttack(0.2, "flip")(graph)
    test = ~graph.train_mask
    with torch.no_grad():
        losses = [
            float(F.cross_entropy(surrogate(graph.x, g.edge_index)[test], graph.y[test]))
            for g in (graph, noisy, attacked)
        ]
    assert losses[0] < losses[2]
    assert losses[1] < losses[2]


class PyGVictim(torch.nn.Module):
    """Somebody else's model: dropout, PyG convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = PyGGCNConv(8, 16), PyGGCNConv(16, 3)

    def forward(self, x, edge_index, edge_weight=None):
        h = F.dropout(self.conv1(x, edge_index, edge_weight).relu(), 0.5, self.training)
        return self.conv2(h, edge_index, edge_weight)


def test_a_given_surrogate_is_used_and_left_as_it_was():
    graph = blocks(7)
    torch.manual_seed(0)
    first, second = PyGVictim(), PyGVictim()
    first.conv2.eval()
    before = {k: v.clone() for k, v in first.state_dict().items()}
    for attack in (PGDAttack, Metattack):
        short = {"steps": 5} if attack is PGDAttack else {"inner_steps": 5}
        one, two = (attack(0.1, surrogate=s, **short) for s in (first, second))
        assert not torch.equal(one(graph).edge_index, two(graph).edge_index)
        assert one.config["surrogate"] != two.config["surrogate"]
        assert one.config["surrogate"] == attack(0.1, surrogate=first, **short).config["surrogate"]
    assert (first.training, first.conv1.training, first.conv2.training) == (True, True, False)
    assert all(torch.equal(v, before[k]) for k, v in first.state_dict().items())
    assert all(p.grad is None for p in first.parameters())


def test_on_packed_graphs_each_graph_gets_its_own_budget():
    demo = data.load("demo").graphs.select(range(6))
    bare = [Data(x=g.x, edge_index=g.edge_index, y=g.y) for g in demo]
    packed = PackedGraphs.from_data_list(bare)
    attack = RandomAttack(0.2, "remove")
    attacked = attack.apply(packed)
    for number in range(6):
        edges = bare[number].num_edges // 2
        assert attacked[number].num_edges // 2 == edges - attack.budget(edges)
        assert torch.equal(attacked[number].y, packed[number].y)
    with pytest.raises(InputError, match="edge_attr"):
        attack.apply(packed.with_attributes(edge={"edge_attr": torch.ones(packed.num_edges)}))


def test_load_attacks_by_name_with_the_training_nodes_of_its_split(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path))
    names = ("DICE", "Metattack", "PGDAttack", "RandomAttack")
    assert set(names) <= set(list_transforms())
    clean = data.load("demo-node")
    step = {"name": "PGDAttack", "rate": 0.01, "steps": 2, "samples": 1}
    dataset = data.load("demo-node", transforms=[step])
    added, removed = edge_changes(clean.graphs[0], dataset.graphs[0])
    assert added.size(1) + removed.size(1) == clean.graphs.num_edges // 200
    by_hand = clean.graphs[0]
    by_hand.train_mask = torch.zeros(600, dtype=torch.bool)
    by_hand.train_mask[clean.splits["train"]] = True
    assert torch.equal(create_transform(step)(by_hand).edge_index, dataset.graphs.edge_index)
    # Another split is another attack, not a stale cache file.
    for _ in range(2):
        other = data.load("demo-node", transforms=[step], split_seed=1)
        assert not torch.equal(other.splits["train"], clean.splits["train"])
        assert other.graphs[0].train_mask.nonzero().flatten().equal(other.splits["train"])
        assert not torch.equal(other.graphs.edge_index, dataset.graphs.edge_index)
    batch = next(iter(dataset.loader("train")))
    assert torch.equal(batch.train_mask.nonzero().flatten(), clean.splits["train"])
    with pytest.raises(InputError, match="level is graph"):
        data.load("demo", transforms=[step])
    with pytest.raises(InputError, match=r"split: demo-node has splits 0\.\.0, got 3"):
        data.load("demo-node", transforms=[step], split=3)


def test_bad_arguments_name_themselves():
    for rate in (-0.1, 1.01, float("nan"), "5%", True, None):
        with pytest.raises(InputError, match="rate:"):
            RandomAttack(rate)
    cases = [
        (RandomAttack, {"mode": "rewire"}, "mode: 'rewire'"),
        (RandomAttack, {"seed": -1}, "seed: -1"),
        (DICE, {"add_share": 1.5}, "add_share: 1.5"),
        (PGDAttack, {"steps": 0}, "steps: 0"),
        (PGDAttack, {"lr": float("inf")}, "lr: inf"),
        (PGDAttack, {"loss": "nll"}, "loss: 'nll'"),
        (PGDAttack, {"labels": "tru"}, "did you mean 'true'"),
        (PGDAttack, {"candidates": 0}, "candidates: 0"),
        (PGDAttack, {"candidates": 1.5}, "candidates: 1.5"),
        (PGDAttack, {"surrogate": "gcn"}, "surrogate: str"),
        (Metattack, {"inner_steps": 0}, "inner_steps: 0"),
        (Metattack, {"inner_lr": 0.0}, "inner_lr: 0.0"),
        (Metattack, {"momentum": 1.0}, "momentum: 1.0"),
        (Metattack, {"lambda_": 2.0}, "lambda_: 2.0"),
    ]
    for attack, arguments, message in cases:
        with pytest.raises(InputError, match=message):
            attack(0.1, **arguments)


def test_graphs_that_no_attack_takes():
    graph = blocks(8)
    broken = {
        "self-loops, the first at node 2": torch.cat([graph.edge_index, torch.full((2, 1), 2)], 1),
        "has no edge back": graph.edge_index[:, 1:],
        "more than once": torch.cat([graph.edge_index, graph.edge_index[:, :3]], 1),
        "num_nodes is 60": graph.edge_index + 1,
    }
    for message, edge_index in broken.items():
        with pytest.raises(InputError, match=message):
            RandomAttack(0.1)(Data(edge_index=edge_index, num_nodes=60))
    weighted = graph.clone()
    weighted.edge_weight = torch.ones(graph.num_edges)
    with pytest.raises(InputError, match="edge_weight: attacks change"):
        RandomAttack(0.1)(weighted)


def test_missing_labels_features_and_splits_are_said():
    whole = blocks(9)

    def without(key):
        graph = whole.clone()
        del graph[key]
        graph.num_nodes = 60
        return graph

    for attack, missing in (
        (DICE(0.1), "y"),
        (PGDAttack(0.1), "x"),
        (PGDAttack(0.1), "y"),
        (PGDAttack(0.1), "train_mask"),
        (Metattack(0.1), "x"),
        (Metattack(0.1), "y"),
        (Metattack(0.1), "train_mask"),
    ):
        with pytest.raises(InputError, match=f"^{missing}: "):
            attack(without(missing))
    full = whole.clone()
    full.train_mask = torch.ones(60, dtype=torch.bool)
    with pytest.raises(InputError, match="train_mask: 60 of 60"):
        Metattack(0.1)(full)
    full.train_mask = torch.ones(60, 10, dtype=torch.bool)
    with pytest.raises(InputError, match="choose one split"):
        RandomAttack(0.1)(full)
    for nodes, attack, word in (
        (whole.train_mask, PGDAttack(0.1), "training"),
        (whole.train_mask, Metattack(0.1), "training"),
        (~whole.train_mask, PGDAttack(0.1, labels="true"), "attacked"),
    ):
        full = whole.clone()
        full.y = torch.where(nodes, -1, whole.y)
        with pytest.raises(InputError, match=rf"y: class -1 of {word} node \d+, wanted classes"):
            attack(full)
    full = whole.clone()
    full.y = torch.rand(60)
    with pytest.raises(InputError, match="y: torch.float32"):
        DICE(0.1)(full)


def test_surrogates_that_cannot_be_attacked_are_said():
    graph = blocks(10)

    class Blind(torch.nn.Module):
        def forward(self, x, edge_index, edge_weight):
            return x[:, :3]

    class Short(torch.nn.Module):
        def forward(self, x, edge_index, edge_weight):
            return x[:, :2]

    with pytest.raises(InputError, match="do not depend on edge_weight"):
        PGDAttack(0.1, surrogate=Blind())(graph)
    with pytest.raises(InputError, match=r"returned \[60, 2\], wanted logits \[60, C\]"):
        Metattack(0.1, surrogate=Short())(graph)


def test_sizes_beyond_memory_are_refused_with_the_way_out(monkeypatch):
    graph = blocks(11)
    monkeypatch.setattr("graphkit.data.attacks.pgd._MOST", 100)
    monkeypatch.setattr("graphkit.data.attacks.metattack._MOST_NODES", 50)
    with pytest.raises(InputError, match="60 nodes have 1770 pairs, more than 100"):
        PGDAttack(0.1)(graph)
    with pytest.raises(InputError, match=r"num_nodes: 60.*PGDAttack\(candidates"):
        Metattack(0.1)(graph)
    complete = torch.ones(4, 4).triu(1)
    complete = Data(edge_index=(complete + complete.t()).nonzero().t(), num_nodes=4)
    with pytest.raises(InputError, match="only 0 pairs"):
        RandomAttack(0.5)(complete)


def test_flipping_is_its_own_inverse():
    pairs, flips = torch.tensor([1, 5, 9]), torch.tensor([5, 7])
    assert flipped(pairs, flips).tolist() == [1, 7, 9]
    assert torch.equal(flipped(flipped(pairs, flips), flips), pairs)
    assert torch.equal(pairs_of(edges_of(torch.tensor([1, 5]), 3), 3), torch.tensor([1, 5]))


def test_surrogate_gcn_starts_from_its_generator():
    one, two = (
        SurrogateGCN(8, 16, 3, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert float(one.weight1.detach().abs().max()) <= 0.25
