"""Link prediction: what a step sees, negatives, figures, runs that continue, refusals."""

from types import SimpleNamespace

import pytest
import torch
from link_cases import HITS, NODES, Crash, Small, TinyLinks, fit

from graphkit import data
from graphkit.data.evaluation import evaluate_links
from graphkit.data.link_split import link_keys
from graphkit.errors import InputError, PluginError
from graphkit.models import NCN
from graphkit.models.ncn import drop_adj
from graphkit.plugins import create_plugin
from graphkit.tasks import LinkTask, create_task
from graphkit.tasks.link_batches import LinkBatch, TrainLinks
from graphkit.train import Trainer, seed_everything
from graphkit.train.optimizers import build_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


# -- figures ----------------------------------------------------------------------------------


def test_hits_of_the_specification():
    positive, negative = torch.tensor([0.9, 0.5, 0.5]), torch.tensor([0.5, 0.4, 0.3])
    assert evaluate_links(HITS, positive, negative, ["hits@1"])["hits@1"] == pytest.approx(1 / 3)
    with pytest.warns(UserWarning, match="only 3 negatives, at least 4"):
        assert evaluate_links(HITS, positive, negative, ["hits@4"])["hits@4"] == 1.0


def test_mrr_of_the_specification():
    scores = torch.tensor([0.5]), torch.tensor([[0.5, 0.7]])
    assert evaluate_links(HITS, *scores, ["mrr"])["mrr"] == pytest.approx(0.4)


def test_several_hits_at_once_do_not_disturb_each_other():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.rand(500, generator=generator), torch.rand(300, generator=generator)
    wanted = {
        f"hits@{k}": float((positive > negative.sort().values[-k]).float().mean())
        for k in (20, 50, 100)
    }
    found = evaluate_links(HITS, positive, negative, ["hits@100", "hits@20", "hits@50"])
    assert found == pytest.approx(wanted)


# -- what a step looks at -----------------------------------------------------------------------


def test_a_step_never_sees_its_own_links_and_the_next_one_does():
    _, model, task = fit(max_epochs=1)
    loader = task.loader("train", batch_size=100, seed=0)
    whole = link_keys(task.links["train"], NODES)
    batches = list(loader)
    assert len(batches) == len(model.graphs) == 420 // 100
    for batch, seen in zip(batches, model.graphs, strict=True):
        own = link_keys(batch.positive, NODES)
        assert torch.equal(torch.cat([seen, own]).sort().values, whole)
    task.maskinput = False
    task.apply(model.train(), batches[0])
    assert torch.equal(model.graphs[-1], whole)


