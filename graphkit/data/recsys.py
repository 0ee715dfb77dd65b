"""Recommendation sets: published splits, what is held out of them, and how they are judged."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single
from graphkit.data.dataset import GraphDataset, Parsed
from graphkit.data.interaction_files import read_lists, read_table, read_triples
from graphkit.data.interactions import (
    Interactions,
    check_parts,
    hold_out,
    hold_out_pairs,
    warn_of_first_ids,
)
from graphkit.data.locate import Source
from graphkit.errors import InputError, nearest

if TYPE_CHECKING:
    from typing import TypeAlias

    import pandas

    Table: TypeAlias = str | os.PathLike[str] | pandas.DataFrame | Tensor

OPTIONS: dict[str, Any] = {"protocol": "heldout", "convention": "ultragcn", "k": 20}
#: How the epoch is chosen: see :class:`RecommendationDataset`.
PROTOCOLS = ("heldout", "official", "ninth")
#: Name of the figure that Recall has under each convention.
CONVENTIONS = {"ultragcn": "recall", "lightgcn": "recall", "graphhash": "capped_recall"}


def read(card: DatasetCard, source: Source) -> Parsed:
    """Read the published training and test pairs.

    Args:
        card: which set; its options say what the files are called and how they are written.
        source: folder with the files.
    """
    options = card.options
    pairs = {}
    for part in ("train", "test"):
        path = Path(source.base) / str(options.get(part, f"{part}.txt"))
        if options.get("format", "lists") == "triples":
            pairs[part] = read_triples(path, int(options.get("first_id", 0)))
        else:
            pairs[part] = read_lists(path)
    return parsed_pairs(pairs["train"], pairs["test"])


def parsed_pairs(train: Tensor, test: Tensor) -> Parsed:
    """Pack two lists of pairs."""
    graphs = pack_single(1, torch.zeros(2, 0, dtype=torch.int64))
    return Parsed(graphs, links={"train/edge": train, "test/edge": test})


class RecommendationDataset(GraphDataset):
    """Pairs to learn from, to choose the epoch by, and to test on.

    ``protocol`` says how the epoch is chosen. ``heldout``: on a tenth of each user's training
    pairs, drawn anew for each run. ``ninth``: on a ninth of all training pairs, drawn anew for each
    run (GraphHash). ``official``: on the TEST pairs, as UltraGCN and LightGCN report; such figures
    are optimistic and only to be compared with their like.

    ``convention`` says how a ranking is judged; see :func:`graphkit.tasks.ranking.figures`.

    Args:
        card: what the set is.
        parsed: its pairs.
        sha256: one checksum over the files.
        options: what was chosen of ``protocol``, ``convention`` and ``k``.
        seed: of what is held out.

    Attributes:
        interactions: the training pairs.
        held: what is ranked in ``valid`` and ``test``.
        known: what must not be recommended in ``valid`` and ``test``.

    Raises:
        InputError: an unknown option, or training and test pairs that overlap.
    """

    interactions: Interactions

    def __init__(
        self, card: DatasetCard, parsed: Parsed, sha256: str, options: dict[str, Any], seed: int = 0
    ) -> None:
        super().__init__(card, parsed, sha256, options)
        chosen = {**OPTIONS, **options}
        self.protocol = _one_of("protocol", chosen["protocol"], PROTOCOLS)
        self.convention = _one_of("convention", chosen["convention"], tuple(CONVENTIONS))
        self.ks = _cutoffs(chosen["k"])
        self.metric, self.maximize = f"{CONVENTIONS[self.convention]}@{self.ks[0]}", True
        both = [parsed.links[f"{part}/edge"] for part in ("train", "test")]
        self.num_users, self.num_items = (
            max(int(pairs[row].max()) + 1 if pairs.numel() else 1 for pairs in both)
            for row in (0, 1)
        )
        self._parsed, self.seed = parsed, seed
        whole, test = (Interactions(pairs, self.num_users, self.num_items) for pairs in both)
        check_parts(whole, test, card.name)
        if self.protocol == "official":
            train, valid = whole, test
            self.known = {"valid": whole, "test": whole}
            self.split_kind = "test-selected"
        else:
            ninth = self.protocol == "ninth"
            train, valid = (
                hold_out_pairs(whole, 1 / 9, seed) if ninth else hold_out(whole, 0.1, seed)
            )
            self.known = {"valid": train, "test": whole}
            self.split_kind = "protocol"
        self.interactions = train
        self.held = {"valid": valid, "test": test}
        nodes = self.num_users + self.num_items
        offset = torch.tensor([[0], [self.num_users]])
        self.graphs = pack_single(nodes, train.edge_index + offset)

    def of_run(self, number: int) -> RecommendationDataset:
        """The data of run ``number``, with its own held-out pairs (``official``: always the same).

        Example:
            >>> from graphkit import data
            >>> demo = data.load("demo-rec")
            >>> demo.of_run(1).interactions.num_pairs == demo.interactions.num_pairs
            True
        """
        if self.protocol == "official" or number == self.seed:
            return self
        return RecommendationDataset(self.card, self._parsed, self.sha256, self.options, number)

    @property
    def splits(self) -> dict[str, Tensor]:
        """The pairs of each part, ``[n, 2]``."""
        parts = {"train": self.interactions, **self.held}
        return {part: pairs.edge_index.t().contiguous() for part, pairs in parts.items()}

    def everything_known(self) -> Interactions:
        """All pairs but those of the test: what a model that is put to work may learn from."""
        return self.known["test"]

    def model_args(self) -> dict[str, Any]:
        """Numbers of users and items."""
        return {"num_users": self.num_users, "num_items": self.num_items}

    def __repr__(self) -> str:
        sizes = "/".join(str(pairs.num_pairs) for pairs in (self.interactions, *self.held.values()))
        return (
            f"RecommendationDataset({self.name}: {self.num_users} users, {self.num_items} items, "
            f"{self.metric}, {self.protocol}, pairs {sizes})"
        )


def _one_of(what: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        hint = nearest(str(value), known)
        raise InputError(f"{what}: {value!r} is not one of {', '.join(known)}{hint}")
    return str(value)


def _cutoffs(k: Any) -> tuple[int, ...]:
    ks = tuple(k) if isinstance(k, list | tuple) else (k,)
    if not ks or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in ks):
        raise InputError(f"k: {k!r}, wanted a whole number of at least 1, or several of them")
    return ks


def build(
    card: DatasetCard, parsed: Parsed, sha256: str, options: dict[str, Any], seed: int
) -> RecommendationDataset:
    """Make the data set, and say what is odd about its files or its protocol."""
    dataset = RecommendationDataset(card, parsed, sha256, options, seed)
    warn_of_first_ids(dataset.known["test"], dataset.held["test"], card.name)
    if dataset.protocol == "official":
        warnings.warn(
            f"{card.name}: protocol='official' chooses the epoch on the TEST pairs, as the "
            "published figures do; the result is optimistic. protocol='heldout' is not",
            stacklevel=4,
        )
    return dataset


def from_interactions(
    train: Table,
    test: Table | None = None,
    *,
    user: str | int = 0,
    item: str | int = 1,
    test_share: float = 0.2,
    split_seed: int = 0,
    dedupe: bool = True,
    name: str = "own",
    **options: Any,
) -> RecommendationDataset:
    """Make a recommendation set of your own pairs.

    Args:
        train: a CSV or Parquet file with one row per pair, a data frame, or a tensor ``[2, E]``.
        test: the same for testing; without it a share of each user's pairs is taken.
        user: name or position of the column of users.
        item: name or position of the column of items.
        test_share: share of each user's pairs that are tested on, when ``test`` is not given.
        split_seed: decides which, and what the protocol holds out.
        dedupe: drop repeated pairs instead of refusing them.
        name: what results call the set.
        **options: ``protocol``, ``convention`` and ``k``; see :class:`RecommendationDataset`.

    Returns:
        The set; ``user_ids`` and ``item_ids`` give the original id of each number.

    Raises:
        InputError: a column that is not there, a missing value, pairs in both parts, or an unknown
            option.

    Example:
        >>> pairs = torch.cartesian_prod(torch.tensor([3, 9]), torch.arange(10)).t()
        >>> own = from_interactions(pairs, k=2)
        >>> own.num_users, own.user_ids.tolist()
        (2, [3, 9])
    """
    for key in options:
        if key not in OPTIONS:
            raise InputError(f"{key}: no such option{nearest(key, OPTIONS)}; {list(OPTIONS)}")
    tables = [read_table(part, user, item) for part in (train, test) if part is not None]
    ids, numbered = [], []
    for side in (0, 1):
        columns = [table[side] for table in tables]
        if len({column.dtype.kind in "iu" for column in columns}) > 1:
            columns = [column.astype(str) for column in columns]
        known, place = np.unique(np.concatenate(columns), return_inverse=True)
        ids.append(known)
        numbered.append(torch.from_numpy(place.reshape(-1).astype(np.int64)))
    users, items = (len(known) for known in ids)
    pairs, first = torch.stack(numbered), len(tables[0][0])
    whole = Interactions(pairs[:, :first], users, items, dedupe=dedupe)
    if test is None:
        whole, tested = hold_out(whole, test_share, split_seed)
    else:
        tested = Interactions(pairs[:, first:], users, items, dedupe=dedupe)
    parsed = parsed_pairs(whole.edge_index, tested.edge_index)
    digest = hashlib.sha256(whole.edge_index.numpy().tobytes())
    digest.update(tested.edge_index.numpy().tobytes())
    card = DatasetCard(
        name=name, title=name, source=["your own pairs"], licence="yours", citation="none",
        level="recommendation", task="ranking", num_tasks=1, metric="recall@20", maximize=True,
        split="your own", reader="own", size_bytes=16 * pairs.size(1),
        how_to_get="made by graphkit.data.from_interactions",
    )  # fmt: skip
    dataset = build(card, parsed, digest.hexdigest(), options, split_seed)
    dataset.user_ids, dataset.item_ids = ids  # type: ignore[attr-defined]
    return dataset
