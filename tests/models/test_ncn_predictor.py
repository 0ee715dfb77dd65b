"""NCN's predictors against Python's sets, and the properties of completion (arXiv 2302.00890)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from ncn_cases import NAMES, every_pair, random_graph, reference_scores, row_sets, undirected
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.ncn import (
    PREDICTORS,
    LinkPredictor,
    adjacency,
    completion_probability,
    drop_adj,
    increasing_alpha,
    sample_rows,
    two_hop,
)
from graphkit.models.ncn import predictor as predictor_module
from graphkit.models.ncn.completion import pieces
from graphkit.ops import CSR, aggregate, intersect, intersect_sum

OVERLAPS = undirected((0, 2), (0, 3), (1, 2), (1, 3), (1, 4))
COMPLETING = ("incn1cn1", "sincn1cn1")


def net(predictor: str = "cn1", **kwargs: Any) -> LinkPredictor:
    torch.manual_seed(0)
    options: dict[str, Any] = {"use_xlin": True, "scale": 4.0, "offset": 0.1, "pt": 0.7}
    if predictor in COMPLETING:
        options["depth"] = 1
    return LinkPredictor(6, predictor, **{**options, **kwargs}).double().eval()


def features(nodes: int = 24, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("form", [{}, {"tailact": True, "use_xlin": False}, {"twolayerlin": True}])
@pytest.mark.parametrize("predictor", NAMES)
def test_equals_the_specification(predictor: str, form: dict[str, Any], nested: bool) -> None:
    model = net(predictor, beta=0.6, nested_transform=nested, **form)
    csr, x, pairs = random_graph(), features().requires_grad_(), every_pair()[:, ::5]
    ours = model(x, csr, pairs)
    theirs = reference_scores(model, x, row_sets(csr), pairs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    seed = torch.randn_like(ours)
    leaves = [x, *(p for n, p in model.named_parameters() if "ptlin" not in n)]
    grads = [torch.autograd.grad((out * seed).sum(), leaves) for out in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("predictor", COMPLETING)
@pytest.mark.parametrize("depth", [0, 2, 3])
def test_deeper_completion_equals_the_specification(predictor: str, depth: int) -> None:
    csr, x, pairs = random_graph(10, 14), features(10), every_pair(10)[:, ::3]
    model = net(predictor, depth=depth)
    theirs = reference_scores(model, x, row_sets(csr), pairs)
    torch.testing.assert_close(model(x, csr, pairs), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("predictor", NAMES)
def test_dropped_rows_are_what_is_intersected(
    predictor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap: each direction of a link is drawn apart, so a node may move from C to R1 or R2."""
    csr, x, pairs = random_graph(), features(), every_pair()[:, ::7]
    torch.manual_seed(5)
    dropped, _ = drop_adj(csr, 0.4)
    monkeypatch.setattr(predictor_module, "drop_adj", lambda *_: (dropped, 1 / 0.6))
    model = net(predictor, preedp=0.4)
    theirs = reference_scores(model, x, row_sets(dropped), pairs)
    torch.testing.assert_close(model(x, csr, pairs), theirs, rtol=0, atol=1e-12)


def test_the_maps_are_built_of_the_published_layers() -> None:
    def layers(name: str, **options: Any) -> str:
        model = net("ncnc", **{"predp": 0.5, **options})
        letters = {"Linear": "L", "LayerNorm": "N", "Dropout": "D", "ReLU": "R", "Identity": "-"}
        return "".join(letters[type(layer).__name__] for layer in getattr(model, name))

    # Lin, LN, D, ReLU; the first block of xlin and xcnlin has no norm.
    assert layers("xlin") == "LDRLNDR"
    assert layers("xcnlin") == "LDRLNDRL"
    assert layers("xcnlin", tailact=True) == "LDRLNDR"
    assert layers("xijlin") == "LNDRL"
    assert layers("xijlin", tailact=True) == "LNDR"
    assert layers("lin") == "LNDRL"
    assert layers("lin", twolayerlin=True) == "LNDRLNDRL"
    assert layers("xcnlin", lnnn=False, predp=0.0) == "L-RL--RL"
    assert layers("ptlin") == "LRL"
    assert net("scn1").xcnlin[0].in_features == 1
    assert net("catscn1").lin[0].in_features == 7
    assert [net(name).xlin for name in ("cn0", "scn1", "catscn1", "sincn1cn1")] == [None] * 4


