"""GATConv, GATv2Conv and TransformerConv: PyG's layers on :func:`graphkit.ops.attention`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv as PyGGATConv
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv
from torch_geometric.nn import TransformerConv as PyGTransformerConv
from torch_geometric.utils import scatter

from graphkit import ops
from graphkit.nn.dense import dense, is_plain_linear
from graphkit.nn.gcn_conv import with_self_loops
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class _AttentionConv(MessagePassing):
    """What the three share. Softmax and sum are one sweep, which ``forward`` asks for itself."""

    heads: int
    dropout: float
    concat: bool
    out_channels: int

    fused_in_forward = True

    def _fuses(self, x: Any, edge_index: Any, size: Any, weights_wanted: Any) -> bool:
        source, target = (x, x) if isinstance(x, Tensor) else (x[0], x[1])
        one_kind = source is target
        return (
            self.takes_fused_way(edge_index, x)
            and self.fused_reduce == "sum"
            and weights_wanted is None
            and isinstance(target, Tensor)
            and self.flow == "source_to_target"  # PyG swaps the two attention vectors otherwise
            # Loops of a bipartite graph join nodes that only share a number.
            and (one_kind or not getattr(self, "add_self_loops", False))
            and (size is None or tuple(size) == (source.size(0), target.size(0)))
            and not self._edge_update_forward_hooks
            and not self._edge_update_forward_pre_hooks
        )

    def _attend(self, edge_index: Tensor, value: Tensor, dst: Tensor, src: Tensor,
                edge: Tensor | None, **options: Any) -> Tensor:  # fmt: skip
        csr = CSR.from_edge_index(edge_index, size=(src.size(0), dst.size(0)), flow=self.flow)
        out = ops.attention(
            csr, value, dst, src, edge, heads=self.heads,
            dropout=self.dropout if self.training else 0.0, **options,
        )  # fmt: skip
        if self.concat:
            return out
        return out.view(-1, self.heads, self.out_channels).mean(dim=1)

    def _looped(self, edge_index: Tensor, nodes: int, edge: Tensor | None, raw: Tensor | None,
                fill_value: Any, encode: Any) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """One self-loop per node; the edges' part of the score grows by a row for each."""
        csr = CSR.from_edge_index(edge_index, nodes, flow=self.flow)
        whole, keep, _ = with_self_loops(csr, edge_index)
        if edge is None or raw is None:
            return whole, edge
        if fill_value in ("mean", "add", "sum"):
            # The encoding is linear without a bias, so it may come before the mean.
            loops = scatter(edge[keep], edge_index[1][keep].long(), 0, nodes, reduce=fill_value)
        elif isinstance(fill_value, str):
            found = scatter(raw[keep], edge_index[1][keep].long(), 0, nodes, reduce=fill_value)
            loops = encode(found)
        else:
            fill = torch.as_tensor(fill_value, dtype=raw.dtype, device=raw.device)
            loops = encode(fill.expand(nodes, raw.size(1)))
        return whole, torch.cat([edge[keep], loops])


def _column(edge_attr: Tensor | None) -> Tensor | None:
    return edge_attr[:, None] if edge_attr is not None and edge_attr.dim() == 1 else edge_attr


def _plus(out: Tensor, *terms: Tensor | None) -> Tensor:
    for term in terms:
        out = out if term is None else out + term
    return out


class GATConv(_AttentionConv, PyGGATConv):
    r"""Graph attention, "Graph Attention Networks" (arXiv 1710.10903), fused.

    .. math::
        x_i' = \sum_{j \in N(i) \cup \{i\}} \alpha_{ij} \Theta_s x_j, \quad
        \alpha_{ij} = \mathrm{softmax}_j\, \mathrm{LeakyReLU}\big(
        a_s^\top \Theta_s x_j + a_t^\top \Theta_t x_i + a_e^\top \Theta_e e_{ij}\big)

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.GATConv`. The scores
    are computed from ``x`` and from the edge features themselves, through the products of weight
    and attention vector, so edge features are never widened to ``[E, H * C]``. Asked for its
    attention weights, the layer computes as PyG does.

    Example:
        >>> conv = GATConv(8, 4, heads=2)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 8])
    """

    def forward(self, x: Any, edge_index: Any, edge_attr: Tensor | None = None, size: Any = None,
                return_attention_weights: bool | None = None) -> Any:  # fmt: skip
        if not self._fuses(x, edge_index, size, return_attention_weights):
            return super().forward(x, edge_index, edge_attr, size, return_attention_weights)
        source, target = (x, x) if isinstance(x, Tensor) else x
        lin_src = self.lin_src if self.lin is None else self.lin
        lin_dst = self.lin_dst if self.lin is None else self.lin
        value = dense(lin_src, source)
        if isinstance(lin_dst.weight, nn.parameter.UninitializedParameter):
            lin_dst(target)  # a lazy layer learns its width; `_score` reads its weight
        src = self._score(source, lin_src, self.att_src)
        dst = self._score(target, lin_dst, self.att_dst)
        edge, raw = None, _column(edge_attr)
        if raw is not None and self.lin_edge is not None:
            edge = self._score(raw, self.lin_edge, self.att_edge)
        if self.add_self_loops:
            edge_index, edge = self._looped(
                edge_index, source.size(0), edge, raw, self.fill_value,
                lambda rows: self._score(rows, self.lin_edge, self.att_edge),
            )  # fmt: skip
        out = self._attend(
            edge_index, value, dst, src, edge, score="additive", negative_slope=self.negative_slope
        )
        return _plus(out, None if self.res is None else self.res(target), self.bias)

    def _score(self, x: Tensor, layer: Any, att: Tensor) -> Tensor:
        """``[N, H]``: att . (W x), as x . (W^T att) where the layer is nothing but its weight."""
        if not is_plain_linear(layer) or layer.bias is not None:
            return (layer(x).view(-1, self.heads, self.out_channels) * att).sum(-1)
        weight = layer.weight.view(self.heads, self.out_channels, -1)
        return x @ (weight * att.view(self.heads, self.out_channels, 1)).sum(1).t()


