"""Fit a model that trains itself, one seed after the other, and leave what the Trainer leaves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphkit.errors import InputError
from graphkit.results.record import SeedResult
from graphkit.storage import atomic_write_bytes

if TYPE_CHECKING:
    from torch import nn

    from graphkit.models import NodeEstimator


class FittedEstimator:
    """Remembers the model of the last seed: the next one takes over what seeds share."""

    def __init__(self) -> None:
        self._last: NodeEstimator | None = None

    def fit(
        self, model: NodeEstimator, dataset: Any, task: Any, seed: int, path: Path
    ) -> SeedResult:
        """Fit on the training nodes and judge on the others.

        Args:
            model: an estimator with the settings of the recipe.
            dataset: a node-level set of one graph.
            task: gives the official figures.
            seed: of this run.
            path: its folder, for the log of epochs and the weights.

        Raises:
            InputError: the set is not one graph with nodes to classify.
        """
        import torch

        from graphkit.train.history import MetricsFile
        from graphkit.train.state import peak_memory

        if dataset.level != "node" or len(dataset) != 1:
            raise InputError(
                f"{dataset.name}: {len(dataset)} graphs, {dataset.level} level; {model.name} "
                "wants one graph with labelled nodes"
            )
        batch = next(iter(dataset.loader("train")))
        split = dataset.splits
        if "valid" not in split and not model.validates_across_folds:
            raise InputError(
                f"{dataset.name}: no validation nodes, and {model.name} does not judge its "
                "training nodes out of sample; wanted a set with both"
            )
        start = time.perf_counter()
        x = getattr(batch, "x", None)  # a graph without features has none
        model.fit(
            torch.empty(batch.num_nodes, 0) if x is None else x, batch.edge_index, batch.y,
            split["train"], split.get("valid", split["train"][:0]), seed=seed,
            previous=self._last,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        self._last = model
        figures = {}
        for key in ("valid", "test"):
            # Without validation nodes the estimator judges its training nodes out of sample.
            part = key if key in split else "train"
            guess = task.predictions(model.logits_, batch, part)
            figures[key] = task.evaluate(guess, task.target(batch, part), part)
        MetricsFile(path / "metrics.jsonl").rewrite(model.history_)
        _save_weights(model, path / "checkpoints" / "best.safetensors")
        return SeedResult(
            seed=seed,
            test=figures["test"][task.metric],
            valid=figures["valid"][task.metric],
            best_epoch=model.best_epoch_,
            epochs=len(model.history_),
            seconds=seconds,
            peak_memory_bytes=peak_memory(torch.device("cpu")),
            selected=_beside(task, figures, model.best_epoch_),
        )


def _beside(
    task: Any, figures: dict[str, dict[str, float]], epoch: int
) -> dict[str, dict[str, float]]:
    """All figures by name, where the task has several."""
    if len(task.metrics) < 2:
        return {}
    return {
        metric: {
            "epoch": epoch, "valid": figures["valid"][metric], "test": figures["test"][metric]
        }
        for metric in task.metrics
    }  # fmt: skip


def _save_weights(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    atomic_write_bytes(path, save(state, metadata={"format": "pt"}))
