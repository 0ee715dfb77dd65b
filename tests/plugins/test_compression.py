"""Compression as plugins: shared arrays while training, low rank after it, specs before it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from graphkit import data
from graphkit.errors import InputError, PluginError
from graphkit.models import create_model
from graphkit.nn.embedding import LowRankEmbedding, SharedEmbedding, SharedLinear
from graphkit.plugins import compress, compress_low_rank, create_plugin
from graphkit.tasks import create_task
from graphkit.train import Trainer


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(200, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))


def test_one_array_replaces_the_tables_and_keeps_their_spread():
    before = model()
    after = create_plugin("parameter_sharing", ratio=0.25, linear=True, min_size=100,
                          exact_std=True).transform_model(model(), None)  # fmt: skip
    assert isinstance(after[0], SharedEmbedding)
    assert isinstance(after[1], SharedLinear)
    assert after[1].array is after[0].array
    assert isinstance(after[3], nn.Linear)  # 16 weights stay
    assert len(after[0].array.weight) == (1600 + 128) // 4
    counts = after[0].array.load_of_slots()[0]
    assert counts.tolist() == [4.0] * 432
    for index in (0, 1):
        assert float(after[index].weight.detach().std()) == pytest.approx(
            float(before[index].weight.detach().std()), rel=0.15
        )
    assert torch.equal(after[1].bias, before[1].bias)
    assert after(torch.arange(5)).shape == (5, 1)


@pytest.mark.parametrize("variant", ["v1", "none"])
def test_gradients_are_scaled_between_backward_and_step(variant):
    plugin = create_plugin("parameter_sharing", ratio=0.5, grad_scale=variant)
    shared = plugin.transform_model(model(), None)
    # A second run of the same plugin neither shares again nor scales twice.
    shared = plugin.transform_model(shared, None)
    array, ids = shared[0].array, torch.tensor([1, 7])
    shared(ids).sum().backward()
    rows = shared[0](ids).detach().requires_grad_()
    shared[1:4](rows).sum().backward()
    slots = array.slot_map.slots(shared[0].virtual.place, ids)
    signs = array.slot_map.signs(shared[0].virtual.place, ids)
    plain = torch.zeros(len(array.weight)).index_add(
        0, slots.flatten(), (rows.grad * signs * shared[0].virtual.scale).flatten()
    )
    torch.testing.assert_close(array.weight.grad, plain / array.grad_divisor(variant))


def train(plugins=(), **more):
    clicks = data.load("demo-rec")
    torch.manual_seed(0)
    made = create_model("mf", dim=8, **clicks.model_args(), **more)
    optimizer = {"name": "Adam", "lr": 0.02}
    trainer = Trainer(max_epochs=8, optimizer=optimizer, plugins=plugins, progress=False, seed=0)
    return made, trainer.fit(made, create_task(clicks))


def test_recommenders_train_on_a_shared_array():
    plugin = create_plugin("parameter_sharing", ratio=0.5, mapping="robe", block=8)
    _, result = train([plugin, create_plugin("ema", decay=0.5)])
    tables = [m for m in result.model.modules() if isinstance(m, SharedEmbedding)]
    assert len(tables) == 2
    assert tables[0].array is tables[1].array
    assert sum(p.numel() for p in result.model.parameters()) == 350 * 8 // 2
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.parametrize(
    "table",
    [
        {"method": "graph", "gamma": 3.0},
        {"method": "double_frequency", "gamma": 3.0, "seed": 4},
        {"method": "lsh_structure", "fraction": 0.2},
        {"store": "randomfold", "ratio": 0.3},
        {"method": "double_graph", "gamma": 3.0, "store": "hashednet", "ratio": 0.5},
        {"store": "low_rank", "rank": 3},
    ],
)
def test_recommenders_take_any_table_by_one_argument(table):
    made, result = train(table=table)
    assert made.user_table.num_parameters < 200 * 8
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    again, second = train(table=table)
    assert torch.equal(made.user_table.weight, again.user_table.weight)
    assert result.history == second.history


@pytest.mark.parametrize("name", ["light_gcn", "neumf"])
def test_other_backbones_take_them_too(name):
    clicks = data.load("demo-rec")
    for table in ({"method": "graph", "gamma": 3.0}, {"method": "double", "gamma": 3.0}):
        made = create_model(name, dim=4, table=table, **clicks.model_args())
        made.prepare(clicks.interactions)
        task = create_task(clicks)
        task.prepare(made)
        batch = next(iter(task.loader("train", batch_size=64)))
        made.training_loss(batch).backward()
        assert made.scores(torch.arange(3)).shape == (3, clicks.num_items)
        learnt = [key for key, p in made.named_parameters() if p.grad is not None]
        assert any("store.weight" in key for key in learnt)


def test_a_saved_recommender_gets_its_codes_back():
    made, _ = train(table={"method": "double", "gamma": 3.0, "seed": 1})
    clicks = data.load("demo-rec")
    other = create_model("mf", **{**made.config, "table": {**made.config["table"], "seed": 2}})
    other.prepare(clicks.interactions)
    other.load_state_dict(made.state_dict())
    torch.testing.assert_close(other.scores(torch.arange(4)), made.scores(torch.arange(4)))
    graph = create_model("mf", **{**made.config, "table": {"method": "graph", "gamma": 9.0}})
    graph.prepare(clicks.interactions)
    with pytest.raises(InputError, match="codes: saved for"):
        graph.load_state_dict(made.state_dict())


@pytest.mark.parametrize(
    "table",
    [
        {"method": "graph", "gamma": 3.0},
        {"method": "double_graph", "gamma": 3.0, "store": "low_rank", "rank": 2},
        {"method": "graph", "gamma": 3.0, "store": "randomfold", "ratio": 0.5},
        {"method": "double_graph", "gamma": 3.0, "store": "hashednet", "ratio": 0.01},
        {"method": "lsh_structure", "fraction": 0.1, "store": "roast", "ratio": 0.3, "block": 4},
        {"store": "robe", "ratio": 0.5, "block": 4},
        {"store": "low_rank", "rank": 2},
    ],
)
def test_a_saved_recommender_needs_no_pairs_to_score(table, tmp_path):
    from graphkit import zoo

    made, _ = train(table=table)
    folder = zoo.save_pretrained(made, tmp_path / "mf")
    torch.manual_seed(99)
    again = zoo.from_pretrained(folder)
    torch.testing.assert_close(again.scores(torch.arange(4)), made.scores(torch.arange(4)))
    again.prepare(data.load("demo-rec").interactions)
    torch.testing.assert_close(again.scores(torch.arange(4)), made.scores(torch.arange(4)))


def test_trained_models_become_low_rank():
    clicks = data.load("demo-rec")
    made = create_model("mf", dim=8, **clicks.model_args())
    before = made.scores(torch.arange(5)).detach()
    pairs = clicks.interactions
    counts = {"user_table": pairs.user_degree, "item_table": pairs.item_degree}
    narrow = compress_low_rank(made, 8, counts)
    assert isinstance(narrow.user_table, LowRankEmbedding)
    torch.testing.assert_close(narrow.scores(torch.arange(5)), before, atol=1e-5, rtol=1e-4)
    net, x = model(), torch.randn(50, 8)
    wide = net[1](x)
    compress_low_rank(net, 8, counts={}, inputs={"1": x})
    torch.testing.assert_close(net[1](x), wide, atol=1e-5, rtol=1e-4)
    assert isinstance(net[0], nn.Embedding)
    assert isinstance(compress_low_rank(net, 2)[0], LowRankEmbedding)
    with pytest.raises(InputError, match="'table' is no embedding table"):
        compress_low_rank(model(), 2, counts={"table": torch.ones(3)})
    with pytest.raises(InputError, match="'0' is no linear layer; there are: 1, 3"):
        compress_low_rank(model(), 2, counts={}, inputs={"0": x})


def test_arguments_are_checked_before_the_model_is_made():
    pairs = torch.tensor([[0, 1], [0, 1]])
    seen = SimpleNamespace(num_users=2, num_items=2, edge_index=pairs)
    assert compress({"dim": 8}, seen, "graph", gamma=1.0)["table"]["gamma"] == 1.0
    with pytest.raises(InputError, match="at least 2"):
        compress({}, seen, "frequency", rows=1)
    with pytest.raises(InputError, match="unknown key"):
        compress({}, method="graph", gama=1.0)


def test_refusals():
    for arguments, message in (
        ({"ratio": 0}, r"ratio: 0, wanted a number in \(0, 1\]"),
        ({"ratio": 1.5}, "ratio"),
        ({"mapping": "fold"}, "'fold' is not one of"),
        ({"grad_scale": "v9"}, "grad_scale must be one of"),
        ({"mapping": "robe", "block": 0}, "block: 0"),
        ({"init_scale": -1.0}, "init_scale"),
    ):
        with pytest.raises(PluginError, match=message):
            create_plugin("parameter_sharing", **arguments)
    with pytest.raises(PluginError, match="no embedding table of at least 1024"):
        create_plugin("parameter_sharing").transform_model(nn.Linear(9, 9), None)
