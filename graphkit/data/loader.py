"""Mini-batches in an order that depends on seed and epoch only, and that can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphkit.data.epoch_position import EpochPosition
from graphkit.data.packed import PackedGraphs
from graphkit.errors import InputError

if TYPE_CHECKING:
    from torch_geometric.data import Batch

_GOLDEN = 0x9E3779B97F4A7C15


def epoch_permutation(size: int, seed: int, epoch: int) -> Tensor:
    """Return the order of ``size`` items in one epoch; it depends on ``seed`` and ``epoch`` only.

    Example:
        >>> epoch_permutation(4, seed=0, epoch=0).sort().values.tolist()
        [0, 1, 2, 3]
    """
    generator = torch.Generator()
    generator.manual_seed((seed * _GOLDEN + (epoch + 1) * 0xD1B54A32D192ED03) % (1 << 63))
    return torch.randperm(size, generator=generator)


class GraphLoader(EpochPosition):
    """Iterate PyG batches of a part of a data set.

    One iteration is one epoch; the next iteration is the next epoch. ``state_dict`` taken after
    batch ``k`` makes another loader go on with batch ``k + 1`` of the same order. A loader left
    in the middle of an epoch without a state starts that epoch anew.

    Args:
        graphs: where the graphs come from.
        ids: ids of the graphs to visit.
        batch_size: graphs per batch; the last batch may be smaller and is kept.
        shuffle: visit in a new order each epoch.
        seed: with the epoch, decides the order.
        rank: this process, of ``world_size``.
        world_size: number of processes that share each epoch. When shuffling, the order is
            wrapped around so that all processes get equally many graphs (collectives then match);
            without shuffling nothing is repeated, so that metrics count each graph once.
        attach: tensors put on every batch as they are (the masks of node-level sets).

    Shapes:
        ids: int64 ``[n]``.

    Raises:
        InputError: no ids, an id outside the data set, or a size that is not positive.

    Example:
        >>> graphs = PackedGraphs(torch.tensor([0, 1, 2, 3]), torch.zeros(4, dtype=torch.long),
        ...                       torch.zeros(2, 0, dtype=torch.long))
        >>> [batch.num_graphs for batch in GraphLoader(graphs, torch.arange(3), batch_size=2)]
        [2, 1]
    """

    def __init__(
        self,
        graphs: PackedGraphs,
        ids: Tensor,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        attach: Mapping[str, Tensor] | None = None,
    ) -> None:
        ids = torch.as_tensor(ids, dtype=torch.int64)
        if ids.dim() != 1 or ids.numel() == 0:
            raise InputError(
                f"ids: expected a non-empty 1-D tensor of graph ids, got shape {list(ids.shape)}"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= len(graphs):
            raise InputError(
                f"ids: must lie in 0..{len(graphs) - 1}, got {int(ids.min())}..{int(ids.max())}"
            )
        if batch_size < 1:
            raise InputError(f"batch_size: must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise InputError(f"rank: must lie in 0..{world_size - 1} (world_size - 1), got {rank}")
        if ids.numel() < world_size:
            raise InputError(
                f"world_size: {world_size} processes cannot share {ids.numel()} graphs"
            )
        self.graphs = graphs
        self.ids = ids
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.attach = dict(attach or {})

    def _epoch_ids(self) -> Tensor:
        ids = self.ids
        if self.shuffle:
            ids = ids[epoch_permutation(ids.numel(), self.seed, self.epoch)]
            missing = -ids.numel() % self.world_size
            if missing:
                ids = torch.cat([ids, ids[:missing]])
        return ids[self.rank :: self.world_size]

    @property
    def num_graphs(self) -> int:
        """Graphs that this process visits in one epoch."""
        total, size = self.ids.numel(), self.world_size
        if self.shuffle:
            return -(-total // size)
        return -(-(total - self.rank) // size)

    def __len__(self) -> int:
        return -(-self.num_graphs // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        ids = self._epoch_ids()
        start, self._resume = self._resume, 0
        self.position = start
        for number in range(start, len(self)):
            chosen = ids[number * self.batch_size : (number + 1) * self.batch_size]
            batch = self.graphs.batch(chosen)
            for key, value in self.attach.items():
                batch[key] = value
            # Counted before it is handed out: a state taken while the batch is being used then
            # points to the batch after it.
            self.position = number + 1
            yield batch
        self.epoch += 1
        self.position = 0

    def _sizes(self) -> dict[str, int]:
        return {"batch_size": self.batch_size, "num_graphs": self.ids.numel()}

    def __repr__(self) -> str:
        order = f"shuffled, seed {self.seed}" if self.shuffle else "in order"
        batches = f"{len(self)} batches of {self.batch_size}"
        return f"GraphLoader({self.num_graphs} graphs, {batches}, {order})"
