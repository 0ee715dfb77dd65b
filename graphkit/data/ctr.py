"""Click data: rows of a user, an item, a label and what else is known, from a plain table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from graphkit.data.epoch_position import EpochPosition
from graphkit.data.frames import read_frame
from graphkit.data.interactions import draw_absent
from graphkit.data.loader import epoch_permutation
from graphkit.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("train", "valid", "test")
SHARES = (0.7, 0.2, 0.1)


@dataclass
class ClickBatch:
    """Some rows.

    Attributes:
        users, items: int64 ``[B]``.
        y: float ``[B]``, 0 or 1; ``None`` where nothing is known.
        contexts: int64 ``[B, C]``.
        user_features, item_features: float ``[B, F]``.
    """

    users: Tensor
    items: Tensor
    y: Tensor | None = None
    contexts: Tensor | None = None
    user_features: Tensor | None = None
    item_features: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        """Number of rows: the weight of this batch in the loss of an epoch."""
        return self.users.numel()

    def rows(self, ids: Tensor) -> ClickBatch:
        """Some of the rows."""
        return self._each(lambda value: value[ids])

    def to(self, device: torch.device | str) -> ClickBatch:
        """The batch on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Any) -> ClickBatch:
        return replace(
            self,
            **{
                f.name: change(getattr(self, f.name))
                for f in fields(self)
                if getattr(self, f.name) is not None
            },
        )


@dataclass(frozen=True)
class TrainPairs:
    """The pairs that tables may be laid out by; a pair that occurs twice is there twice."""

    num_users: int
    num_items: int
    edge_index: Tensor


@dataclass
class ClickDataset:
    """Rows with labels and their split; made by :func:`read_clicks` or by hand.

    Args:
        rows: all rows, with labels.
        num_users, num_items: ``U`` and ``I``.
        contexts: number of categories of each context field.
        splits: ids of the rows of ``train``, ``valid`` and ``test``; without them a random
            70/20/10 split.
        split_seed: of that split.
        name: what results call the set.
        vocabularies: for each column the values that its ids stand for.

    Raises:
        InputError: ids or labels out of range, rows of another number, or splits that overlap.

    Example:
        >>> ids = torch.arange(20)
        >>> rows = ClickBatch(ids % 4, ids % 5, y=(ids % 2).float())
        >>> clicks = ClickDataset(rows, num_users=4, num_items=5)
        >>> {part: len(ids) for part, ids in clicks.splits.items()}
        {'train': 14, 'valid': 4, 'test': 2}
    """

    rows: ClickBatch
    num_users: int
    num_items: int
    contexts: Sequence[int] = ()
    splits: dict[str, Tensor] = field(default_factory=dict)
    split_seed: int = 0
    name: str = "clicks"
    vocabularies: dict[str, list[Any]] = field(default_factory=dict)
    level = "ctr"
    task_type = "binary"
    num_tasks = 1
    metric = "auc"
    maximize = True

    def __post_init__(self) -> None:
        count = len(self.rows.users)
        self._check_rows(count)
        if not self.splits:
            generator = torch.Generator().manual_seed(self.split_seed)
            order = torch.randperm(count, generator=generator)
            first, second = int(SHARES[0] * count), int((SHARES[0] + SHARES[1]) * count + 1e-9)
            parts = order[:first], order[first:second], order[second:]
            self.splits = {k: v.sort().values for k, v in zip(_PARTS, parts, strict=True)}
        if set(self.splits) != set(_PARTS) or any(not len(ids) for ids in self.splits.values()):
            sizes = {k: len(v) for k, v in self.splits.items()}
            raise InputError(f"splits: {sizes}, wanted rows in each of {', '.join(_PARTS)}")
        together = torch.cat(list(self.splits.values()))
        if int(together.min()) < 0 or int(together.max()) >= count:
            raise InputError(f"splits: ids of rows must lie in 0..{count - 1}")
        if len(torch.unique(together)) < len(together):
            raise InputError("splits: a row is in two parts or twice in one")
        self._pairs: dict[str, TrainPairs] = {}

    def _check_rows(self, count: int) -> None:
        rows = self.rows
        if rows.y is None:
            raise InputError("rows: no labels y")
        columns = [("users", rows.users, self.num_users), ("items", rows.items, self.num_items)]
        seen = 0 if rows.contexts is None else rows.contexts.size(1)
        if seen != len(self.contexts):
            raise InputError(f"contexts: sizes of {len(self.contexts)} fields, but {seen} columns")
        for number, size in enumerate(self.contexts):
            assert rows.contexts is not None
            columns.append((f"contexts[{number}]", rows.contexts[:, number], size))
        for name, ids, size in columns:
            if not ids.numel() or int(ids.min()) < 0 or int(ids.max()) >= size:
                raise InputError(f"{name}: ids must lie in 0..{size - 1}, of at least one row")
        for f in fields(rows):
            value = getattr(rows, f.name)
            if value is not None and len(value) != count:
                raise InputError(f"{f.name}: {len(value)} rows, wanted {count}")
            if value is not None and value.is_floating_point() and not value.isfinite().all():
                raise InputError(f"{f.name}: NaN or infinite values")
        if not bool(((rows.y == 0) | (rows.y == 1)).all()):
            raise InputError("y: labels other than 0 and 1; read_clicks(threshold=...) makes them")

    def __len__(self) -> int:
        return len(self.rows.users)

    def model_args(self) -> dict[str, Any]:
        """What a :class:`graphkit.models.ctr.ClickModel` wants to know."""
        widths = {
            key: 0 if getattr(self.rows, key) is None else int(getattr(self.rows, key).size(1))
            for key in ("user_features", "item_features")
        }
        return {
            "num_users": self.num_users, "num_items": self.num_items,
            "contexts": list(self.contexts), **widths,
        }  # fmt: skip

    def train_pairs(self, graph_from: Literal["positives", "all"] = "positives") -> TrainPairs:
        """Pairs of the training rows, for tables that are laid out by them.

        Args:
            graph_from: only rows with label 1, or ``"all"``, as GraphHash's published code does.

        Raises:
            InputError: another word, or no such rows.
        """
        if graph_from not in ("positives", "all"):
            raise InputError(f"graph_from: {graph_from!r}, wanted 'positives' or 'all'")
        if graph_from not in self._pairs:
            train = self.rows.rows(self.splits["train"])
            assert train.y is not None
            keep = train.y > 0 if graph_from == "positives" else torch.ones_like(train.y).bool()
            pairs = torch.stack([train.users[keep], train.items[keep]])
            self._pairs[graph_from] = TrainPairs(self.num_users, self.num_items, pairs)
        return self._pairs[graph_from]

    def loader(self, split: str, **options: Any) -> ClickLoader:
        """Batches of one split; options are those of :class:`ClickLoader`."""
        if split not in self.splits:
            raise InputError(
                f"split: {split!r}, wanted {', '.join(_PARTS)}{nearest(split, _PARTS)}"
            )
        return ClickLoader(self.rows, self.splits[split], **options)

    def evaluate(self, targets: Tensor, predictions: Tensor) -> dict[str, float]:
        """AUC and LogLoss (mean binary cross-entropy) of logits over a whole split.

        Raises:
            InputError: only one class, so that there is no AUC.
        """
        from sklearn.metrics import roc_auc_score

        truth, logits = targets.reshape(-1).double(), predictions.reshape(-1).double()
        if len(torch.unique(truth)) < 2:
            raise InputError("targets: one class only, AUC wants both")
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        auc = roc_auc_score(truth.numpy(), logits.numpy())
        return {"auc": float(auc), "logloss": float(loss)}


