"""The recommendation task: batches, training through the Trainer, resuming, schedules."""

import pytest
import torch

from graphkit import data, recipes, results
from graphkit.data import Interactions
from graphkit.errors import InputError, PluginError
from graphkit.models import LightGCN, MatrixFactorization, MostPop, Sampling, create_model
from graphkit.plugins import create_plugin
from graphkit.tasks import create_task
from graphkit.tasks.interaction_batches import TrainInteractions, draw_negatives
from graphkit.train import Trainer, seed_everything
from graphkit.train.schedule import EvalSchedule
from graphkit.train.world import LocalWorld

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def demo():
    return data.load("demo-rec")


def fit(dataset, name="light_gcn", run_dir=None, epochs=3, plugins=(), eval_every=1, **options):
    seed_everything(0)
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items}
    model = create_model(name, **sizes, dim=8, **options)
    trainer = Trainer(
        max_epochs=epochs, batch_size=512, optimizer={"name": "Adam", "lr": 0.02}, progress=False,
        accelerator="cpu", run_dir=run_dir, plugins=list(plugins), eval_every=eval_every,
        checkpoint_seconds=0.0,
    )  # fmt: skip
    return trainer.fit(model, create_task(dataset)), model


# -- batches ---------------------------------------------------------------------------------------


def test_every_pair_comes_once_an_epoch(demo):
    loader = TrainInteractions(demo.interactions, Sampling("pairs", 4), 300, seed=2)
    batches = list(loader)
    assert len(batches) == len(loader)
    seen = torch.cat([torch.stack([b.users, b.items]) for b in batches], dim=1)
    again = Interactions(seen, demo.num_users, demo.num_items)
    assert torch.equal(again.edge_index, demo.interactions.edge_index)
    assert not torch.equal(seen, demo.interactions.edge_index)
    assert batches[0].negatives.shape == (300, 4)
    assert batches[-1].users.numel() == demo.interactions.num_pairs % 300
    assert not torch.equal(batches[0].negatives, batches[1].negatives)
    assert not torch.equal(next(iter(loader)).users, batches[0].users)


def test_full_shared_and_none(demo):
    full = list(TrainInteractions(demo.interactions, Sampling("full", 1), 10))
    assert [b.users.numel() for b in full] == [demo.interactions.num_pairs]
    shared = next(iter(TrainInteractions(demo.interactions, Sampling("pairs", 7, shared=True), 10)))
    assert shared.negatives.shape == (7,)
    none = next(iter(TrainInteractions(demo.interactions, Sampling("pairs", 0), 10)))
    assert none.negatives is None


def test_users_are_drawn_uniformly_and_negatives_are_no_positives():
    # User 1 has one item and user 2 none: drawn as often as user 0, and skipped.
    pairs = Interactions(torch.tensor([[0] * 9 + [1], [*range(9), 4]]), 3, 10)
    loader = TrainInteractions(pairs, Sampling("users", 1), 1000)
    users, items = torch.cat(
        [torch.stack([b.users, b.items]) for _ in range(300) for b in loader], dim=1
    )
    assert bool(pairs.contains(users, items).all())
    share = torch.bincount(users, minlength=3) / 3000
    assert share.tolist() == pytest.approx([1 / 3, 1 / 3, 0.0], abs=0.03)
    own = torch.bincount(items[users == 0], minlength=9) / (users == 0).sum()
    assert own.tolist() == pytest.approx([1 / 9] * 9, abs=0.04)
    for batch in loader:
        assert not pairs.contains(batch.users[:, None], batch.negatives).any()
    drawn = draw_negatives(pairs, torch.zeros(4, dtype=torch.int64), 50, torch.Generator())
    assert drawn.unique().tolist() == [9]


def test_each_user_comes_equally_often():
    pairs = Interactions(torch.tensor([[0] * 9 + [1] * 3, [*range(9), 4, 5, 6]]), 3, 12)
    loader = TrainInteractions(pairs, Sampling("each_user", 1), 3, seed=4)
    batches = list(loader)  # floor(12 / 3) of each user; user 2 has no items
    assert [b.users.numel() for b in batches] == [3, 3, 2]
    assert len(loader) == 3
    users = torch.cat([b.users for b in batches])
    assert torch.bincount(users).tolist() == [4, 4]
    assert not torch.equal(users, users.sort().values)
    for _ in range(20):
        for batch in loader:
            assert pairs.contains(batch.users, batch.items).all()
            assert not pairs.contains(batch.users[:, None], batch.negatives).any()
    few = Interactions(torch.tensor([[0], [0]]), 2, 3)
    with pytest.raises(InputError, match=r"floor\(1 / 2\)"):
        TrainInteractions(few, Sampling("each_user", 1), 3)