def test_negatives_are_drawn_once_an_epoch_and_are_no_training_links():
    task = create_task(TinyLinks())
    loader = task.loader("train", batch_size=100, seed=5)
    train = task.links["train"]
    keys = link_keys(torch.cat([train, train.flip(0)], 1), NODES, directed=True)
    one, again, other = loader.draw(0), loader.draw(0), loader.draw(1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == train.shape
    drawn = one[0] * NODES + one[1]
    assert len(drawn.unique()) == drawn.numel()
    assert (one[0] != one[1]).all()
    assert not torch.isin(drawn, keys).any()
    assert (one[0] > one[1]).any()
    assert (one[0] < one[1]).any()


def test_true_and_false_links_are_scored_on_dropped_edges_of_their_own(monkeypatch):
    drawn = []

    def record(csr, p, training):
        drawn.append(csr)
        return drop_adj(csr, p, training)

    monkeypatch.setattr("graphkit.models.ncn.predictor.drop_adj", record)
    task = create_task(TinyLinks())
    model = NCN(in_channels=4, hidden_channels=4, preedp=0.5)
    batch = next(iter(task.loader("train", batch_size=100)))
    assert task.apply(model.train(), batch).shape == (200,)
    assert len(drawn) == 2
    assert drawn[0] is drawn[1]


@pytest.mark.parametrize("dedup", [False, True])
def test_the_other_copy_of_a_link_stays_unless_asked(dedup):
    dataset = TinyLinks()
    train = dataset.links["train/edge"]
    dataset.links["train/edge"] = torch.cat([train, train[:, :1].flip(0)], dim=1)
    model, task = Small(), create_task(dataset, dedup=dedup)
    pairs = train[:, :1]
    batch = LinkBatch("train", pairs, pairs.flip(0), hidden=torch.tensor([0]))
    task.apply(model.train(), batch)
    there = torch.isin(link_keys(pairs, NODES), model.graphs[-1])
    assert bool(there) == (not dedup)


def test_what_the_encoder_gets():
    dataset = TinyLinks()
    x = dataset.graphs.x
    assert torch.equal(create_task(dataset).node_features(), x)
    assert torch.equal(create_task(dataset, node_input="id").node_features(), torch.arange(NODES))
    species = create_task(dataset, node_input="onehot")
    assert torch.equal(species.node_features(), x.argmax(1))
    species.use_node_input(x * 2)
    assert torch.equal(species.node_features(), x * 2)
    with pytest.raises(InputError, match="x: 59 rows, wanted 60"):
        species.use_node_input(x[1:])


def test_destinations_keep_their_sources():
    task = create_task(TinyLinks(), negatives="destinations", maskinput=False)
    for batch in task.loader("train", batch_size=100):
        assert torch.equal(batch.negative[0], batch.positive[0])


def test_workers_share_a_step_and_all_hide_all_of_it():
    task = create_task(TinyLinks())
    alone = list(task.loader("train", batch_size=100, shuffle=True, seed=1))
    parts = [
        list(task.loader("train", batch_size=50, shuffle=True, seed=1, rank=r, world_size=2))
        for r in range(2)
    ]
    for batch, *shares in zip(alone, *parts, strict=True):
        own = torch.cat([share.positive for share in shares], dim=1)
        assert torch.equal(link_keys(own, NODES), link_keys(batch.positive, NODES))
        assert all(torch.equal(share.hidden, batch.hidden) for share in shares)


def test_pieces_of_the_evaluation_change_no_score():
    dataset, model = TinyLinks(), NCN(in_channels=4, hidden_channels=8, predictor="ncnc").eval()
    with torch.no_grad():
        scores = []
        for size in (7, 10_000):
            task = create_task(dataset, eval_batch_size=size)
            scores.append(task.apply(model, next(iter(task.loader("test")))))
    assert torch.allclose(*scores, atol=1e-6)


def test_only_the_test_split_sees_validation_links_and_only_when_asked():
    dataset = TinyLinks()
    plain, wide = create_task(dataset), create_task(dataset, use_valedges=True)
    train = 2 * dataset.links["train/edge"].size(1)
    valid = 2 * dataset.links["valid/edge"].size(1)
    assert [plain.graph(part).num_entries for part in ("valid", "test")] == [train, train]
    assert [wide.graph(part).num_entries for part in ("valid", "test")] == [train, train + valid]


def test_ranked_negatives_of_citation2():
    dataset = TinyLinks()
    dataset.metric = "mrr"
    links = dataset.links
    count = links["valid/edge"].size(1)
    for part in ("valid", "test"):
        del links[f"{part}/edge_neg"]
        total = links[f"{part}/edge"].size(1)
        links[f"{part}/target_node_neg"] = torch.randint(NODES, (total, 9))
    model = Small().eval()
    scores = []
    for size in (10_000, 25):
        task = create_task(dataset, eval_batch_size=size)
        batch = next(iter(task.loader("valid")))
        scores.append(task.apply(model, batch))
        assert scores[-1].shape == (count, 10)
    assert torch.allclose(*scores)
    rank = 1 + ((scores[0][:, 1:] > scores[0][:, :1]).sum(1)
                + (scores[0][:, 1:] >= scores[0][:, :1]).sum(1)) / 2  # fmt: skip
    found = task.evaluate(task.predictions(scores[0], batch), task.target(batch))
    assert found["mrr"] == pytest.approx(float((1 / rank).mean()), rel=1e-6)
    assert fit(dataset=dataset, max_epochs=2)[0].valid > 0


# -- training ----------------------------------------------------------------------------------


def test_loss_is_that_of_the_specification():
    task = create_task(TinyLinks())
    batch = next(iter(task.loader("train", batch_size=100)))
    out = torch.randn(200)
    wanted = -torch.sigmoid(out[:100]).log().mean() - (1 - torch.sigmoid(out[100:])).log().mean()
    assert task.loss(out, batch) == pytest.approx(float(wanted), rel=1e-5)
    assert task.sample_loss(out, batch).mean() == pytest.approx(float(wanted), rel=1e-5)


def test_encoder_and_predictor_have_their_own_rates():
    model = NCN(in_channels=4, hidden_channels=8)
    groups = {"encoder": {"lr": 0.0}, "predictor": {"lr": 0.5}}
    spec = {"name": "Adam", "lr": 0.1, "groups": groups}
    optimizer = build_optimizer(spec, model.named_parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.5]
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes == [
        sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.predictor)
    ]
    with pytest.raises(InputError, match="did you mean 'encoder'"):
        build_optimizer({"groups": {"encodr": {"lr": 0.1}}}, model.named_parameters())


