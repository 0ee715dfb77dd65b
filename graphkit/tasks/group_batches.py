"""Batches of nodes with the groups that were propagated for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphkit.data.epoch_position import EpochPosition
from graphkit.data.loader import epoch_permutation
from graphkit.errors import InputError


@dataclass
class GroupBatch:
    """Some nodes of the target type.

    Attributes:
        groups: ``[B, K_g, D_g]`` each.
        y: targets, int64 ``[B]`` or float ``[B, C]``.
        nodes: int64 ``[B]`` which nodes they are.
        train_mask: bool ``[B]`` whose labels may be learnt.
        split: ``train``, ``valid`` or ``test``.
        train_factor: where several batches make one step and share it by their nodes, what makes
            the mean over this batch's training nodes its part of the mean over the step's.
    """

    groups: list[Tensor]
    y: Tensor
    nodes: Tensor
    train_mask: Tensor
    split: str
    train_factor: float = 1.0

    @property
    def num_graphs(self) -> int:
        """Number of nodes, which weighs the batch in the mean of an epoch."""
        return int(self.nodes.numel())

    def to(self, device: Any) -> GroupBatch:
        """The same batch on another device."""
        moved = {
            "groups": [group.to(device) for group in self.groups],
            **{key: getattr(self, key).to(device) for key in ("y", "nodes", "train_mask")},
        }
        return replace(self, **moved)


class GroupBatches(EpochPosition):
    """Batches over the rows of groups; the order follows from seed and epoch alone.

    Rows are read batch by batch, so that the groups may be in a file.

    Args:
        groups: ``[N, K_g, D_g]`` each.
        y: targets of all nodes.
        nodes: which nodes to visit.
        train_mask: bool ``[N]``.
        split: named in the batches.
        batch_size: nodes per batch; the last, smaller batch is kept.
        shuffle: a new order each epoch.
        seed: with the epoch, decides it.
        rank: this process, of ``world_size``.
        world_size: processes that share each epoch; when shuffling the order wraps around so that
            all visit equally many.

    Raises:
        InputError: no nodes, or a size below 1.

    Example:
        >>> batches = GroupBatches([torch.zeros(5, 1, 2)], torch.zeros(5), torch.arange(3),
        ...                        torch.ones(5, dtype=torch.bool), "valid", batch_size=2)
        >>> [batch.num_graphs for batch in batches]
        [2, 1]
    """

    def __init__(
        self,
        groups: Sequence[Tensor],
        y: Tensor,
        nodes: Tensor,
        train_mask: Tensor,
        split: str,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if nodes.numel() < world_size:
            raise InputError(f"{split}: {nodes.numel()} nodes for {world_size} processes")
        if nodes.numel() == 0 or batch_size < 1:
            raise InputError(
                f"{split}: {nodes.numel()} nodes in batches of {batch_size}, wanted at least 1"
            )
        self.groups, self.y, self.nodes = list(groups), y, nodes
        self.train_mask, self.split = train_mask, split
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size

    def _order(self) -> Tensor:
        nodes = self.nodes
        if self.shuffle:
            nodes = nodes[epoch_permutation(nodes.numel(), self.seed, self.epoch)]
            missing = -nodes.numel() % self.world_size
            nodes = torch.cat([nodes, nodes[:missing]])
        return nodes[self.rank :: self.world_size]

    def __len__(self) -> int:
        total = self.nodes.numel()
        own = -(-(total if self.shuffle else total - self.rank) // self.world_size)
        return -(-own // self.batch_size)

    def __iter__(self) -> Iterator[GroupBatch]:
        order = self._order()
        start, self._resume = self._resume, 0
        self.position = start
        for number in range(start, len(self)):
            nodes = order[number * self.batch_size : (number + 1) * self.batch_size]
            # Before it is handed out: a state taken while the batch is in use points behind it.
            self.position = number + 1
            yield GroupBatch(
                [group[nodes] for group in self.groups], self.y[nodes], nodes,
                self.train_mask[nodes], self.split,
            )  # fmt: skip
        self.epoch += 1
        self.position = 0

    def _sizes(self) -> dict[str, int]:
        return {
            "seed": self.seed, "batch_size": self.batch_size, "nodes": int(self.nodes.numel())
        }  # fmt: skip
