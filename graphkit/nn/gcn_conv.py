"""GCNConv: graph convolution with symmetric degree normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import GCNConv as PyGGCNConv

from graphkit import ops
from graphkit.nn.dense import dense
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


def with_self_loops(csr: CSR, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give every node exactly one self-loop; remembered with the CSR, so a batch pays once.

    Returns:
        The new ``edge_index`` (other edges first, then the ``N`` loops), a mask of the edges that
        were kept, and the nodes that had a loop already.
    """
    kept = csr.derived.get("self_loops")
    if kept is None:
        keep = edge_index[0] != edge_index[1]
        loops = torch.arange(csr.num_rows, dtype=edge_index.dtype, device=edge_index.device)
        whole = torch.cat([edge_index[:, keep], loops.expand(2, -1)], dim=1)
        kept = (whole, keep, edge_index[0][~keep])
        if not torch.compiler.is_compiling():
            csr.derived["self_loops"] = kept
    return kept  # type: ignore[return-value]


def gcn_norm(
    edge_index: Tensor,
    edge_weight: Tensor | None,
    num_nodes: int,
    improved: bool,
    add_self_loops: bool,
    flow: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    r"""Symmetric normalisation :math:`w_{ij} / \sqrt{\hat d_i \hat d_j}` of the edge weights.

    The same as PyG's function of this name, but what depends on the graph alone is computed once.
    """
    csr = CSR.from_edge_index(edge_index, num_nodes, flow=flow)
    key = ("gcn_norm", improved, add_self_loops, dtype)
    fill = 2.0 if improved else 1.0
    if edge_weight is None:
        kept = csr.derived.get(key)
        if kept is not None:
            return kept  # type: ignore[return-value]
    whole = edge_index
    if edge_weight is not None and edge_weight.dim() > 1:
        edge_weight = edge_weight.view(-1)
    weight = edge_weight
    if add_self_loops:
        whole, keep, looped = with_self_loops(csr, edge_index)
        if edge_weight is None:
            weight = torch.ones(whole.size(1), dtype=dtype, device=whole.device)
            weight[whole.size(1) - num_nodes :] = fill
        else:
            loops = edge_weight.new_full((num_nodes,), fill)
            weight = torch.cat([edge_weight[keep], loops.index_put((looped,), edge_weight[~keep])])
    elif weight is None:
        weight = torch.ones(whole.size(1), dtype=dtype, device=whole.device)
    assert weight is not None
    target = CSR.from_edge_index(whole, num_nodes, flow=flow)
    ones = weight.new_ones(num_nodes, 1)
    degree = ops.aggregate(target, ones, weight, message="scale").view(-1)
    scale = degree.pow(-0.5)
    scale = scale.masked_fill(scale == float("inf"), 0.0)
    result = whole, scale[whole[0]] * weight * scale[whole[1]]
    if edge_weight is None and not torch.compiler.is_compiling():
        csr.derived[key] = result
    return result


class GCNConv(MessagePassing, PyGGCNConv):
    r"""The graph convolution of "Semi-Supervised Classification with Graph Convolutional Networks"
    (arXiv 1609.02907), fused: no tensor has a row per edge and a column per feature.

    .. math::
        x_i' = \Theta^\top \sum_{j \in N(i) \cup \{i\}} \frac{e_{ji}}{\sqrt{\hat d_j \hat d_i}} x_j

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.GCNConv`. The
    normalisation of a graph without edge weights is computed once per ``edge_index`` tensor.

    Example:
        >>> conv = GCNConv(8, 16)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 16])
    """

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        if self.cached or not (isinstance(x, Tensor) and self.takes_fused_way(edge_index, x)):
            return super().forward(x, edge_index, edge_weight)
        if not self.normalize:
            return self._propagate_with_bias(dense(self.lin, x), edge_index, edge_weight)
        edge_index, edge_weight = gcn_norm(
            edge_index,
            edge_weight,
            x.size(0),
            self.improved,
            self.add_self_loops,
            self.flow,
            x.dtype,
        )
        return self._propagate_with_bias(dense(self.lin, x), edge_index, edge_weight)

    def _propagate_with_bias(self, x: Tensor, edge_index: Any, edge_weight: Any) -> Tensor:
        out = self.propagate(edge_index, x=x, edge_weight=edge_weight)
        if self.bias is None:
            return out
        # In place where it may be: a second [N, F] tensor costs as much as a third of the sum.
        return out.add_(self.bias) if self.owns_output else out + self.bias

    def fused(self, csr: CSR, x: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        if edge_weight is None:
            out = ops.aggregate(csr, x, reduce=self.fused_reduce)
        else:
            weight = edge_weight.view(-1).to(x.dtype)
            out = ops.aggregate(csr, x, weight, message="scale", reduce=self.fused_reduce)
        return out.flatten(1)
