"""NCN and NCNC as whole models: published sizes, learning, files, refusals (arXiv 2302.00890)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ncn_cases import NAMES, every_pair, random_graph, random_links, undirected
from torch import Tensor

from graphkit import zoo
from graphkit.errors import InputError
from graphkit.models import NCN, TrainingEdges, create_model

CORA = {
    "in_channels": 1433, "hidden_channels": 256, "conv": "puregcn", "num_layers": 1, "jk": True,
    "use_xlin": True, "tailact": True,
}  # fmt: skip
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "ogbl-ppa": (
        {
            "max_x": 57, "hidden_channels": 64, "conv": "gcn", "num_layers": 3, "res": True,
            "tailact": True,
        },
        33_538,
    ),
    "ogbl-ddi": (
        {
            "max_x": 4267, "hidden_channels": 224, "conv": "puresum", "num_layers": 1, "res": True,
            "use_xlin": True, "twolayerlin": True,
        },
        1_412_098,
    ),
    "cora": (CORA, 764_163),
    "citeseer": ({**CORA, "in_channels": 3703, "twolayerlin": True}, 1_411_587),
    "pubmed": ({**CORA, "in_channels": 500}, 525_315),
    "ogbl-collab": (
        {
            "in_channels": 128, "hidden_channels": 64, "conv": "gcn", "num_layers": 1, "res": True,
            "use_xlin": True, "tailact": True,
        },
        33_922,
    ),
    "ogbl-citation2": (
        {
            "in_channels": 128, "hidden_channels": 64, "conv": "puregcn", "num_layers": 3,
            "res": True, "use_xlin": True, "tailact": True,
        },
        33_794,
    ),
}  # fmt: skip


def trainable(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_parameter_counts(dataset: str) -> None:
    kwargs, count = PUBLISHED[dataset]
    h = kwargs["hidden_channels"]
    assert trainable(NCN(**kwargs)) == count
    extra = {256: 66_049, 64: 4_225}.get(h, h * h + 2 * h + 1)
    assert trainable(NCN(**kwargs, predictor="ncnc")) == count + extra


def model(predictor: str = "ncn", **kwargs: Any) -> NCN:
    torch.manual_seed(0)
    options: dict[str, Any] = {"in_channels": 5, "hidden_channels": 8, "use_xlin": True, "jk": True}
    if predictor in ("incn1cn1", "sincn1cn1"):
        options["depth"] = 1
    return NCN(predictor=predictor, **{**options, **kwargs})


def features() -> Tensor:
    return torch.randn(24, 5, generator=torch.Generator().manual_seed(1))


def step(net: NCN, edges: TrainingEdges, links: Tensor, x: Tensor, batch: Tensor) -> Tensor:
    seen = edges.without(batch)
    h = net.encode(x, seen)
    negative = torch.randint(24, (2, batch.numel()))
    loss = F.softplus(-net.score(h, seen, links[:, batch])).mean()
    return loss + F.softplus(net.score(h, seen, negative)).mean()


@pytest.mark.parametrize("predictor", NAMES)
def test_overfits_a_tiny_set(predictor: str) -> None:
    # With `res`, as two nodes whose closed neighbourhoods are equal would else be the same node.
    net = model(predictor, in_channels=None, max_x=23, res=True, hidden_channels=16, tailact=True)
    ids, every = torch.arange(24), every_pair()
    seen = random_graph(links=40)
    linked = {tuple(sorted(link)) for link in seen.edge_index().t().tolist()}
    positive = torch.tensor([tuple(pair) in linked for pair in every.t().tolist()])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        logit = net(ids, seen, every).view(-1)
        loss = F.softplus(-logit[positive]).mean() + F.softplus(logit[~positive]).mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


@pytest.mark.parametrize("predictor", ["ncn", "ncnc"])
def test_one_seed_gives_one_result(predictor: str) -> None:
    found = []
    for _ in range(2):
        net = model(predictor, xdp=0.2, gnnedp=0.2, preedp=0.3, predp=0.1, trndeg=2)
        links, x = random_links(), features()
        edges = TrainingEdges(links, 24)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for batch in torch.randperm(60).split(20):
            optimizer.zero_grad()
            loss = step(net, edges, links, x, batch)
            loss.backward()
            optimizer.step()
        found.append([loss.detach(), *(p.detach() for p in net.parameters())])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_all_forms_of_a_graph_give_the_same_scores() -> None:
    net, x, pairs = model("ncnc").eval(), features(), every_pair()
    csr = random_graph()
    edge_index = csr.edge_index().long()
    want = net(x, csr, pairs)
    shuffled = edge_index[:, torch.randperm(edge_index.size(1))]
    assert torch.equal(net(x, shuffled, pairs), want)
    assert torch.equal(net(x, edge_index, pairs.int()), want)
    half = edge_index[:, edge_index[0] < edge_index[1]]
    assert torch.equal(model("ncnc", symmetrise=True).eval()(x, half, pairs), want)
    h = net.encode(x, csr)
    assert torch.equal(net.score(h, csr, pairs), want)


@pytest.mark.parametrize("predictor", NAMES)
def test_saved_models_come_back_to_the_bit(predictor: str, tmp_path: Path) -> None:
    net = model(predictor, scale=4.3, offset=2.8)
    assert json.loads(json.dumps(net.config)) == net.config
    again = zoo.from_pretrained(zoo.save_pretrained(net, tmp_path / "m"))
    assert isinstance(again, NCN)
    x, csr, pairs = features(), random_graph(), every_pair()
    assert torch.equal(again.eval()(x, csr, pairs), net.eval()(x, csr, pairs))


def test_made_by_name() -> None:
    assert isinstance(create_model("ncn", in_channels=3, predictor="ncnc2"), NCN)
    with pytest.raises(InputError, match="model.predicter.*did you mean 'predictor'"):
        create_model("ncn", in_channels=3, predicter="ncnc")


def test_parameters_are_redrawn() -> None:
    for predictor in NAMES:
        net = model(predictor, conv="gcn", num_layers=2, beta=0.7)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(9.0)
        net.reset_parameters()
        for name, p in net.named_parameters():
            assert not bool((p == 9.0).any()), name
            assert p.shape == before[name].shape
            if name in ("predictor.beta", "predictor.order"):
                assert torch.equal(p, before[name])


def test_completion_starts_from_a_trained_ncn() -> None:
    plain, completing = model(conv="gcn"), model("ncnc", conv="gcn", alpha=0.5)
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(1.0)
    kept = completing.predictor.ptlin[0].weight.clone()
    completing.warm_start(plain)
    assert torch.equal(completing.predictor.ptlin[0].weight, kept)
    assert float(completing.predictor.alpha) == 0.5
    completing.set_alpha(0.0)
    x, csr, pairs = features(), random_graph(), every_pair()
    assert torch.equal(completing.eval()(x, csr, pairs), plain.eval()(x, csr, pairs))
    with pytest.raises(InputError, match=r"trained: encoder.jk_weight is nothing, wanted \[1\]"):
        completing.warm_start(model(conv="gcn", jk=False))
    with pytest.raises(InputError, match=r"trained: .* is \[16\], wanted \[8\]"):
        completing.warm_start(model(conv="gcn", hidden_channels=16))


def test_alpha_belongs_to_completion() -> None:
    with pytest.raises(InputError, match="alpha: predictor='ncn' has no completion"):
        model().set_alpha(0.5)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"alpha: {wrong}, wanted a finite number at least 0"):
            model("ncnc").set_alpha(wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    x, csr, pairs = features(), random_graph(), every_pair()
    wanted = model("ncnc").eval()(x, csr, pairs)
    out = model("ncnc").eval().to(dtype)(x.to(dtype), csr, pairs)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), wanted, rtol=0.1, atol=0.1)
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype=dtype):
            mixed = model("ncnc", learnpt=True).train()(x, csr, pairs)
        mixed.float().sum().backward()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"pairs": torch.tensor([[0], [24]])}, r"pairs: node 24 in pairs\[1, 0\], wanted 0\.\.23"),
        ({"pairs": torch.tensor([[3, -1], [3, 3]])}, r"pairs: node -1 in pairs\[0, 1\]"),
        ({"pairs": torch.zeros(2, 3)}, "pairs: torch.float32, wanted int64 or int32"),
        (
            {"pairs": torch.zeros(3, 2, dtype=torch.int64)},
            r"pairs: shape \[3, 2\], wanted \[2, B\]",
        ),
        ({"pairs": [[0], [1]]}, "pairs: list"),
        ({"adj": torch.tensor([[0, 1], [1, 2]])}, "has no reverse.*symmetrise=True"),
        ({"adj": undirected((0, 1), (2, 2))}, "a self-loop at node 2"),
        ({"adj": (2 * (1 - torch.eye(24))).to_sparse()}, "adj: weight 2"),
        ({"adj": undirected((0, 24))}, "node id 24"),
        ({"x": torch.zeros(24, 4)}, "x: "),
    ],
)
def test_bad_inputs_are_named(change: dict[str, Any], word: str) -> None:
    given = {"x": features(), "adj": random_graph(), "pairs": torch.tensor([[0], [1]]), **change}
    with pytest.raises(InputError, match=word):
        model()(**given)
