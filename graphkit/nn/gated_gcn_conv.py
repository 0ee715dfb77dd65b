"""GatedGCNConv: the edge-updating gated convolution of the LRGB and benchmarking-gnns baselines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from graphkit import ops
from graphkit.errors import InputError
from graphkit.nn.dense import dense, is_plain_linear
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class GatedGCNConv(MessagePassing):
    r"""GatedGCN: "Residual Gated Graph ConvNets" (arXiv 1711.07553) with edge states, as in
    "Benchmarking Graph Neural Networks" (arXiv 2003.00982) and LRGB (arXiv 2206.08164).

    .. math::
        \hat e_{ij} &= D x_i + E x_j + C e_{ij} \\
        x_i' &= A x_i + \frac{\sum_j \sigma(\hat e_{ij}) \odot B x_j}
                             {\sum_j \sigma(\hat e_{ij}) + 10^{-6}}

    Only :math:`\hat e` has a row per edge, because the next layer reads it. Norms, activation,
    dropout and residuals are the caller's.

    Args:
        in_channels: width of node states.
        out_channels: width after the layer, of nodes and edges.
        edge_dim: width of edge states before the layer (default ``in_channels``).
        eps: added to the sum of the gates.
        bias: whether the five maps have biases.

    Shapes:
        - **input:** nodes ``[N, in_channels]``, ``edge_index`` ``[2, E]``, edges ``[E, edge_dim]``
        - **output:** nodes ``[N, out_channels]``, edges ``[E, out_channels]`` (before any sigmoid)

    Example:
        >>> conv = GatedGCNConv(8, 8)
        >>> x, e = conv(torch.randn(3, 8), torch.tensor([[0, 1], [1, 2]]), torch.randn(2, 8))
        >>> x.shape, e.shape
        (torch.Size([3, 8]), torch.Size([2, 8]))
    """

    fused_in_forward = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        edge_dim: int | None = None,
        eps: float = 1e-6,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(aggr="add", **kwargs)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.edge_dim = in_channels if edge_dim is None else edge_dim
        self.eps = eps
        self.A = nn.Linear(in_channels, out_channels, bias)
        self.B = nn.Linear(in_channels, out_channels, bias)
        self.C = nn.Linear(self.edge_dim, out_channels, bias)
        self.D = nn.Linear(in_channels, out_channels, bias)
        self.E = nn.Linear(in_channels, out_channels, bias)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for linear in (self.A, self.B, self.C, self.D, self.E):
            reset(linear)

    def forward(self, x: Tensor, edge_index: Any, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        if edge_attr is None or edge_attr.dim() != 2 or edge_attr.size(-1) != self.edge_dim:
            seen = None if edge_attr is None else list(edge_attr.shape)
            raise InputError(f"edge_attr: shape {seen}, wanted [num_edges, {self.edge_dim}]")
        edge = dense(self.C, edge_attr)
        value, gate_dst, gate_src = dense(self.B, x), dense(self.D, x), dense(self.E, x)
        if self.takes_fused_way(edge_index, x):
            csr = CSR.from_edge_index(edge_index, x.size(0), flow=self.flow)
            out, gate = ops.gated_aggregate(
                csr, gate_dst, gate_src, value, edge, eps=self.eps,
                overwrite_edge=is_plain_linear(self.C),
            )  # fmt: skip
            assert gate is not None
        else:
            source, target = (0, 1) if self.flow == "source_to_target" else (1, 0)
            gate = gate_dst[edge_index[target]] + gate_src[edge_index[source]] + edge
            opened = torch.sigmoid(gate)
            out = self.propagate(edge_index, value=value, opened=opened, size=None)
            total = self.propagate(
                edge_index, value=torch.ones_like(value), opened=opened, size=None
            )
            out = out / (total + self.eps)
        return dense(self.A, x, plus=out), gate

    def message(self, value_j: Tensor, opened: Tensor) -> Tensor:
        return opened * value_j