def test_what_is_handed_down_to_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[CSR] = []

    def record(csr: CSR, p: float, training: bool) -> tuple[CSR, float]:
        drawn.append(csr)
        return drop_adj(csr, p, training)

    monkeypatch.setattr(predictor_module, "drop_adj", record)
    csr, x, pairs = random_graph(), features(), every_pair()[:, :9]
    net("ncnc2", preedp=0.3).train()(x, csr, pairs)
    entries = [graph.num_entries for graph in drawn]
    assert drawn[0] is csr
    assert entries[0] > entries[1] > entries[2]
    drawn.clear()
    net("ncnc2", preedp=0.3, nested_transform=False).train()(x, csr, pairs)
    assert all(graph is csr for graph in drawn)
    assert len(drawn) == 3


def test_the_overlaps_of_the_small_example() -> None:
    csr = adjacency(OVERLAPS, 5)
    pairs = torch.tensor([[0, 2, 0], [1, 3, 4]])
    wanted = {
        "common": [{2, 3}, {0, 1}, set()],
        "first": [set(), set(), {2, 3}],
        "second": [{4}, set(), {1}],
    }
    assert row_sets(intersect(csr, pairs).csr) == wanted["common"]
    assert row_sets(intersect(csr, pairs, kind="difference").csr) == wanted["first"]
    assert row_sets(intersect(csr, pairs.flip(0), kind="difference").csr) == wanted["second"]


def test_two_hop_rows_are_the_support_of_the_square() -> None:
    csr = random_graph()
    adj = torch.zeros(24, 24)
    adj[csr.row().long(), csr.col.long()] = 1
    square = (adj @ adj) > 0
    nodes = torch.tensor([3, 23, 0, 3])
    rows = two_hop(csr, nodes)
    assert row_sets(rows) == [set(square[n].nonzero().view(-1).tolist()) for n in nodes]


class TestProbability:
    def p(self, logit: float, scale: float, offset: float, pt: float, alpha: float) -> float:
        value = torch.tensor(logit, dtype=torch.float64)
        log_pt = torch.tensor(pt, dtype=torch.float64).log()
        return float(completion_probability(value, alpha, log_pt, scale, offset))

    def test_published_recipes(self) -> None:
        cora = (4.3, 2.8, 0.75, 1.0)
        assert self.p(2.8, *cora) == pytest.approx(0.428571, abs=1e-6)
        assert self.p(3.0, *cora) == pytest.approx(0.639298, abs=1e-6)
        assert self.p(0.0, *cora) == pytest.approx(4.4275e-6, abs=1e-9)
        assert self.p(10.0, *cora) == pytest.approx(1.0, abs=1e-12)
        assert self.p(1.0, 5.3, 0.5, 0.5, 0.3) == pytest.approx(0.262858, abs=1e-6)

    def test_it_rises_to_alpha_and_never_overflows(self) -> None:
        logits = torch.linspace(-1e6, 1e6, 2001)
        p = completion_probability(logits, 0.8, torch.tensor(0.75).log(), 1e4, -3.0)
        assert bool((p.diff() >= 0).all())
        assert float(p[0]) == 0.0
        assert float(p[-1]) == pytest.approx(0.8)
        assert bool(p.isfinite().all())

    def test_alphas_schedule(self) -> None:
        assert [increasing_alpha(e) for e in (0, 5, 6, 14, 15, 100)] == pytest.approx(
            [0, 0, 0.1, 0.9, 1, 1]
        )


