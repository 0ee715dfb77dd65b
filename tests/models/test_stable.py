"""STABLE's pieces: closed forms, counts, and what must not change the result."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graphkit.errors import InputError
from graphkit.models import Stable
from graphkit.models.stable import (
    ContrastiveEncoder,
    GraphClassifier,
    SummaryDiscriminator,
    add_neighbours,
    contrast,
    cosine,
    degree_power_normalisation,
    jaccard,
    most_similar,
    normalised_views,
    prune_by_embedding,
    recovered_views,
    rough_prune,
    symmetric_normalisation,
    train_contrastive,
)
from graphkit.models.stable.weighted_graph import graph_of_pairs, pairs_of
from graphkit.ops import CSR

PATH = CSR.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)


def random_graph(n: int, edges: int, seed: int = 0) -> CSR:
    g = torch.Generator().manual_seed(seed)
    pairs = torch.randint(n, (2, edges), generator=g).sort(0).values
    return graph_of_pairs(pairs[:, pairs[0] != pairs[1]].unique(dim=1), n)


def test_jaccard_of_two_rows_is_a_quarter_kept_at_equality():
    x = torch.tensor([[0.0, 1, 1, 1, 0], [0, 0, 0, 1, 1]])
    edge = graph_of_pairs(torch.tensor([[0], [1]]), 2)
    assert jaccard(x, torch.tensor([[0], [1]])).item() == 0.25
    assert rough_prune(edge, x, 0.25)[0].num_entries == 2
    left, removed = rough_prune(edge, x, 0.2501)
    assert left.num_entries == 0
    assert removed.tolist() == [[0], [1]]


def test_jaccard_zero_removes_nothing_and_empty_rows_stay():
    x = torch.zeros(3, 4)
    assert rough_prune(PATH, x, 0.5)[0].num_entries == 4  # 0/0 compares false
    x[0, 0] = 1
    assert rough_prune(PATH, x, 0.5)[1].tolist() == [[0], [1]]
    assert rough_prune(PATH, x, 0.0)[1].size(1) == 0


def test_jaccard_agrees_with_sets():
    g = torch.Generator().manual_seed(1)
    x = (torch.rand(40, 30, generator=g) < 0.2).float()
    pairs = torch.randint(40, (2, 200), generator=g)
    rows = [set(r.nonzero().flatten().tolist()) for r in x]
    for value, (u, v) in zip(jaccard(x, pairs).tolist(), pairs.t().tolist(), strict=True):
        assert value == len(rows[u] & rows[v]) / len(rows[u] | rows[v])


def test_cosine_at_the_threshold_is_removed_by_embedding_and_kept_by_features():
    x = torch.tensor([[1.0, 0, 0], [0.5, 0.75**0.5, 0]])
    edge = graph_of_pairs(torch.tensor([[0], [1]]), 2)
    threshold = cosine(x, torch.tensor([[0], [1]])).item()
    assert prune_by_embedding(edge, x, threshold)[0].num_entries == 0
    assert rough_prune(edge, x, threshold, "cosine")[0].num_entries == 2


def test_views_are_normalised_as_published():
    main, (view,) = normalised_views(PATH, [PATH], beta=2.0)
    assert main.to_dense().diagonal().tolist() == pytest.approx([2 / 3, 0.5, 2 / 3])
    assert main.to_dense()[0, 1].item() == pytest.approx(0.288675, abs=1e-6)
    assert view.to_dense().diagonal().tolist() == pytest.approx([0.75, 0.6, 0.75])
    assert view.to_dense()[1, 2].item() == pytest.approx(0.223607, abs=1e-6)
    _, (plain,) = normalised_views(PATH, [PATH], beta=2.0, aug_extra_loop=False)
    assert torch.equal(plain.to_dense(), main.to_dense())


def test_degree_power_normalisation_closed_forms():
    dense = {a: degree_power_normalisation(PATH, a).to_dense() for a in (-0.5, 0.0, 0.6)}
    assert dense[-0.5].diagonal().tolist() == pytest.approx([0.5, 1 / 3, 0.5])
    assert dense[-0.5][0, 1].item() == pytest.approx(0.408248, abs=1e-6)
    wanted = {
        0.0: [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]],
        0.6: [[0.439478, 0.560522, 0], [0.305304, 0.389392, 0.305304], [0, 0.560522, 0.439478]],
    }
    for alpha, rows in wanted.items():
        assert torch.allclose(dense[alpha], torch.tensor(rows), atol=1e-6)


@pytest.mark.parametrize("alpha", [-0.3, 0.0, 0.3, 2.0])
def test_rows_sum_to_one_on_a_directed_graph(alpha):
    csr = add_neighbours(random_graph(50, 120), torch.randint(50, (50, 3)))
    weighted = degree_power_normalisation(csr, alpha)
    total = weighted @ torch.ones(50, 1)
    assert torch.allclose(total, torch.ones(50, 1), atol=1e-6)
    # The whole formula, d_i included.
    a = torch.eye(50)
    a[csr.row().long(), csr.col.long()] = 1.0
    power = a.sum(1).double() ** alpha
    wanted = a * power[:, None] * power[None]
    wanted = wanted / wanted.sum(1, keepdim=True)
    assert torch.allclose(weighted.to_dense(), wanted.float(), atol=1e-6)


def test_one_neighbour_changes_nothing_two_add_at_most_one():
    csr = random_graph(40, 100)
    e = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    everybody = torch.ones(40, dtype=torch.bool)
    assert torch.equal(add_neighbours(csr, most_similar(e, everybody, 1)).col, csr.col)
    two = most_similar(e, everybody, 2)
    whole = add_neighbours(csr, two)
    new = whole.degree - csr.degree
    assert int(new.min()) >= 0
    assert int(new.max()) == 1
    listed = set(map(tuple, torch.stack([csr.row(), csr.col], 1).tolist()))
    for node in range(40):
        (other,) = [j for j in two[node].tolist() if j != node]
        assert int(new[node]) == ((node, other) not in listed)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocked_neighbours_equal_the_dense_ones(block):
    e = torch.randn(90, 16, generator=torch.Generator().manual_seed(2))
    candidates = torch.rand(90, generator=torch.Generator().manual_seed(3)) < 0.7
    s = F.normalize(e) @ F.normalize(e).t()
    s[:, ~candidates] = 0.0
    order = s.sort(dim=1, descending=True, stable=True).indices[:, :5].sort(1).values
    assert torch.equal(most_similar(e, candidates, 5, block), order)


def test_ties_go_to_the_lower_index_and_other_columns_count_as_zero():
    e = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [-1, 0]])
    everybody = torch.ones(5, dtype=torch.bool)
    assert most_similar(e, everybody, 2)[:4].tolist() == [[0, 1]] * 4
    only = torch.tensor([False, False, True, True, False])
    # For the last node the candidates have similarity -1: columns set to 0 come first.
    assert most_similar(e, only, 2).tolist() == [[2, 3]] * 4 + [[0, 1]]


def test_too_few_candidates_are_refused():
    with pytest.raises(InputError, match="k: 3 with 2 candidate"):
        most_similar(torch.randn(4, 2), torch.tensor([True, True, False, False]), 3)
    with pytest.raises(InputError, match="embedding"):
        most_similar(torch.full((2, 2), torch.nan), torch.tensor([True, True]), 1)


def test_views_get_a_fifth_of_the_removed_edges_back():
    csr = random_graph(200, 700)
    x = (torch.rand(200, 50, generator=torch.Generator().manual_seed(4)) < 0.05).float()
    rough, removed = rough_prune(csr, x, 0.02)
    assert removed.size(1) > 100
    first, second = recovered_views(rough, removed, 0.2, torch.Generator().manual_seed(0))
    back = int(0.2 * removed.size(1))
    for view in (first, second):
        assert view.num_entries == rough.num_entries + 2 * back
    assert not torch.equal(first.col, second.col)
    (none, _) = recovered_views(rough, removed, 0.0, torch.Generator())
    assert torch.equal(none.col, rough.col)
    assert pairs_of(csr).size(1) == pairs_of(rough).size(1) + removed.size(1)


def test_parameter_counts():
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(ContrastiveEncoder(1433)) == 1433 * 512 + 512 + 1
    assert count(SummaryDiscriminator()) == 262_145
    assert count(GraphClassifier(512, 16, 7)) == 512 * 16 + 16 + 16 * 7 + 7
    bound = (6 / (512 * 512 + 512)) ** 0.5
    assert bound == pytest.approx(0.00478, abs=1e-5)
    weight = SummaryDiscriminator().weight
    assert 0.99 * bound < float(weight.detach().abs().max()) <= bound
    classifier = GraphClassifier(512, 16, 4)
    for tensor, limit in (
        (classifier.lin1.weight, 0.25), (classifier.bias1, 0.25), (classifier.lin2.weight, 0.5),
    ):  # fmt: skip
        assert 0.7 * limit < float(tensor.detach().abs().max()) <= limit


def test_collapsed_discriminator_is_the_sum_of_bilinear_forms():
    torch.manual_seed(0)
    own, plain = SummaryDiscriminator(6).double(), torch.nn.Bilinear(6, 6, 1).double()
    own.load_state_dict(plain.state_dict())
    h, c = torch.randn(9, 6).double(), torch.rand(2, 6).double()
    wanted = sum(plain(h, row.expand(9, -1))[:, 0] for row in c)
    assert torch.allclose(own(h, c), wanted)


def contrast_inputs(n=60, features=20, channels=8):
    torch.manual_seed(0)
    x = (torch.rand(n, features) < 0.3).float()
    csr = random_graph(n, 150)
    main, views = normalised_views(csr, [csr, random_graph(n, 160, seed=5)], 2.0)
    return ContrastiveEncoder(features, channels), SummaryDiscriminator(channels), x, main, views


def test_identity_permutation_makes_the_logits_equal():
    *arguments, views = contrast_inputs()
    same, other = contrast(*arguments, views, torch.arange(60))
    assert torch.equal(same, other)
    shuffled = contrast(*arguments, views, torch.randperm(60))[1]
    assert not torch.equal(same, shuffled)


def test_shuffling_after_the_projection_is_shuffling_before():
    encoder, discriminator, x, main, views = contrast_inputs()
    order = torch.randperm(60)
    negative = contrast(encoder, discriminator, x, main, views, order)[1]
    summaries = torch.stack([encoder(x, v).mean(0).sigmoid() for v in views])
    wanted = discriminator(encoder(x[order], main), summaries)
    assert torch.allclose(negative, wanted, atol=1e-6)


def test_relabelling_nodes_permutes_the_embedding():
    encoder, _, x, main, _ = contrast_inputs()
    order = torch.randperm(60)
    inverse = order.argsort()
    csr = main.csr
    off = csr.row() != csr.col
    pairs = torch.stack([inverse[csr.row().long()[off]], inverse[csr.col.long()[off]]])
    pairs = pairs[:, pairs[0] < pairs[1]]
    moved = symmetric_normalisation(graph_of_pairs(pairs, 60), 2.0)
    assert torch.allclose(encoder(x[order], moved), encoder(x, main)[order], atol=1e-6)


def test_contrastive_training_keeps_the_best_epoch_and_stops():
    encoder, discriminator, x, main, views = contrast_inputs()
    history = train_contrastive(
        encoder, discriminator, x, main, views, torch.Generator().manual_seed(0), epochs=400,
        lr=0.01, patience=5,
    )  # fmt: skip
    best = min(history)
    assert len(history) < 400
    assert len(history) - 1 - history.index(best) == 5
    assert best < history[0]


def test_contrastive_encoder_overfits_one_shuffle():
    encoder, discriminator, x, main, views = contrast_inputs(channels=32)
    x = (torch.rand(60, 200) < 0.1).float()
    encoder = ContrastiveEncoder(200, 32)
    order = torch.randperm(60)
    parameters = [*encoder.parameters(), *discriminator.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    target = torch.cat([torch.ones(60), torch.zeros(60)])
    for _ in range(300):
        optimizer.zero_grad()
        logits = torch.cat(contrast(encoder, discriminator, x, main, views, order))
        loss = F.binary_cross_entropy_with_logits(logits, target)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_gradients_of_the_encoder():
    encoder, discriminator, x, main, views = contrast_inputs(n=12, features=5, channels=4)
    main, views = normalised_views(random_graph(12, 20), [random_graph(12, 22, 1)], 1.0)
    encoder, discriminator, x = encoder.double(), discriminator.double(), x.double()
    order = torch.randperm(12)

    def value(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        z = x @ weight.t()
        graph = main.to_dense().double()
        h = F.prelu(graph @ z + bias, encoder.act.weight)
        c = torch.sigmoid(
            F.prelu(views[0].to_dense().double() @ z + bias, encoder.act.weight).mean(0)
        )
        return (
            discriminator(h, c[None]).sum()
            - discriminator(F.prelu(graph @ z[order] + bias, encoder.act.weight), c[None])
            .square()
            .sum()
        )

    positive, negative = contrast(encoder, discriminator, x, main, views, order)
    own = torch.autograd.grad(
        positive.sum() - negative.square().sum(), [encoder.lin.weight, encoder.bias]
    )
    wanted = torch.autograd.grad(
        value(encoder.lin.weight, encoder.bias), [encoder.lin.weight, encoder.bias]
    )
    for a, b in zip(own, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-8)


def test_alpha_and_isolated_nodes():
    for alpha in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="alpha"):
            degree_power_normalisation(PATH, alpha)
        with pytest.raises(InputError, match="alpha"):
            Stable(3, 2, alpha=alpha)
    lonely = graph_of_pairs(torch.tensor([[0], [1]]), 3)
    with pytest.raises(InputError, match="node 2 of degree 0"):
        degree_power_normalisation(lonely, -0.5, self_loops=False)
    assert degree_power_normalisation(lonely, -0.5).to_dense()[2].tolist() == [0, 0, 1]
    assert degree_power_normalisation(lonely, 0.5, self_loops=False).to_dense()[2].sum() == 0
