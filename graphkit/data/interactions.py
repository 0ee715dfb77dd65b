"""Pairs of users and items: checked once, sorted by user, with what samplers and rankings ask."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from graphkit.data.link_split import is_among, seeded
from graphkit.errors import InputError
from graphkit.ops import CSR

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


class Interactions:
    """Implicit feedback: which users have to do with which items, each pair once.

    Args:
        pairs: ``[2, E]`` users and items, in any order.
        num_users: ``U``; default the largest user + 1.
        num_items: ``I``; default the largest item + 1.
        dedupe: drop repeats instead of refusing them.

    Attributes:
        edge_index: int64 ``[2, E]``, ascending by user, then item.

    Raises:
        InputError: no integers, an id out of range, or a pair that is there twice.

    Example:
        >>> pairs = Interactions(torch.tensor([[1, 0, 0], [0, 2, 1]]))
        >>> pairs.edge_index.tolist(), pairs.user_degree.tolist(), pairs.item_degree.tolist()
        ([[0, 0, 1], [1, 2, 0]], [2, 1], [1, 1, 1])
    """

    def __init__(
        self,
        pairs: Tensor,
        num_users: int | None = None,
        num_items: int | None = None,
        *,
        dedupe: bool = False,
    ) -> None:
        if not isinstance(pairs, Tensor) or pairs.dim() != 2 or pairs.size(0) != 2:
            shape = list(pairs.shape) if isinstance(pairs, Tensor) else type(pairs).__name__
            raise InputError(f"pairs: {shape}, wanted an integer tensor [2, E]")
        if pairs.dtype not in _INTEGERS:
            raise InputError(f"pairs: {pairs.dtype}, wanted int64 ids")
        pairs = pairs.long()
        largest = [int(row.max()) if row.numel() else -1 for row in pairs]
        self.num_users = largest[0] + 1 if num_users is None else int(num_users)
        self.num_items = largest[1] + 1 if num_items is None else int(num_items)
        sizes = (("user", self.num_users), ("item", self.num_items))
        for row, (side, size) in zip(pairs, sizes, strict=True):
            bad = ((row < 0) | (row >= size)).nonzero()
            if len(bad):
                raise InputError(
                    f"pairs: {side} {int(row[bad[0]])} at position {int(bad[0])}, wanted "
                    f"0..{size - 1} ({len(bad)} such pairs)"
                )
        keys, order = torch.sort(pairs[0] * self.num_items + pairs[1])
        again = (keys[1:] == keys[:-1]).nonzero().flatten()
        if again.numel() and not dedupe:
            first = int(keys[again[0]])
            raise InputError(
                f"pairs: user {first // self.num_items} and item {first % self.num_items} are "
                f"there more than once ({again.numel()} repeats); dedupe=True drops them"
            )
        if again.numel():
            keys = torch.unique_consecutive(keys)
            self.edge_index = torch.stack([keys // self.num_items, keys % self.num_items])
        else:
            self.edge_index = pairs[:, order]
        self._keys = keys
        self._derived: dict[str, Any] = {}

    # -- sizes and structure ----------------------------------------------------------------------

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return self.edge_index.size(1)

    @property
    def user_degree(self) -> Tensor:
        """int64 ``[U]`` items of each user."""
        return self._once(
            "user_degree", lambda: torch.bincount(self.edge_index[0], minlength=self.num_users)
        )

    @property
    def item_degree(self) -> Tensor:
        """int64 ``[I]`` users of each item."""
        return self._once(
            "item_degree", lambda: torch.bincount(self.edge_index[1], minlength=self.num_items)
        )

    @property
    def ptr(self) -> Tensor:
        """int64 ``[U + 1]``: user ``u`` has the pairs ``ptr[u]:ptr[u + 1]``."""
        start = self.user_degree.new_zeros(1)
        return self._once("ptr", lambda: torch.cat([start, self.user_degree.cumsum(0)]))

    @property
    def users(self) -> CSR:
        """Row ``u`` holds the items of user ``u``; its transpose the users of each item."""

        def build() -> CSR:
            dtype = torch.int32 if self.num_pairs < 2**31 else torch.int64
            items = self.edge_index[1].to(dtype)
            return CSR(self.ptr.to(dtype), items, None, self.num_users, self.num_items)

        return self._once("users", build)

    def _once(self, name: str, build: Any) -> Any:
        if name not in self._derived:
            self._derived[name] = build()
        return self._derived[name]

    # -- questions --------------------------------------------------------------------------------

    def of(self, user: int) -> Tensor:
        """Items of one user, ascending."""
        return self.edge_index[1, int(self.ptr[user]) : int(self.ptr[user + 1])]

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Which of the pairs are among these; shapes are broadcast."""
        return is_among(users.long() * self.num_items + items, self._keys)

    def draw_others(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """For each of some users, none of whom has all items, an item without a pair."""
        return draw_absent(users, self.num_items, self._keys, generator)

    def seen(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """All pairs of some users, as rows of ``users`` and items: ``([M], [M])``."""
        home = users.device
        ids = users.to(self.edge_index.device)
        degree = self.user_degree[ids]
        rows = torch.arange(ids.numel(), device=ids.device).repeat_interleave(degree)
        before = degree.cumsum(0) - degree
        inside = torch.arange(rows.numel(), device=ids.device) - before[rows]
        items = self.edge_index[1, self.ptr[ids][rows] + inside]
        return rows.to(home), items.to(home)

    def __deepcopy__(self, memo: Any) -> Interactions:
        return self  # never changed once it is made

    def __repr__(self) -> str:
        return (
            f"Interactions({self.num_users} users, {self.num_items} items, {self.num_pairs} pairs)"
        )


def union(first: Interactions, second: Interactions) -> Interactions:
    """The pairs of both.

    Raises:
        InputError: a pair is in both, or they are about other users or items.
    """
    if (first.num_users, first.num_items) != (second.num_users, second.num_items):
        raise InputError(f"interactions: {first} and {second} are not of the same ids")
    together = torch.cat([first.edge_index, second.edge_index], dim=1)
    return Interactions(together, first.num_users, first.num_items)


def draw_absent(users: Tensor, num_items: int, keys: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for each user an item that it has no pair with, uniformly.

    Args:
        users: int64 ``[B]``; none of them may have a pair with every item.
        num_items: ``I``.
        keys: ``user * I + item`` of all pairs, ascending.
        generator: decides the draw.

    Shapes:
        - **out:** int64 ``[B]``

    Example:
        >>> draw_absent(torch.tensor([0, 0]), 3, torch.tensor([0, 1, 5]), torch.Generator())
        tensor([2, 2])
    """
    drawn = torch.randint(num_items, users.shape, generator=generator)
    again = torch.arange(drawn.numel())
    while again.numel():
        again = again[is_among(users[again] * num_items + drawn[again], keys)]
        drawn[again] = torch.randint(num_items, (again.numel(),), generator=generator)
    return drawn


def check_parts(train: Interactions, test: Interactions, name: str = "dataset") -> None:
    """Refuse pairs that are both learnt from and tested on.

    Raises:
        InputError: a shared pair, no training pairs, or no test pairs.
    """
    if train.num_pairs == 0 or test.num_pairs == 0:
        raise InputError(f"{name}: {train.num_pairs} training and {test.num_pairs} test pairs")
    shared = train.contains(*test.edge_index)
    if bool(shared.any()):
        user, item = test.edge_index[:, int(shared.nonzero()[0])].tolist()
        raise InputError(
            f"{name}: {int(shared.sum())} of {test.num_pairs} test pairs are training pairs, the "
            f"first is user {user} with item {item}; masked in the ranking, they can never be hit"
        )


def warn_of_first_ids(train: Interactions, test: Interactions, name: str = "dataset") -> None:
    """Warn of ids that look as if they counted from 1.

    Warns:
        UserWarning: no user, or no item, has the id 0.
    """
    for side, row in (("user", 0), ("item", 1)):
        if min(int(part.edge_index[row].min()) for part in (train, test)) > 0:
            warnings.warn(
                f"{name}: no {side} has the id 0; if the file counts from 1, read it with "
                "first_id=1, else row 0 stands for nobody",
                stacklevel=3,
            )


def hold_out(whole: Interactions, share: float, seed: int) -> tuple[Interactions, Interactions]:
    """Take a share of each user's pairs away, rounded to the nearest number, never all of them.

    Args:
        whole: the pairs.
        share: between 0 and 1.
        seed: decides which.

    Returns:
        What is left, and what was taken.

    Raises:
        InputError: a share out of range, or nothing that could be taken.

    Example:
        >>> ten = Interactions(torch.stack([torch.zeros(10).long(), torch.arange(10)]))
        >>> [part.num_pairs for part in hold_out(ten, 0.2, seed=0)]
        [8, 2]
    """
    _check_share(share, seed)
    generator = seeded(seed, 0x8E1D)
    shuffled = torch.randperm(whole.num_pairs, generator=generator)
    order = shuffled[torch.argsort(whole.edge_index[0, shuffled], stable=True)]
    degree = whole.user_degree
    taken = torch.minimum((share * degree + 0.5).floor().long(), (degree - 1).clamp(min=0))
    rank = torch.arange(whole.num_pairs) - whole.ptr[:-1].repeat_interleave(degree)
    mask = torch.zeros(whole.num_pairs, dtype=torch.bool)
    mask[order] = rank < taken.repeat_interleave(degree)
    return _parted(whole, mask)


def hold_out_pairs(
    whole: Interactions, share: float, seed: int
) -> tuple[Interactions, Interactions]:
    """Take a share of all pairs away at random, whoever they belong to.

    Args:
        whole: the pairs.
        share: between 0 and 1; the number is rounded down.
        seed: decides which.

    Returns:
        What is left, and what was taken.

    Raises:
        InputError: a share out of range, or nothing that could be taken.

    Example:
        >>> nine = Interactions(torch.stack([torch.arange(9), torch.arange(9)]))
        >>> [part.num_pairs for part in hold_out_pairs(nine, 1 / 9, seed=0)]
        [8, 1]
    """
    _check_share(share, seed)
    order = torch.randperm(whole.num_pairs, generator=seeded(seed, 0x9147))
    mask = torch.zeros(whole.num_pairs, dtype=torch.bool)
    # The small number keeps 9 * (1 / 9) from being rounded below 1.
    mask[order[: int(share * whole.num_pairs + 1e-9)]] = True
    return _parted(whole, mask)


def _check_share(share: float, seed: int) -> None:
    if not 0.0 < share < 1.0:
        raise InputError(f"share: {share}, wanted a number between 0 and 1")
    if seed < 0:
        raise InputError(f"seed: must be at least 0, got {seed}")


def _parted(whole: Interactions, taken: Tensor) -> tuple[Interactions, Interactions]:
    if not bool(taken.any()):
        raise InputError(f"pairs: {whole.num_pairs} are too few to hold any out")
    left, right = (
        Interactions(whole.edge_index[:, mask], whole.num_users, whole.num_items)
        for mask in (~taken, taken)
    )
    return left, right
