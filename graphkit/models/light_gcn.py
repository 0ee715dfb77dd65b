"""LightGCN: vectors of users and items, smoothed over the graph of their pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.matrix_factorization import initializer, sampling_of
from graphkit.models.ranking_losses import bpr, direct_au, half_squares, rows_of, scores_of
from graphkit.models.recommender import InteractionBatch, Recommender
from graphkit.models.registry import register_model
from graphkit.ops import CSR, aggregate

if TYPE_CHECKING:
    from graphkit.data.interactions import Interactions


@register_model("light_gcn")
class LightGCN(Recommender):
    r"""Propagate the vectors of users and items and average all layers.

    He, Deng, Wang, Li, Zhang, Wang: "LightGCN: Simplifying and Powering Graph Convolution Network
    for Recommendation", SIGIR 2020 (arXiv 2002.02126). With :math:`R` the training pairs,

    .. math::
        E^{(l+1)} = D^{-1/2} \begin{pmatrix} 0 & R \\ R^T & 0 \end{pmatrix} D^{-1/2} E^{(l)},
        \quad
        \hat E = \frac{1}{L+1} \sum_{l=0}^{L} E^{(l)}, \quad
        s(u, i) = \hat e_u \cdot \hat e_i

    and BPR with an L2 term on the rows of :math:`E^{(0)}` in the batch. The defaults are the
    settings of the paper; propagation runs on the fused sum over neighbours and is redone in each
    step.

    Args:
        num_users: ``U``.
        num_items: ``I``.
        dim: length of a vector.
        num_layers: ``L``; 0 is matrix factorisation.
        loss: ``"bpr"`` or ``"directau"``.
        reg: weight of the L2 term.
        uniformity: weight of DirectAU's second term.
        sampling: ``"users"`` or ``"each_user"``, the two samplers of the paper's code; ``"pairs"``
            as in GraphHash's, or ``"full"``; see :class:`Sampling`.
        num_negatives: for each pair (BPR).
        keep_prob: probability that an edge stays in the graph of a training step; what stays is
            divided by it. 1 drops nothing. The two directions of an edge are drawn apart, once
            for all layers, as in the paper's code (which suggests 0.6).
        degree_eps: added to degrees before the root (GraphHash: 1e-7); a degree of 0 gives 0.
        init: ``"normal"`` or ``"xavier_uniform"``.
        init_std: of ``"normal"``.
        table: how the vectors of layer 0 are stored; see :mod:`graphkit.nn.embedding`.

    Shapes:
        - **users, items:** int64 ``[B]``
        - **output:** ``[B]``

    Raises:
        InputError: an argument out of range, or no training pairs yet.

    Example:
        >>> from graphkit.data import Interactions
        >>> model = LightGCN(num_users=1, num_items=1, dim=2, num_layers=1)
        >>> model.prepare(Interactions(torch.tensor([[0], [0]])))
        >>> user, item = model.representations()
        >>> torch.equal(user, item)
        True
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int = 64,
        num_layers: int = 3,
        loss: str = "bpr",
        reg: float = 1e-4,
        uniformity: float = 1.0,
        sampling: Literal["pairs", "users", "each_user", "full"] = "users",
        num_negatives: int = 1,
        keep_prob: float = 1.0,
        degree_eps: float = 0.0,
        init: str = "normal",
        init_std: float = 0.1,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_users, num_items)
        if num_layers < 0:
            raise InputError(f"num_layers: {num_layers}, wanted at least 0")
        if min(reg, uniformity, degree_eps) < 0.0:
            raise InputError(
                f"reg, uniformity, degree_eps: {reg}, {uniformity}, {degree_eps}, wanted at least 0"
            )
        if not 0.0 < keep_prob <= 1.0:
            raise InputError(f"keep_prob: {keep_prob}, wanted a number above 0 and at most 1")
        self.config.update(
            dim=dim, num_layers=num_layers, loss=loss, reg=reg, uniformity=uniformity,
            sampling=sampling, num_negatives=num_negatives, degree_eps=degree_eps, init=init,
            init_std=init_std, table=table,
        )  # fmt: skip
        if keep_prob < 1.0:  # left out where it says nothing: older runs can be taken up
            self.config["keep_prob"] = keep_prob
        self.num_layers, self.loss, self.reg = num_layers, loss, reg
        self.uniformity, self.degree_eps, self.keep_prob = uniformity, degree_eps, keep_prob
        self.sampling = sampling_of(loss, sampling, num_negatives)
        fill = initializer(init, init_std)
        self.add_table("user_table", "user", dim, table, fill)
        self.add_table("item_table", "item", dim, table, fill)
        self._graphs: dict[str, tuple[CSR, CSR, Tensor]] = {}

    def prepare(self, interactions: Interactions) -> None:
        super().prepare(interactions)
        self._graphs = {}

    def graph(self, device: torch.device) -> tuple[CSR, CSR, Tensor]:
        """Items of each user, users of each item, and the weight of each pair."""
        key = str(device)
        if key not in self._graphs:
            pairs = self.prepared()
            left, right = (
                _inverse_root(degree.double() + self.degree_eps)
                for degree in (pairs.user_degree, pairs.item_degree)
            )
            users, items = pairs.edge_index
            weight = (left[users] * right[items]).float().to(device)
            forth = pairs.users if device.type == "cpu" else pairs.users.to(device)
            self._graphs[key] = (forth, forth.transpose(), weight)
        return self._graphs[key]

    def propagate(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of all layers, from the vectors of layer 0."""
        if not self.num_layers:
            return users, items
        forth, back, weight = self.graph(users.device)
        weight = weight.to(users.dtype)
        to_users, to_items = self._dropped(weight), self._dropped(weight)
        total_users, total_items = users, items
        for _ in range(self.num_layers):
            users, items = (
                aggregate(forth, items, to_users, message="scale"),
                aggregate(back, users, to_items, message="scale"),
            )
            total_users, total_items = total_users + users, total_items + items
        share = 1.0 / (self.num_layers + 1)
        return total_users * share, total_items * share

    def _dropped(self, weight: Tensor) -> Tensor:
        if not self.training or self.keep_prob == 1.0:
            return weight
        kept = torch.rand_like(weight) < self.keep_prob
        return weight * kept / self.keep_prob

    def representations(self) -> tuple[Tensor, Tensor]:
        return self.propagate(self.rows("user_table"), self.rows("item_table"))

    def training_loss(self, batch: InteractionBatch) -> Tensor:
        first_users, first_items = self.rows("user_table"), self.rows("item_table")
        users, items = self.propagate(first_users, first_items)
        user, item = rows_of(users, batch.users), rows_of(items, batch.items)
        if self.loss == "directau":
            return direct_au(user, item, self.uniformity)
        assert batch.negatives is not None
        negative = rows_of(items, batch.negatives)
        value = bpr((user * item).sum(1), scores_of(user, negative))
        if self.reg:
            ids = (batch.users, batch.items, batch.negatives)
            tables = (first_users, first_items, first_items)
            rows = [rows_of(table, which) for table, which in zip(tables, ids, strict=True)]
            value = value + self.reg * half_squares(*rows)
        return value


def _inverse_root(degree: Tensor) -> Tensor:
    return torch.where(degree > 0, degree.clamp(min=1e-12).rsqrt(), torch.zeros_like(degree))
