"""Click models against their formulas, the reader of click tables, and training end to end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from graphkit.data import ClickBatch, ClickDataset, read_clicks
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError
from graphkit.models import DLRM, DCNv2, DeepFM, WideDeep, create_model
from graphkit.tasks import ClickTask, create_task
from graphkit.train import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
MODELS = [WideDeep, DLRM, DCNv2, DeepFM]
NAMES = ["wide_deep", "dlrm", "dcnv2", "deepfm"]


def batch(contexts=False, features=False, rows=6):
    out = ClickBatch(torch.arange(rows) % 5, torch.arange(rows) % 4)
    if contexts:
        out.contexts = torch.stack([torch.arange(rows) % 3, torch.arange(rows) % 2], 1)
    if features:
        out.user_features, out.item_features = torch.randn(rows, 3), torch.randn(rows, 2)
    return out


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("contexts", [False, True])
@pytest.mark.parametrize("features", [False, True])
def test_forms(cls, contexts, features):
    more = {"contexts": [3, 2]} if contexts else {}
    more |= {"user_features": 3, "item_features": 2} if features else {}
    model = cls(5, 4, dim=8, **more)
    rows = batch(contexts, features)
    out = model(rows)
    assert out.shape == (6,)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.width == (2 + 2 * contexts) * 8 + 5 * features
    with pytest.raises(InputError, match="contexts|user_features"):
        model(batch(not contexts, features))
    with pytest.raises(InputError, match="user_features"):
        model(batch(contexts, not features))


def test_models_against_their_formulas():
    rows = batch(contexts=True)
    for cls in MODELS:
        model = cls(5, 4, dim=8, contexts=[3, 2]).eval()
        x = torch.cat([
            model.user_table.weight[rows.users], model.item_table.weight[rows.items],
            model.context_tables[0].weight[rows.contexts[:, 0]],
            model.context_tables[1].weight[rows.contexts[:, 1]],
        ], 1)  # fmt: skip
        if cls is WideDeep:
            wanted = model.out(
                torch.cat([x @ model.wide.weight.T + model.wide.bias, model.deep(x)], 1)
            )
            assert [m.out_features for m in model.deep[::2]] == [16, 16, 16, 8]
        elif cls is DLRM:
            wanted = model.out(x)
            assert [m.out_features for m in model.out[::2]] == [16, 16, 1]
        elif cls is DCNv2:
            y = x
            for layer in model.cross:
                y = x * (y @ layer.weight.T + layer.bias) + y
            wanted = torch.cat([y, model.deep(x)], 1) @ model.out.weight.T
            assert len(model.cross) == 2
            assert float(model.cross[0].bias.abs().max()) == 0.0
        else:
            pairs = torch.stack([
                (x[:, [i]] * x[:, i + 1 :]).sum(1) for i in range(x.size(1))
            ]).sum(0)  # fmt: skip
            wanted = model.deep(x) + pairs[:, None]
        torch.testing.assert_close(model(rows), wanted[:, 0], rtol=1e-4, atol=1e-4)


def test_dlrm_gives_dense_features_towers():
    model = DLRM(5, 4, dim=8, user_features=3, item_features=2)
    assert [m.out_features for m in model.towers[0][::2]] == [16, 16, 8]
    assert model.out[0].in_features == 32


def logs(rows=3000, seed=0):
    """Ten groups of users who like the items of their group."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 100, rows), rng.integers(0, 60, rows)
    like = np.where(users % 10 == items % 10, 0.95, 0.005)
    frame = pd.DataFrame({"who": users, "what": items, "day": rng.choice(["mo", "tu", "we"], rows)})
    # Pairs of a group are drawn more often, so that labels are balanced.
    frame["stars"] = np.where(rng.random(rows) < like, 5, 2)
    frame["age"] = users / 100
    return frame


