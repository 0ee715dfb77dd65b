"""GCN2Conv: the layer of GCNII."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.nn import GCN2Conv as PyGGCN2Conv

from graphkit import ops
from graphkit.nn.gcn_conv import gcn_norm
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class GCN2Conv(MessagePassing, PyGGCN2Conv):
    r"""GCNII, "Simple and Deep Graph Convolutional Networks" (arXiv 2007.02133), fused.

    .. math::
        X' = \big((1 - \alpha) \hat P X + \alpha X^{(0)}\big)
             \big((1 - \beta) I + \beta \Theta\big)

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.GCN2Conv`.

    Example:
        >>> import torch
        >>> conv, x = GCN2Conv(8, alpha=0.2), torch.randn(3, 8)
        >>> conv(x, x, torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 8])
    """

    normalize: bool

    def forward(
        self, x: Tensor, x_0: Tensor, edge_index: Any, edge_weight: Tensor | None = None
    ) -> Tensor:
        if not (self.normalize and not self.cached and self.takes_fused_way(edge_index, x)):
            return super().forward(x, x_0, edge_index, edge_weight)
        edge_index, edge_weight = gcn_norm(
            edge_index, edge_weight, x.size(0), False, self.add_self_loops, self.flow, x.dtype
        )
        self.normalize = False
        try:
            return super().forward(x, x_0, edge_index, edge_weight)
        finally:
            self.normalize = True

    def fused(self, csr: CSR, x: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        if edge_weight is None:
            return ops.aggregate(csr, x, reduce=self.fused_reduce).flatten(1)
        out = ops.aggregate(
            csr, x, edge_weight.to(x.dtype), message="scale", reduce=self.fused_reduce
        )
        return out.flatten(1)
