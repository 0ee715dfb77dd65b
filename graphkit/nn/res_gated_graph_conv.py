"""ResGatedGraphConv: gates without normalisation or edge states."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import ResGatedGraphConv as PyGResGatedGraphConv

from graphkit import ops
from graphkit.nn.dense import dense
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class ResGatedGraphConv(MessagePassing, PyGResGatedGraphConv):
    r"""The gated convolution of "Residual Gated Graph ConvNets" (arXiv 1711.07553), fused.

    .. math::
        x_i' = W_1 x_i + \sum_{j \in N(i)} \sigma(W_3 x_i + W_4 x_j) \odot W_2 x_j

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.ResGatedGraphConv`.
    With edge features, which PyG feeds to all three maps, or another activation it computes as PyG
    does.

    Example:
        >>> import torch
        >>> conv = ResGatedGraphConv(8, 16)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 16])
    """

    fused_in_forward = True

    def forward(self, x: Any, edge_index: Any, edge_attr: Tensor | None = None) -> Tensor:
        source, target = (x, x) if isinstance(x, Tensor) else x
        fuses = (
            self.takes_fused_way(edge_index, x)
            and self.fused_reduce == "sum"
            and type(self.act) is nn.Sigmoid
            and self.edge_dim is None
            and isinstance(target, Tensor)
            and self.flow == "source_to_target"
        )
        if not fuses:
            return super().forward(x, edge_index, edge_attr)
        csr = CSR.from_edge_index(edge_index, size=(source.size(0), target.size(0)), flow=self.flow)
        out, _ = ops.gated_aggregate(
            csr, dense(self.lin_key, target), dense(self.lin_query, source),
            dense(self.lin_value, source), normalize=False,
        )  # fmt: skip
        if self.root_weight:
            out = out + dense(self.lin_skip, target)
        return out if self.bias is None else out + self.bias
