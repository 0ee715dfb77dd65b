"""The two-layer GCN on any propagation matrix, as the robustness benchmarks train it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.models.ncn.sparse_features import drop_and_map
from graphkit.nn.dropout import Dropout


class GraphClassifier(nn.Module):
    r"""Two graph convolutions over a given matrix.

    .. math:: W \, \mathrm{Dropout}(\mathrm{ReLU}(W X \Theta_1 + b_1)) \, \Theta_2 + b_2

    Weights and biases are drawn from :math:`\pm 1 / \sqrt{\text{out}}`, as in the GCN of the
    robustness benchmarks (DeepRobust, Pro-GNN, STABLE).

    Args:
        in_channels, hidden_channels, out_channels: widths.
        dropout: between the layers only.

    Shapes:
        - **x:** ``[N, in_channels]``
        - **graph:** anything with ``@``: a weighted graph, a factorised or a dense matrix
        - **out:** ``[N, out_channels]`` logits

    Example:
        >>> GraphClassifier(5, 16, 3)(torch.randn(4, 5), torch.eye(4)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.lin1 = nn.Linear(in_channels, hidden_channels, bias=False)
        self.lin2 = nn.Linear(hidden_channels, out_channels, bias=False)
        self.bias1 = nn.Parameter(torch.empty(hidden_channels))
        self.bias2 = nn.Parameter(torch.empty(out_channels))
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Redraw every parameter."""
        for lin, bias in ((self.lin1, self.bias1), (self.lin2, self.bias2)):
            bound = lin.out_features**-0.5
            nn.init.uniform_(lin.weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor, graph: Any) -> Tensor:
        # Bags of words are mostly zeros: only the rest is multiplied.
        h = graph @ drop_and_map(nn.Identity(), self.lin1, x) + self.bias1
        out: Tensor = graph @ self.lin2(self.dropout(h.relu())) + self.bias2
        return out