def test_workers_share_each_batch(demo):
    sampling = Sampling("pairs", 2)
    whole = list(TrainInteractions(demo.interactions, sampling, 64))
    parts = [
        list(TrainInteractions(demo.interactions, sampling, 32, rank=r, world_size=2))
        for r in (0, 1)
    ]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert torch.equal(
            torch.cat([left.users, right.users]).sort().values, batch.users.sort()[0]
        )
        assert torch.equal(left.negatives, batch.negatives[::2])


@pytest.mark.parametrize("kind", ["pairs", "users", "each_user"])
def test_a_loader_goes_on_where_another_stopped(demo, kind):
    make = lambda: TrainInteractions(demo.interactions, Sampling(kind, 3), 200, seed=5)  # noqa: E731
    first, second = make(), make()
    first.set_epoch(2)
    batches = iter(first)
    for _ in range(4):
        next(batches)
    second.load_state_dict(first.state_dict())
    for mine, other in zip(list(batches), list(second), strict=True):
        assert torch.equal(mine.users, other.users)
        assert torch.equal(mine.negatives, other.negatives)
    with pytest.raises(InputError, match="batch_size"):
        TrainInteractions(demo.interactions, Sampling(), 100).load_state_dict(first.state_dict())


def test_a_user_with_every_item_has_no_negative():
    pairs = Interactions(torch.tensor([[0, 0, 1], [0, 1, 0]]))
    for sampling in (Sampling("pairs", 1, exclude_positives=True), Sampling("users", 1)):
        with pytest.raises(InputError, match="user 0 has a pair with each of the 2 items"):
            TrainInteractions(pairs, sampling, 4)
    assert len(TrainInteractions(pairs, Sampling("users", 0), 4)) == 1


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mf", "light_gcn", "neumf"])
def test_training_beats_nothing_learnt(demo, name):
    few, _ = fit(demo, name, epochs=1)
    many, _ = fit(demo, name, epochs=12)
    assert many.valid > few.valid + 0.02
    assert {"recall@20", "ndcg@20", "precision@20", "f1@20", "hit@20", "map@20"} == set(
        many.selected
    )


def test_same_seed_same_run(demo):
    (first, a), (second, b) = fit(demo), fit(demo)
    assert first.history == second.history
    for left, right in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mf", {}),
        ("light_gcn", {"keep_prob": 0.6, "sampling": "each_user"}),
        ("mf", {"table": {"method": "double_graph", "gamma": 3.0}}),
        ("ultragcn", {"num_negatives": 5}),
    ],
)
def test_a_stopped_run_ends_as_an_undisturbed_one(demo, name, options, tmp_path):
    class Halt(Exception):
        pass

    whole, wanted = fit(demo, name, run_dir=tmp_path / "whole", epochs=4, **options)
    steps = 0
    original = type(wanted).training_loss

    def breaking(self, batch):
        nonlocal steps
        steps += 1
        if steps == 8:
            raise Halt
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(wanted), "training_loss", breaking)
        with pytest.raises(Halt):
            fit(demo, name, run_dir=tmp_path / "stopped", epochs=4, **options)
    again, found = fit(demo, name, run_dir=tmp_path / "stopped", epochs=4, **options)
    assert again.history == whole.history
    for left, right in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("negatives", ["sampled", "exact"])
