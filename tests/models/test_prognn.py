"""Pro-GNN: operators in closed form, each term of the objective, a transcription, a cure."""

import math

import pytest
import torch
import torch.nn.functional as F

from graphkit import zoo
from graphkit.errors import InputError
from graphkit.models import ProGNN, ProGNNLowRank, create_model
from graphkit.models.prognn import PUBLISHED_SETTINGS
from graphkit.models.prognn_steps import (
    feature_smoothness,
    normalised,
    prox_nuclear,
    prox_nuclear_lowrank,
    soft_threshold,
)

pytestmark = pytest.mark.usefixtures("one_thread")

F64 = torch.float64


def random_matrix(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def noisy_blocks(seed: int, size: int = 20, classes: int = 3):
    """A planted partition to which edges between classes were added, as attacks do."""
    g = torch.Generator().manual_seed(seed)
    nodes = size * classes
    y = torch.arange(nodes) // size
    chance = torch.where(y[:, None] == y, 0.2, 0.12)
    upper = (torch.rand(nodes, nodes, generator=g) < chance).triu(1)
    x = torch.randn(classes, 8, generator=g)[y] + torch.randn(nodes, 8, generator=g)
    order = torch.randperm(nodes, generator=g)
    edge_index = (upper | upper.t()).nonzero().t().contiguous()
    return x, edge_index, y, order[:15], order[15:30], order[30:]


def test_soft_threshold_solves_its_problem():
    s = random_matrix(0, 50)
    found = soft_threshold(s, 0.4)
    torch.testing.assert_close(found, s.sign() * (s.abs() - 0.4).clamp(min=0))
    for other in (found + 1e-3, found - 1e-3, s):
        value = [0.5 * (p - s).square() + 0.4 * p.abs() for p in (found, other)]
        assert bool((value[0] <= value[1] + 1e-15).all())


def test_nuclear_prox_of_a_diagonal_matrix_thresholds_the_diagonal():
    values = torch.tensor([3.0, -2.0, 0.5, -0.1, 0.0], dtype=F64)
    for symmetric in (False, True):
        found = prox_nuclear(torch.diag(values), 0.75, symmetric)
        torch.testing.assert_close(found, torch.diag(soft_threshold(values, 0.75)))


def test_nuclear_prox_meets_its_optimality_condition():
    s, threshold = random_matrix(1, 12, 12), 1.5
    found = prox_nuclear(s, threshold)
    # (S - P) / t is a subgradient of the nuclear norm at P: spectral norm 1, <., P> = |P|_*.
    subgradient = (s - found) / threshold
    assert float(torch.linalg.matrix_norm(subgradient, 2)) == pytest.approx(1.0)
    inner = float((subgradient * found).sum())
    assert inner == pytest.approx(float(torch.linalg.matrix_norm(found, "nuc")))
    both = s + s.t()
    torch.testing.assert_close(prox_nuclear(both, 1.5, symmetric=True), prox_nuclear(both, 1.5))


def test_lowrank_prox_is_exact_on_lowrank_matrices_and_bounded_elsewhere():
    torch.manual_seed(0)
    s = random_matrix(2, 40, 5) @ random_matrix(3, 5, 40)
    for keep_tail in (False, True):
        found = prox_nuclear_lowrank(s, 2.0, rank=5, keep_tail=keep_tail)
        torch.testing.assert_close(found, prox_nuclear(s, 2.0), rtol=0, atol=1e-9)
    noisy = s + 0.1 * random_matrix(4, 40, 40)
    exact = prox_nuclear(noisy, 0.5)
    kept = prox_nuclear_lowrank(noisy, 0.5, rank=5, keep_tail=True)
    assert float(torch.linalg.matrix_norm(kept - exact, 2)) <= 0.5 + 1e-6
    dropped = prox_nuclear_lowrank(noisy, 0.5, rank=5)
    assert int(torch.linalg.matrix_rank(dropped)) == 5


def test_normalisation_of_the_path():
    path = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=F64)
    r = 1 / math.sqrt(6)
    wanted = torch.tensor([[0.5, r, 0], [r, 1 / 3, r], [0, r, 0.5]], dtype=F64)
    torch.testing.assert_close(normalised(path), wanted)


def test_smoothness_is_the_trace_and_the_sum_over_edges():
    s, x = random_matrix(5, 9, 9).abs(), random_matrix(6, 9, 4)
    both = (s + s.t()) / 2
    degree = both.sum(1)
    root = torch.diag((degree + 1e-3) ** -0.5)
    wanted = torch.trace(x.t() @ root @ (torch.diag(degree) - both) @ root @ x)
    torch.testing.assert_close(feature_smoothness(s, x @ x.t()), wanted)
    scaled = x / (degree + 1e-3).sqrt()[:, None]
    distance = torch.cdist(scaled, scaled).square()
    torch.testing.assert_close(0.5 * (both * distance).sum(), wanted)
    # The node on its own: degree 0, factor 1000 ** 0.5 and no term.
    assert float(feature_smoothness(torch.zeros(2, 2), torch.ones(2, 2))) == 0.0