class TestCompletion:
    def twin(self, **kwargs: Any) -> tuple[LinkPredictor, LinkPredictor]:
        completing = net("incn1cn1", **kwargs)
        plain = net("cn1", **kwargs)
        for name, value in plain.state_dict().items():
            assert torch.equal(completing.state_dict()[name], value), name  # one seed, one start
        return completing, plain

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("off", [{"depth": 0}, {"alpha": 0.0}])
    def test_without_completion_it_is_ncn_to_the_bit(
        self, off: dict[str, Any], training: bool
    ) -> None:
        completing, plain = self.twin(preedp=0.3, predp=0.2, **off)
        csr, x, pairs = random_graph(), features(), every_pair()
        out = []
        for model in (completing, plain):
            torch.manual_seed(7)
            out.append(model.train(training)(x, csr, pairs))
        assert torch.equal(*out)

    def test_certain_completion_pools_the_union(self) -> None:
        model = net("incn1cn1", scale=1e4, offset=-1e4, alpha=1.0, lnnn=False)
        csr, x, pairs = random_graph(), features(), every_pair()
        pooled = x + model.xlin(x)
        near = row_sets(csr)
        c = torch.stack([pooled[sorted(near[i] | near[j])].sum(0) for i, j in pairs.t().tolist()])
        wanted = model.lin(model.beta * model.xcnlin(c) + model.xijlin(x[pairs[0]] * x[pairs[1]]))
        torch.testing.assert_close(model(x, csr, pairs), wanted, rtol=0, atol=1e-10)

    def test_no_gradient_flows_through_the_belief(self) -> None:
        model = net("ncnc")
        csr, pairs = random_graph(), every_pair()[:, ::4]
        x = features().requires_grad_()
        out = model(x, csr, pairs).sum()
        assert [n for n, p in model.named_parameters() if "ptlin" in n and p.grad is not None] == []
        grads = torch.autograd.grad(out, list(model.parameters()), allow_unused=True)
        unused = [n for (n, _), g in zip(model.named_parameters(), grads, strict=True) if g is None]
        assert unused
        assert all(n.startswith("ptlin") for n in unused)

    def test_a_learned_pt_gets_a_gradient(self) -> None:
        model = net("ncnc", learnpt=True)
        csr, x, pairs = random_graph(), features(), every_pair()[:, ::5]
        ours = model(x, csr, pairs)
        theirs = reference_scores(model, x, row_sets(csr), pairs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        grads = [
            torch.autograd.grad(out.square().sum(), list(model.ptlin.parameters()))
            for out in (ours, theirs)
        ]
        for a, b in zip(*grads, strict=True):
            assert bool(a.any())
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("predictor", ["ncn", "ncnc", "ncnc2", "ncn2", "ncn_higher"])
    def test_pieces_change_nothing(self, predictor: str, monkeypatch: pytest.MonkeyPatch) -> None:
        csr, x, pairs = random_graph(10, 16), features(10), every_pair(10)
        whole = net(predictor)(x, csr, pairs)
        for size in (1, 7, 100):
            model = net(predictor, splitsize=size)
            torch.testing.assert_close(model(x, csr, pairs), whole, rtol=0, atol=1e-12)
        monkeypatch.setattr(predictor_module, "_ENTRIES", 9)
        monkeypatch.setattr(predictor_module, "_ELEMENTS", 60)
        torch.testing.assert_close(net(predictor)(x, csr, pairs), whole, rtol=0, atol=1e-12)
        split = torch.cat([net(predictor)(x, csr, part) for part in pairs.split(11, dim=1)])
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("predictor", ["ncnc", "ncnc2", "gae_cnc"])
    def test_no_differences_are_found_beyond_the_budget(
        self, predictor: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        csr, x, pairs = random_graph(), features(), every_pair()
        whole = net(predictor)(x, csr, pairs)
        most = 2 * int(csr.degree.max())
        found: list[int] = []

        def record(rows: CSR, limit: int) -> tuple[CSR, Tensor | None]:
            found.append(rows.num_entries)
            return sample_rows(rows, limit)

        monkeypatch.setattr(predictor_module, "sample_rows", record)
        monkeypatch.setattr(predictor_module, "_ENTRIES", 3 * most)
        model = net(predictor).train()
        torch.testing.assert_close(model(x, csr, pairs), whole, rtol=0, atol=1e-12)
        assert most < max(found) <= 3 * most
        model(x, csr, pairs).sum().backward()

    def test_pieces_keep_to_their_limits(self) -> None:
        cost = torch.randint(0, 20, (300,), generator=torch.Generator().manual_seed(0))
        found = list(pieces(cost, 8, 40))
        assert [i for s in found for i in range(s.start, s.stop)] == list(range(300))
        assert all(s.stop - s.start <= 8 and int(cost[s].sum()) <= 40 for s in found)
        assert list(pieces(cost[:0], 8, 40)) == []


class TestPooling:
    def test_fused_pooling_equals_the_sum_of_rows(self) -> None:
        csr, pairs = random_graph(40, 300), every_pair(40)
        x = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
        near = row_sets(csr)
        fused = intersect_sum(csr, pairs, x)
        slow = torch.stack([x[sorted(near[i] & near[j])].sum(0) for i, j in pairs.t().tolist()])
        torch.testing.assert_close(fused, slow, rtol=0, atol=1e-12)
        seed = torch.randn_like(fused)
        grads = [torch.autograd.grad((out * seed).sum(), x)[0] for out in (fused, slow)]
        torch.testing.assert_close(*grads, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("predictor", ["ncn", "ncnc", "ncn2", "ncn_diff"])
    def test_gradients_are_derivatives(self, predictor: str) -> None:
        csr, pairs = random_graph(12, 18), every_pair(12)[:, ::6]
        # The belief is constant by definition; certain completion makes it so in fact.
        model = net(predictor, scale=1e4, offset=-1e4)
        x = features(12).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: model(x, csr, pairs), (x,))


class TestSampler:
    def rows(self) -> CSR:
        degree = torch.tensor([0, 3, 4, 17, 60])
        rowptr = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)]).int()
        col = torch.cat([torch.arange(int(d)) * 2 for d in degree]).int()
        return CSR(rowptr, col, None, 5, 120)

    def test_sums_are_right_on_average_and_short_rows_untouched(self) -> None:
        csr = self.rows()
        x = torch.randn(120, 1, generator=torch.Generator().manual_seed(0))
        full = aggregate(csr, x).view(-1)
        torch.manual_seed(0)
        # Ten thousand draws of every row at once: the rows one after the other, many times.
        times, entries = 10_000, csr.num_entries
        starts = (torch.arange(times)[:, None] * entries + csr.rowptr[:-1]).view(-1)
        rowptr = torch.cat([starts, torch.tensor([times * entries])]).int()
        many = CSR(rowptr, csr.col.repeat(times), None, times * csr.num_rows, csr.num_cols)
        kept, weight = sample_rows(many, 4)
        assert weight is not None
        sums = aggregate(kept, x, weight, message="scale").view(times, -1)
        assert torch.equal(sums[:, :3], full[:3].expand(times, 3))
        error = sums.std(0) / times**0.5
        assert bool(((sums.mean(0) - full)[3:].abs() <= 3 * error[3:]).all())

    def test_weights_of_a_row_sum_to_its_size(self) -> None:
        csr = self.rows()
        for limit in (1, 2, 5, 16, 59):
            kept, weight = sample_rows(csr, limit)
            assert weight is not None
            total = aggregate(kept, torch.ones(120, 1), weight, message="scale").view(-1)
            torch.testing.assert_close(total, csr.degree.float())
            assert bool((kept.degree <= csr.degree.clamp(max=limit)).all())
            assert all(a <= b for a, b in zip(row_sets(kept), row_sets(csr), strict=True))

    def test_long_limits_and_minus_one_keep_the_rows_themselves(self) -> None:
        csr = self.rows()
        assert sample_rows(csr, -1) == (csr, None)
        assert sample_rows(csr, 60) == (csr, None)

    @pytest.mark.parametrize("limit", [0, -2])
    def test_bad_limits(self, limit: int) -> None:
        with pytest.raises(InputError, match=f"limit: {limit}"):
            sample_rows(self.rows(), limit)

    def test_training_and_evaluation_have_limits_of_their_own(self) -> None:
        csr, x, pairs = random_graph(), features(), every_pair()
        whole = net("ncnc")(x, csr, pairs)
        assert torch.equal(net("ncnc", trndeg=1)(x, csr, pairs), whole)
        assert not torch.equal(net("ncnc", tstdeg=1)(x, csr, pairs), whole)
        assert torch.equal(net("ncnc", tstdeg=1).train()(x, csr, pairs), whole)  # no dropout here
        assert not torch.equal(net("ncn", cndeg=1)(x, csr, pairs), net("ncn")(x, csr, pairs))
        counted = net("gae_cn")(x, csr, pairs)
        assert torch.equal(net("gae_cn", cndeg=1)(x, csr, pairs), counted)


