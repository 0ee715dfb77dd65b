"""Recommendation: learn from pairs of users and items, rank all items for each user."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.models.recommender import InteractionBatch, Recommender, Sampling
from graphkit.tasks.base import Task
from graphkit.tasks.interaction_batches import TrainInteractions
from graphkit.tasks.link_batches import EvalLinks
from graphkit.tasks.ranking import figures, ranked_hits


class RecommendationTask(Task):
    """Recommend items to users, judged by a full ranking.

    The model is a :class:`graphkit.models.Recommender`: it says what a step wants to see and gives
    its own loss. Validation ranks all items that are not training pairs; test, those that are
    neither training nor validation pairs. What counts as validation is the ``protocol`` of the
    data set, how a ranking is judged its ``convention``.

    Args:
        dataset: a :class:`graphkit.data.RecommendationDataset`.
        batch_size: pairs per step when the Trainer is given none.
        eval_batch_size: users ranked together; default as many as fit 32 MB of scores. Changes no
            figure.

    Raises:
        InputError: a set of another level, or sizes below 1.

    Example:
        >>> from graphkit import data
        >>> RecommendationTask(data.load("demo-rec"))
        RecommendationTask(demo-rec, loss=ranking)
    """

    level = "recommendation"
    # The papers report all figures of the epoch with the best Recall.
    one_epoch = True

    def __init__(
        self, dataset: Any, batch_size: int = 1024, eval_batch_size: int | None = None
    ) -> None:
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size is not None and size < 1:
                raise InputError(f"{name}: must be at least 1, got {size}")
        if dataset.level != "recommendation":
            raise InputError(
                f"dataset: {dataset.name} is a {dataset.level}-level set, wanted recommendation"
            )
        self.dataset = dataset
        self.task_type, self.num_outputs = "ranking", 1
        self.metric, self.maximize = str(dataset.metric), True
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.loss_name = "ranking"
        self.sampling = Sampling()
        self.config = {
            "level": self.level, "protocol": dataset.protocol, "convention": dataset.convention,
        }  # fmt: skip
        self._ranked: tuple[Any, ...] | None = None

    def prepare(self, model: nn.Module) -> None:
        """Give a model the training pairs, unless it has them, and learn what its steps want.

        Raises:
            InputError: the model is no recommender, or was made for other numbers of ids.
        """
        if not isinstance(model, Recommender):
            raise InputError(
                f"model: {type(model).__name__} is no graphkit.models.Recommender, which this task "
                "trains"
            )
        if model.interactions is not self.dataset.interactions:
            model.prepare(self.dataset.interactions)
        self.sampling = model.sampling

    def loader(self, split: str, batch_size: int | None = None, **options: Any) -> Any:
        """Batches of one split; ``options`` are those of ``GraphDataset.loader``.

        Training batches are what the model given to :meth:`prepare` wants.
        """
        if split == "train":
            pairs = self.dataset.interactions
            size = batch_size or self.batch_size
            return TrainInteractions(pairs, self.sampling, size, **options)
        if split not in self.dataset.held:
            raise InputError(f"split: expected train, valid or test, got {split!r}")
        none = torch.zeros(0, dtype=torch.int64)
        return EvalLinks(lambda: InteractionBatch(none, none, split=split))

    def apply(self, model: nn.Module, batch: InteractionBatch) -> Tensor:
        """The loss of a training batch, or which ranks of the evaluated users are hits.

        Shapes:
            - **out:** scalar, or bool ``[n, K]``
        """
        self.prepare(model)
        assert isinstance(model, Recommender)
        if batch.split == "train":
            self._ranked = None
            return model.training_loss(batch)
        # With protocol=official validation and test rank the same pairs: once is enough.
        same = self.dataset.held["valid"] is self.dataset.held["test"]
        state = tuple((p.data_ptr(), p._version) for p in model.parameters())
        if same and self._ranked is not None and self._ranked[0]() is model:
            hits: Tensor
            _, seen_state, hits = self._ranked
            if seen_state == state:
                return hits
        with torch.no_grad():
            hits, _ = ranked_hits(
                model.scorer(), self.dataset.held[batch.split], self.dataset.known[batch.split],
                max(self.dataset.ks), device=batch.users.device, block=self.eval_batch_size,
            )  # fmt: skip
        if same:
            self._ranked = (weakref.ref(model), state, hits)
        return hits

    # -- what the Trainer asks for ----------------------------------------------------------------

    @property
    def metrics(self) -> list[str]:
        """All figures; the first decides which epoch all of them are taken at."""
        sample = figures(
            torch.ones(1, max(self.dataset.ks), dtype=torch.bool), torch.ones(1).long(),
            self.dataset.ks, self.dataset.convention, 1,
        )  # fmt: skip
        return list(sample)

    def loss(self, out: Tensor, batch: InteractionBatch, split: str = "train") -> Tensor:
        """What :meth:`apply` gave in training; in evaluation one minus the metric."""
        if batch.split == "train":
            return out
        return torch.tensor(1.0 - self.evaluate(out, self.target(batch), batch.split)[self.metric])

    def sample_loss(self, out: Tensor, batch: InteractionBatch, split: str = "train") -> Tensor:
        """Not offered: the models' losses are sums over pairs and tables."""
        raise InputError("sample_loss: recommenders give one loss for a batch")

    def weight(self, batch: InteractionBatch, split: str = "train") -> float:
        """Number of training pairs; 1 for a whole evaluated split."""
        return float(batch.users.numel()) if batch.split == "train" else 1.0

    def step_shares(
        self, batches: Sequence[InteractionBatch], total: Callable[[float], float]
    ) -> None:
        """Tell each batch how many pairs make one step, for losses that are sums over them."""
        whole = int(total(float(sum(batch.users.numel() for batch in batches))))
        for batch in batches:
            batch.whole = whole

    def target(self, batch: InteractionBatch, split: str = "train") -> Tensor:
        """Number of held-out items of the evaluated users, int64 ``[n]``."""
        degree: Tensor = self.dataset.held[batch.split].user_degree
        return degree[degree > 0]

    def predictions(self, out: Tensor, batch: InteractionBatch, split: str = "train") -> Tensor:
        """The hits."""
        return out

    def evaluate(
        self, predictions: Tensor, targets: Tensor, split: str = "test"
    ) -> dict[str, float]:
        """Figures of a whole split; see :func:`graphkit.tasks.ranking.figures`."""
        dataset = self.dataset
        return figures(predictions, targets, dataset.ks, dataset.convention, dataset.num_users)
