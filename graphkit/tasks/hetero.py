"""What tasks on heterogeneous graphs share: labels, parts, figures, the choice of the epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.tasks import class_ranking
from graphkit.tasks.base import Task, check_finite

_PARTS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}


class HeteroTask(Task):
    """Classify the nodes of one type.

    Args:
        dataset: a heterogeneous set, or :class:`graphkit.data.HeteroNodes`.
        loss: name of the loss; ``None`` takes the usual one.
        batch_size: when the Trainer is given none.
        criterion: the validation figure that chooses the epoch.

    Raises:
        InputError: labels that are missing or out of range, splits that overlap, or a criterion
            that is no figure.
    """

    level = "node"
    one_epoch = True

    def __init__(
        self, dataset: Any, loss: str | None, batch_size: int, criterion: str | None
    ) -> None:
        super().__init__(dataset, loss=loss, batch_size=batch_size)
        self.data, self.target_type = dataset.hetero(), str(dataset.info["target"])
        self._read_labels()
        self.criterion = criterion or self.metric
        if self.criterion not in (*self.metrics, "loss"):
            known = [*self.metrics, "loss"]
            raise InputError(
                f"criterion: {criterion!r}{nearest(str(criterion), known)}, wanted one of "
                f"{', '.join(known)}"
            )
        self.config["criterion"] = self.criterion

    def _read_labels(self) -> None:
        store = self.data[self.target_type]
        y = store.get("y")
        if y is None:
            raise InputError(f"target: node type {self.target_type!r} has no labels y")
        self.y = y[:, 0] if self.multiclass and y.dim() == 2 and y.size(1) == 1 else y
        self.split: dict[str, Tensor] = {}
        visits = torch.zeros(len(y), dtype=torch.int64)
        for part, name in _PARTS.items():
            mask = store.get(name)
            if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(y),)):
                raise InputError(
                    f"{name}: {mask.dtype} {list(mask.shape)} for the {len(y)} labels of node type "
                    f"{self.target_type!r}, wanted bool [N]"
                )
            if mask is None or not bool(mask.any()):
                raise InputError(f"{name}: no node of type {self.target_type!r} is in it")
            self.split[part] = mask.nonzero()[:, 0]
            visits += mask
        whole = store.get("test_full_mask")
        self.published: Tensor | None = None
        if whole is not None and not torch.equal(whole, store["test_mask"]):
            self.published = store["test_mask"][whole]
            visits = visits - store["test_mask"].long() + whole.long()
            self.split["test"] = whole.nonzero()[:, 0]
        if int(visits.max()) > 1:
            node = int(visits.argmax())
            raise InputError(f"split: node {node} is in two of train, valid and test")
        labelled = torch.cat(list(self.split.values()))
        if self.multiclass:
            seen = self.y[labelled]
            if seen.is_floating_point() or not 0 <= int(seen.min()) <= int(seen.max()) < (
                self.num_outputs
            ):
                raise InputError(
                    f"y: {seen.dtype} from {seen.min().item()} to {seen.max().item()}, wanted "
                    f"integers 0..{self.num_outputs - 1}"
                )
        elif not bool(torch.isin(self.y[labelled].float(), torch.tensor([0.0, 1.0])).all()):
            raise InputError("y: nodes of the split hold values other than 0 and 1")
        self.train_mask = torch.zeros(len(y), dtype=torch.bool)
        self.train_mask[self.split["train"]] = True

    @property
    def metrics(self) -> list[str]:
        """All figures; the set's own metric first."""
        names = {"f1_micro": ["f1_micro", "f1_macro", "f1_mean"], "ndcg": ["ndcg", "mrr"]}
        own = names.get(self.metric, [self.metric])
        return own if self.published is None else [*own, *(f"{name}_full" for name in own)]

    def predictions(self, out: Tensor, batch: Any, split: str = "train") -> Tensor:
        """Classes; scores where several are right or the ranking counts."""
        if self.metric == "ndcg":
            rows = self._outputs(out, batch, split)
            check_finite(rows, split)
            return rows
        return super().predictions(out, batch, split)

    def evaluate(
        self, predictions: Tensor, targets: Tensor, split: str = "test"
    ) -> dict[str, float]:
        """Figures of a whole split; ``_full`` ones are of the whole test set.

        Raises:
            InputError: no rows, rows that do not match, only a part of the test set, or
                predictions that are not finite.
        """
        if len(predictions) == 0 or len(predictions) != len(targets):
            raise InputError(
                f"predictions: {len(predictions)} rows for {len(targets)} targets of the {split} "
                "split"
            )
        check_finite(predictions, split)
        whole = self._figures(predictions, targets)
        if self.published is None:
            return whole
        half = whole
        if split == "test":
            if len(predictions) != len(self.published):
                raise InputError(
                    f"predictions: {len(predictions)} rows for the {len(self.published)} nodes of "
                    "the whole test set, of which the published part is taken here"
                )
            half = self._figures(predictions[self.published], targets[self.published])
        return {**half, **{f"{name}_full": value for name, value in whole.items()}}

    def _figures(self, guess: Tensor, y: Tensor) -> dict[str, float]:
        if self.metric == "ndcg":
            relevant = class_ranking.relevance(y, self.num_outputs)
            return {
                "ndcg": class_ranking.ndcg(guess, relevant),
                "mrr": class_ranking.mrr(guess, relevant),
            }
        if self.metric != "f1_micro":
            figures: dict[str, float] = self.dataset.evaluate(y, guess)
            return figures
        from sklearn.metrics import f1_score

        found = guess if self.multiclass else (guess > 0).long()
        micro, macro = (
            float(f1_score(y.long().numpy(), found.numpy(), average=how, zero_division=0))
            for how in ("micro", "macro")
        )
        return {"f1_micro": micro, "f1_macro": macro, "f1_mean": (micro + macro) / 2}
