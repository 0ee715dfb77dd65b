"""Link-prediction recipes from the command's point of view: records, pictures, warm starts."""

import json

import pytest
import torch
import yaml

from graphkit import recipes, results
from graphkit.errors import InputError
from graphkit.results import build, dry
from graphkit.results.link_plots import degree_hits
from graphkit.results.start import begin

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ["trainer.max_epochs=2", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("runs")
    trained = results.run(recipes.load("demo-link/ncn"), seeds=2, overrides=SHORT, runs=runs)
    heuristic = results.run(recipes.load("demo-link/cn"), runs=runs)
    return runs, trained, heuristic


def test_a_heuristic_runs_behind_the_same_command(finished):
    runs, _, record = finished
    assert record.num_params == 0
    assert record.method_name == "CN"
    assert record.per_seed[0].epochs == 0
    assert 0 < record.test_mean <= 1
    assert results.read_record(runs / "demo-link" / "cn") == record
    again = results.run(recipes.load("demo-link/cn"), runs=runs)
    assert again.per_seed == record.per_seed


def test_the_record_has_every_metric_at_its_own_best_epoch(finished):
    runs, record, _ = finished
    assert record.method_name == "NCN"
    assert set(record.other_metrics) == {"hits@20", "hits@50", "hits@100"}
    assert record.other_metrics["hits@20"].test_mean == pytest.approx(record.test_mean)
    rows = [
        json.loads(line)
        for line in (runs / "demo-link" / "ncn" / "0" / "metrics.jsonl").read_text().splitlines()
    ]
    found = record.per_seed[0].selected["hits@100"]
    assert found["valid"] == max(row["valid_hits@100"] for row in rows)


def test_pictures_and_degrees_lie_beside_the_record(finished):
    runs, _, heuristic = finished
    for model in ("ncn", "cn"):
        folder = runs / "demo-link" / model
        for name in ("degrees.png", "models.png"):
            assert (folder / name).read_bytes()[:4] == b"\x89PNG"
        found = json.loads((folder / "0" / "degrees.json").read_text())
        assert sum(found["links"]) == 201
    assert sum(found["hits"]) / 201 == pytest.approx(heuristic.test_mean)
    assert not (runs / "demo-link" / "cn" / "curves.png").exists()


def test_hits_by_degree_count_ties_as_misses():
    positive, negative = torch.tensor([3.0, 1.0, 2.0, 0.5]), torch.tensor([1.0, 0.0])
    found = degree_hits(positive, negative, torch.tensor([1, 3, 9, 0]), k=1)
    assert found["from"] == [0, 1, 2, 4, 8]
    assert found["links"] == [1, 1, 1, 0, 1]
    assert found["hits"] == [0, 1, 0, 0, 1]


def test_dry_run_counts_the_steps():
    lines = "\n".join(dry.describe(recipes.load("demo-link/ncn"), [], None, "runs"))
    assert "train/valid/test 1,601 / 200 / 201" in lines
    assert "12 epochs of 6 steps" in lines


def later(tmp_path, take, **model):
    content = yaml.safe_load(recipes.path_of("demo-link/ncn").read_text())
    content["model"].update(model)
    content["start_from"] = {"recipe": "demo-link/ncn", "take": take}
    path = tmp_path / "later.yaml"
    path.write_text(yaml.safe_dump(content))
    return recipes.load(str(path))


def test_a_completing_model_begins_with_the_weights_of_its_twin(finished, tmp_path):
    runs, _, _ = finished
    recipe = later(tmp_path, "weights", predictor="ncnc")
    dataset = build.load_dataset(recipe)
    from safetensors.torch import load_file

    for seed in (0, 1):
        model, _ = begin(recipe, dataset, build.build_task(recipe, dataset), seed, runs)
        folder = runs / "demo-link" / "ncn" / str(seed) / "checkpoints"
        for key, value in load_file(folder / "best.safetensors").items():
            if key in dict(model.named_parameters()):
                assert torch.equal(model.state_dict()[key], value), key
    with pytest.raises(InputError, match="graphkit run demo-link/ncn"):
        begin(recipe, dataset, build.build_task(recipe, dataset), 2, runs)


def test_node_embeddings_of_an_earlier_run_are_the_input(finished, tmp_path):
    runs, _, _ = finished
    recipe = later(
        tmp_path, "node_embeddings", predictor="ncnc", conv="none", num_layers=0, in_channels=32,
        jk=False,
    )  # fmt: skip
    record = results.run(recipe, seeds=1, overrides=SHORT, runs=runs)
    assert record.n_runs == 1
    assert any("begins with node_embeddings" in line for line in dry.describe(recipe, [], 1, runs))


def test_a_checkpoint_is_judged_on_the_split_of_its_own_seed(tmp_path):
    from graphkit import data, zoo
    from graphkit.errors import DatasetNotFoundError

    recipe = recipes.load("seal-usair/ncn")
    try:
        data.load("seal-usair")
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing).splitlines()[0])
    record = results.run(recipe, seeds=2, overrides=SHORT, runs=tmp_path)
    folder = zoo.save_run(tmp_path / "seal-usair" / "ncn", tmp_path / "model", seed=1)
    found = {e.metric.split: e.value for e in zoo.evaluate(folder)}
    assert found["test"] == pytest.approx(record.per_seed[1].test)
    assert found["valid"] == pytest.approx(record.per_seed[1].valid)
    assert found["test"] != pytest.approx(record.per_seed[0].test, abs=1e-9)
