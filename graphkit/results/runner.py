"""Run a recipe over its seeds: build, train, record; continue where a killed run stopped."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphkit.errors import InputError
from graphkit.recipes.overrides import apply_overrides
from graphkit.recipes.schema import Recipe
from graphkit.results import build
from graphkit.results.environment import command_line, environment, package_version
from graphkit.results.estimators import FittedEstimator
from graphkit.results.progress import Reporter, SilentReporter
from graphkit.results.record import ResultRecord, SeedResult, aggregate
from graphkit.results.run_folder import SEED_FORMAT, RunFolder
from graphkit.storage import atomic_write_text


class Interrupted(Exception):
    """The user stopped the run; what is on the disk suffices to continue it."""


def run(
    recipe: Recipe,
    *,
    seeds: int | Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    runs: str | Path = "runs",
    restart: bool = False,
    reporter: Reporter | None = None,
    command: str | None = None,
) -> ResultRecord:
    """Train a recipe over seeds and leave a result record, or continue a run that was stopped.

    A seed that is finished is not run again; one that was stopped continues from its last
    checkpoint. The figures are those of an undisturbed run.

    Args:
        recipe: as loaded by :func:`graphkit.recipes.load`.
        seeds: how many (0, 1, ...), or which; the recipe's own by default.
        overrides: ``key=value`` settings.
        runs: the folder of all runs.
        restart: throw away an earlier run of this recipe.
        reporter: what shows the progress.
        command: what to record as the command; the command line of this process by default.

    Returns:
        The record, also written to ``<runs>/<dataset>/<model>/result.json``.

    Raises:
        RecipeError: unknown keys, or a folder that holds runs with other settings.
        DatasetNotFoundError: the data set is unknown or its files are not there.
        StorageError: the run folder cannot be written.

    Example:
        >>> import tempfile
        >>> from graphkit import recipes, results
        >>> record = results.run(
        ...     recipes.load("demo/gcn"), seeds=1, overrides=["trainer.max_epochs=1"],
        ...     runs=tempfile.mkdtemp(),
        ... )
        >>> record.n_runs
        1
    """
    reporter = reporter or SilentReporter()
    recipe = apply_overrides(recipe, overrides)
    seed_list = _seeds(recipe, seeds)
    build.check_names(recipe)
    folder = RunFolder(runs, recipe, list(overrides))
    with folder.claimed(restart=restart):
        dataset = build.load_dataset(recipe)
        counted = build.count_parameters(build.build_model(recipe, dataset, seed_list[0]))
        reporter.start(recipe, dataset, counted, seed_list, folder.path)
        finished = []
        fitted = FittedEstimator()
        for seed in seed_list:
            result = folder.finished(seed)
            if result is None:
                reporter.seed_start(seed)
                result = _run_seed(recipe, dataset, seed, folder, reporter, fitted)
                reporter.seed_end(result)
            else:
                reporter.seed_end(result, again=False)
            finished.append(result)
        record = _record(recipe, dataset, counted, finished, list(overrides), command)
        atomic_write_text(folder.record_path, record.to_json())
        if counted:
            _draw([folder.path], folder.path / "curves.png")
        if dataset.level == "link":
            _draw_links(folder.path)
    reporter.end(record, folder.path)
    return record


def _seeds(recipe: Recipe, seeds: int | Sequence[int] | None) -> list[int]:
    if seeds is None:
        return recipe.seed_list()
    if isinstance(seeds, int):
        if not 1 <= seeds <= 1000:
            raise InputError(f"seeds: got {seeds}, wanted a count from 1 to 1000")
        return recipe.seed_list(seeds)
    return list(seeds)


def _run_seed(
    recipe: Recipe,
    dataset: Any,
    seed: int,
    folder: RunFolder,
    reporter: Reporter,
    fitted: FittedEstimator,
) -> SeedResult:
    # Imported here: they need torch, and `graphkit recipes list` must not wait for it.
    from graphkit.results import link_plots
    from graphkit.results.start import begin

    path = folder.seed_path(seed)
    folder.write_config(path / "config.yaml", seed)
    dataset = dataset.of_run(seed)
    task = build.build_task(recipe, dataset)
    model, task = begin(recipe, dataset, task, seed, folder.runs)
    curves = True
    if build.trains_itself(recipe):
        result = fitted.fit(model, dataset, task, seed, path)
        curves = bool(model.history_)
    else:
        curves = build.count_parameters(model) > 0
        result = _train(recipe, model, task, seed, path, reporter)
    content = {
        "format": SEED_FORMAT,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "result": result.model_dump(),
        "environment": environment(recipe.trainer.accelerator),
    }
    if curves:
        _draw([path], path / "curves.png")
    if dataset.level == "link":
        link_plots.write_degrees(model, task, path / link_plots.DEGREES)
    # Last, because this file says that the seed is finished.
    atomic_write_text(path / "result.json", json.dumps(content, indent=2) + "\n")
    return result


def _train(
    recipe: Recipe, model: Any, task: Any, seed: int, path: Path, reporter: Reporter
) -> SeedResult:
    from graphkit.results.start import measure

    trainer = build.build_trainer(recipe, seed, path, reporter.event)
    fit = trainer.fit(model, task) if build.count_parameters(model) else measure(model, task)
    if fit.interrupted:
        raise Interrupted
    if fit.valid is None or fit.test is None:
        raise InputError(
            f"{recipe.name}, seed {seed}: no epoch gave a validation figure; "
            "lower trainer.eval_every"
        )
    return SeedResult(
        seed=seed,
        test=fit.test,
        valid=fit.valid,
        best_epoch=fit.best_epoch,
        epochs=fit.epochs,
        seconds=fit.seconds,
        peak_memory_bytes=fit.peak_memory_bytes,
        skipped_batches=fit.skipped_batches,
        selected=fit.selected if len(task.metrics) > 1 else {},
    )


def _draw(folders: list[Path], target: Path) -> None:
    from graphkit.results.curves import draw

    draw(folders, target)


def _draw_links(folder: Path) -> None:
    from graphkit.results import link_plots

    link_plots.draw_degrees(folder, folder / "degrees.png")
    link_plots.draw_models(folder.parent, folder / "models.png")


def _record(
    recipe: Recipe,
    dataset: Any,
    num_params: int,
    finished: list[SeedResult],
    overrides: list[str],
    command: str | None,
) -> ResultRecord:
    place = environment(recipe.trainer.accelerator)
    on_cpu = recipe.trainer.accelerator == "cpu" or not place["hardware"]["gpus"]
    return ResultRecord(
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        overrides=overrides,
        config=recipe.deciding(),
        method_name=method_name(recipe),
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        task_type=dataset.task_type,
        split_kind=dataset.split_kind,
        data_kind=dataset.data_kind,
        metric=dataset.metric,
        maximize=dataset.maximize,
        evaluator=f"ogb {package_version('ogb')}",
        std_kind=dataset.std_kind,
        model=recipe.model.name,
        model_args=build.model_kwargs(recipe, dataset),
        num_params=num_params,
        # CPU kernels own each row by one thread in a fixed order; GPU libraries do not promise it.
        deterministic=on_cpu or place["deterministic_algorithms"],
        environment=place,
        command=command or command_line(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        published=recipe.published,
        size=recipe.size,
        **aggregate(finished, dataset.std_kind),
    )


_PREDICTORS = {  # as the paper (arXiv 2302.00890) writes them
    "gae_cn": "GAE+CN",
    "gae_cat_cn": "cat GAE+CN",
    "gae_cnc": "GAE+CNC",
    "ncn_diff": "NCN-diff",
    "ncn_higher": "NCN higher order",
}


def method_name(recipe: Recipe) -> str:
    """Say in a few words what was trained: body, virtual node, encodings, depth and width."""
    settings = recipe.model.arguments
    if recipe.model.name in ("ncn", "link_heuristic"):
        name = str(settings.get("predictor", settings.get("kind", recipe.model.name)))
        hidden = (recipe.task.model_extra or {}).get("maskinput", True)
        # On ogbl-citation2 the paper's own NCN hides no links.
        plain = hidden or recipe.dataset.name == "ogbl-citation2"
        return _PREDICTORS.get(name, name.upper()) + ("" if plain else " NoTLR")
    if ((recipe.task.model_extra or {}).get("propagation") or {}).get("method") == "metapaths":
        return "metapath means"
    body = str(settings.get("conv", recipe.model.name)).removeprefix("ogb_").removeprefix("lrgb_")
    if isinstance(settings.get("embedding"), dict):
        chosen = settings["embedding"]
        plain = chosen.get("p", 1.0) == chosen.get("q", 1.0) == 1.0
        body = {"fastrp": "FastRP", "walks": "DeepWalk" if plain else "node2vec"}[chosen["name"]]
        return f"{body} {chosen.get('dim', '')}".strip()
    if body.startswith("prognn") and settings.get("lambda_") == 0:
        body += "-fs"
    if settings.get("purify"):
        body = f"{body.upper()}-{settings['purify']}"
    names = {
        "rphgnn": "RpHGNN",
        "rgcn": "R-GCN",
        "most_popular": "MostPop",
        "mf": "MF",
        "neumf": "NeuMF",
        "light_gcn": "LightGCN",
        "ultragcn": "UltraGCN",
        "gatedgcn": "GatedGCN",
        "gcnii": "GCNII",
        "stable": "STABLE",
        "prognn": "Pro-GNN",
        "prognn-fs": "Pro-GNN-fs",
        "prognn_lowrank": "Pro-GNN-lowrank",
        "prognn_lowrank-fs": "Pro-GNN-lowrank-fs",
        "GCN-jaccard": "GCN-Jaccard",
        "GCN-svd": "GCN-SVD",
    }
    parts = [names.get(body, body.upper() if len(body) <= 4 else body)]
    parts += ["DirectAU"] if settings.get("loss") == "directau" else []
    parts += [str(e.get("name", "PE")).upper() for e in settings.get("encodings") or []]
    if settings.get("virtual_node"):
        parts.append("VN")
    size = ""
    if "num_layers" in settings and "hidden_channels" in settings:
        size = f" {settings['num_layers']}x{settings['hidden_channels']}"
    return "+".join(parts) + size