def test_parts_are_clipped_apart():
    seen = {}

    class Look(Small):
        def forward(self):
            return None

    plugin = create_plugin("grad_clip", max_norm=1e-3, parts=["predictor"])
    model = Look()
    plugin.run = SimpleNamespace(model=model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    plugin.clip(list(model.parameters()))
    for name in ("encoder", "predictor"):
        grads = [p.grad.flatten() for p in model.get_submodule(name).parameters()]
        seen[name] = float(torch.cat(grads).norm())
    assert seen["predictor"] == pytest.approx(1e-3, rel=1e-3)
    assert seen["encoder"] > 1


def test_each_metric_has_its_own_best_epoch():
    result, _, task = fit(max_epochs=6)
    assert set(result.selected) == set(task.metrics) == {"hits@20", "hits@50", "hits@100"}
    for metric, found in result.selected.items():
        values = [entry[f"valid_{metric}"] for entry in result.history]
        best = values.index(max(values)) + 1  # the first of equals
        assert found["epoch"] == best
        assert found["valid"] == max(values)
        assert found["test"] == result.history[best - 1][f"test_{metric}"]
    assert result.test == result.selected["hits@20"]["test"]


@pytest.mark.parametrize("crash_at", [1, 3, 5, 10, 16])
def test_a_killed_run_continues_to_the_bit(tmp_path, crash_at):
    whole, model, _ = fit()
    with pytest.raises(Crash):
        fit(tmp_path, crash_at=crash_at)
    again, other, _ = fit(tmp_path)
    assert again.history == whole.history
    assert again.selected == whole.selected
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_ncn_trains_on_the_embedded_set():
    demo = data.load("demo-link")
    seed_everything(0)
    model = NCN(in_channels=8, hidden_channels=32, jk=True, use_xlin=True, tailact=True)
    groups = {"encoder": {"lr": 0.01}, "predictor": {"lr": 0.005}}
    trainer = Trainer(
        max_epochs=3, batch_size=256, progress=False, accelerator="cpu",
        optimizer={"name": "Adam", "lr": 0.01, "groups": groups},
    )  # fmt: skip
    result = trainer.fit(model, create_task(demo))
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < losses[0]


def test_completion_is_switched_on_epoch_by_epoch(tmp_path):
    seen = []

    class Watched(NCN):
        """Notes the bound of completion at every encoding, and may end the run."""

        crash_at = -1

        def encode(self, x, adj):
            if self.training:
                seen.append(round(float(self.predictor.alpha), 6))
                if len(seen) == self.crash_at:
                    raise Crash
            return super().encode(x, adj)

    def train(folder=None, crash_at=-1):
        seed_everything(0)
        seen.clear()
        model = Watched(in_channels=4, hidden_channels=4, predictor="ncnc", alpha=0.3)
        model.crash_at = crash_at
        trainer = Trainer(
            run_dir=folder, max_epochs=8, batch_size=200, progress=False, accelerator="cpu",
            checkpoint_seconds=0, plugins=[create_plugin("increasing_alpha")],
        )  # fmt: skip
        return trainer.fit(model, create_task(TinyLinks())), model.state_dict()

    whole, weights = train()
    wanted = [alpha for alpha in (0, 0, 0, 0, 0, 0.1, 0.2, 0.3) for _ in range(2)]
    assert seen == pytest.approx(wanted)
    with pytest.raises(Crash):
        train(tmp_path, crash_at=14)
    again, same = train(tmp_path)
    assert seen == pytest.approx(wanted[-len(seen) :])
    assert 1 <= len(seen) <= 3
    assert again.history == whole.history
    assert all(torch.equal(value, same[key]) for key, value in weights.items())
    with pytest.raises(PluginError, match="Small has no increase_alpha"):
        fit(plugins=[create_plugin("increasing_alpha")])
    with pytest.raises(InputError, match="predictor='ncn' has no completion"):
        Trainer(plugins=[create_plugin("increasing_alpha")], progress=False).fit(
            NCN(in_channels=4, hidden_channels=4), create_task(TinyLinks())
        )


# -- refusals ----------------------------------------------------------------------------------


def test_validation_links_in_the_training_graph_are_refused():
    dataset = TinyLinks()
    links = dataset.links
    links["train/edge"] = torch.cat([links["train/edge"], links["valid/edge"][:, :2].flip(0)], 1)
    with pytest.raises(InputError, match="2 of 60 validation links"):
        create_task(dataset)
    create_task(dataset, use_valedges=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sise": 3}, "did you mean 'batch_size'"),
        ({"eval_batch_size": 0}, "eval_batch_size"),
        ({"node_input": "ids"}, "did you mean 'id'"),
        ({"negatives": "non_link"}, "did you mean 'non_links'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_task(TinyLinks(), **options)


def test_an_epoch_without_a_step_is_refused():
    with pytest.raises(InputError, match="an epoch would have no step"):
        fit(batch_size=421)
    with pytest.raises(InputError, match="negatives: 'hard' is not one of non_links"):
        TrainLinks(TinyLinks().links["train/edge"], NODES, 100, negatives="hard")


def test_links_that_are_no_node_ids_are_refused():
    dataset = TinyLinks()
    dataset.links["test/edge"] = dataset.links["test/edge"].float()
    with pytest.raises(InputError, match=r"test links of tiny-link are torch.float32"):
        create_task(dataset)
    dataset.links["test/edge"] = torch.tensor([[0], [NODES]])
    with pytest.raises(InputError, match=f"hold node {NODES}, wanted 0..{NODES - 1}"):
        create_task(dataset)
    with pytest.raises(InputError, match="graph-level"):
        LinkTask(data.load("demo"))


@pytest.mark.parametrize("part", ["valid", "test"])
def test_links_that_cannot_be_judged_are_refused_before_training(part):
    def refused(key, value, message):
        dataset = TinyLinks()
        if value is None:
            del dataset.links[f"{part}/{key}"]
        else:
            dataset.links[f"{part}/{key}"] = value
        with pytest.raises(InputError, match=message):
            create_task(dataset)

    none, some = torch.zeros(2, 0, dtype=torch.int64), torch.tensor([[0, 1], [2, 3]])
    refused("edge", none, f"tiny-link has 0 true {part} links")
    refused("edge_neg", none, r"false ones of shape \[2, 0\], wanted \[2, M\] and at least one")
    refused("edge_neg", some[0], r"shape \[2\], wanted \[2, M\]")
    refused("edge_neg", some.float(), f"{part} negatives of tiny-link are torch.float32")
    refused("edge_neg", some + NODES - 3, f"{part} negatives of tiny-link hold node {NODES}")
    refused("edge_neg", None, f"tiny-link has no false {part} links")


def test_false_destinations_of_another_number_of_links_are_refused():
    dataset = TinyLinks()
    del dataset.links["test/edge_neg"]
    dataset.links["test/target_node_neg"] = torch.zeros(7, 3, dtype=torch.int64)
    with pytest.raises(InputError, match=r"shape \[7, 3\], wanted \[120, M\]"):
        create_task(dataset)


def test_self_loops_are_refused_where_they_would_have_to_be_hidden():
    dataset = TinyLinks()
    loops = torch.tensor([[5, 8], [5, 8]])
    dataset.links["train/edge"] = torch.cat([dataset.links["train/edge"], loops], dim=1)
    with pytest.raises(InputError, match="2 training links of tiny-link are self-loops.* node 5"):
        create_task(dataset)
    graph = create_task(dataset, maskinput=False).graph("train")
    assert graph.num_entries == 2 * 420
    assert not (graph.row() == graph.col).any()


def test_unknown_splits_are_refused():
    task = create_task(TinyLinks())
    for function in (task.graph, task.loader):
        with pytest.raises(InputError, match="split: 'vaild' is not one of.*did you mean 'valid'"):
            function("vaild")
