"""What models with embedding tables share: tables that wait for the training pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.nn.embedding.specs import (
    Spec,
    check_spec,
    make_table,
    materialize,
    needs_graph,
    resolve,
    restore,
)


class TableOwner(nn.Module):
    """Base of models that look users and items up in tables made by a specification.

    A table whose layout follows from the training pairs is ``None`` until :meth:`make_tables` is
    given them, or until weights are loaded.

    Args:
        num_users: ``U``.
        num_items: ``I``.

    Raises:
        InputError: a number below 1.

    Example:
        >>> owner = TableOwner(num_users=3, num_items=2)
        >>> owner.add_table("vectors", "user", 4, None, nn.init.zeros_)
        >>> owner.rows("vectors").shape
        torch.Size([3, 4])
    """

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        for name, size in (("num_users", num_users), ("num_items", num_items)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"{name}: {size!r}, wanted an integer of at least 1")
        self.num_users, self.num_items = num_users, num_items
        self._waiting: dict[str, tuple[Any, ...]] = {}

    def add_table(
        self,
        name: str,
        side: Literal["user", "item"],
        dim: int,
        spec: Spec | None,
        init: Callable[[Tensor], Any],
    ) -> None:
        """Make the embedding table ``self.<name>`` of one side.

        Args:
            name: attribute that holds it.
            side: whose ids it has rows for.
            dim: length of a vector.
            spec: see :func:`graphkit.nn.embedding.make_table`.
            init: fills new weights in place.

        Raises:
            InputError: a specification that is not understood.
        """
        check_spec(spec)
        setattr(self, name, None)
        if needs_graph(spec):
            self._waiting[name] = (side, dim, spec, init)
        else:
            setattr(self, name, make_table(self._ids(side), dim, spec, init=init))

    def table(self, name: str) -> nn.Module:
        """A table of :meth:`add_table`.

        Raises:
            InputError: it waits for the training pairs.
        """
        table = getattr(self, name)
        if table is None:
            raise InputError(f"{name}: its layout needs the training pairs; call prepare() first")
        found: nn.Module = table
        return found

    def rows(self, name: str) -> Tensor:
        """All vectors of a table, ``[n, d]``."""
        return materialize(self.table(name))

    def make_tables(self, pairs: Any) -> None:
        """Make the tables that wait for the training pairs; those that are there stay.

        Args:
            pairs: an object with ``num_users``, ``num_items`` and ``edge_index``.

        Raises:
            InputError: other numbers of users or items than the model was made for.
        """
        found = (pairs.num_users, pairs.num_items)
        if found != (self.num_users, self.num_items):
            raise InputError(
                f"interactions: {found[0]} users and {found[1]} items, but the model was made for "
                f"{self.num_users} and {self.num_items}"
            )
        for name, (side, dim, spec, init) in self._waiting.items():
            codes = resolve(spec, pairs, side)
            setattr(self, name, make_table(self._ids(side), dim, spec, init=init, codes=codes))
        self._waiting = {}

    def lay_out(self, saved: Mapping[str, Any], prefix: str = "") -> None:
        """Make the tables that wait for the training pairs as they were saved.

        Args:
            saved: tensors, or their shapes, by key.
            prefix: of this model's keys.

        Raises:
            InputError: what was saved fits no table of the specification.
        """
        for name, (side, dim, spec, _) in list(self._waiting.items()):
            made = restore(self._ids(side), dim, spec, saved, f"{prefix}{name}.")
            if made is not None:
                setattr(self, name, made)
                del self._waiting[name]

    def _ids(self, side: str) -> int:
        return self.num_users if side == "user" else self.num_items

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        self.lay_out(state, prefix)
        super()._load_from_state_dict(state, prefix, *rest)
