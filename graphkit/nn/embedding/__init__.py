"""Embedding tables by specification: a plain ``nn.Embedding``, or one that needs less memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from graphkit.errors import InputError

Spec = Mapping[str, Any]


def make_table(
    num_rows: int,
    dim: int,
    spec: Spec | None = None,
    *,
    init: Callable[[Tensor], Any],
    codes: Tensor | None = None,
) -> nn.Module:
    """Make a table of ``num_rows`` vectors.

    Args:
        num_rows: ids 0..num_rows-1 can be looked up.
        dim: length of a vector.
        spec: how the table is stored; ``None`` for one row per id.
        init: fills the stored weights in place.
        codes: what :func:`resolve` gave for ``spec``.

    Raises:
        InputError: a size below 1, or a way of storing that is not known.

    Example:
        >>> from torch.nn.init import zeros_
        >>> make_table(3, 2, init=zeros_).weight.shape
        torch.Size([3, 2])
    """
    for name, size in (("num_rows", num_rows), ("dim", dim)):
        if size < 1:
            raise InputError(f"{name}: {size}, wanted at least 1")
    if spec is not None:
        raise InputError(f"table: no way of storing {dict(spec)!r} is known; leave it out")
    table = nn.Embedding(num_rows, dim)
    init(table.weight.data)
    return table


def needs_graph(spec: Spec | None) -> bool:
    """Whether a table of this kind can be made only when the training pairs are known."""
    return False


def resolve(spec: Spec | None, interactions: Any, side: str) -> Tensor | None:
    """Codes of the ids of one side (``"user"`` or ``"item"``) that follow from training pairs."""
    return None


def materialize(table: nn.Module) -> Tensor:
    """All vectors of a table, ``[num_rows, dim]``."""
    if isinstance(table, nn.Embedding):
        return table.weight
    out: Tensor = table.materialize()  # type: ignore[operator]
    return out


__all__ = ["Spec", "make_table", "materialize", "needs_graph", "resolve"]