@pytest.mark.parametrize("predictor", NAMES)
class TestEveryPredictor:
    def test_both_directions_score_the_same(self, predictor: str) -> None:
        csr, x, pairs = random_graph(), features(), every_pair()
        model = net(predictor)
        torch.testing.assert_close(
            model(x, csr, pairs), model(x, csr, pairs.flip(0)), rtol=0, atol=1e-12
        )

    def test_names_of_nodes_do_not_matter(self, predictor: str) -> None:
        csr, x, pairs = random_graph(), features(), every_pair()
        place = torch.randperm(24, generator=torch.Generator().manual_seed(2))
        other = adjacency(place[csr.edge_index().long()], 24)
        moved = torch.empty_like(x).index_copy_(0, place, x)
        model = net(predictor)
        ours, theirs = model(x, csr, pairs), model(moved, other, place[pairs])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)

    def test_no_pairs_no_edges_and_a_link_with_itself(self, predictor: str) -> None:
        model = net(predictor).train()
        x = features().requires_grad_()
        empty = adjacency(torch.zeros(2, 0, dtype=torch.int64), 24)
        for csr in (random_graph(), empty):
            none = torch.zeros(2, 0, dtype=torch.int64)
            assert model(x, csr, none).shape == (0, 1)
            out = model(x, csr, torch.tensor([[0, 5, 23, 4], [1, 5, 22, 4]]))
            assert out.shape == (4, 1)
            assert bool(out.isfinite().all())
            torch.autograd.grad(out.sum(), x)

    def test_the_same_for_any_number_of_threads(self, predictor: str) -> None:
        csr, pairs = random_graph(60, 700), every_pair(60)
        torch.manual_seed(0)
        model = LinkPredictor(6, predictor, depth=1, use_xlin=True)
        x = torch.randn(60, 6, requires_grad=True)
        found = []
        before = torch.get_num_threads()
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                pooled = intersect_sum(csr, pairs, x)
                score = model(x.detach(), csr, pairs)
                grad = torch.autograd.grad(pooled.square().sum(), x)[0]
                found.append((pooled, score, grad))
        finally:
            torch.set_num_threads(before)
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # torch's own products differ


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"predictor": "ncnn"}, "predictor: 'ncnn'.*did you mean"),
        ({"predictor": "incn1cn1", "depth": None}, "depth: missing.*'ncnc' has depth 1"),
        ({"depth": -1}, "depth: -1, wanted at least 0"),
        ({"preedp": 1.0}, "preedp: 1.0"),
        ({"predp": -0.5}, "predp: -0.5"),
        ({"trndeg": 0}, "trndeg: 0"),
        ({"trndeg": -2}, "trndeg: -2"),
        ({"tstdeg": 0}, "tstdeg: 0"),
        ({"cndeg": -3}, "cndeg: -3"),
        ({"splitsize": 0}, "splitsize: 0"),
        ({"pt": 0.0}, "pt"),
        ({"alpha": -1.0}, "alpha: -1.0, wanted a finite number at least 0"),
        ({"alpha": float("nan")}, "alpha: nan"),
        ({"pt": float("inf")}, "pt: inf, wanted a finite number above 0"),
        ({"scale": float("nan")}, "scale: nan"),
        ({"offset": float("-inf")}, "offset: -inf"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        net(**kwargs)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"adj": torch.tensor([[0, 1], [1, 2]])}, "has no reverse"),
        ({"adj": CSR.from_edge_index(undirected((0, 1), (2, 2)), 24)}, "a self-loop at node 2"),
        ({"adj": undirected((0, 1), (0, 1))}, "is listed twice"),
        ({"adj": random_graph(20)}, "20 x 20, wanted 24 nodes"),
        ({"pairs": torch.zeros(2, 1)}, "pairs: torch.float32, wanted int64 or int32"),
        ({"pairs": torch.tensor([[0], [24]])}, r"pairs: node 24 in pairs\[1, 0\]"),
        ({"x": torch.zeros(24, 5)}, r"x: shape \[24, 5\], wanted \[N, 6\]"),
    ],
)
@pytest.mark.parametrize("predictor", ["cn0", "cn1", "ncnc"])
def test_bad_inputs_are_named(predictor: str, change: dict[str, Any], word: str) -> None:
    given = {"x": features(), "adj": random_graph(), "pairs": torch.tensor([[0], [1]]), **change}
    with pytest.raises(InputError, match=word):
        net(predictor)(**given)


def test_every_name_is_one_of_the_papers() -> None:
    forms = [replace(form, depth=None) for form in PREDICTORS.values()]
    assert set(forms) == {PREDICTORS[name] for name in NAMES}
    assert len({PREDICTORS[name] for name in NAMES}) == len(NAMES) == 9


@pytest.mark.parametrize(("name", "depth"), [("ncnc", 1), ("ncnc2", 2), ("gae_cnc", 1), ("ncn", 0)])
def test_names_that_say_their_depth(name: str, depth: int) -> None:
    assert LinkPredictor(4, name).depth == depth