def test_workers_train_ultragcn_as_one_does(demo, negatives):
    """Its loss is a sum over pairs, but the mean over workers is what is minimised."""

    def work(world=None, batch_size=500, accumulate=1):
        torch.manual_seed(0)
        model = create_model(
            "ultragcn", num_users=demo.num_users, num_items=demo.num_items, dim=8,
            num_negatives=5, negative_weight=5.0, gamma=0.1, init_std=0.1, negatives=negatives,
        )  # fmt: skip
        trainer = Trainer(
            max_epochs=1, batch_size=batch_size, accumulate=accumulate,
            optimizer={"name": "SGD", "lr": 0.002}, progress=False, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(model, create_task(demo), world=world)
        return {key: value.clone() for key, value in model.state_dict().items()}

    alone, pair = work(), LocalWorld(2).run(work)
    for key, value in alone.items():
        torch.testing.assert_close(pair[0][key], value, rtol=1e-4, atol=1e-6)
    if negatives == "exact":  # sampled ones are drawn for each batch
        parts = [work(None, 250, 2), LocalWorld(2).run(lambda world: work(world, 250, 2))[0]]
        for found in parts:
            for key, value in alone.items():
                torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_all_figures_are_of_the_epoch_with_the_best_recall(demo, monkeypatch):
    """The papers report so; a best epoch for each figure would flatter the others."""
    whole = type(create_task(demo)).evaluate
    count = {"valid": 0}

    def staged(self, predictions, targets, split="test"):
        found = whole(self, predictions, targets, split)
        if split == "valid":  # recall peaks in epoch 2, NDCG in epoch 3
            count["valid"] += 1
            epoch = (count["valid"] + 1) // 2  # once for the loss, once for the figures
            found["recall@20"] = {1: 0.1, 2: 0.5}.get(epoch, 0.2)
            found["ndcg@20"] = 0.1 * epoch
        return found

    monkeypatch.setattr(type(create_task(demo)), "evaluate", staged)
    result, _ = fit(demo, "mf", epochs=4)
    assert result.best_epoch == 2
    assert {found["epoch"] for found in result.selected.values()} == {2}
    assert result.selected["ndcg@20"]["test"] == result.metrics["test_ndcg@20"]


def test_official_protocol_ranks_the_same_pairs_once(monkeypatch):
    with pytest.warns(UserWarning, match="TEST pairs"):
        official = data.load("demo-rec", protocol="official")
    calls = []
    monkeypatch.setattr(
        LightGCN, "scorer", lambda self, own=LightGCN.scorer: calls.append(1) or own(self)
    )
    result, model = fit(official, epochs=2)
    assert result.valid == result.test
    assert len(calls) == 2
    task = create_task(official)
    hits = [task.apply(model, next(iter(task.loader(part)))) for part in ("valid", "test")]
    assert torch.equal(*hits)
    with torch.no_grad():
        model.item_table.weight.neg_()
    assert not torch.equal(task.apply(model, next(iter(task.loader("test")))), hits[0])


def test_only_recommenders_and_recommendation_sets(demo):
    with pytest.raises(InputError, match="Linear is no graphkit.models.Recommender"):
        create_task(demo).prepare(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="made for 3 and 3"):
        create_task(demo).prepare(MatrixFactorization(3, 3))
    with pytest.raises(InputError, match="eval_batch_size"):
        create_task(demo, eval_batch_size=0)
    with pytest.raises(InputError, match="one loss for a batch"):
        create_task(demo).sample_loss(None, None)


def test_scores_that_are_not_finite_are_refused(demo):
    model = MatrixFactorization(demo.num_users, demo.num_items, dim=4)
    with torch.no_grad():
        model.user_table.weight[0] = torch.nan
    task = create_task(demo)
    with pytest.raises(InputError, match="NaN or infinite"):
        task.apply(model, next(iter(task.loader("test"))))


def test_evaluation_sees_no_more_than_it_should(demo):
    task, model = create_task(demo, eval_batch_size=7), MostPop(demo.num_users, demo.num_items)
    batch = next(iter(task.loader("valid")))
    found = task.evaluate(task.apply(model, batch), task.target(batch))
    wide = create_task(demo)
    again = wide.evaluate(wide.apply(model, batch), wide.target(batch))
    assert found == again
    assert list(found) == task.metrics


# -- when to evaluate, when to stop ----------------------------------------------------------------


def test_schedule_of_ultragcn():
    schedule = EvalSchedule.of({"every": 5, "start": 1, "until": 50})
    due = [epoch - 1 for epoch in range(1, 60) if schedule.due(epoch)]  # counted from 0
    assert due == [*range(0, 50, 5), *range(50, 59)]
    assert [e for e in range(1, 12) if EvalSchedule.of(4).due(e)] == [4, 8]
    for bad in (0, True, 2.5, {"every": 0}, {"begin": 3}):
        with pytest.raises(InputError, match="eval_every"):
            EvalSchedule.of(bad)


def test_the_trainer_follows_the_schedule(demo):
    result, _ = fit(demo, "mf", epochs=7, eval_every={"every": 3, "start": 1, "until": 5})
    assert [e["epoch"] for e in result.history if "valid_recall@20" in e] == [1, 4, 6, 7]


@pytest.mark.parametrize(("counts", "epochs"), [("evaluations", 5), ("epochs", 3)])
def test_patience_counts_evaluations_or_epochs(demo, counts, epochs):
    plugin = create_plugin("early_stopping", patience=2, counts=counts, min_delta=10.0)
    result, _ = fit(demo, "mf", epochs=20, plugins=[plugin], eval_every={"every": 2, "start": 1})
    assert result.epochs == epochs
    assert counts in result.stop_reason
    with pytest.raises(PluginError, match="counts"):
        create_plugin("early_stopping", counts="steps")


def test_recipes_run_and_keep_their_protocol(tmp_path):
    record = results.run(
        recipes.load("demo-rec/light_gcn"), seeds=2, runs=tmp_path,
        overrides=["trainer.max_epochs=2", "trainer.eval_every=1"],
    )  # fmt: skip
    assert (record.metric, record.split_kind, record.n_runs) == ("recall@20", "protocol", 2)
    assert record.method_name == "LightGCN"
    assert "ndcg@20" in record.other_metrics
    with pytest.warns(UserWarning, match="TEST pairs"):
        record = results.run(recipes.load("demo-rec/popularity@official"), runs=tmp_path)
    assert record.split_kind == "test-selected"
    assert record.test_mean == record.valid_mean
