"""Batches of user-item pairs with negatives; order and draws follow from seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphkit.data.epoch_position import EpochPosition
from graphkit.data.link_split import seeded
from graphkit.data.loader import epoch_permutation
from graphkit.errors import InputError
from graphkit.models.recommender import InteractionBatch, Sampling

if TYPE_CHECKING:
    from graphkit.data.interactions import Interactions


def draw_negatives(
    pairs: Interactions, users: Tensor, number: int, generator: torch.Generator
) -> Tensor:
    """Draw items that a user has no pair with, uniformly and with replacement.

    Args:
        pairs: what is positive.
        users: int64 ``[B]``; none of them may have a pair with every item.
        number: how many for each user.
        generator: decides the draw.

    Shapes:
        - **out:** int64 ``[B, number]``

    Example:
        >>> from graphkit.data.interactions import Interactions
        >>> pairs = Interactions(torch.tensor([[0, 0, 1], [0, 1, 2]]))
        >>> draw_negatives(pairs, torch.tensor([0, 0]), 2, torch.Generator()).tolist()
        [[2, 2], [2, 2]]
    """
    owners = users.repeat_interleave(number)
    return pairs.draw_others(owners, generator).view(users.numel(), number)


class TrainInteractions(EpochPosition):
    """Batches of training pairs as a model's :class:`~graphkit.models.Sampling` asks for them.

    The last, smaller batch is kept. Every batch draws from a generator of its own, so a position
    within an epoch is all that a checkpoint needs.

    Args:
        pairs: the training pairs.
        sampling: what the model wants.
        batch_size: pairs per batch of one worker; not read for ``full``.
        shuffle: a new order each epoch (``pairs``).
        seed: with the epoch, decides order and draws.
        rank: this process, of ``world_size``.
        world_size: processes that share each batch.

    Raises:
        InputError: sizes out of range, or a user who has a pair with every item and needs one
            that is none.

    Example:
        >>> from graphkit.data.interactions import Interactions
        >>> pairs = Interactions(torch.tensor([[0, 0, 1], [0, 1, 2]]))
        >>> [batch.num_graphs for batch in TrainInteractions(pairs, Sampling("pairs"), 2)]
        [2, 1]
    """

    def __init__(
        self,
        pairs: Interactions,
        sampling: Sampling,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: must be at least 1, got {batch_size}")
        if pairs.num_pairs < world_size:
            raise InputError(f"pairs: {pairs.num_pairs}, fewer than {world_size} workers")
        by_user = sampling.kind in ("users", "each_user")
        rejects = sampling.num_negatives > 0 and (sampling.exclude_positives or by_user)
        if rejects and int(pairs.user_degree.max()) >= pairs.num_items:
            user = int(pairs.user_degree.argmax())
            raise InputError(
                f"exclude_positives: user {user} has a pair with each of the {pairs.num_items} "
                "items; no negative is left for it"
            )
        self.number = pairs.num_pairs
        if sampling.kind == "each_user":
            each = pairs.num_pairs // pairs.num_users
            self.number = each * int((pairs.user_degree > 0).sum())
            if self.number < world_size:
                raise InputError(
                    f"sampling: 'each_user' draws floor({pairs.num_pairs} / {pairs.num_users}) "
                    "pairs of each user, which are too few; take 'users'"
                )
        self.pairs, self.sampling, self.rejects = pairs, sampling, rejects
        self.whole = pairs.num_pairs if sampling.kind == "full" else batch_size * world_size
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        # Users without pairs are skipped, so an epoch of kind "users" may end before that.
        whole, rest = divmod(self.number, self.whole)
        return whole + (rest >= self.world_size)

    def _epoch_pairs(self) -> tuple[Tensor, Tensor]:
        if self.sampling.kind in ("users", "each_user"):
            return self._epoch_draws()
        users, items = self.pairs.edge_index
        if self.sampling.kind == "pairs" and self.shuffle:
            order = epoch_permutation(self.pairs.num_pairs, self.seed, self.epoch)
            users, items = users[order], items[order]
        return users, items

    def _epoch_draws(self) -> tuple[Tensor, Tensor]:
        """Users, and one of the items of each; users without items are skipped."""
        pairs = self.pairs
        generator = seeded(self.seed, self.epoch, 0x05E2)
        if self.sampling.kind == "users":
            users = torch.randint(pairs.num_users, (pairs.num_pairs,), generator=generator)
        else:
            some = pairs.user_degree.nonzero().flatten()
            users = some.repeat(self.number // some.numel())
            users = users[torch.randperm(users.numel(), generator=generator)]
        place = torch.rand(users.numel(), dtype=torch.float64, generator=generator)
        degree = pairs.user_degree[users]
        inside = torch.minimum((place * degree).long(), degree - 1)
        seen = degree > 0
        users = users[seen]
        return users, pairs.edge_index[1, pairs.ptr[users] + inside[seen]]

    def _negatives(self, users: Tensor, number: int) -> Tensor | None:
        sampling = self.sampling
        if not sampling.num_negatives:
            return None
        generator = seeded(self.seed, self.epoch, number, 0x4E)
        if self.rejects:
            return draw_negatives(self.pairs, users, sampling.num_negatives, generator)
        shape = (sampling.num_negatives,)
        if not sampling.shared:
            shape = (users.numel(), *shape)  # type: ignore[assignment]
        return torch.randint(self.pairs.num_items, shape, generator=generator)

    def __iter__(self) -> Iterator[InteractionBatch]:
        users, items = self._epoch_pairs()
        start, self._resume = self._resume, 0
        self.position = start
        for number in range(start, len(self)):
            chosen = slice(number * self.whole, (number + 1) * self.whole)
            own_users, own_items = users[chosen], items[chosen]
            if own_users.numel() < self.world_size:
                break
            negatives = self._negatives(own_users, number)
            # Before it is handed out: a state taken while the batch is in use points behind it.
            self.position = number + 1
            mine = slice(self.rank, None, self.world_size)
            if negatives is not None and not self.sampling.shared:
                negatives = negatives[mine]
            yield InteractionBatch(
                own_users[mine], own_items[mine], negatives, whole=own_users.numel()
            )
        self.epoch += 1
        self.position = 0

    def _sizes(self) -> dict[str, int]:
        return {"batch_size": self.whole, "num_pairs": self.pairs.num_pairs}

    def __repr__(self) -> str:
        return f"TrainInteractions({len(self)} batches of {self.whole}, seed {self.seed})"
