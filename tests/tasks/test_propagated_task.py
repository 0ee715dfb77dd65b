"""Nodes of heterogeneous graphs through the Trainer: figures, stopping, views, resuming."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hetero_cases import academic, with_labels
from torch import nn
from torch_geometric.data import HeteroData

from graphkit.data import HeteroNodes
from graphkit.errors import InputError, PluginError
from graphkit.models import RpHGNN
from graphkit.plugins import create_plugin
from graphkit.tasks import PropagatedNodeTask, create_task, model_args
from graphkit.tasks.class_ranking import mrr, ndcg
from graphkit.train import Trainer
from graphkit.train.batches import shares
from graphkit.train.world import SoloWorld

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS: dict[str, Any] = {"iterations": 2, "embedding_size": 8, "use_input": True}


def nodes(multilabel: bool = False, metric: str = "f1_micro") -> HeteroNodes:
    data = with_labels(academic())
    if multilabel:
        data["paper"].y = (data["paper"].x[:, :5] > 0).float()
    return HeteroNodes(data, "paper", metric)


def model_for(task: PropagatedNodeTask, dropout: float = 0.3) -> RpHGNN:
    torch.manual_seed(0)
    shapes = [list(g.shape[1:]) for g in task.groups]
    return RpHGNN(shapes, task.num_outputs, 16, dropout=dropout, input_dropout=0.1)


def train(task: PropagatedNodeTask, folder: Any = None, **settings: Any) -> Any:
    settings = {
        "max_epochs": 12, "batch_size": 4, "progress": False, "checkpoint_seconds": 0,
        "optimizer": {"name": "Adam", "lr": 3e-3}, **settings,
    }  # fmt: skip
    model = model_for(task)
    return Trainer(run_dir=folder, **settings).fit(model, task), model


@pytest.mark.parametrize("multilabel", [False, True])
def test_learns(multilabel: bool) -> None:
    task = create_task(nodes(multilabel), propagation=OPTIONS, batch_size=8)
    assert isinstance(task, PropagatedNodeTask)
    result, model = train(task, max_epochs=45)
    assert result.history[-1]["train_loss"] < 0.4 * result.history[0]["train_loss"]
    with torch.no_grad():
        batch = next(iter(task.loader("train", batch_size=100)))
        figures = task.evaluate(
            task.predictions(model.eval()(batch), batch), task.target(batch), "train"
        )
    assert figures["f1_micro"] > (0.8 if multilabel else 0.9)
    assert result.test == result.metrics["test_f1_micro"]
    # All figures are of one epoch, the best by the criterion.
    assert len({found["epoch"] for found in result.selected.values()}) == 1


def test_shapes_for_a_model_come_without_computing() -> None:
    dataset = nodes()
    shapes = model_args(dataset, {"propagation": OPTIONS})["groups"]
    task = PropagatedNodeTask(dataset, OPTIONS)
    assert [list(g.shape) for g in task.probe(3).groups] == [[3, *shape] for shape in shapes]
    assert task._groups is None
    assert [list(g.shape[1:]) for g in task.groups] == shapes


def test_the_loss_may_choose_the_epoch() -> None:
    plugin = create_plugin("early_stopping", monitor="loss", patience=3)
    task = PropagatedNodeTask(nodes(), OPTIONS, criterion="loss")
    result, _ = train(task, max_epochs=200, plugins=[plugin])
    losses = [entry["valid_loss"] for entry in result.history]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert len(losses) == result.best_epoch + 3
    assert result.selected["loss"]["valid"] == min(losses)
    assert result.valid == result.history[result.best_epoch - 1]["valid_f1_micro"]


def test_stopping_follows_any_figure() -> None:
    task = PropagatedNodeTask(nodes(), OPTIONS, criterion="f1_mean")
    plugin = create_plugin("early_stopping", monitor="f1_mean", patience=2)
    result, _ = train(task, max_epochs=60, plugins=[plugin])
    figures = [entry["valid_f1_mean"] for entry in result.history]
    assert result.best_epoch == figures.index(max(figures[: result.best_epoch])) + 1
    assert len(figures) == result.best_epoch + 2
    for entry in result.history:
        both = (entry["valid_f1_micro"], entry["valid_f1_macro"])
        assert entry["valid_f1_mean"] == pytest.approx(sum(both) / 2)
    with pytest.raises(PluginError, match="no figure 'f1_means'"):
        train(task, plugins=[create_plugin("early_stopping", monitor="f1_means")])


def test_a_task_may_call_its_loss_function_criterion() -> None:
    task = PropagatedNodeTask(nodes(), OPTIONS)
    wanted, _ = train(task, max_epochs=3)
    task.criterion = nn.CrossEntropyLoss()  # type: ignore[assignment]
    found, _ = train(task, max_epochs=3)
    assert found.selected == wanted.selected


def test_half_and_whole_test_set_in_one_run() -> None:
    dataset = nodes()
    store = dataset.data["paper"]
    store.test_full_mask = store.test_mask.clone()
    ids = store.test_mask.nonzero()[:, 0]
    store.test_mask = torch.zeros_like(store.test_mask)
    store.test_mask[ids[::2]] = True
    task = PropagatedNodeTask(dataset, OPTIONS)
    assert "f1_macro_full" in task.metrics
    batch = next(iter(task.loader("test", batch_size=100)))
    assert batch.nodes.tolist() == ids.tolist()
    guess = batch.y.clone()
    guess[1::2] = (guess[1::2] + 1) % 3  # all wrong where nothing is published
    figures = task.evaluate(guess, batch.y, "test")
    assert figures["f1_micro"] == 1.0
    assert figures["f1_micro_full"] == pytest.approx(len(ids[::2]) / len(ids))
    with pytest.raises(InputError, match="whole test set"):
        task.evaluate(guess[::2], batch.y[::2], "test")


@pytest.mark.parametrize("views", [1, 3])
def test_same_seed_same_run_and_resumed(tmp_path: Any, views: int) -> None:
    def run(folder: Any = None, epochs: int = 4) -> Any:
        task = PropagatedNodeTask(nodes(), {**OPTIONS, "labels": views > 1}, views=views)
        decay = create_plugin("lr_schedule", schedule="step", step_size=1, gamma=0.99)
        return train(task, folder, max_epochs=epochs, plugins=[decay])

    wanted, model = run()
    again, other = run()
    assert wanted.history == again.history
    assert [e["lr"] for e in wanted.history[:2]] == pytest.approx([3e-3 * 0.99, 3e-3 * 0.99**2])

    class Crash(Exception):
        pass

    def stop(event: Any) -> None:
        if event.kind == "epoch" and event.epoch == 2:
            raise Crash

    task = PropagatedNodeTask(nodes(), {**OPTIONS, "labels": views > 1}, views=views)
    decay = create_plugin("lr_schedule", schedule="step", step_size=1, gamma=0.99)
    with pytest.raises(Crash):
        train(task, tmp_path, max_epochs=4, plugins=[decay], progress=stop)
    resumed, third = run(tmp_path)
    assert resumed.history == wanted.history
    for a, b, c in zip(model.parameters(), other.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_consistency_of_views() -> None:
    task = PropagatedNodeTask(nodes(), OPTIONS, views=3, consistency=0.6)
    visited = [n for batch in task.loader("train", batch_size=7) for n in batch.nodes.tolist()]
    assert sorted(visited) == list(range(31))
    batch = next(iter(task.loader("train", batch_size=31)))
    out = torch.randn(3, 31, 3, requires_grad=True)
    guess = out.softmax(-1).mean(0).argmax(-1)
    known = batch.train_mask
    wanted = sum(
        nn.functional.cross_entropy(z[known], batch.y[known])
        + 0.6 * nn.functional.cross_entropy(z, guess)
        for z in out
    )
    assert torch.allclose(task.loss(out, batch), wanted)
    batch.train_mask = torch.zeros_like(known)  # nobody to learn from: the other term remains
    loss = task.loss(out, batch)
    loss.backward()
    assert loss.isfinite()
    assert out.grad.isfinite().all()
    assert task.apply(model_for(task).train(), batch).shape == (3, 31, 3)
    assert task.apply(model_for(task).eval(), batch).shape == (31, 3)


@pytest.mark.parametrize("spread", [True, False])
def test_views_accumulate_to_the_loss_of_the_large_batch(spread: bool) -> None:
    task = PropagatedNodeTask(nodes(), OPTIONS, views=3, consistency=0.6)
    whole = next(iter(task.loader("train", batch_size=31)))
    # Else one batch has all training nodes and the other two none.
    order = torch.arange(31) if spread else (~whole.train_mask).long().argsort(stable=True)
    first = 9 if spread else int(whole.train_mask.sum())
    rows = [order[:first], order[first : first + 4], order[first + 4 :]]
    parts = [
        replace(whole, y=whole.y[r], nodes=whole.nodes[r], train_mask=whole.train_mask[r])
        for r in rows
    ]
    out = torch.randn(3, 31, 3, dtype=torch.float32, requires_grad=True)
    (wanted,) = torch.autograd.grad(task.loss(out, whole), out)
    weights = shares(parts, task, SoloWorld())
    loss = sum(
        w * task.loss(out[:, r], b.to("cpu")) for w, r, b in zip(weights, rows, parts, strict=True)
    )
    (found,) = torch.autograd.grad(loss, out)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    # A batch that comes again, alone in its step, keeps nothing of this one.
    alone = task.loss(out[:, rows[0]], replace(parts[0], train_factor=1.0))
    assert shares(parts[:1], task, SoloWorld()) == [1.0]
    torch.testing.assert_close(task.loss(out[:, rows[0]], parts[0]), alone)


def test_training_figures_of_views_are_of_training_nodes() -> None:
    task = PropagatedNodeTask(nodes(), OPTIONS, views=2)
    batch = next(iter(task.loader("train", batch_size=31)))
    out = torch.randn(31, 3)
    known = batch.train_mask
    assert task.target(batch, "train").tolist() == batch.y[known].tolist()
    assert task.predictions(out, batch, "train").tolist() == out[known].argmax(1).tolist()
    wanted = nn.functional.cross_entropy(out[known], batch.y[known])
    assert torch.allclose(task.loss(out, batch, "train"), wanted)


def test_losses_of_several_labels() -> None:
    task = PropagatedNodeTask(nodes(True), OPTIONS)
    batch = next(iter(task.loader("train", batch_size=100)))
    zeros = torch.zeros_like(batch.y)
    assert task.loss(zeros, batch).item() == pytest.approx(math.log(2))
    soft = PropagatedNodeTask(nodes(True), OPTIONS, loss="soft_cross_entropy")
    wanted = batch.y.sum(1).mean().item() * math.log(5)
    assert soft.loss(zeros, batch).item() == pytest.approx(wanted, rel=1e-5)
    assert soft.sample_loss(zeros, batch).mean().item() == pytest.approx(wanted, rel=1e-5)
    figures = task.evaluate(batch.y * 2 - 1, batch.y, "train")
    assert figures["f1_micro"] == 1.0


def test_ranking_of_classes() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    for rank, (gain, reciprocal) in enumerate([(1, 1), (1, 0.5), (1 / math.log2(3), 1 / 3)]):
        relevant = torch.zeros(1, 4)
        relevant[0, rank] = 1
        assert ndcg(scores, relevant) == pytest.approx(gain)
        assert mrr(scores, relevant) == pytest.approx(reciprocal)
    assert mrr(scores, torch.zeros(1, 4)) == 0
    assert ndcg(scores, torch.ones(1, 4)) == pytest.approx(1)
    task = PropagatedNodeTask(nodes(metric="ndcg"), OPTIONS)
    assert task.metrics == ["ndcg", "mrr"]
    result, _ = train(task, max_epochs=2)
    assert 0 < result.test <= 1


def refused(message: str, dataset: Any = None, **options: Any) -> None:
    with pytest.raises(InputError, match=message):
        PropagatedNodeTask(dataset or nodes(), **{"propagation": OPTIONS, **options})


def test_refusals() -> None:
    refused("propagation.iteration: no such option.*iterations", propagation={"iteration": 1})
    refused("propagation.method", propagation={"method": "walks"})
    refused("iterations: 0", propagation={"iterations": 0})
    refused("criterion: 'f1'", criterion="f1")
    refused("views", views=0)
    refused("several", nodes(True), views=2)
    refused("not defined for several labels", nodes(True), propagation={"labels": True})
    refused("loss: 'bce'", loss="bce")
    refused("propagation: 3, wanted options", propagation=3)
    refused("line.epoch: no such option.*epochs", line={"epoch": 1})
    refused("line.dim", line={"dim": 4})
    refused("line: learnt vectors", line={}, propagation={**OPTIONS, "project_input": 4})
    odd = nodes(True)
    odd.data["paper"].y[3, 2] = math.nan
    refused("values other than 0 and 1", odd)
    places = nodes()
    places.data["paper"].val_mask = torch.tensor([1, 2])
    refused(r"val_mask: torch.int64 \[2\].*wanted bool", places)
    unnamed = with_labels(academic())
    unnamed["paper"].y = unnamed["paper"].y.float()
    with pytest.raises(InputError, match="y: torch.float32"):
        HeteroNodes(unnamed, "paper")
    unknown = nodes()
    unknown.data["paper"].y[unknown.data["paper"].train_mask] = 3
    refused(r"y: torch.int64 from .* to 3, wanted integers 0\.\.2", unknown)
    twice = nodes()
    twice.data["paper"].val_mask |= twice.data["paper"].train_mask
    refused("two of train, valid and test", twice)
    empty = nodes()
    empty.data["paper"].val_mask = torch.zeros(31, dtype=torch.bool)
    refused("val_mask: no node", empty)
    with pytest.raises(InputError, match="has no labels"):
        HeteroNodes(academic(), "paper")
    with pytest.raises(InputError, match="no node type"):
        HeteroNodes(HeteroData(), "paper")
    with pytest.raises(InputError, match="split"):
        PropagatedNodeTask(nodes(), OPTIONS).loader("testing")


def test_groups_are_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path))
    plain = PropagatedNodeTask(nodes(), OPTIONS).groups
    for _ in range(2):
        kept = PropagatedNodeTask(nodes(), OPTIONS, cache=True).groups
        assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))
        assert len(list((tmp_path / "propagated").iterdir())) == 1
    for options in ({**OPTIONS, "seed": 1}, {**OPTIONS, "labels": True}):
        _ = PropagatedNodeTask(nodes(), options, cache=True).groups
    assert len(list((tmp_path / "propagated").iterdir())) == 3


def test_kept_groups_follow_all_that_decides_them(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path))

    def check(dataset: HeteroNodes, options: Any = OPTIONS) -> None:
        plain = PropagatedNodeTask(dataset, options).groups
        kept = PropagatedNodeTask(dataset, options, cache=True).groups
        assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))

    check(nodes())
    larger = nodes()
    larger.data["venue"].num_nodes += 1
    check(larger)
    target = nodes().data
    target["author"].y = torch.arange(13) % 2
    for number, part in enumerate(("train_mask", "val_mask", "test_mask")):
        target["author"][part] = torch.arange(13) % 3 == number
    check(HeteroNodes(target, "author"))
    labels = {**OPTIONS, "labels": True}
    check(nodes(), labels)
    check(HeteroNodes(with_labels(academic()), "paper", num_classes=5), labels)
    files = list((tmp_path / "propagated").iterdir())
    assert len(files) == 5
    for path in files:  # damaged files are made anew
        path.write_bytes(path.read_bytes()[:-2])
    check(nodes())


def test_checksum_of_a_graph() -> None:
    def checksum(**changed: Any) -> str:
        data = with_labels(academic())
        for key, value in changed.items():
            data["paper"][key] = value
        return HeteroNodes(data, "paper").sha256

    x = academic()["paper"].x
    found = [
        checksum(), checksum(x=x + 1), checksum(x=x.bfloat16()), checksum(x=x.to_sparse()),
        checksum(x=(x + 1).to_sparse_csr()), checksum(num_nodes=32), checksum(flag=True),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert checksum() == found[0]


def test_metapaths_stand_beside() -> None:
    options = {"method": "metapaths", "hops": 2, "embedding_size": 8}
    task = PropagatedNodeTask(nodes(), options)
    result, _ = train(task, max_epochs=30)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_vectors_learnt_from_edges() -> None:
    pytest.importorskip("gensim")
    options = {"iterations": 1, "embedding_size": 8, "even_odd": "odd"}
    plain = PropagatedNodeTask(nodes(), options)
    learnt = PropagatedNodeTask(nodes(), options, line={"epochs": 2})
    again = PropagatedNodeTask(nodes(), options, line={"epochs": 2})
    names = plain.propagation.shapes(plain.data, "paper")
    venue = list(names).index("paper|in|venue|odd")
    assert not torch.equal(plain.groups[venue], learnt.groups[venue])
    assert torch.equal(learnt.groups[venue], again.groups[venue])
    assert torch.equal(plain.groups[0][:, 0], learnt.groups[0][:, 0])
    with pytest.raises(InputError, match="line.dim"):
        PropagatedNodeTask(nodes(), options, line={"dim": 4})