def test_smoothness_gradient():
    s, x = random_matrix(7, 6, 6).abs().requires_grad_(), random_matrix(8, 6, 3)
    gram = x @ x.t()
    assert torch.autograd.gradcheck(lambda m: feature_smoothness(m, gram), s)
    slope = torch.autograd.grad(feature_smoothness(s, gram), s)[0]
    torch.testing.assert_close(slope, slope.t())


@pytest.mark.parametrize("symmetric", [False, True])
def test_fit_is_the_published_alternation(symmetric):
    """Three epochs against a transcription in plain torch, without dropout."""
    x, edge_index, y, train, valid, _ = noisy_blocks(0)
    factors = {"alpha": 0.02, "beta": 4.0, "gamma": 2.0, "lambda_": 0.1, "phi": 0.3}
    model = ProGNN(8, 3, dropout=0.0, epochs=3, lr=0.01, symmetric=symmetric, **factors).double()
    model.fit(x.double(), edge_index, y, train, valid, seed=3)

    x, n = x.double(), len(x)
    torch.manual_seed(3)
    twin = ProGNN(8, 3, dropout=0.0).double()
    twin.reset_parameters()
    torch.manual_seed(3)
    twin.reset_parameters()
    gcn = twin.gcn
    a = torch.zeros(n, n, dtype=F64)
    a[edge_index[0], edge_index[1]] = 1
    s, speed = a.clone(), torch.zeros_like(a)
    adam = torch.optim.Adam(gcn.parameters(), lr=0.01, weight_decay=5e-4)

    def norm(m):
        m = (m + m.t()) / 2 if symmetric else m
        d = torch.diag((m.sum(1) + 1) ** -0.5)
        return d @ (m + torch.eye(n, dtype=F64)) @ d

    best, kept = (math.inf, -1.0), None

    def judge():
        nonlocal best, kept
        out = gcn(x, norm(s).detach())[valid].detach()
        loss, acc = float(F.cross_entropy(out, y[valid])), float((out.argmax(1) == y[valid]).sum())
        if loss < best[0] or acc > best[1]:
            kept = s.clone(), [p.detach().clone() for p in gcn.parameters()]
        best = min(best[0], loss), max(best[1], acc)

    for epoch in range(3):
        m = s.clone().requires_grad_()
        both = (m + m.t()) / 2
        d = both.sum(1)
        r = torch.diag((d + 1e-3) ** -0.5)
        terms = [
            2.0 * F.cross_entropy(gcn(x, norm(m))[train], y[train]),
            0.1 * torch.trace(x.t() @ r @ (torch.diag(d) - both) @ r @ x),
        ]
        if epoch > 0:  # at S = A, and for symmetric S, the norms are 0 and have gradient 0
            terms.append((m - a).norm())
            if not symmetric:
                terms.append(0.3 * (m - m.t()).norm())
        slope = torch.autograd.grad(sum(terms), m)[0]
        speed = 0.9 * speed + slope
        s = s - 0.01 * speed
        u, sigma, vh = torch.linalg.svd(s)
        s = u @ torch.diag((sigma - 0.01 * 4.0).clamp(min=0)) @ vh
        s = (s.sign() * (s.abs() - 0.01 * 0.02).clamp(min=0)).clamp(0, 1)
        judge()
        for _ in range(2):
            adam.zero_grad()
            F.cross_entropy(gcn(x, norm(s).detach())[train], y[train]).backward()
            adam.step()
            judge()
    torch.testing.assert_close(model.graph, kept[0])
    for ours, wanted in zip(model.gcn.parameters(), kept[1], strict=True):
        torch.testing.assert_close(ours.detach(), wanted)
    if symmetric:
        torch.testing.assert_close(model.graph, model.graph.t())


def plain(epochs: int) -> ProGNN:
    """The same GCN, training and selection with the graph held still."""
    still = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "lambda_": 0.0, "lr_graph": 1e-12}
    return ProGNN(8, 3, epochs=epochs, lr=0.01, **still)


def test_without_structure_terms_it_is_a_gcn_on_the_given_graph():
    x, edge_index, y, train, valid, _ = noisy_blocks(0)
    model = plain(2).fit(x, edge_index, y, train, valid)
    wanted = torch.zeros(60, 60)
    wanted[edge_index[0], edge_index[1]] = 1
    torch.testing.assert_close(model.graph, wanted)


