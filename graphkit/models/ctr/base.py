"""What click-through-rate models share: tables, the input vector, the multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.nn.embedding import check_spec, make_table, needs_graph, resolve, restore


class ClickModel(nn.Module):
    """Base: looks up user, item and context vectors and joins them with dense features.

    Tables of users and items begin with N(0, 1) and may be compressed; those of contexts are
    small and stay whole. Subclasses turn the parts into one logit.

    Args:
        num_users, num_items: ``U`` and ``I``.
        dim: length of a vector.
        contexts: number of categories of each context field.
        user_features, item_features: numbers of dense features.
        table: how user and item vectors are stored; see :func:`graphkit.nn.embedding.make_table`.

    Raises:
        InputError: a size that is not positive, or a table that is not understood.
    """

    name: str

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int = 64,
        contexts: Sequence[int] = (),
        user_features: int = 0,
        item_features: int = 0,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_users": num_users, "num_items": num_items, "dim": dim}
        sizes |= {f"contexts[{field}]": size for field, size in enumerate(contexts)}
        for key, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{key}: {value!r}, wanted an integer of at least 1")
        for key, value in (("user_features", user_features), ("item_features", item_features)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{key}: {value!r}, wanted an integer of at least 0")
        check_spec(table)
        self.config: dict[str, Any] = {
            "num_users": num_users, "num_items": num_items, "dim": dim,
            "contexts": list(contexts), "user_features": user_features,
            "item_features": item_features, "table": table,
        }  # fmt: skip
        self.num_users, self.num_items, self.dim = num_users, num_items, dim
        self.user_features, self.item_features = user_features, item_features
        self.spec = table
        self.user_table = self.item_table = None
        if not needs_graph(table):
            self._make_tables(None)
        self.context_tables = nn.ModuleList(nn.Embedding(size, dim) for size in contexts)
        self.width = (2 + len(contexts)) * dim + user_features + item_features

    def prepare(self, pairs: Any) -> None:
        """Take the training pairs that the layout of the tables follows from; once only.

        Args:
            pairs: an object with ``num_users``, ``num_items`` and ``edge_index``.

        Raises:
            InputError: other numbers of users or items than the model was made for.
        """
        found = (pairs.num_users, pairs.num_items)
        if found != (self.num_users, self.num_items):
            raise InputError(
                f"pairs: {found[0]} users and {found[1]} items, but the model was made for "
                f"{self.num_users} and {self.num_items}"
            )
        if self.user_table is None:
            self._make_tables(pairs)

    def _make_tables(self, pairs: Any) -> None:
        for side, rows in (("user", self.num_users), ("item", self.num_items)):
            codes = None if pairs is None else resolve(self.spec, pairs, side)
            made = make_table(rows, self.dim, self.spec, init=nn.init.normal_, codes=codes)
            setattr(self, f"{side}_table", made)

    def lay_out(self, shapes: Mapping[str, Any], prefix: str = "") -> None:
        """Make the tables that wait for :meth:`prepare` as they were saved.

        Args:
            shapes: of the saved tensors, by key.
            prefix: of this model's keys.
        """
        for side, rows in (("user", self.num_users), ("item", self.num_items)):
            name = f"{side}_table"
            if getattr(self, name) is None:
                setattr(self, name, restore(rows, self.dim, self.spec, shapes, f"{prefix}{name}."))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        self.lay_out({key: value.shape for key, value in state.items()}, prefix)
        super()._load_from_state_dict(state, prefix, *rest)

    def vectors(self, batch: Any) -> list[Tensor]:
        """Vectors ``[B, d]`` of the user, the item and each context field.

        Raises:
            InputError: the tables wait for :meth:`prepare`, or the context fields are others.
        """
        if self.user_table is None or self.item_table is None:
            raise InputError(
                f"{type(self).__name__}: the layout of its tables needs the training pairs; call "
                "prepare(pairs) first"
            )
        out = [self.user_table(batch.users), self.item_table(batch.items)]
        seen = 0 if batch.contexts is None else batch.contexts.size(1)
        if seen != len(self.context_tables):
            raise InputError(
                f"contexts: {seen} fields, the model was made for {len(self.context_tables)}"
            )
        for field, table in enumerate(self.context_tables):
            out.append(table(batch.contexts[:, field]))
        return out

    def features(self, batch: Any) -> list[Tensor]:
        """Dense features of the user and of the item, where there are any.

        Raises:
            InputError: another number of features than the model was made for.
        """
        out = []
        for key in ("user_features", "item_features"):
            value, wanted = getattr(batch, key), getattr(self, key)
            if (0 if value is None else value.size(1)) != wanted:
                shape = None if value is None else list(value.shape)
                raise InputError(f"{key}: {shape}, the model was made for [B, {wanted}]")
            if wanted:
                out.append(value)
        return out

    def inputs(self, batch: Any) -> Tensor:
        """Everything side by side, ``[B, width]``."""
        return torch.cat([*self.vectors(batch), *self.features(batch)], dim=1)


def mlp(inputs: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """``layers`` times linear and ReLU, then a linear layer.

    Example:
        >>> [type(part).__name__ for part in mlp(8, 4, 1, 2)]
        ['Linear', 'ReLU', 'Linear', 'ReLU', 'Linear']
    """
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [nn.Linear(hidden if layer else inputs, hidden), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(hidden if layers else inputs, outputs))
