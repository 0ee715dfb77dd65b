"""SAGEConv: GraphSAGE."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import SAGEConv as PyGSAGEConv

from graphkit import ops
from graphkit.nn.dense import dense
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class SAGEConv(MessagePassing, PyGSAGEConv):
    r"""GraphSAGE, "Inductive Representation Learning on Large Graphs" (arXiv 1706.02216), fused.

    .. math::
        x_i' = W_1 x_i + W_2 \, \mathrm{aggr}_{j \in N(i)} x_j

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.SAGEConv`; several
    aggregations (``aggr=["mean", "max", "std"]``) share one pass over the neighbours.

    Example:
        >>> import torch
        >>> conv = SAGEConv(8, 16)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 16])
    """

    def forward(self, x: Any, edge_index: Any, size: Any = None) -> Tensor:
        if isinstance(x, Tensor):
            x = (x, x)
        if not self.takes_fused_way(edge_index, x):
            return super().forward(x, edge_index, size)
        if self.project:
            x = (dense(self.lin, x[0]).relu(), x[1])
        out = dense(self.lin_l, self.propagate(edge_index, x=x, size=size))
        if self.root_weight and x[1] is not None:
            out = dense(self.lin_r, x[1], plus=out)  # the sums are no longer held when it begins
        return F.normalize(out, dim=-1) if self.normalize else out

    def fused(self, csr: CSR, x: Any) -> Tensor:
        source = x if isinstance(x, Tensor) else x[0]
        return ops.aggregate(csr, source, reduce=self.fused_reduce).flatten(1)
