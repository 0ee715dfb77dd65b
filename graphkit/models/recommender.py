"""What recommenders share: tables of users and items, scores of blocks, what a step wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.nn.embedding import TableOwner
from graphkit.ops.ranking import top_items

if TYPE_CHECKING:
    from graphkit.data.interactions import Interactions

Scorer = Callable[[Tensor], Tensor]
_KINDS = ("pairs", "users", "each_user", "full")
_BLOCK = 1 << 22  # scores that are looked at together


@dataclass(frozen=True)
class Sampling:
    """What a model wants to see in one training step.

    Attributes:
        kind: ``pairs``: every training pair once per epoch, in batches. ``users``: as many draws
            as there are pairs, a user uniformly, then one of its items (LightGCN).
            ``each_user``: the same with every user equally often, ``floor(E / U)`` times (the
            other sampler of LightGCN's code). ``full``: all pairs in one step per epoch.
        num_negatives: items drawn for each pair, uniformly with replacement; 0 for none.
        shared: one set of negatives for the whole batch.
        exclude_positives: negatives are items without a training pair with the user; always so
            for ``users`` and ``each_user``.

    Raises:
        InputError: an unknown kind, a negative number, or ``shared`` with ``exclude_positives``.

    Example:
        >>> Sampling("pairs", num_negatives=4).shared
        False
    """

    kind: Literal["pairs", "users", "each_user", "full"] = "pairs"
    num_negatives: int = 1
    shared: bool = False
    exclude_positives: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InputError(
                f"kind: {self.kind!r} is not one of {', '.join(_KINDS)}{nearest(self.kind, _KINDS)}"
            )
        if self.num_negatives < 0:
            raise InputError(f"num_negatives: {self.num_negatives}, wanted at least 0")
        if self.shared and self.exclude_positives:
            raise InputError("shared: one set for all users cannot leave out those of each")


@dataclass
class InteractionBatch:
    """Training pairs and the items they are compared with.

    Attributes:
        users: int64 ``[B]``.
        items: int64 ``[B]``.
        negatives: int64 ``[B, N]``, ``[N]`` where the batch shares them, or ``None``.
        whole: number of pairs of the step, of which this batch has some; 0 for all of them. Only
            losses that are sums over pairs need it: those of workers and of batches that make one
            step together are averaged.
        split: ``train``; ``valid`` and ``test`` batches are empty and stand for the whole split.
    """

    users: Tensor
    items: Tensor
    negatives: Tensor | None = None
    whole: int = 0
    split: str = "train"

    @property
    def num_graphs(self) -> int:
        """Number of pairs: the weight of this batch in the loss of an epoch."""
        return self.users.numel()

    def to(self, device: torch.device | str) -> InteractionBatch:
        """The batch on a device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


class Recommender(TableOwner):
    r"""Scores items for users; the base of all recommenders.

    A model whose score is a dot product gives :meth:`representations`; any other overrides
    :meth:`scorer`. It says in ``sampling`` what a step wants and turns it into a scalar in
    :meth:`training_loss`.

    Args:
        num_users: ``U``.
        num_items: ``I``.

    Raises:
        InputError: a number below 1.
    """

    name: str
    sampling = Sampling()

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__(num_users, num_items)
        self.config: dict[str, Any] = {"num_users": num_users, "num_items": num_items}
        self.interactions: Interactions | None = None

    # -- training pairs ---------------------------------------------------------------------------

    def prepare(self, interactions: Interactions) -> None:
        """Take the training pairs; called before training and before weights are loaded.

        What a subclass derives from them (degrees, normalised graphs) it makes here, after calling
        this one. A second call with the same pairs changes nothing that is learnt.

        Raises:
            InputError: other numbers of users or items than the model was made for.
        """
        self.make_tables(interactions)
        self.interactions = interactions

    def prepared(self) -> Interactions:
        """The training pairs.

        Raises:
            InputError: there are none yet.
        """
        if self.interactions is None:
            raise InputError(
                f"{type(self).__name__}: no training pairs yet; call prepare(interactions) first"
            )
        return self.interactions

    # -- scores -----------------------------------------------------------------------------------

    def representations(self) -> tuple[Tensor, Tensor]:
        """Final vectors of all users ``[U, d]`` and items ``[I, d]``; their dot is the score.

        Raises:
            InputError: the score of this model is no dot product.
        """
        raise InputError(f"{type(self).__name__}: its score is no dot product of two vectors")

    def scorer(self) -> Scorer:
        """A function from users int64 ``[B]`` to scores ``[B, I]``.

        What does not depend on the users is computed once, here.
        """
        users, items = self.representations()
        columns = items.t()
        return lambda ids: users[ids] @ columns

    def scores(self, users: Tensor) -> Tensor:
        """Scores ``[B, I]`` of all items for users int64 ``[B]``."""
        return self.scorer()(users)

    def training_loss(self, batch: InteractionBatch) -> Tensor:
        """The scalar loss of one step."""
        raise NotImplementedError

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores ``[B]`` of pairs."""
        left, right = self.representations()
        return (left[users] * right[items]).sum(-1)

    def recommend(
        self, user_ids: Tensor | list[int], k: int = 20, exclude_seen: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The best items of users, best first.

        Args:
            user_ids: ``[B]``.
            k: how many items.
            exclude_seen: leave out what the user has a training pair with.

        Returns:
            Items int64 ``[B, k]`` and their scores ``[B, k]``.

        Raises:
            InputError: ids out of range, fewer than ``k`` items left for a user, or no training
                pairs to exclude.
        """
        ids = torch.as_tensor(user_ids, dtype=torch.int64).reshape(-1)
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.num_users):
            raise InputError(
                f"user_ids: {int(ids.min())}..{int(ids.max())}, wanted 0..{self.num_users - 1}"
            )
        seen = self.prepared() if exclude_seen else None
        was_training = self.training
        self.eval()
        items, values = [], []
        device = next((p.device for p in self.parameters()), ids.device)
        try:
            with torch.no_grad():
                score = self.scorer()
                for block in torch.split(ids, max(_BLOCK // self.num_items, 1)):
                    block = block.to(device)
                    out = score(block)
                    masked = None if seen is None else seen.seen(block)
                    best = top_items(out, k, masked)
                    items.append(best.cpu())
                    values.append(out.gather(1, best).cpu())
        finally:
            self.train(was_training)
        if not items:
            return torch.empty(0, k, dtype=torch.int64), torch.empty(0, k)
        return torch.cat(items), torch.cat(values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_users} users, {self.num_items} items)"
