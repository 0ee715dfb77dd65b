"""GINConv and GINEConv: graph isomorphism networks, without and with edge features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import GINConv as PyGGINConv
from torch_geometric.nn import GINEConv as PyGGINEConv

from graphkit import ops
from graphkit.errors import InputError
from graphkit.nn.dense import dense
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class _GIN(MessagePassing):
    """What the two have in common: the root's term and the map."""

    def _update(self, out: Tensor, root: Tensor | None) -> Tensor:
        if root is not None:
            # In place where it may be: two more [N, F] tensors would cost as much as the sum did.
            add = Tensor.addcmul_ if self.owns_output else torch.addcmul
            out = add(out, root, 1 + self.eps)
        return dense(self.nn, out)


class GINConv(_GIN, PyGGINConv):
    r"""GIN, "How Powerful are Graph Neural Networks?" (arXiv 1810.00826), fused.

    .. math::
        x_i' = h_\Theta\big((1 + \epsilon) x_i + \sum_{j \in N(i)} x_j\big)

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.GINConv`.

    Example:
        >>> import torch
        >>> conv = GINConv(torch.nn.Linear(8, 16))
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 16])
    """

    def forward(self, x: Any, edge_index: Any, size: Any = None) -> Tensor:
        x = (x, x) if isinstance(x, Tensor) else x
        if not self.takes_fused_way(edge_index, x):
            return super().forward(x, edge_index, size)
        return self._update(self.propagate(edge_index, x=x, size=size), x[1])

    def fused(self, csr: CSR, x: Any) -> Tensor:
        source = x if isinstance(x, Tensor) else x[0]
        return ops.aggregate(csr, source, reduce=self.fused_reduce).flatten(1)


class GINEConv(_GIN, PyGGINEConv):
    r"""GINE, "Strategies for Pre-training Graph Neural Networks" (arXiv 1905.12265), fused.

    .. math::
        x_i' = h_\Theta\big((1 + \epsilon) x_i + \sum_{j \in N(i)} \mathrm{ReLU}(x_j + e_{ji})\big)

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.GINEConv`.

    Example:
        >>> import torch
        >>> conv = GINEConv(torch.nn.Linear(8, 16), edge_dim=3)
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> conv(torch.randn(3, 8), edge_index, torch.randn(4, 3)).shape
        torch.Size([3, 16])
    """

    def forward(
        self, x: Any, edge_index: Any, edge_attr: Tensor | None = None, size: Any = None
    ) -> Tensor:
        x = (x, x) if isinstance(x, Tensor) else x
        if not self.takes_fused_way(edge_index, x):
            return super().forward(x, edge_index, edge_attr, size)
        out = self.propagate(edge_index, x=x, edge_attr=edge_attr, size=size)
        return self._update(out, x[1])

    def fused(self, csr: CSR, x: Any, edge_attr: Tensor | None = None) -> Tensor:
        source = x if isinstance(x, Tensor) else x[0]
        if edge_attr is None:
            raise InputError("edge_attr: missing, but GINEConv reads it")
        if self.lin is not None:
            edge_attr = self.lin(edge_attr)
        if edge_attr.dtype != source.dtype:  # under autocast a mapped edge is narrower than x
            dtype = torch.promote_types(source.dtype, edge_attr.dtype)
            source, edge_attr = source.to(dtype), edge_attr.to(dtype)
        out = ops.aggregate(csr, source, edge_attr, message="add_relu", reduce=self.fused_reduce)
        return out.flatten(1)
