"""Metattack: flips chosen by the gradient through the victim's training."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.data.attacks.structure import StructureAttack, Victim, edges_of, flipped
from graphkit.data.attacks.surrogate import (
    evaluating,
    fingerprint,
    labels_seen_by,
    propagate,
    trained_surrogate,
)
from graphkit.errors import InputError
from graphkit.ops import CSR, aggregate

_MOST_NODES = 1 << 14  # five matrices of this size take 5 GiB
_SPARSE = 0.1  # share of non-zero features up to which their products are sums over entries


class Features:
    """A feature matrix whose products cost its non-zero entries only, where these are few.

    Example:
        >>> Features(torch.eye(3)).times(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.entries: tuple[CSR, Tensor] | None = None
        rows, cols = x.nonzero(as_tuple=True)
        if len(rows) <= _SPARSE * x.numel():
            csr = CSR.from_edge_index(torch.stack([cols, rows]), size=(x.size(1), x.size(0)))
            self.entries = csr, x[rows, cols]

    def times(self, right: Tensor) -> Tensor:
        """``X @ right``."""
        if self.entries is None:
            return self.x @ right
        csr, values = self.entries
        return aggregate(csr, right.contiguous(), values, message="scale")


def pair_gradient(smoothed: Tensor, x: Features, edge_index: Tensor) -> Tensor:
    r"""Turn the gradient of a loss in :math:`S = \hat A^2 X` into the one of each pair's weight.

    With :math:`\hat A = R (A + I) R`, :math:`R = \mathrm{diag}(d)^{-1/2}` and
    :math:`G = \partial L / \partial S`,

    .. math::
        \partial L / \partial \hat A = G (\hat A X)^\top + (\hat A G) X^\top

    and then the chain rule through both ends of every entry and the degrees. :math:`\hat A` and
    :math:`X` are sparse, only the result is not: ``(nnz(X) + E) N`` multiplications.

    Args:
        smoothed: :math:`G`.
        x: :math:`X`.
        edge_index: the current graph, without loops.

    Shapes:
        - **smoothed:** ``[N, F]``
        - **out:** ``[N, N]`` symmetric; entry ``(u, v)`` belongs to the undirected edge.
    """
    nodes = smoothed.size(0)
    # Transposed: sparse matrices stand on the left.
    dense = propagate(x.times(smoothed.t().contiguous()), edge_index)
    dense += x.times(propagate(smoothed, edge_index).t().contiguous())
    dense += dense.t().clone()
    degree = torch.bincount(edge_index[1], minlength=nodes).to(dense.dtype) + 1.0
    scale = degree.rsqrt()
    # dL/dr_i = sum_j (G + G')_ij (A + I)_ij r_j, over the edges and the loop.
    source, target = edge_index
    through = dense.diagonal() * scale
    through = through.index_add(0, target, dense[target, source] * scale[source])
    by_degree = -0.5 * through * degree.pow(-1.5)
    dense *= scale.unsqueeze(1)
    dense *= scale
    dense += by_degree.unsqueeze(1)
    dense += by_degree
    return dense


class Metattack(StructureAttack):
    r"""Meta-Self: poison the graph so that whatever is trained on it errs.

    "Adversarial Attacks on Graph Neural Networks via Meta Learning" (Zügner and Günnemann, ICLR
    2019, arXiv 1902.08412). A linear GCN trained on the clean graph labels the nodes outside
    ``train_mask``. For each flip, a fresh linear GCN is trained for ``inner_steps`` of gradient
    descent with momentum, the loss of the unlabelled nodes against those labels is differentiated
    through all of them, and the pair with the highest

    .. math::
        \frac{\partial}{\partial A_{uv}} \big( \lambda L_{train} + (1 - \lambda) L_{self} \big)
        \cdot (1 - 2 A_{uv})

    is flipped. No flip takes the last edge of a node, and no pair is flipped twice, so that the
    graph differs in exactly the budget of edges. The test on degree distributions is left out, as
    in the graphs of Pro-GNN.

    The inner model is linear: :math:`\hat A (\hat A X W_1) W_2 = (\hat A^2 X) W_1 W_2`. So
    :math:`\hat A^2 X` is computed once per flip, the unrolled training runs on its training rows,
    and only the last gradient has N x N entries. A flip costs about ten times ``inner_steps *
    |train| * F * hidden``, plus ``(nnz(X) + E) * N`` multiplications; the whole attack, of hundreds
    of flips on a graph like Cora, takes minutes, and memory for five N x N matrices.

    Args:
        rate: flips per undirected edge, from 0 to 1.
        inner_steps: steps of the training that is differentiated.
        inner_lr, momentum: of these steps.
        hidden_channels: width of both linear GCNs.
        lambda_: 0 for Meta-Self, 1 for Meta-Train, between for both.
        approximate: A-Meta: sum the gradients at all inner steps and differentiate none of them;
            several times as fast and weaker.
        seed: decides the initial weights.
        surrogate: module ``(x, edge_index, edge_weight) -> logits`` that labels the nodes outside
            ``train_mask``; when not given, a linear GCN is trained.

    Shapes:
        - **x:** float ``[N, F]``, **y:** integer ``[N]``, **train_mask:** bool ``[N]``

    Raises:
        InputError: an argument is out of range; the graph is directed, not simple, has no
            features, labels or training nodes, or more than 16,384 nodes; no pair is left to flip.

    Example:
        >>> from torch_geometric.data import Data
        >>> data = Data(x=torch.eye(4), y=torch.tensor([0, 0, 1, 1]),
        ...     edge_index=torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]),
        ...     train_mask=torch.tensor([True, False, True, False]))
        >>> Metattack(0.5)(data).num_edges  # the last edge of a node is never taken
        6
    """

    reads_split: ClassVar[bool] = True

    def __init__(
        self,
        rate: float,
        inner_steps: int = 100,
        inner_lr: float = 0.1,
        momentum: float = 0.9,
        hidden_channels: int = 16,
        lambda_: float = 0.0,
        approximate: bool = False,
        seed: int = 0,
        surrogate: nn.Module | None = None,
    ) -> None:
        for name, value in (("inner_steps", inner_steps), ("hidden_channels", hidden_channels)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: {value!r}, wanted a whole number from 1")
        if not 0 < inner_lr < math.inf:
            raise InputError(f"inner_lr: {inner_lr}, wanted a positive number")
        if not 0 <= momentum < 1:
            raise InputError(f"momentum: {momentum}, wanted from 0 to less than 1")
        if not 0 <= lambda_ <= 1:
            raise InputError(f"lambda_: {lambda_}, wanted a number from 0 to 1")
        super().__init__(
            rate, seed, inner_steps=inner_steps, inner_lr=inner_lr, momentum=momentum,
            hidden_channels=hidden_channels, lambda_=lambda_, approximate=approximate,
            **fingerprint(surrogate),
        )  # fmt: skip
        self.inner_steps, self.inner_lr, self.momentum = inner_steps, inner_lr, momentum
        self.hidden_channels, self.lambda_, self.approximate = hidden_channels, lambda_, approximate
        self.surrogate = surrogate

    def flips(self, victim: Victim, budget: int, generator: torch.Generator) -> Tensor:
        """Choose one pair after the other."""
        nodes = victim.num_nodes
        if nodes > _MOST_NODES:
            raise InputError(
                f"num_nodes: {nodes}, but Metattack holds N x N matrices and takes at most "
                f"{_MOST_NODES}; PGDAttack(candidates=...) does not"
            )
        train, others = victim.split()
        edge_index = edges_of(victim.pairs, nodes)
        surrogate = self.surrogate
        if surrogate is None:
            surrogate = trained_surrogate(victim, generator, False, self.hidden_channels)
        with evaluating(surrogate):
            labels = labels_seen_by(victim, surrogate, edge_index)
        x = Features(victim.features())
        closed = torch.ones(nodes, nodes, dtype=torch.bool, device=victim.pairs.device).tril()
        chosen: list[int] = []
        for _ in range(budget):
            done = torch.tensor(chosen, dtype=torch.int64, device=victim.pairs.device)
            edge_index = edges_of(flipped(victim.pairs, done), nodes)
            gradient = self._loss_gradient(x.x, edge_index, labels, train, others, generator)
            score = pair_gradient(gradient, x, edge_index)
            source, target = edge_index
            score[source, target] *= -1.0
            last = torch.bincount(target, minlength=nodes) == 1
            guarded = last[source] | last[target]
            score.masked_fill_(closed, -math.inf)
            score[source[guarded], target[guarded]] = -math.inf
            best = int(score.argmax())
            if float(score.view(-1)[best]) == -math.inf:
                raise InputError(
                    f"rate: {self.rate} asks for {budget} flips, but after {len(chosen)} no pair "
                    "is left that may be flipped"
                )
            if not math.isfinite(float(score.view(-1)[best])):
                raise InputError(f"inner_lr: training with {self.inner_lr} diverges on this graph")
            closed[best // nodes, best % nodes] = True
            chosen.append(best)
        return torch.tensor(chosen, dtype=torch.int64, device=victim.pairs.device)

    def _loss_gradient(
        self,
        x: Tensor,
        edge_index: Tensor,
        labels: Tensor,
        train: Tensor,
        others: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Gradient of the attack's loss in ``S``, through the training or, A-Meta, beside it."""
        smoothed = propagate(propagate(x, edge_index), edge_index).requires_grad_()
        sizes = x.size(1), self.hidden_channels, int(labels.max()) + 1

        def drawn(rows: int, cols: int) -> Tensor:
            bound = 1 / math.sqrt(cols)
            weight = bound * (2 * torch.rand(rows, cols, generator=generator) - 1)
            return weight.to(x.device, x.dtype).requires_grad_()

        weights = [drawn(sizes[0], sizes[1]), drawn(sizes[1], sizes[2])]
        speeds = [torch.zeros_like(weight) for weight in weights]

        def attack(s: Tensor) -> Tensor:
            logits = s @ (weights[0] @ weights[1])
            loss = F.cross_entropy(logits[others], labels[others])
            if self.lambda_ == 0.0:
                return loss
            own = F.cross_entropy(logits[train], labels[train])
            return self.lambda_ * own + (1.0 - self.lambda_) * loss

        total = torch.zeros_like(smoothed)
        with torch.enable_grad():
            rows = smoothed[train]
            known = rows.detach() if self.approximate else rows
            for _ in range(self.inner_steps):
                loss = F.cross_entropy(known @ weights[0] @ weights[1], labels[train])
                slopes = torch.autograd.grad(loss, weights, create_graph=not self.approximate)
                speeds = [self.momentum * v + g for v, g in zip(speeds, slopes, strict=True)]
                weights = [w - self.inner_lr * v for w, v in zip(weights, speeds, strict=True)]
                if self.approximate:
                    weights = [weight.detach() for weight in weights]
                    total += torch.autograd.grad(attack(smoothed), smoothed)[0]
                    weights = [weight.requires_grad_() for weight in weights]
            if self.approximate:
                return total
            gradient: Tensor = torch.autograd.grad(attack(smoothed), smoothed)[0]
            return gradient
