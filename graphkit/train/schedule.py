"""After which epochs a run is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphkit.errors import InputError, nearest

_KEYS = ("every", "start", "until")


@dataclass(frozen=True)
class EvalSchedule:
    """Evaluate after epochs ``start``, ``start + every``, ...; after all that follow ``until``.

    The last epoch is always evaluated, whatever the schedule says.

    Attributes:
        every: distance between evaluations.
        start: the first epoch evaluated, counted from 1; ``every`` when not given.
        until: the last epoch to which the distance applies; after it every epoch is evaluated.

    Raises:
        InputError: a value is no integer of at least 1, or a key is unknown.

    Example:
        >>> seldom_first = EvalSchedule.of({"every": 5, "start": 1, "until": 10})
        >>> [epoch for epoch in range(1, 14) if seldom_first.due(epoch)]
        [1, 6, 11, 12, 13]
    """

    every: int = 1
    start: int | None = None
    until: int | None = None

    @staticmethod
    def of(value: int | Mapping[str, Any]) -> EvalSchedule:
        """The schedule that a number, or a mapping of ``every``, ``start`` and ``until``, means."""
        given = dict(value) if isinstance(value, Mapping) else {"every": value}
        for key, number in given.items():
            if key not in _KEYS:
                raise InputError(f"eval_every: unknown key {key!r}{nearest(key, _KEYS)}")
            if number is None and key != "every":
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                name = "eval_every" if not isinstance(value, Mapping) else f"eval_every.{key}"
                raise InputError(f"{name}: expected an integer of at least 1, got {number!r}")
        return EvalSchedule(**given)

    def due(self, epoch: int) -> bool:
        """Whether to evaluate after ``epoch``, counted from 1."""
        if self.until is not None and epoch > self.until:
            return True
        start = self.every if self.start is None else self.start
        return epoch >= start and (epoch - start) % self.every == 0

    @property
    def plain(self) -> int | dict[str, int | None]:
        """What it was made from: a number where that says it all."""
        if self.start is None and self.until is None:
            return self.every
        return {"every": self.every, "start": self.start, "until": self.until}
