"""HGTConv: attention among nodes of all types, with keys and values of each relation's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.nn import HGTConv as PyGHGTConv

from graphkit import ops
from graphkit.nn.message_passing import MessagePassing
from graphkit.ops import CSR


class HGTConv(MessagePassing, PyGHGTConv):
    r"""The heterogeneous graph transformer (Hu et al., WWW 2020, arXiv 2003.01332), fused.

    .. math:: \tilde h_i = \sum_{j \xrightarrow{r} i} \mathrm{softmax}_j
        \left( \mu_r \frac{q_i^\top W^K_r k_j}{\sqrt d} \right) W^V_r v_j

    over the neighbours by all relations together. Arguments, shapes and state dict are those of
    :class:`torch_geometric.nn.HGTConv`; nothing of the size of the edges times the width is stored.

    Example:
        >>> import torch
        >>> kinds = (["author", "paper"], [("author", "writes", "paper")])
        >>> conv = HGTConv(8, 16, kinds, heads=4)
        >>> x = {"author": torch.randn(3, 8), "paper": torch.randn(2, 8)}
        >>> conv(x, {kinds[1][0]: torch.tensor([[0, 1, 2], [1, 1, 0]])})["paper"].shape
        torch.Size([2, 16])
    """

    def propagate(self, edge_index: Any, size: Any = None, **kwargs: Any) -> Tensor:
        """PyG's ``propagate``, by the attention kernel where it applies."""
        keys = kwargs["k"].flatten(1)
        fuses = self.fused_reduce == "sum" and self.flow == "source_to_target" and size is None
        if not fuses or not self.takes_fused_way(edge_index, keys):
            return super().propagate(edge_index, size=size, **kwargs)
        sizes = (kwargs["k"].size(0), kwargs["q"].size(0))
        return self.fused(CSR.from_edge_index(edge_index, size=sizes, flow=self.flow), **kwargs)

    def fused(self, csr: CSR, k: Tensor, q: Tensor, v: Tensor, edge_attr: Tensor) -> Tensor:
        """``[N, H * D]`` from keys and values ``[K, H, D]``, a row per source and relation.

        ``edge_attr`` ``[E, H]`` holds :math:`\\mu_r`. All edges of a row of keys are of one
        relation, so the row can be multiplied in place of its edges: by what its first edge says.
        """
        leaving = csr.transpose()
        rows = (leaving.rowptr[1:] > leaving.rowptr[:-1]).nonzero().view(-1)
        first = leaving.rowptr[rows]
        edge = first if leaving.eid is None else leaving.eid[first.long()]
        relation = edge_attr[edge.long()].to(v.dtype)  # autocast may make several types
        factor = v.new_ones(k.size(0), self.heads).index_copy(0, rows, relation)
        keys = (k.to(v.dtype) * factor[:, :, None]).flatten(1)
        query = q.flatten(1).to(v.dtype)
        return ops.attention(csr, v.flatten(1), query, keys, score="dot", heads=self.heads)