def dataset(rows=3000, **options):
    same = logs(8 * rows)
    keep = np.r_[
        np.flatnonzero(same["stars"] == 5)[: rows // 2],
        np.flatnonzero(same["stars"] == 2)[: rows // 2],
    ]
    options = {"contexts": ["day"], **options}
    return read_clicks(
        same.iloc[keep], user="who", item="what", label="stars", threshold=4, **options
    )


@pytest.mark.parametrize("name", NAMES)
def test_graph_tables_learn_the_groups(name):
    clicks = dataset()
    task = create_task(clicks)
    assert isinstance(task, ClickTask)
    torch.manual_seed(0)
    table = {"method": "graph", "gamma": 1.0}
    model = create_model(name, dim=8, table=table, **clicks.model_args())
    with pytest.raises(InputError, match="needs the training pairs"):
        model(clicks.rows)
    result = Trainer(
        max_epochs=6, batch_size=64, optimizer={"name": "Adam", "lr": 0.01}, progress=False,
    ).fit(model, task)  # fmt: skip
    assert result.test > 0.9
    assert model.user_table.num_parameters < model.user_table.full_parameters / 4
    assert 0 < result.metrics["test_logloss"] < 1
    assert result.metrics["test_logloss"] == pytest.approx(result.metrics["test_loss"], abs=1e-5)


def test_labels_of_zero_stay_out_of_the_graph():
    clicks = dataset(600)
    positives, everything = clicks.train_pairs(), clicks.train_pairs("all")
    train = clicks.splits["train"]
    assert positives.edge_index.size(1) == int(clicks.rows.y[train].sum())
    assert everything.edge_index.size(1) == len(train) == 420
    held = torch.cat([clicks.splits["valid"], clicks.splits["test"]])
    assert len(held) + len(train) == 600
    spec = {"method": "graph", "gamma": 1.0}
    sizes = []
    for graph_from in ("positives", "all"):
        model = WideDeep(dim=4, table=spec, **clicks.model_args())
        ClickTask(clicks, graph_from=graph_from).prepare(model)
        sizes.append(model.user_table.num_parameters)
    assert sizes[0] != sizes[1]
    with pytest.raises(InputError, match="graph_from"):
        ClickTask(clicks, graph_from="some")


def test_reader_of_csv_files(tmp_path):
    frame = logs(200)
    frame["part"] = np.where(
        np.arange(200) < 120, "train", np.where(np.arange(200) < 150, "valid", "test")
    )
    frame["label"] = (frame["stars"] > 3).astype(int)
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_csv(tmp_path / "log.tsv.gz", index=False, sep="\t")
    found = [
        read_clicks(
            tmp_path / file, user="who", item="what", contexts=["day"], user_features=["age"],
            split="part",
        )
        for file in ("log.csv", "log.tsv.gz")
    ]  # fmt: skip
    for clicks in found:
        assert [len(clicks.splits[k]) for k in ("train", "valid", "test")] == [120, 30, 50]
        assert clicks.vocabularies["day"] == ["mo", "tu", "we"]
        assert clicks.rows.user_features.shape == (200, 1)
        back = [clicks.vocabularies["who"][i] for i in clicks.rows.users.tolist()]
        assert back == frame["who"].tolist()
    (tmp_path / "bad.csv").write_bytes(b"\x00\xff\x00")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    for name in ("bad.csv", "bad.parquet"):
        with pytest.raises((CorruptFileError, InputError), match="no table|needs pyarrow"):
            read_clicks(tmp_path / name)
    (tmp_path / "log.parquet.gz").write_bytes(b"")
    with pytest.raises(InputError, match="wanted .csv"):
        read_clicks(tmp_path / "log.parquet.gz")
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        read_clicks(tmp_path / "none.csv")


def test_negatives_of_a_log():
    frame = logs(400)[["who", "what", "day"]]
    clicks = read_clicks(
        frame, user="who", item="what", label=None, contexts=["day"], negatives=2, split_seed=3
    )
    assert len(clicks) == 1200
    assert float(clicks.rows.y.sum()) == 400
    used = set(zip(frame["who"], frame["what"], strict=True))
    vocabulary = clicks.vocabularies
    for row in range(400, 1200):
        pair = (
            vocabulary["who"][int(clicks.rows.users[row])],
            vocabulary["what"][int(clicks.rows.items[row])],
        )
        assert pair not in used
    assert torch.equal(clicks.rows.contexts[400::2], clicks.rows.contexts[:400])
    with pytest.raises(InputError, match="user 0 has rows with every item"):
        read_clicks(frame.assign(what=1), user="who", item="what", label=None, negatives=1)


def test_refusals():
    frame = logs(50)
    given = {"user": "who", "item": "what", "label": "stars"}
    with pytest.raises(InputError, match="no such column; did you mean 'who'"):
        read_clicks(frame, **{**given, "user": "whoo"})
    with pytest.raises(InputError, match="other than 0 and 1"):
        read_clicks(frame, **given)
    with pytest.raises(InputError, match="day: wanted numbers, got"):
        read_clicks(frame, **given, threshold=4, user_features=["day"])
    with pytest.raises(InputError, match="what: row 3 is empty"):
        read_clicks(frame.assign(what=[None if i == 3 else i for i in range(50)]), **given)
    rows = ClickBatch(torch.arange(10), torch.arange(10), torch.ones(10))
    with pytest.raises(InputError, match=r"users: ids must lie in 0\.\.4"):
        ClickDataset(rows, 5, 10)
    splits = {k: torch.arange(3) for k in ("train", "valid", "test")}
    with pytest.raises(InputError, match="in two parts"):
        ClickDataset(rows, 10, 10, splits=splits)
    with pytest.raises(InputError, match="one class only"):
        ClickDataset(rows, 10, 10).evaluate(torch.ones(3), torch.zeros(3))
    model = WideDeep(5, 4, table={"method": "random", "rows": 2})
    with pytest.raises(InputError, match="10 users and 10 items"):
        model.prepare(ClickDataset(rows, 10, 10).train_pairs())
    with pytest.raises(InputError, match="did you mean 'graph'"):
        WideDeep(5, 4, table={"method": "grph", "gamma": 3})


def test_auc_and_logloss():
    rows = ClickBatch(torch.arange(10), torch.arange(10), torch.ones(10))
    found = ClickDataset(rows, 10, 10).evaluate(
        torch.tensor([1.0, 0.0, 1.0]), torch.tensor([2.0, 1.0, 0.5])
    )
    assert found["auc"] == 0.5
    p = torch.sigmoid(torch.tensor([2.0, 1.0, 0.5]))
    wanted = -(p[0].log() + (1 - p[1]).log() + p[2].log()) / 3
    assert found["logloss"] == pytest.approx(float(wanted))


def test_loader_goes_on_where_it_was():
    clicks = dataset(600)
    one = clicks.loader("train", batch_size=50, shuffle=True, seed=3)
    seen = iter(one)
    for _ in range(3):
        next(seen)
    two = clicks.loader("train", batch_size=50, shuffle=True, seed=3)
    two.load_state_dict(one.state_dict())
    for left, right in zip(seen, two, strict=True):
        assert torch.equal(left.users, right.users)
    parts = [
        clicks.loader("train", batch_size=50, shuffle=True, rank=r, world_size=2) for r in (0, 1)
    ]
    assert sum(b.num_graphs for p in parts for b in p) == 420
    with pytest.raises(InputError, match="saved position"):
        clicks.loader("train", batch_size=51).load_state_dict(one.state_dict())
