"""Zoo folders on this machine: list them, and make one from a finished run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from graphkit.errors import CheckpointError, InputError
from graphkit.recipes.reading import read_yaml
from graphkit.recipes.schema import validate
from graphkit.results import build
from graphkit.results.record import read_record
from graphkit.zoo.checkpoint import load_config, save_pretrained
from graphkit.zoo.config import CONFIG, FORMAT, Metric, ZooConfig
from graphkit.zoo.evaluate import measure

SHIPPED = Path(__file__).parent / "shelf"


def entries(
    folders: Iterable[str | os.PathLike[str]] = (),
) -> list[tuple[Path, ZooConfig | CheckpointError]]:
    """List the zoo folders that ship with the package and those below the given folders.

    Returns:
        Each folder with its configuration, or with the reason why it cannot be read.
    """
    found: list[tuple[Path, ZooConfig | CheckpointError]] = []
    for root in [SHIPPED, *map(Path, folders)]:
        for path in sorted(root.rglob(CONFIG)) if root.is_dir() else []:
            try:
                found.append((path.parent, load_config(path.parent)))
            except CheckpointError as error:
                if FORMAT.partition("/")[0] in str(error) and "not a graphkit" in str(error):
                    continue  # another program's config.json
                found.append((path.parent, error))
    return found


def save_run(
    run: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    seed: int | None = None,
    **about: str,
) -> Path:
    """Make a zoo folder from the best checkpoint of a finished run.

    The validation and test figures on the card are measured anew from the weights as they are
    saved, so that they belong to exactly these.

    Args:
        run: the run folder, such as ``runs/demo/gcn``.
        target: the zoo folder to write.
        seed: which seed; by default the one with the best validation figure (never the best test
            figure, which would be choosing by the test labels).
        **about: license, description, paper_name, ... for the card.

    Raises:
        CorruptFileError: the run is not finished.
        CheckpointError: the seed has no checkpoint, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    run = Path(run)
    record = read_record(run)
    if seed is None:
        sign = 1 if record.maximize else -1
        seed = max(record.per_seed, key=lambda r: (sign * r.valid, -r.seed)).seed
    elif seed not in record.seeds:
        raise InputError(f"seed: got {seed}, the run has {record.seeds}")
    content = read_yaml(run / "config.yaml")
    recipe = validate(dict(content["recipe"]), record.recipe, str(run / "config.yaml"))
    dataset = build.load_dataset(recipe).of_run(seed)
    model = build.build_model(recipe, dataset, seed)
    path = run / str(seed) / "checkpoints" / "best.safetensors"
    try:
        model.load_state_dict(load(path.read_bytes()))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or of another model: {error}") from None
    task = build.build_task(recipe, dataset)
    metrics = []
    for split in ("valid", "test"):
        values = measure(model, dataset, task, split, recipe.trainer.batch_size)
        metrics.append(
            Metric(
                dataset=dataset.name, split=split, name=dataset.metric,
                value=values[dataset.metric], split_kind=dataset.split_kind,
                maximize=dataset.maximize,
            )
        )  # fmt: skip
    return save_pretrained(model, target, record=record, metrics=metrics, seed=seed, **about)
