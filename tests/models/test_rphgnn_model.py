"""RpHGNN's encoder: exact sizes, batches, files, learning, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hetero_cases import academic, with_labels
from torch import nn

from graphkit import zoo
from graphkit.errors import InputError
from graphkit.models import RpHGNN, RpHGNNPropagation, create_model
from graphkit.models.rphgnn.model import GroupEncoder, SlotMix

pytestmark = pytest.mark.usefixtures("one_thread")


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_sizes_of_the_leaderboard_entry() -> None:
    cites, other, even, label = [3, 128], [3, 512], [4, 128], [1, 349]
    assert count(GroupEncoder(*cites, 512)) == 394_250
    assert count(GroupEncoder(*even, 512)) == 394_252
    assert count(GroupEncoder(*other, 512)) == 787_466
    assert count(GroupEncoder(*label, 512)) == 441_860
    model = RpHGNN([cites, *[even] * 3, *[other] * 2, *[label] * 4], 349, 512)
    assert count(model.head) == 2_800_990
    assert count(model) == 7_720_368


@pytest.mark.parametrize(
    ("groups", "classes", "hidden", "more", "wanted"),
    [
        ([[5, 4231], [5, 334]], 4, 512, {}, 5_727_777),
        ([[5, 256], [5, 256]], 4, 256, {}, 526_625),
        ([[3, 256], [4, 256]] * 3, 5, 256, {}, 1_577_544),
        ([[6, 1902], [7, 1902]] * 3 + [[6, 256], [7, 1902]], 3, 64, {"fusion": "mean"}, 1_775_244),
    ],
)
def test_sizes_of_the_benchmark(
    groups: list[list[int]], classes: int, hidden: int, more: dict[str, Any], wanted: int
) -> None:
    assert count(RpHGNN(groups, classes, hidden, **more)) == wanted


def test_mix_is_a_convolution_over_slots() -> None:
    mix, conv = SlotMix(4, 2), nn.Conv1d(4, 2, 1)
    conv.weight.data, conv.bias.data = mix.weight.data[:, :, None], torch.tensor([0.5, -1.0])
    mix.bias.data = conv.bias.data
    x = torch.randn(3, 4, 6)
    assert torch.allclose(mix(x), conv(x).flatten(1), atol=1e-6)


def test_first_weights() -> None:
    model = RpHGNN([[4, 300]], 3, 200)
    encoder = model.encoders[0]
    first = encoder.mlp.layers[0]
    assert first.weight.std().item() == pytest.approx((2 / (600 + 200)) ** 0.5, rel=0.02)
    assert not any(layer.bias.any() for layer in [*encoder.mlp.layers, *model.head.layers])
    assert all(p.weight.item() == 0.25 for p in model.modules() if isinstance(p, nn.PReLU))
    assert len(model.head.activations) == 1  # the logits are as they come
    assert len(RpHGNN([[4, 300]], 3, 20, head_layers=1, group_layers=1).head.activations) == 0


def test_a_batch_does_not_see_its_other_nodes() -> None:
    groups = RpHGNNPropagation(iterations=3).fit_transform(academic(), "paper")
    model = RpHGNN([list(g.shape[1:]) for g in groups], 4, 16, input_dropout=0.5).eval()
    with torch.no_grad():
        whole = model(groups)
        parts = torch.cat([model([g[i : i + 5] for g in groups]) for i in range(0, 31, 5)])
    assert torch.allclose(whole, parts, atol=1e-6)
    assert whole[-1].isfinite().all()  # a paper without any edge
    model.train()
    assert not torch.equal(model(groups), model(groups))


@pytest.mark.parametrize("fusion", ["concat", "mean"])
def test_overfits_a_small_set(fusion: str) -> None:
    data = with_labels(academic())
    groups = RpHGNNPropagation(iterations=2, use_input=True).fit_transform(data, "paper")
    shapes = [list(g.shape[1:]) for g in groups]
    model = RpHGNN(shapes, 3, 32, fusion=fusion, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(groups), data["paper"].y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


def test_saved_and_loaded(tmp_path: Any) -> None:
    model = create_model("rphgnn", groups=[[2, 3], [1, 5]], out_channels=2, hidden_channels=8)
    assert json.loads(json.dumps(model.config)) == model.config
    zoo.save_pretrained(model, tmp_path / "model")
    again = zoo.from_pretrained(tmp_path / "model").eval()
    groups = [torch.randn(4, 2, 3), torch.randn(4, 1, 5)]
    assert torch.equal(model.eval()(groups), again(groups))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": []}, "groups"),
        ({"groups": [[0, 4]]}, "groups"),
        ({"groups": [[4]]}, "groups"),
        ({"fusion": "max"}, "fusion: 'max'"),
        ({"dropout": 1.0}, "dropout: 1.0"),
        ({"input_dropout": -0.1}, "input_dropout"),
        ({"group_layers": 0}, "group_layers: 0"),
        ({"out_channels": True}, "out_channels: True"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RpHGNN(**{"groups": [[2, 3]], "out_channels": 2, **change})


def test_groups_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"are \[\[3, 3\]\], wanted \[\[2, 3\]\]"):
        RpHGNN([[2, 3]], 2)([torch.zeros(4, 3, 3)])
