"""LGConv, APPNP and ChebConv: neighbours weighed by the normalised graph, and little else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import APPNP as PyGAPPNP
from torch_geometric.nn import ChebConv as PyGChebConv
from torch_geometric.nn import LGConv as PyGLGConv

from graphkit import ops
from graphkit.nn.dense import dense, is_plain_linear
from graphkit.nn.gcn_conv import gcn_norm, with_self_loops
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class _Weighted(MessagePassing):
    """What the three have in common: a weight per edge, or none."""

    def fused(self, csr: CSR, x: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        if edge_weight is None:
            return ops.aggregate(csr, x, reduce=self.fused_reduce).flatten(1)
        # As PyG's product: float32 weights keep what autocast has made bfloat16 from rounding more.
        dtype = torch.promote_types(x.dtype, edge_weight.dtype)
        x, weight = x.to(dtype), edge_weight.view(-1).to(dtype)
        return ops.aggregate(csr, x, weight, message="scale", reduce=self.fused_reduce).flatten(1)


class LGConv(_Weighted, PyGLGConv):
    r"""The convolution of "LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation" (arXiv 2002.02126), fused.

    .. math::
        x_i' = \sum_{j \in N(i)} \frac{e_{ji}}{\sqrt{d_i d_j}} x_j

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.LGConv`. The
    normalisation of a graph without edge weights is computed once per ``edge_index`` tensor.

    Example:
        >>> conv = LGConv()
        >>> conv(torch.ones(3, 2), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))[1].round(decimals=3)
        tensor([1.4140, 1.4140])
    """

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        if not self.takes_fused_way(edge_index, x):
            return super().forward(x, edge_index, edge_weight)
        if self.normalize:
            edge_index, edge_weight = gcn_norm(
                edge_index, edge_weight, x.size(0), False, False, self.flow, x.dtype
            )
        return self.propagate(edge_index, x=x, edge_weight=edge_weight)


class APPNP(_Weighted, PyGAPPNP):
    r"""Personalised propagation, "Predict then Propagate: Graph Neural Networks meet Personalized
    PageRank" (arXiv 1810.05997), fused.

    .. math::
        X^{(k)} = (1 - \alpha) \hat D^{-1/2} \hat A \hat D^{-1/2} X^{(k-1)} + \alpha X^{(0)},
        \quad X' = X^{(K)}

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.APPNP`. The
    normalisation of a graph without edge weights is computed once per ``edge_index`` tensor, and
    :math:`1 - \alpha` is a factor of the edge weights instead of a pass over the features.

    Example:
        >>> conv = APPNP(K=10, alpha=0.1)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 8])
    """

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        drops = self.dropout > 0 and self.training
        fuses = (
            not self.cached
            and self.takes_fused_way(edge_index, x)
            and (self.normalize or edge_weight is not None or not drops)
        )
        if not fuses:
            return super().forward(x, edge_index, edge_weight)
        if self.normalize:
            edge_index, edge_weight = gcn_norm(
                edge_index, edge_weight, x.size(0), False, self.add_self_loops, self.flow, x.dtype
            )
        first, follow = x, 1 - self.alpha
        weight, folds = edge_weight, self.fused_reduce in ("sum", "mean")
        if weight is not None and folds:
            weight = weight * follow
        for _ in range(self.K):
            if drops:
                assert weight is not None
                weight = F.dropout(weight, p=self.dropout)
            x = self.propagate(edge_index, x=x, edge_weight=weight)
            if weight is None or not folds:
                x = x * follow
            # In place: the sum is ours, and [N, F] tensors are what costs time here.
            x = x.add_(first, alpha=self.alpha)
        return x


class ChebConv(_Weighted, PyGChebConv):
    r"""Chebyshev filters, "Convolutional Neural Networks on Graphs with Fast Localized Spectral
    Filtering" (arXiv 1606.09375), fused.

    .. math::
        X' = \sum_{k=1}^K Z^{(k)} \Theta^{(k)}, \quad Z^{(1)} = X, \quad Z^{(2)} = \hat L X, \quad
        Z^{(k)} = 2 \hat L Z^{(k-1)} - Z^{(k-2)}, \quad \hat L = 2 L / \lambda_{\max} - I

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.ChebConv`. The scaled
    Laplacian of a graph without edge weights is computed once per ``edge_index`` tensor. Where
    :math:`L = 0`, :math:`\hat L = -I` (PyG divides zero by zero).

    Example:
        >>> conv = ChebConv(8, 16, K=3)
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 16])
    """

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        lambda_max: Tensor | float | None = None,
    ) -> Tensor:
        if not (self.takes_fused_way(edge_index, x) and self.fused_reduce == "sum"):
            return super().forward(x, edge_index, edge_weight, batch, lambda_max)
        edge_index, norm = self._laplacian(
            edge_index, edge_weight, x.size(0), x.dtype, batch, lambda_max
        )
        before, now = x, x
        out = dense(self.lins[0], x)
        for k, lin in enumerate(self.lins[1:]):
            if k == 0:
                now = self.propagate(edge_index, x=x, norm=norm)
                norm = 2 * norm if len(self.lins) > 2 else norm
            else:
                # In place: the sum is ours, and the factor 2 is in the weights.
                following = self.propagate(edge_index, x=now, norm=norm).sub_(before)
                before, now = now, following
            out = dense(lin, now, plus=out)
        if self.bias is None:
            return out
        # In place where the product is ours, and not what another layer or its hook has seen.
        ours = len(self.lins) > 1 or is_plain_linear(self.lins[0])
        return out.add_(self.bias) if ours and out.dtype == self.bias.dtype else out + self.bias

    def _laplacian(
        self, edge_index: Tensor, edge_weight: Tensor | None, nodes: int, dtype: torch.dtype,
        batch: Tensor | None, lambda_max: Tensor | float | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Edges without their loops, then a loop per node; and the entries of the scaled Laplacian.

        PyG's rule: degrees are sums over row 0 of ``edge_index``, whatever the flow.
        """
        csr = CSR.from_edge_index(edge_index, nodes, flow=self.flow)
        key = ("cheb_norm", self.normalization, dtype)
        remembers = edge_weight is None and lambda_max is None
        if remembers and key in csr.derived:
            return csr.derived[key]  # type: ignore[return-value]
        whole, keep, _ = with_self_loops(csr, edge_index)
        edges = whole.size(1) - nodes
        row, col = whole[0, :edges], whole[1, :edges]
        if edge_weight is None:
            weight = torch.ones(edges, dtype=dtype, device=whole.device)
        else:
            weight = edge_weight.view(-1)[keep]
        degree = weight.new_zeros(nodes).index_add(0, row, weight)
        if self.normalization is None:
            entries = torch.cat([-weight, degree])
        else:
            scale = degree.pow(-0.5 if self.normalization == "sym" else -1.0)
            scale = scale.masked_fill(scale == float("inf"), 0.0)
            weight = scale[row] * weight
            weight = weight * scale[col] if self.normalization == "sym" else weight
            entries = torch.cat([-weight, weight.new_ones(nodes)])
        if lambda_max is None:
            largest = 2.0 * entries.max() if nodes else entries.new_ones(())
        else:
            largest = torch.as_tensor(lambda_max, dtype=dtype, device=whole.device)
        if batch is not None and largest.numel() > 1:
            largest = largest[batch[whole[0]]]
        zero = largest == 0
        entries = (2.0 * entries) / largest.masked_fill(zero, 1.0)
        entries = entries.masked_fill(zero, 0.0)
        result = whole, torch.cat([entries[:edges], entries[edges:] - 1])
        if remembers and not torch.compiler.is_compiling():
            csr.derived[key] = result
        return result

    def fused(self, csr: CSR, x: Tensor, norm: Tensor | None = None) -> Tensor:
        return super().fused(csr, x, norm)