class GATv2Conv(_AttentionConv, PyGGATv2Conv):
    r"""GATv2, "How Attentive are Graph Attention Networks?" (arXiv 2105.14491), fused.

    .. math::
        x_i' = \sum_{j \in N(i) \cup \{i\}} \alpha_{ij} \Theta_l x_j, \quad
        \alpha_{ij} = \mathrm{softmax}_j\, a^\top \mathrm{LeakyReLU}\big(
        \Theta_l x_j + \Theta_r x_i + \Theta_e e_{ij}\big)

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.GATv2Conv`. Asked for
    its attention weights, the layer computes as PyG does.

    Example:
        >>> conv = GATv2Conv(8, 4, heads=2)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 8])
    """

    def forward(self, x: Any, edge_index: Any, edge_attr: Tensor | None = None,
                return_attention_weights: bool | None = None) -> Any:  # fmt: skip
        if not self._fuses(x, edge_index, None, return_attention_weights):
            return super().forward(x, edge_index, edge_attr, return_attention_weights)
        source, target = (x, x) if isinstance(x, Tensor) else x
        src = dense(self.lin_l, source)
        same = target is source and self.share_weights
        dst = src if same else dense(self.lin_r, target)
        edge, raw = None, _column(edge_attr)
        if raw is not None:
            edge = dense(self.lin_edge, raw)
        if self.add_self_loops:
            edge_index, edge = self._looped(
                edge_index, source.size(0), edge, raw, self.fill_value, self.lin_edge
            )
        out = self._attend(
            edge_index, src, dst, src, edge, score="gatv2", att=self.att,
            negative_slope=self.negative_slope,
        )  # fmt: skip
        return _plus(out, None if self.res is None else self.res(target), self.bias)


class TransformerConv(_AttentionConv, PyGTransformerConv):
    r"""The graph transformer layer of "Masked Label Prediction" (arXiv 2009.03509), fused.

    .. math::
        x_i' = W_1 x_i + \sum_{j \in N(i)} \alpha_{ij} (W_2 x_j + W_6 e_{ij}), \quad
        \alpha_{ij} = \mathrm{softmax}_j\, \frac{(W_3 x_i)^\top (W_4 x_j + W_6 e_{ij})}{\sqrt{d}}

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.TransformerConv`.
    Asked for its attention weights, the layer computes as PyG does.

    Example:
        >>> conv = TransformerConv(8, 4, heads=2)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 8])
    """

    def forward(self, x: Any, edge_index: Any, edge_attr: Tensor | None = None,
                return_attention_weights: bool | None = None) -> Any:  # fmt: skip
        fuses = self._fuses(x, edge_index, None, return_attention_weights)
        # Without a map for them, PyG adds raw edge features to the values alone.
        if not fuses or (edge_attr is None) != (self.lin_edge is None):
            return super().forward(x, edge_index, edge_attr, return_attention_weights)
        source, target = (x, x) if isinstance(x, Tensor) else x
        edge = None if edge_attr is None else dense(self.lin_edge, edge_attr)
        out = self._attend(
            edge_index, dense(self.lin_value, source), dense(self.lin_query, target),
            dense(self.lin_key, source), edge, score="dot",
        )  # fmt: skip
        if not self.root_weight:
            return out
        root = dense(self.lin_skip, target)
        if self.lin_beta is None:
            return out + root
        beta = self.lin_beta(torch.cat([out, root, out - root], dim=-1)).sigmoid()
        return beta * root + (1 - beta) * out
