"""HANConv: attention over the neighbours along each metapath, then over the metapaths."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.nn import HANConv as PyGHANConv

from graphkit import ops
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class HANConv(MessagePassing, PyGHANConv):
    r"""Heterogeneous graph attention (Wang et al., WWW 2019, arXiv 1903.07293), fused.

    For each edge type (metapath) :math:`\Phi` the softmax attention of GAT without self-loops,

    .. math:: z^\Phi_i = \mathrm{ReLU} \sum_{j \in N_\Phi(i)} \mathrm{softmax}_j
        \big( \mathrm{LeakyReLU}(a_\Phi^\top h_i + b_\Phi^\top h_j) \big)\, h_j

    and a weighted sum over :math:`\Phi`. Arguments, shapes and state dict are those of
    :class:`torch_geometric.nn.HANConv`; nothing of the size of the edges times the width is stored,
    which matters where metapaths join millions of pairs.

    Example:
        >>> import torch
        >>> kinds = (["author"], [("author", "papers", "author")])
        >>> conv = HANConv(8, 16, kinds, heads=4)
        >>> edges = {kinds[1][0]: torch.tensor([[0, 1, 1], [1, 0, 2]])}
        >>> conv({"author": torch.randn(3, 8)}, edges)["author"].shape
        torch.Size([3, 16])
    """

    def takes_fused_way(self, edge_index: Any, x: Any) -> bool:
        """Whether ``propagate`` will call :meth:`fused`; ``x`` holds a row per node and head."""
        flat = tuple(part.flatten(1) for part in x)
        return (
            super().takes_fused_way(edge_index, flat)
            and self.fused_reduce == "sum"
            and self.flow == "source_to_target"
        )

    def fused(self, csr: CSR, x: tuple[Tensor, Tensor], alpha: tuple[Tensor, Tensor]) -> Tensor:
        """One metapath: ``[N_dst, H * D]`` from values ``[N_src, H, D]`` and scores ``[N, H]``."""
        value = x[0].flatten(1)
        dst, src = (part.to(value.dtype) for part in (alpha[1], alpha[0]))  # autocast sums wider
        return ops.attention(
            csr, value, dst, src, score="additive", heads=self.heads,
            negative_slope=self.negative_slope, dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
