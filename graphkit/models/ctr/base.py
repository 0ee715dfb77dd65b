"""What click-through-rate models share: tables, the input vector, the multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.nn.embedding import TableOwner


class ClickModel(TableOwner):
    """Base: looks up user, item and context vectors and joins them with dense features.

    Tables of users and items begin with N(0, 1) and may be compressed; those of contexts are
    small and stay whole. Subclasses add their layers and turn the parts into one logit.

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
        super().__init__(num_users, num_items)
        sizes = {"dim": dim}
        sizes |= {f"contexts[{field}]": size for field, size in enumerate(contexts)}
        for key, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{key}: {value!r}, wanted an integer of at least 1")
        for key, value in (("user_features", user_features), ("item_features", item_features)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{key}: {value!r}, wanted an integer of at least 0")
        self.config: dict[str, Any] = {
            "num_users": num_users, "num_items": num_items, "dim": dim,
            "contexts": list(contexts), "user_features": user_features,
            "item_features": item_features, "table": table,
        }  # fmt: skip
        self.dim = dim
        self.user_features, self.item_features = user_features, item_features
        self.add_table("user_table", "user", dim, table, nn.init.normal_)
        self.add_table("item_table", "item", dim, table, nn.init.normal_)
        self.context_tables = nn.ModuleList(nn.Embedding(size, dim) for size in contexts)
        self.width = (2 + len(contexts)) * dim + user_features + item_features
        self.add_layers()

    def add_layers(self) -> None:
        """Make the layers behind the tables; ``dim`` and ``width`` are known."""
        raise NotImplementedError

    def prepare(self, pairs: Any) -> None:
        """Take the training pairs that the layout of the tables follows from; once only.

        Args:
            pairs: an object with ``num_users``, ``num_items`` and ``edge_index``.

        Raises:
            InputError: other numbers of users or items than the model was made for.
        """
        self.make_tables(pairs)

    def vectors(self, batch: Any) -> list[Tensor]:
        """Vectors ``[B, d]`` of the user, the item and each context field.

        Raises:
            InputError: the tables wait for :meth:`prepare`, or the context fields are others.
        """
        user_table, item_table = self.table("user_table"), self.table("item_table")
        out: list[Tensor] = [user_table(batch.users), item_table(batch.items)]
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
