"""NeuMF: a product of vectors beside a perceptron on both."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.models.matrix_factorization import initializer, sampling_of
from graphkit.models.ranking_losses import bpr
from graphkit.models.recommender import InteractionBatch, Recommender, Scorer
from graphkit.models.registry import register_model

_ELEMENTS = 1 << 22  # of one [users, items, dim] block


@register_model("neumf")
class NeuMF(Recommender):
    r"""Neural matrix factorisation with two tables per side.

    He, Liao, Zhang, Nie, Hu, Chua: "Neural Collaborative Filtering", WWW 2017 (arXiv 1708.05031),
    in the form that GraphHash (arXiv 2412.17245) trains by BPR:

    .. math::
        s(u, i) = w \cdot [\, p_u \odot q_i \,;\, \text{MLP}([p'_u \,;\, q'_i]) \,] + b

    with the perceptron Linear(2d, d), ReLU, Linear(d, d), ReLU, Linear(d, d). A full ranking
    applies the user's and the item's half of the first layer once each.

    Args:
        num_users: ``U``.
        num_items: ``I``.
        dim: length of each vector, ``d``.
        sampling: ``"pairs"``, ``"users"``, ``"each_user"`` or ``"full"``; see :class:`Sampling`.
        num_negatives: for each pair.
        init: ``"normal"`` or ``"xavier_uniform"``.
        init_std: of ``"normal"``.
        table: how the vectors are stored; see :mod:`graphkit.nn.embedding`.

    Shapes:
        - **users, items:** int64 of the same shape
        - **output:** that shape

    Raises:
        InputError: an argument out of range.

    Example:
        >>> model = NeuMF(num_users=5, num_items=7, dim=4)
        >>> users = torch.tensor([0, 4])
        >>> bool(torch.allclose(model.scores(users)[:, 3], model(users, torch.tensor([3, 3]))))
        True
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int = 64,
        sampling: Literal["pairs", "users", "each_user", "full"] = "pairs",
        num_negatives: int = 1,
        init: str = "normal",
        init_std: float = 1.0,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_users, num_items)
        self.config.update(
            dim=dim, sampling=sampling, num_negatives=num_negatives, init=init, init_std=init_std,
            table=table,
        )  # fmt: skip
        self.dim = dim
        self.sampling = sampling_of("bpr", sampling, num_negatives)
        fill = initializer(init, init_std)
        for part in ("gmf", "mlp"):
            self.add_table(f"{part}_user", "user", dim, table, fill)
            self.add_table(f"{part}_item", "item", dim, table, fill)
        self.first = nn.Linear(2 * dim, dim)
        self.second, self.third = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.last = nn.Linear(2 * dim, 1)

    def _deep(self, before: Tensor) -> Tensor:
        """What the perceptron adds to the score, from the first layer's sums."""
        hidden = self.third(torch.relu(self.second(torch.relu(before))))
        return F.linear(hidden, self.last.weight[:, self.dim :], self.last.bias)[..., 0]

    def _halves(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.first.weight
        left = F.linear(user, weight[:, : self.dim], self.first.bias)
        return left, F.linear(item, weight[:, self.dim :])

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        left, right = self._halves(self._look("mlp_user", users), self._look("mlp_item", items))
        product = self._look("gmf_user", users) * self._look("gmf_item", items)
        flat = (product * self.last.weight[0, : self.dim]).sum(-1)
        return flat + self._deep(left + right)

    def _look(self, name: str, ids: Tensor) -> Tensor:
        out: Tensor = self.table(name)(ids)
        return out

    def scorer(self) -> Scorer:
        left, right = self._halves(self.rows("mlp_user"), self.rows("mlp_item"))
        weighted = self.rows("gmf_user") * self.last.weight[0, : self.dim]
        columns = self.rows("gmf_item").t()

        def score(users: Tensor) -> Tensor:
            out = weighted[users] @ columns
            mine = left[users][:, None]
            step = max(_ELEMENTS // max(users.numel() * self.dim, 1), 1)
            for start in range(0, self.num_items, step):
                block = slice(start, start + step)
                out[:, block] += self._deep(mine + right[block])
            return out

        return score

    def training_loss(self, batch: InteractionBatch) -> Tensor:
        assert batch.negatives is not None
        positive = self(batch.users, batch.items)
        users = batch.users[:, None].expand_as(batch.negatives)
        return bpr(positive, self(users, batch.negatives))
