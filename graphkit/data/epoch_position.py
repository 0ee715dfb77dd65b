"""Where a loader stands: its epoch and the batch within it, saved and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphkit.errors import InputError


class EpochPosition:
    """Base of loaders whose order follows from seed and epoch alone.

    A loader counts ``position`` up before it hands a batch out, so that a state taken while the
    batch is in use points behind it, and begins an epoch at ``_resume``.

    Example:
        >>> class Numbers(EpochPosition):
        ...     seed = 0
        ...     def _sizes(self):
        ...         return {"batch_size": 2}
        >>> Numbers().state_dict()
        {'epoch': 0, 'position': 0, 'seed': 0, 'batch_size': 2}
    """

    seed: int
    epoch = 0
    position = 0
    _resume = 0

    def _sizes(self) -> dict[str, int]:
        """What a saved position must agree with, by name."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to run next; a position inside another epoch is dropped."""
        if epoch != self.epoch:
            self.epoch, self.position, self._resume = int(epoch), 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position within it, and what decides the order."""
        return {
            "epoch": self.epoch, "position": self.position, "seed": self.seed, **self._sizes()
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where ``state`` was taken.

        Raises:
            InputError: the state belongs to a loader of another size.
        """
        for key, own in self._sizes().items():
            if state.get(key, own) != own:
                raise InputError(
                    f"{key}: the saved position was made with {state[key]}, this loader has {own}; "
                    "build the loader with the saved value"
                )
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self.position = self._resume = int(state["position"])
