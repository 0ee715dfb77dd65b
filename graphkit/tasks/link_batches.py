"""Batches of links: positives in an order of each epoch, negatives drawn once for the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from graphkit.data.epoch_position import EpochPosition
from graphkit.data.link_split import link_keys, non_links, seeded
from graphkit.data.loader import epoch_permutation
from graphkit.errors import InputError

NEGATIVES = ("non_links", "destinations")


@dataclass
class LinkBatch:
    """True and false links to score.

    Attributes:
        split: ``train``, ``valid`` or ``test``; decides which graph is looked at.
        positive: ``[2, P]``.
        negative: ``[2, M]``, or ``[P, M]`` false destinations of each positive's source (MRR).
        hidden: ``[P']`` positions of the training links that this step must not see.
        ranked: each true link has false ones of its own.
    """

    split: str
    positive: Tensor
    negative: Tensor
    hidden: Tensor | None = None
    ranked: bool = False

    @property
    def num_links(self) -> int:
        """Number of true links."""
        return self.positive.size(1)

    def to(self, device: torch.device | str) -> LinkBatch:
        """The batch on a device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


class TrainLinks(EpochPosition):
    """Batches of training links, each with as many negatives; the incomplete last one is dropped.

    Order and negatives depend on ``seed`` and the epoch only, so a position within an epoch is all
    that a checkpoint needs. Negatives are drawn as PyG's ``negative_sampling`` does for the
    directed edges of the graph, of which NCN uses the first half: one for each undirected link,
    pairs of different nodes, in either direction, without a link in the TRAINING graph.

    Args:
        positive: ``[2, P]`` training links.
        num_nodes: ``N``.
        batch_size: links per batch of this worker.
        shuffle: another order in each epoch.
        seed: see above.
        negatives: ``"non_links"``, or ``"destinations"``: the same sources, any node (citation2).
        rank: this worker, of ``world_size``; all of them hide the links of the whole step.
        world_size: see ``rank``.

    Raises:
        InputError: fewer links than one batch over all workers, or an unknown kind of negatives.

    Example:
        >>> ring = torch.stack([torch.arange(8), torch.arange(1, 9) % 8])
        >>> [batch.num_links for batch in TrainLinks(ring, 8, batch_size=3)]
        [3, 3]
    """

    def __init__(
        self,
        positive: Tensor,
        num_nodes: int,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        negatives: str = "non_links",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if negatives not in NEGATIVES:
            raise InputError(f"negatives: {negatives!r} is not one of {', '.join(NEGATIVES)}")
        if not 1 <= batch_size * world_size <= positive.size(1):
            raise InputError(
                f"batch_size: {batch_size * world_size} links, but there are "
                f"{positive.size(1)} for training; an epoch would have no step, because the last "
                "incomplete batch is dropped"
            )
        self.positive, self.num_nodes, self.batch_size = positive, num_nodes, batch_size
        self.shuffle, self.seed, self.negatives = shuffle, seed, negatives
        self.rank, self.world_size = rank, world_size
        both = torch.cat([positive, positive.flip(0)], dim=1)
        self._keys = link_keys(both, num_nodes, directed=True) if negatives == "non_links" else None

    def __len__(self) -> int:
        return self.positive.size(1) // (self.batch_size * self.world_size)

    def draw(self, epoch: int) -> Tensor:
        """Negatives ``[2, P]`` of an epoch: column k belongs to the k-th positive."""
        generator = seeded(self.seed, epoch, 0x4E)
        count = self.positive.size(1)
        if self._keys is None:
            drawn = torch.randint(self.num_nodes, (count,), generator=generator)
            return torch.stack([self.positive[0], drawn])
        return non_links(self._keys, self.num_nodes, count, generator, directed=True)

    def __iter__(self) -> Iterator[LinkBatch]:
        count, whole = self.positive.size(1), self.batch_size * self.world_size
        order = torch.arange(count)
        if self.shuffle:
            order = epoch_permutation(count, self.seed, self.epoch)
        negative = self.draw(self.epoch)
        start, self._resume = self._resume, 0
        self.position = start
        for number in range(start, len(self)):
            hidden = order[number * whole : (number + 1) * whole]
            own = hidden[self.rank :: self.world_size]
            # Before it is handed out: a state taken while the batch is in use points behind it.
            self.position = number + 1
            yield LinkBatch("train", self.positive[:, own], negative[:, own], hidden)
        self.epoch += 1
        self.position = 0

    def _sizes(self) -> dict[str, int]:
        return {"batch_size": self.batch_size, "num_links": self.positive.size(1)}

    def __repr__(self) -> str:
        return f"TrainLinks({len(self)} batches of {self.batch_size} links, seed {self.seed})"


class EvalLinks:
    """All links of an evaluation split as one batch, which the task scores in pieces.

    Args:
        make: returns the batch.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield self._make()

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def state_dict(self) -> dict[str, Any]:
        """There is nothing to remember."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing to take up."""