@pytest.mark.parametrize(
    ("name", "options"),
    [("prognn", {}), ("prognn_lowrank", {"rank": 12, "keep_tail": True})],
)
def test_a_noisy_graph_is_cleaned(name, options):
    accuracy, share = {"learnt": [], "plain": []}, []
    for seed in range(4):
        x, edge_index, y, train, valid, test = noisy_blocks(seed)
        learnt = create_model(
            name, in_channels=8, out_channels=3, epochs=60, lr=0.01, lambda_=0.2, **options
        )
        for key, model in (("learnt", learnt), ("plain", plain(60))):
            found = model.fit(x, edge_index, y, train, valid, seed=seed).predict(x, edge_index)
            accuracy[key].append(float((found == y)[test].float().mean()))
        inside = y[:, None] == y
        before = float(inside[edge_index[0], edge_index[1]].float().mean())
        share.append(float(learnt.graph[inside].sum() / learnt.graph.sum()) - before)
    mean = {key: sum(values) / 4 for key, values in accuracy.items()}
    assert mean["learnt"] > mean["plain"] + 0.08, accuracy
    assert sum(share) / 4 > 0.1, "the learnt graph has more of its weight inside classes"


def test_it_overfits_its_training_nodes():
    x, edge_index, y, train, valid, _ = noisy_blocks(0)
    model = ProGNN(8, 3, epochs=60, lr=0.02).fit(x, edge_index, y, train, valid)
    assert model.history_[-1]["train_loss"] < 0.2
    assert [row["epoch"] for row in model.history_] == list(range(1, 61))
    assert 1 <= model.best_epoch_ <= 60


@pytest.mark.parametrize("kind", [ProGNN, ProGNNLowRank])
def test_same_seed_same_model_and_global_randomness_stays(kind):
    x, edge_index, y, train, valid, _ = noisy_blocks(0)
    states = []
    for seed, noise in ((5, 0), (5, 1), (6, 0)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        model = kind(8, 3, epochs=4)
        after_init = torch.get_rng_state()
        states.append(model.fit(x, edge_index, y, train, valid, seed=seed).state_dict())
        assert torch.equal(torch.get_rng_state(), after_init)
        assert not torch.equal(before, after_init)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0]["gcn.weight1"], states[2]["gcn.weight1"])


@pytest.mark.parametrize("kind", [ProGNN, ProGNNLowRank])
def test_saved_and_loaded_it_predicts_the_same(kind, tmp_path):
    x, edge_index, y, train, valid, _ = noisy_blocks(0)
    model = kind(8, 3, epochs=3).fit(x, edge_index, y, train, valid)
    assert model.config["num_nodes"] == 60
    loaded = zoo.from_pretrained(zoo.save_pretrained(model, tmp_path))
    assert type(loaded) is kind
    assert torch.equal(loaded(x), model(x))
    assert loaded.config == model.config
    with pytest.raises(InputError, match=r"x: shape \[59, 8\], wanted \[60, 8\]"):
        loaded(x[:59])


def test_published_settings_are_arguments():
    assert set(PUBLISHED_SETTINGS) == {"cora", "citeseer", "polblogs", "pubmed"}
    for settings in PUBLISHED_SETTINGS.values():
        model = create_model("prognn", in_channels=4, out_channels=2, **settings)
        assert settings.items() <= model.config.items()
    assert PUBLISHED_SETTINGS["pubmed"]["inner_steps"] == 30
    assert PUBLISHED_SETTINGS["polblogs"]["lambda_"] == 0.0


def test_refusals_of_arguments():
    for name, value in {
        "in_channels": 0, "epochs": 0, "inner_steps": 0, "num_nodes": 0, "lr": 0.0,
        "lr_graph": math.inf, "dropout": 1.0, "momentum": -0.1, "alpha": -1.0, "beta": math.nan,
        "phi": -1e-9, "lambda_": math.inf,
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=f"^{name}: "):
            ProGNN(**{"in_channels": 8, "out_channels": 3, name: value})
    with pytest.raises(InputError, match="rank: 0"):
        ProGNNLowRank(8, 3, rank=0)


def test_refusals_of_data():
    x, edge_index, y, train, valid, _ = noisy_blocks(0)
    good = {"x": x, "adj": edge_index, "y": y, "train": train, "valid": valid}
    loop = torch.cat([edge_index, torch.tensor([[4], [4]])], dim=1)
    cases = [
        ({"adj": edge_index[:, 1:]}, "reverse|back|symmetric"),
        ({"adj": loop}, "loop"),
        ({"x": x[:, :7]}, r"x: \[60, 7\], wanted \[N, 8\]"),
        ({"x": x * math.nan}, "x: "),
        ({"x": x.double()}, "x: torch.float64, wanted torch.float32"),
        ({"y": y[:59]}, r"y: .* \[59\], wanted \[60\]"),
        ({"y": y + 1}, r"y: class 3 in (train|valid), wanted 0..2"),
        ({"train": train + 50}, "train: node"),
        ({"train": train[:0]}, "train: "),
        ({"valid": train}, "valid: node .* in two parts"),
        ({"valid": torch.ones(60, dtype=torch.bool)}, "valid: torch.bool"),
    ]
    for change, message in cases:
        with pytest.raises(InputError, match=message):
            ProGNN(8, 3, epochs=1).fit(**{**good, **change})
    with pytest.raises(InputError, match="lr_graph: the graph diverged"):
        ProGNN(8, 3, epochs=9, lr_graph=1e30, gamma=1e30, beta=0.0).fit(**good)