class ClickLoader(EpochPosition):
    """Batches of rows in an order that depends on seed and epoch only.

    Args:
        rows: all rows.
        ids: which to visit.
        batch_size: rows per batch; the last may be smaller.
        shuffle, seed: another order in each epoch.
        rank, world_size: this process, of those that share the epoch.

    Raises:
        InputError: a size below 1.

    Example:
        >>> rows = ClickBatch(torch.arange(5), torch.arange(5))
        >>> [batch.num_graphs for batch in ClickLoader(rows, torch.arange(5), batch_size=2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        rows: ClickBatch,
        ids: Tensor,
        batch_size: int = 1024,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise InputError(
                f"batch_size, rank: {batch_size} and {rank} of {world_size}, wanted at least 1 and "
                "a rank below world_size"
            )
        self.rows, self.ids, self.batch_size = rows, ids, batch_size
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size

    def _epoch_ids(self) -> Tensor:
        ids = self.ids
        if self.shuffle:
            ids = ids[epoch_permutation(ids.numel(), self.seed, self.epoch)]
            # All workers take equally many steps.
            missing = -ids.numel() % self.world_size
            ids = torch.cat([ids, ids[:missing]])
        return ids[self.rank :: self.world_size]

    def __len__(self) -> int:
        return -(-len(self._epoch_ids()) // self.batch_size)

    def __iter__(self) -> Iterator[ClickBatch]:
        ids = self._epoch_ids()
        start, self._resume = self._resume, 0
        self.position = start
        for number in range(start, -(-len(ids) // self.batch_size)):
            self.position = number + 1
            yield self.rows.rows(ids[number * self.batch_size : (number + 1) * self.batch_size])
        self.epoch += 1
        self.position = 0

    def _sizes(self) -> dict[str, int]:
        return {"batch_size": self.batch_size, "num_rows": self.ids.numel()}


def read_clicks(
    source: str | os.PathLike[str] | pd.DataFrame,
    *,
    user: str = "user",
    item: str = "item",
    label: str | None = "label",
    threshold: float | None = None,
    contexts: Sequence[str] = (),
    user_features: Sequence[str] = (),
    item_features: Sequence[str] = (),
    split: str | None = None,
    split_seed: int = 0,
    negatives: int = 0,
    name: str = "clicks",
) -> ClickDataset:
    """Read click data from a table.

    Args:
        source: a CSV or Parquet file, see :func:`graphkit.data.frames.read_frame`, or a data
            frame.
        user, item: columns of ids, of any type; they are numbered in sorted order.
        label: column of labels 0 and 1; ``None`` for a log in which every row counts as 1.
        threshold: a row counts as 1 where the label is at least this (ratings).
        contexts: columns of categories.
        user_features, item_features: columns of numbers.
        split: column that says ``train``, ``valid`` or ``test``; without it rows are split
            70/20/10 at random.
        split_seed: of that split, and of the negatives.
        negatives: for each row with label 1, add so many with label 0: the same user and contexts,
            an item drawn uniformly from those that the user has no row with (the protocol of
            Frappe).
        name: what results call the set.

    Raises:
        DatasetNotFoundError: there is no such file.
        CorruptFileError: it cannot be read as a table.
        InputError: a column is missing or holds what it must not, or a user has used every item.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"user": list("aabbccddee"), "item": [1, 2] * 5,
        ...                       "label": [0, 1] * 5})
        >>> read_clicks(frame).model_args()["num_users"]
        5
    """
    frame = read_frame(source) if isinstance(source, str | os.PathLike) else source
    wanted = [user, item, *contexts, *user_features, *item_features]
    wanted += [column for column in (label, split) if column is not None]
    for column in wanted:
        if column not in frame.columns:
            known = [str(c) for c in frame.columns]
            raise InputError(
                f"{column}: no such column{nearest(column, known)}; there are {', '.join(known)}"
            )
        if frame[column].isna().any():
            row = int(frame[column].isna().to_numpy().argmax())
            raise InputError(f"{column}: row {row} is empty")
    ids, vocabularies = {}, {}
    for column in (user, item, *contexts):
        values = frame[column].to_numpy()
        known_values, numbers = np.unique(values, return_inverse=True)
        ids[column] = torch.from_numpy(numbers.astype(np.int64))
        vocabularies[column] = known_values.tolist()
    y = torch.ones(len(frame))
    if label is not None:
        values = torch.from_numpy(_numbers(frame, label))
        y = (values if threshold is None else (values >= threshold)).float()
    elif threshold is not None:
        raise InputError("threshold: there is no label to compare with it")
    rows = ClickBatch(ids[user], ids[item], y)
    if contexts:
        rows.contexts = torch.stack([ids[column] for column in contexts], 1)
    for key, columns in (("user_features", user_features), ("item_features", item_features)):
        if columns:
            numbers = np.stack([_numbers(frame, column) for column in columns], 1)
            setattr(rows, key, torch.from_numpy(numbers).float())
    sizes = len(vocabularies[user]), len(vocabularies[item])
    if negatives:
        if split is not None:
            raise InputError("negatives: drawn before the random split; leave `split` out")
        rows = _with_negatives(rows, sizes[1], negatives, split_seed)
    parts = {}
    if split is not None:
        words = frame[split].astype(str).to_numpy()
        unknown = sorted(set(words) - set(_PARTS))
        if unknown:
            raise InputError(f"{split}: {unknown[0]!r}, wanted {', '.join(_PARTS)}")
        parts = {part: torch.from_numpy(np.flatnonzero(words == part)) for part in _PARTS}
    return ClickDataset(
        rows, *sizes, [len(vocabularies[c]) for c in contexts], parts, split_seed, name,
        vocabularies,
    )  # fmt: skip


def _with_negatives(rows: ClickBatch, num_items: int, count: int, seed: int) -> ClickBatch:
    """The rows, each positive one followed, at the end, by ``count`` with other items."""
    assert rows.y is not None
    used = torch.unique(rows.users * num_items + rows.items)
    full = torch.bincount(used // num_items) == num_items
    if bool(full.any()):
        raise InputError(f"negatives: user {int(full.nonzero()[0])} has rows with every item")
    sources = (rows.y > 0).nonzero().flatten().repeat_interleave(count)
    drawn = rows.rows(sources)
    generator = torch.Generator().manual_seed(seed)
    drawn.items = draw_absent(drawn.users, num_items, used, generator)
    drawn.y = torch.zeros(len(sources))
    joined = {
        f.name: torch.cat([getattr(rows, f.name), getattr(drawn, f.name)])
        for f in fields(rows)
        if getattr(rows, f.name) is not None
    }
    return ClickBatch(**joined)


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    try:
        return frame[column].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{column}: wanted numbers, got {frame[column].iloc[0]!r}") from None
