"""The model that an attack differentiates: a small GCN on edge weights, or the user's own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.data.attacks.structure import Victim, edges_of
from graphkit.errors import InputError
from graphkit.ops import CSR, aggregate, linear

_EPOCHS = 200


def propagate(x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
    r"""One step :math:`D^{-1/2} (A + I) D^{-1/2} x` of a GCN, differentiable in the edge weights.

    The loops are not edges here: :math:`r \odot (A (r \odot x)) + r^2 \odot x` with
    :math:`r = d^{-1/2}`, so that the graph is sorted once for all weights.

    Shapes:
        - **x:** ``[N, F]``, **edge_index:** ``[2, E]``, **edge_weight:** ``[E]``
        - **out:** ``[N, F]``

    Example:
        >>> propagate(torch.ones(2, 1), torch.tensor([[0, 1], [1, 0]])).round(decimals=4).tolist()
        [[1.0], [1.0]]
    """
    csr = CSR.from_edge_index(edge_index, x.size(0))
    if edge_weight is None:
        scale = (csr.degree.to(x.dtype) + 1.0).rsqrt().unsqueeze(1)
        return scale * aggregate(csr, scale * x) + scale.square() * x
    degree = aggregate(csr, x.new_ones(x.size(0), 1), edge_weight, message="scale") + 1.0
    # A user's relaxed weights may sum to less than a loop makes up for.
    scale = degree.clamp(min=1e-12).rsqrt()
    return scale * aggregate(csr, scale * x, edge_weight, message="scale") + scale.square() * x


class SurrogateGCN(nn.Module):
    """The two-layer GCN (arXiv 1609.02907) that attacks train when no surrogate is given.

    Args:
        in_channels, hidden_channels, out_channels: sizes.
        relu: ``False`` for the linear surrogate of Metattack.
        generator: where the initial weights come from; uniform within ``1 / sqrt(out)``.

    Shapes:
        - **x:** ``[N, in]``, **edge_index:** ``[2, E]``, **edge_weight:** ``[E]``
        - **out:** ``[N, out]`` logits

    Example:
        >>> SurrogateGCN(4, 8, 3)(torch.ones(2, 4), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        relu: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.relu = relu
        first, second = 1 / math.sqrt(hidden_channels), 1 / math.sqrt(out_channels)

        def drawn(bound: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(bound * (2 * torch.rand(*shape, generator=generator) - 1))

        self.weight1 = drawn(first, hidden_channels, in_channels)
        self.bias1 = drawn(first, hidden_channels)
        self.weight2 = drawn(second, out_channels, hidden_channels)
        self.bias2 = drawn(second, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        h = propagate(linear(x, self.weight1), edge_index, edge_weight) + self.bias1
        h = h.relu() if self.relu else h
        return propagate(linear(h, self.weight2), edge_index, edge_weight) + self.bias2


def trained_surrogate(
    victim: Victim, generator: torch.Generator, relu: bool = True, hidden_channels: int = 16
) -> SurrogateGCN:
    """Train a GCN on the training nodes of the clean graph: 200 epochs of Adam, no dropout."""
    x, y = victim.features(), victim.classes()
    train, _ = victim.split()
    edge_index = edges_of(victim.pairs, victim.num_nodes)
    classes = int(y.max()) + 1
    model = SurrogateGCN(x.size(1), hidden_channels, classes, relu, generator)
    model = model.to(x.device, x.dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    with torch.enable_grad():
        for _ in range(_EPOCHS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x, edge_index)[train], y[train])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model


def labels_seen_by(victim: Victim, surrogate: nn.Module, edge_index: Tensor) -> Tensor:
    """True classes of the training nodes, predicted ones of all others."""
    train, others = victim.split()
    labels = victim.classes().clone()
    with torch.no_grad():
        labels[others] = logits_of(surrogate, victim, edge_index, None).argmax(1)[others]
    return labels


def logits_of(
    surrogate: nn.Module, victim: Victim, edge_index: Tensor, edge_weight: Tensor | None
) -> Tensor:
    """Call the surrogate and look at what comes back.

    Raises:
        InputError: not ``[N, C]`` logits with a column for every class.
    """
    weight = edge_weight
    if weight is None:
        weight = victim.features().new_ones(edge_index.size(1))
    logits = surrogate(victim.features(), edge_index, weight)
    wanted = int(victim.classes().max()) + 1
    if not (
        isinstance(logits, Tensor)
        and logits.dim() == 2
        and logits.size(0) == victim.num_nodes
        and logits.size(1) >= wanted
    ):
        seen = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"surrogate: returned {seen}, wanted logits [{victim.num_nodes}, C] with C >= {wanted}"
        )
    return logits


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every part gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def fingerprint(surrogate: nn.Module | None) -> dict[str, Any]:
    """What tells attacks with different surrogates apart in ``config``, and so in the cache.

    Raises:
        InputError: the surrogate is not a module.
    """
    if surrogate is None:
        return {}
    if not isinstance(surrogate, nn.Module):
        raise InputError(
            f"surrogate: {type(surrogate).__name__}, wanted a torch.nn.Module called with "
            "(x, edge_index, edge_weight); recipes use the default one"
        )
    digest = hashlib.sha256(repr(surrogate).encode())
    for key, value in surrogate.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {"surrogate": f"{type(surrogate).__name__}:{digest.hexdigest()[:16]}"}
