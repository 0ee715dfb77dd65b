"""STABLE and its baselines from fit to prediction: seeds, ablations, refusals, save and load."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from robust_cases import communities, small
from torch_geometric.data import Data

from graphkit import zoo
from graphkit.errors import InputError
from graphkit.models import RobustGNN, create_model
from graphkit.models.node_estimator import seeded, train_by_two_criteria
from graphkit.models.robust_gnn import low_rank
from graphkit.models.stable import symmetric_normalisation
from graphkit.models.stable.weighted_graph import graph_of_pairs
from graphkit.ops import CSR

X, EDGES, Y, TRAIN, VALID = communities()
ARGS = (X, EDGES, Y, TRAIN, VALID)
BASELINES = [
    {},
    {"conv": "gat", "hidden_channels": 4, "heads": 2},
    {"purify": "jaccard", "threshold": 0.05},
    {"purify": "jaccard", "metric": "cosine", "threshold": 0.1},
    {"purify": "svd", "rank": 10},
]


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_same_seed_same_result_and_the_callers_random_numbers_stay():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = small()
    torch.random.set_rng_state(before)
    first.fit(*ARGS, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    second = small().fit(*ARGS, seed=3)
    assert same(state(first), state(second))
    assert torch.equal(first.logits_, second.logits_)
    assert first.history_ == second.history_
    third = small().fit(*ARGS, seed=4)
    assert same(state(first.encoder), state(third.encoder))  # seeds 0..9 share the embedding
    assert not same(state(first.classifier), state(third.classifier))


def test_random_numbers_of_a_gpu_are_the_callers_again(monkeypatch):
    asked, fork = [], torch.random.fork_rng
    monkeypatch.setattr("torch.random.fork_rng", lambda devices: asked.append(devices) or fork([]))
    for name in ("cpu", "cuda:1"):
        with seeded(0, torch.device(name)):
            pass
    assert asked == [[], [torch.device("cuda:1")]]
    small(epochs=1, contrast_epochs=1).fit(*ARGS)
    RobustGNN(40, 2, epochs=1).fit(*ARGS)
    assert asked[2:] == [[]] * 3
    for model in (small(epochs=1, contrast_epochs=1), RobustGNN(40, 2)):
        with pytest.raises(InputError, match=r"seed: 0.5, wanted a whole"):
            model.fit(*ARGS, seed=0.5)


def test_seeds_of_numpy_are_taken():
    for make in (lambda: small(epochs=1, contrast_epochs=1), lambda: RobustGNN(40, 2, epochs=1)):
        found = make().fit(*ARGS, seed=np.int64(3))
        assert torch.equal(found.logits_, make().fit(*ARGS, seed=3).logits_)


def test_embedding_is_taken_over_where_the_seed_allows_it():
    first = small(runs_per_embedding=2).fit(*ARGS, seed=0)
    second = small(runs_per_embedding=2).fit(*ARGS, seed=1, previous=first)
    assert second.embedding_ is first.embedding_
    assert torch.equal(second.logits_, small(runs_per_embedding=2).fit(*ARGS, seed=1).logits_)
    third = small(runs_per_embedding=2).fit(*ARGS, seed=2, previous=second)
    assert not torch.equal(third.embedding_, first.embedding_)
    other = small(runs_per_embedding=2, alpha=0.0).fit(*ARGS, seed=1, previous=first)
    assert other.embedding_ is not first.embedding_
    fewer = EDGES[:, (EDGES != 0).all(0)]
    moved = small(runs_per_embedding=2).fit(X, fewer, Y, TRAIN, VALID, seed=1, previous=first)
    assert moved.embedding_ is not first.embedding_


def test_forward_refines_as_fit_did():
    model = small().fit(*ARGS)
    assert torch.equal(model(X, EDGES), model.logits_)
    assert torch.equal(model(Data(x=X, edge_index=EDGES)), model.logits_)
    assert torch.equal(model.embed(X, EDGES), model.embedding_)
    assert torch.equal(model.predict(X, EDGES), model.logits_.argmax(1))
    assert torch.equal(model.predict(Data(x=X, edge_index=EDGES)), model.logits_.argmax(1))
    assert model.refine(X, EDGES).counts == model.refined_.counts
    # Rows receive from their new neighbours: the graph is directed.
    csr = model.refined_.adjacency
    assert model.refined_.counts["added"] > 0
    assert csr.transpose().col.tolist() != csr.col.tolist()
    accuracy = (model.predict(X, EDGES) == Y).float().mean()
    assert accuracy > 0.9


def test_training_nodes_can_be_learnt_by_heart():
    noise = (torch.rand(120, 300, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    labels = torch.randint(2, (120,), generator=torch.Generator().manual_seed(2))
    options = {"weight_decay": 0.0, "dropout": 0.0, "epochs": 150, "lr": 0.05}
    for model in (RobustGNN(300, 2, **options), RobustGNN(300, 2, "gat", **options)):
        model.fit(noise, EDGES, labels, TRAIN, TRAIN.new_tensor([VALID[0]]))
        assert model.history_[-1]["train_loss"] < 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0}, {"alpha": -0.5}, {"recover": 0.0}, {"classifier_input": "features"},
        {"prune": "rough"}, {"aug_extra_loop": False}, {"jt": 0.0},
        {"metric": "cosine", "jt": 0.3},
    ],
    ids=str,
)  # fmt: skip
def test_every_ablation_runs_and_matters(options):
    plain = small().fit(*ARGS)
    model = small(**options).fit(*ARGS)
    assert torch.isfinite(model.logits_).all()
    assert not torch.equal(model.logits_, plain.logits_)
    if options == {"k": 0}:
        assert model.refined_.counts["added"] == 0
    if options == {"jt": 0.0}:
        assert model.refined_.counts["rough"] == 0


def test_original_graph_is_pruned_not_the_rough_one():
    model = small(ct=-0.999).fit(*ARGS)  # removes nothing
    counts = model.refined_.counts
    assert counts["cosine"] == 0
    assert counts["rough"] > 0
    assert model.refined_.adjacency.num_entries == EDGES.size(1) + counts["added"]
    rough = small(ct=-0.999, prune="rough").fit(*ARGS).refined_
    kept = rough.adjacency.num_entries - rough.counts["added"]
    assert kept == EDGES.size(1) - 2 * counts["rough"]


@pytest.mark.parametrize("options", BASELINES, ids=str)
def test_baselines_fit_predict_and_come_back_from_the_zoo(options, tmp_path):
    model = RobustGNN(40, 2, epochs=30, **options).fit(*ARGS, seed=1)
    again = RobustGNN(40, 2, epochs=30, **options).fit(*ARGS, seed=1)
    assert torch.equal(model.logits_, again.logits_)
    assert torch.allclose(model(X, EDGES), model.logits_, atol=1e-6)
    assert (model.predict(X, EDGES) == Y).float().mean() > 0.75
    loaded = zoo.from_pretrained(zoo.save_pretrained(model, tmp_path))
    assert torch.equal(loaded(X, EDGES), model(X, EDGES))


def test_stable_comes_back_from_the_zoo(tmp_path):
    model = small().fit(*ARGS)
    folder = zoo.save_pretrained(model, tmp_path)
    loaded = zoo.from_pretrained(folder)
    assert loaded.config == model.config
    assert torch.equal(loaded(X, EDGES), model.logits_)
    assert (folder / "model.safetensors").is_file()
    assert create_model("stable", **model.config).config == model.config


def test_last_save_of_either_criterion_wins():
    class Scripted(torch.nn.Module):
        """Logits of a chosen validation loss and accuracy per epoch."""

        def __init__(self, script):
            super().__init__()
            self.step = torch.nn.Parameter(torch.zeros(()))
            self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
            self.script = script

        def forward(self):
            if self.training:
                self.epoch += 1
            margins = torch.tensor(self.script[int(self.epoch) - 1])
            margins = torch.stack([margins.new_zeros(()), *margins])  # node 0 trains
            return torch.stack([margins + self.step * 0, margins * 0], 1)

    y = torch.zeros(3, dtype=torch.int64)
    # (margins of two nodes): the second epoch has the better loss, the third the better accuracy.
    script = [[-1.0, -1.0], [-0.1, -0.1], [-5.0, 0.5], [-6.0, -6.0]]
    module = Scripted(script)
    history, best = train_by_two_criteria(
        module, module, y, torch.tensor([0]), torch.tensor([1, 2]), epochs=4, lr=0.01,
        weight_decay=0.0, noisy_loss=False,
    )  # fmt: skip
    assert best == 3
    assert int(module.epoch) == 3
    losses = [row["valid_loss"] for row in history]
    assert losses[1] == min(losses)


def test_low_rank_graph_is_the_dense_one_normalised():
    csr = CSR.from_edge_index(EDGES, 120)
    dense = torch.zeros(120, 120, dtype=torch.float64)
    dense[EDGES[1], EDGES[0]] = 1.0
    u, s, vt = torch.linalg.svd(dense)
    close = (u[:, :12] * s[:12]) @ vt[:12] + torch.eye(120)
    total = close.sum(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = low_rank(csr, 12) @ torch.eye(120)
    bad = int((total <= 0).sum())
    assert bool(caught) == bool(bad)
    root = torch.where(total > 0, total, torch.inf).rsqrt()
    assert torch.allclose(found.double(), root[:, None] * close * root[None], atol=1e-4)
    full = low_rank(graph_of_pairs(torch.tensor([[0, 1], [1, 2]]), 3), 2) @ torch.eye(3)
    path = symmetric_normalisation(graph_of_pairs(torch.tensor([[0, 1], [1, 2]]), 3), 1.0)
    assert torch.allclose(full, path.to_dense(), atol=1e-5)


def test_negative_row_sums_are_clamped_with_a_warning(monkeypatch):
    # Rows (1, 0, 0) -> (-3, 0, 0): the sum with the loop is -2, whose root would be NaN.
    factors = np.array([[-1.0], [0.0], [0.0]]), np.array([3.0]), np.array([[1.0, 0.0, 0.0]])
    monkeypatch.setattr("scipy.sparse.linalg.svds", lambda *a, **k: factors)
    with pytest.warns(UserWarning, match="1 of 3 rows .* sums of at most 0"):
        graph = low_rank(graph_of_pairs(torch.tensor([[0, 1], [1, 2]]), 3), 1)
    assert graph.root.tolist() == [0.0, 1.0, 1.0]
    assert torch.equal(graph @ torch.ones(3, 1), torch.tensor([[0.0], [1.0], [1.0]]))


def test_graphs_that_are_not_plain_are_refused():
    model = small()
    one_way = torch.cat([EDGES, torch.tensor([[0], [119]])], 1)
    loop = torch.cat([EDGES, torch.tensor([[4], [4]])], 1)
    halves = torch.full((EDGES.size(1),), 0.5)
    weighted = torch.sparse_coo_tensor(EDGES, halves, (120, 120), check_invariants=True)
    for graph, word in ((one_way, "no reverse|twice"), (loop, "self-loop"), (weighted, "weight")):
        for estimator in (model, RobustGNN(40, 2)):
            with pytest.raises(InputError, match=word):
                estimator.fit(X, graph, Y, TRAIN, VALID)


def test_splits_labels_and_features_that_do_not_fit_are_refused():
    model = RobustGNN(40, 2)
    for arguments, word in (
        ((X, EDGES, Y, TRAIN, TRAIN[:3]), "disjoint"),
        ((X, EDGES, Y, torch.tensor([0, 120]), VALID), "node 120.*another graph"),
        ((X, EDGES, Y, torch.tensor([-1]), VALID), "node -1"),
        ((X, EDGES, Y, TRAIN[:0], VALID), "at least one node"),
        ((X, EDGES, Y[:100], TRAIN, VALID), "y: .*wanted .120."),
        ((X, EDGES, Y + 1, TRAIN, VALID), "class 2"),
        ((X[:, :9], EDGES, Y, TRAIN, VALID), "x: .*wanted .N, 40."),
        ((X[:60], EDGES, Y[:60], TRAIN, VALID), "node id"),
        ((X.long(), EDGES, Y, TRAIN, VALID), "floating point"),
        ((X * torch.inf, EDGES, Y, TRAIN, VALID), "NaN or infinite"),
        ((X.double(), EDGES, Y, TRAIN, VALID), "x: torch.float64, wanted torch.float32"),
        ((X.to_sparse(), EDGES, Y, TRAIN, VALID), "x: torch.sparse_coo, wanted a dense"),
        ((X, EDGES, Y.tolist(), TRAIN, VALID), "y: list"),
        ((X, EDGES, Y, TRAIN.tolist(), VALID), "train: list"),
        ((X, None, Y, TRAIN, VALID), "adj: None"),
    ):
        with pytest.raises(InputError, match=word):
            model.fit(*arguments)
    for other in (RobustGNN(40, 2, "gat"), small(contrast_epochs=1)):
        with pytest.raises(InputError, match=r"x: torch.float64, wanted torch.float32"):
            other.fit(X.double(), EDGES, Y, TRAIN, VALID)


def test_double_precision_is_trained_and_kept():
    given = (X.double(), EDGES, Y, TRAIN, VALID)
    for model in (
        small(epochs=2, contrast_epochs=2), *(RobustGNN(40, 2, epochs=2, **o) for o in BASELINES)
    ):  # fmt: skip
        assert model.double().fit(*given).logits_.dtype == torch.float64
        assert torch.equal(model.predict(X.double(), EDGES), model.logits_.argmax(1))


def test_graphs_without_edges():
    none = EDGES[:, :0]
    for options in BASELINES:
        model = RobustGNN(40, 2, epochs=2, **options).fit(X, none, Y, TRAIN, VALID)
        assert torch.isfinite(model.logits_).all()
    few = {"epochs": 2, "contrast_epochs": 2}
    found = small(k=0, **few).fit(X, none, Y, TRAIN, VALID)
    assert found.refined_.counts == {"rough": 0, "cosine": 0, "added": 0}
    with pytest.raises(InputError, match="k: 3 with 0 candidate nodes of 120, wanted at least k"):
        small(**few).fit(X, none, Y, TRAIN, VALID)


def test_contrastive_training_that_diverges_is_said():
    with pytest.raises(InputError, match="contrast_lr: the contrastive loss is nan in epoch 2"):
        small(contrast_lr=1e30).fit(*ARGS)


def test_features_and_candidates_that_do_not_suit_are_refused():
    with pytest.raises(InputError, match="metric='cosine'"):
        small().fit(X * 0.5, *ARGS[1:])
    small(metric="cosine", epochs=2, contrast_epochs=2).fit(X * 0.5, *ARGS[1:])
    small(jt=0.0, epochs=2, contrast_epochs=2).fit(X * 0.5, *ARGS[1:])  # nothing is compared
    with pytest.raises(InputError, match="metric='cosine'"):
        RobustGNN(40, 2, purify="jaccard").fit(X * 0.5, *ARGS[1:])
    with pytest.raises(InputError, match="candidate"):
        small(degree_threshold=100, contrast_epochs=2).fit(*ARGS)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"alpha": float("nan")}, "alpha"), ({"k": -1}, "k"), ({"k": 1.5}, "k"),
        ({"recover": 1.2}, "recover"), ({"beta": 0.0}, "beta"), ({"patience": 0}, "patience"),
        ({"metric": "jacard"}, "did you mean 'jaccard'"), ({"prune": "x"}, "prune"),
        ({"classifier_input": "x"}, "classifier_input"), ({"dropout": 1.0}, "dropout"),
        ({"epochs": 0}, "epochs"), ({"lr": 0.0}, "lr"), ({"weight_decay": -1.0}, "weight_decay"),
        ({"runs_per_embedding": 0}, "runs_per_embedding"), ({"jt": float("inf")}, "jt"),
        ({"epochs": 2.5}, "epochs: 2.5"), ({"lr": "fast"}, "lr: 'fast'"),
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        small(**options)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"conv": "gin"}, "conv"), ({"purify": "jacard"}, "did you mean 'jaccard'"),
        ({"conv": "gat", "purify": "svd"}, "attention needs edges"), ({"rank": 0}, "rank"),
        ({"threshold": 2.0}, "threshold"), ({"metric": "dice"}, "metric"),
    ],
    ids=str,
)  # fmt: skip
def test_baseline_options_out_of_range_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        RobustGNN(40, 2, **options)
    with pytest.raises(InputError, match="rank: 120"):
        RobustGNN(40, 2, purify="svd", rank=120).fit(*ARGS)
