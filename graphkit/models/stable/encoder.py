"""The contrastive encoder: embeddings that survive a random recovery of pruned edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.models.ncn.sparse_features import drop_and_map
from graphkit.models.stable.weighted_graph import (
    WeightedGraph,
    graph_of_pairs,
    pairs_of,
    symmetric_normalisation,
)
from graphkit.ops import CSR


class ContrastiveEncoder(nn.Module):
    r"""One graph convolution with a learned slope.

    .. math:: g(M, X) = \mathrm{PReLU}(M (X W) + b)

    Args:
        in_channels: ``F``.
        channels: ``D``.

    Shapes:
        - **x:** ``[N, F]``; where most of it is zero, only the rest is multiplied
        - **out:** ``[N, D]``

    Example:
        >>> edge = CSR.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> ContrastiveEncoder(3, 4)(torch.ones(2, 3), symmetric_normalisation(edge, 2.0)).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_channels: int, channels: int = 512) -> None:
        super().__init__()
        self.lin = nn.Linear(in_channels, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.act = nn.PReLU()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier weights, no bias, slope 1/4."""
        nn.init.xavier_uniform_(self.lin.weight)
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.act.weight, 0.25)

    def project(self, x: Tensor) -> Tensor:
        """``X W``: the only product that all graphs and the shuffled rows share."""
        return drop_and_map(nn.Identity(), self.lin, x)

    def propagate(self, z: Tensor, graph: WeightedGraph) -> Tensor:
        """The rest of the layer, on projected features."""
        out: Tensor = self.act(graph @ z + self.bias)
        return out

    def forward(self, x: Tensor, graph: WeightedGraph) -> Tensor:
        return self.propagate(self.project(x), graph)


class SummaryDiscriminator(nn.Module):
    r"""How well node embeddings fit summaries of the graph; the logits of several are added.

    .. math::
        \ell_i = \sum_m \big( h_i^\top B c_m + b \big) = h_i^\top \big( B \sum_m c_m \big) + m b

    The right-hand side takes :math:`D` products per node in place of :math:`D^2`. The state dict is
    that of ``torch.nn.Bilinear(D, D, 1)``.

    Args:
        channels: ``D``.

    Shapes:
        - **h:** ``[N, D]``
        - **summaries:** ``[m, D]``
        - **out:** ``[N]`` logits
    """

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, channels))
        self.bias = nn.Parameter(torch.zeros(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier over the three-dimensional weight, as published: a small bound; no bias."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, h: Tensor, summaries: Tensor) -> Tensor:
        return h @ (self.weight[0] @ summaries.sum(0)) + self.bias * summaries.size(0)


def recovered_views(
    pruned: CSR, removed: Tensor, share: float, generator: torch.Generator, count: int = 2
) -> list[CSR]:
    """Draw views: the pruned graph with ``floor(share * R)`` of the removed edges put back.

    Args:
        pruned: what rough pruning left.
        removed: ``[2, R]`` what it removed.
        share: between 0 and 1.
        generator: decides the edges, anew for each view.
        count: number of views.

    Raises:
        InputError: a share outside [0, 1].

    Example:
        >>> empty, edges = CSR.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 6), 5
        >>> removed = torch.stack([torch.arange(edges), torch.arange(edges) + 1])
        >>> views = recovered_views(empty, removed, 0.2, torch.Generator().manual_seed(0))
        >>> [view.num_entries // 2 for view in views]
        [1, 1]
    """
    if not 0.0 <= share <= 1.0:
        raise InputError(f"recover: {share}, wanted 0..1")
    total = removed.size(1)
    back = int(share * total)
    kept = pairs_of(pruned)
    views = []
    for _ in range(count):
        chosen = torch.randperm(total, generator=generator)[:back].to(removed.device)
        views.append(graph_of_pairs(torch.cat([kept, removed[:, chosen]], 1), pruned.num_rows))
    return views


def contrast(
    encoder: ContrastiveEncoder,
    discriminator: SummaryDiscriminator,
    x: Tensor,
    main: WeightedGraph,
    views: Sequence[WeightedGraph],
    order: Tensor,
) -> tuple[Tensor, Tensor]:
    """Logits ``[N]`` of the nodes and of the nodes with shuffled features.

    Args:
        encoder, discriminator: the two networks.
        x: ``[N, F]`` features.
        main: the graph whose nodes are judged.
        views: the graphs that are summarised.
        order: ``[N]`` permutation of the rows of ``x`` in the negative.
    """
    z = encoder.project(x)
    summaries = torch.stack([encoder.propagate(z, v).mean(0).sigmoid() for v in views])
    positive = discriminator(encoder.propagate(z, main), summaries)
    negative = discriminator(encoder.propagate(z[order], main), summaries)
    return positive, negative


def train_contrastive(
    encoder: ContrastiveEncoder,
    discriminator: SummaryDiscriminator,
    x: Tensor,
    main: WeightedGraph,
    views: Sequence[WeightedGraph],
    generator: torch.Generator,
    *,
    epochs: int = 10_000,
    lr: float = 1e-3,
    patience: int = 20,
) -> list[float]:
    """Train the encoder until the loss has not improved for ``patience`` epochs; keep the best.

    The training loss decides. It rises after the first step before it falls: a short patience
    stops there.

    Args:
        encoder, discriminator, x, main, views: see :func:`contrast`.
        generator: of the permutations, one per epoch.
        epochs: at most so many.
        lr: of Adam.
        patience: epochs in a row without improvement.

    Returns:
        The loss of each epoch.

    Raises:
        InputError: the loss is not a number, which no later epoch would mend.
    """
    modules = nn.ModuleList([encoder, discriminator])
    optimizer = torch.optim.Adam(modules.parameters(), lr=lr)
    n = x.size(0)
    target = torch.cat([torch.ones(n), torch.zeros(n)]).to(x.device, x.dtype)
    best, waited, history = float("inf"), 0, []
    kept = {name: value.clone() for name, value in modules.state_dict().items()}
    for _ in range(epochs):
        optimizer.zero_grad()
        order = torch.randperm(n, generator=generator).to(x.device)
        logits = torch.cat(contrast(encoder, discriminator, x, main, views, order))
        loss = F.binary_cross_entropy_with_logits(logits, target)
        history.append(float(loss.detach()))
        if not math.isfinite(history[-1]):
            raise InputError(
                f"contrast_lr: the contrastive loss is {history[-1]} in epoch {len(history)} with "
                f"{lr}, wanted smaller steps or features of smaller size"
            )
        if history[-1] < best:
            best, waited = history[-1], 0
            kept = {name: value.clone() for name, value in modules.state_dict().items()}
        else:
            waited += 1
        if waited == patience:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    modules.load_state_dict(kept)
    return history


def normalised_views(
    pruned: CSR, views: Sequence[CSR], beta: float, aug_extra_loop: bool = True
) -> tuple[WeightedGraph, list[WeightedGraph]]:
    """Normalise the main graph with loops of ``beta`` and the views with one more.

    Args:
        pruned: the main graph.
        views: see :func:`recovered_views`.
        beta: weight of self-loops.
        aug_extra_loop: the published code adds the identity twice to the views; ``False`` gives
            them ``beta`` too.
    """
    loop = beta + 1.0 if aug_extra_loop else beta
    return symmetric_normalisation(pruned, beta), [symmetric_normalisation(v, loop) for v in views]
