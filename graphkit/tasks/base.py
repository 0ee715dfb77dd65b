"""What tasks share: loss, targets, predictions, official evaluation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.tasks.losses import choose_loss, labelled


class Task:
    """What is learnt from a data set: how outputs become a loss, predictions and the metric.

    Args:
        dataset: a :class:`graphkit.data.GraphDataset`, or anything with its attributes.
        loss: name of the loss; ``None`` takes the usual one of the task type.
        batch_size: batch size that the Trainer uses when it is given none.

    Raises:
        InputError: the loss does not fit the task type.
    """

    level = ""
    #: Whether all figures are taken at the epoch of the best ``metric``, or each at its own.
    one_epoch = False

    def __init__(self, dataset: Any, loss: str | None = None, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: must be at least 1, got {batch_size}")
        self.dataset = dataset
        self.task_type = str(dataset.task_type)
        self.num_outputs = int(dataset.num_tasks)
        self.metric = str(dataset.metric)
        self.maximize = bool(dataset.maximize)
        self.batch_size = batch_size
        self.loss_name, self._loss = choose_loss(self.task_type, self.metric, loss)
        self.config: dict[str, Any] = {"level": self.level, "loss": self.loss_name}

    def loader(self, split: str, **options: Any) -> Any:
        """Batches of a split; ``options`` are those of ``GraphDataset.loader``."""
        return self.dataset.loader(split, **options)

    def apply(self, model: nn.Module, batch: Any) -> Tensor:
        """What the model says about a batch."""
        out: Tensor = model(batch)
        return out

    @property
    def metrics(self) -> list[str]:
        """Names of the figures that :meth:`evaluate` returns."""
        return [self.metric]

    @property
    def multiclass(self) -> bool:
        """Whether outputs are scores of classes that exclude each other."""
        return self.task_type == "multiclass"

    def _rows(self, tensor: Tensor, batch: Any, split: str) -> Tensor:
        """Select the rows (graphs or nodes) of a split."""
        return tensor

    def _outputs(self, out: Tensor, batch: Any, split: str) -> Tensor:
        rows = self._rows(out, batch, split)
        if rows.dim() == 1:
            rows = rows[:, None]
        if rows.dim() != 2 or rows.size(1) != self.num_outputs:
            raise InputError(
                f"out: the model gives shape {list(out.shape)}, the task on {self.dataset.name} "
                f"wants [n, {self.num_outputs}]; build the model with "
                f"out_channels={self.num_outputs} (see dataset.model_args())"
            )
        return rows

    def target(self, batch: Any, split: str = "train") -> Tensor:
        """Targets of a batch: int64 ``[n]`` for multiclass, else float ``[n, T]``."""
        y = getattr(batch, "y", None)
        if y is None:
            raise InputError(f"batch: has no targets y; the task on {self.dataset.name} needs them")
        rows = self._rows(y, batch, split)
        if self.multiclass:
            if rows.dim() == 2 and rows.size(1) == 1:
                rows = rows[:, 0]
            if rows.dim() != 1:
                raise InputError(
                    f"y: multiclass targets must be [n] or [n, 1], got {list(y.shape)}"
                )
            return rows.long()
        rows = rows.float()
        return rows[:, None] if rows.dim() == 1 else rows

    def loss(self, out: Tensor, batch: Any, split: str = "train") -> Tensor:
        """Scalar loss over the labelled entries of a batch.

        Shapes:
            out: float ``[G, T]`` (graphs) or ``[N, C]`` (nodes).

        Raises:
            InputError: the number of outputs or rows is not what the task wants.
        """
        rows, target = self._outputs(out, batch, split), self.target(batch, split)
        if len(rows) != len(target) or (not self.multiclass and rows.shape != target.shape):
            raise InputError(
                f"out: the model gives {list(rows.shape)} for targets {list(target.shape)}; a "
                f"{self.level}-level task wants one row per {self.level}"
            )
        # Losses in float32: sums over a batch lose digits in half precision.
        return self._loss(rows.float() if rows.dtype != torch.float64 else rows, target)

    def sample_loss(self, out: Tensor, batch: Any, split: str = "train") -> Tensor:
        """Loss of each row of the batch, for samplers that follow it. Shape: float ``[n]``."""
        rows, y = self._outputs(out, batch, split), self.target(batch, split)
        if self.multiclass:
            return F.cross_entropy(rows, y, reduction="none")
        mask = labelled(y)
        clean = torch.where(mask, y, torch.zeros_like(y)).to(rows.dtype)
        if self.loss_name == "soft_cross_entropy":
            return -(clean * F.log_softmax(rows, dim=1)).sum(1)
        if self.loss_name == "bce":
            values = F.binary_cross_entropy_with_logits(rows, clean, reduction="none")
        else:
            difference = rows - clean
            values = difference.abs() if self.loss_name == "l1" else difference.square()
        return (values * mask).sum(1) / mask.sum(1).clamp(min=1)

    def weight(self, batch: Any, split: str = "train") -> float:
        """Number of labelled targets: the weight of this batch in a mean over batches."""
        return float(labelled(self.target(batch, split)).sum())

    def predictions(self, out: Tensor, batch: Any, split: str = "train") -> Tensor:
        """What the evaluator takes: class ids for multiclass, raw scores or values otherwise.

        Raises:
            InputError: a prediction is NaN or infinite.
        """
        rows = self._outputs(out, batch, split)
        check_finite(rows, split)
        return rows.argmax(dim=1) if self.multiclass else rows

    def evaluate(
        self, predictions: Tensor, targets: Tensor, split: str = "test"
    ) -> dict[str, float]:
        """Return the official figures of a whole split.

        Args:
            predictions: all rows of the split, as :meth:`predictions` gives them.
            targets: all rows of the split, as :meth:`target` gives them.
            split: named in errors.

        Raises:
            InputError: nothing to evaluate, rows do not match, or a prediction is not finite.
        """
        if len(predictions) == 0 or len(predictions) != len(targets):
            raise InputError(
                f"predictions: {len(predictions)} rows for {len(targets)} targets of the {split} "
                "split; a figure needs one prediction for each target, and at least one"
            )
        check_finite(predictions, split)
        figures: dict[str, float] = self.dataset.evaluate(targets, predictions)
        return figures

    def should_skip(self, batch: Any) -> bool:
        """Whether BatchNorm cannot be trained on this batch: it would see a single row."""
        return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dataset.name}, loss={self.loss_name})"


def check_finite(predictions: Tensor, split: str) -> None:
    """Refuse NaN and infinite predictions, which every ranking metric would sort silently.

    Raises:
        InputError: with the number of bad entries.
    """
    if not predictions.is_floating_point():
        return
    bad = int((~torch.isfinite(predictions)).sum())
    if bad:
        raise InputError(
            f"predictions: {bad} of {predictions.numel()} values on the {split} split are NaN or "
            "infinite; the model has diverged: lower the learning rate or look at its inputs"
        )
