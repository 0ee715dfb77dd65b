"""PNAConv: several aggregations times several degree scalers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import PNAConv as PyGPNAConv
from torch_geometric.nn import aggr as pyg_aggr

from graphkit import ops
from graphkit.nn.dense import dense, hooked, is_plain_linear
from graphkit.nn.message_passing import MessagePassing, takes_semi_gradient
from graphkit.ops import CSR
from graphkit.ops.degree_scalers import degree_scales

_REDUCES = {
    pyg_aggr.SumAggregation: "sum",
    pyg_aggr.MeanAggregation: "mean",
    pyg_aggr.MinAggregation: "min",
    pyg_aggr.MaxAggregation: "max",
    pyg_aggr.VarAggregation: "var",
    pyg_aggr.StdAggregation: "std",
}


class PNAConv(MessagePassing, PyGPNAConv):
    r"""The convolution of "Principal Neighbourhood Aggregation for Graph Nets" (arXiv 2004.05718),
    fused: without edge features no tensor has a row per edge.

    .. math::
        x_i' = \gamma\Big(x_i,\; \big[1, S(d_i, 1), S(d_i, -1)\big] \otimes
        \big[\mathrm{mean}, \mathrm{std}, \max, \min\big]_{j \in N(i)}\,
        h(x_i, x_j, e_{ji})\Big)

    Arguments, shapes and state dict are those of :class:`torch_geometric.nn.PNAConv`. With one
    layer before the aggregation, :math:`h = A x_i + B x_j + C e_{ji}`: all reduces share one pass
    over :math:`B x_j + C e_{ji}`, and what :math:`A x_i` adds to them is linear in the node. The
    scalers act on the products with the map after them, so ``[N, aggregators * scalers * F]`` is
    never built. With more layers before the aggregation it computes as PyG does.

    Example:
        >>> conv = PNAConv(8, 16, ["mean", "max", "std"], ["identity", "amplification"],
        ...                deg=torch.tensor([0, 2, 1]))
        >>> conv(torch.randn(3, 8), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).shape
        torch.Size([3, 16])
    """

    fused_in_forward = True

    @property
    def fused_reduce(self) -> str | tuple[str, ...]:
        """The kernels' reduces for the aggregators below the scalers; ``""`` without an equal."""
        scaled = self.aggr_module
        if type(scaled) is not pyg_aggr.DegreeScalerAggregation or hooked(scaled):
            return ""
        several = scaled.aggr
        if type(several) is not pyg_aggr.MultiAggregation or several.mode != "cat":
            return ""
        names = tuple(_REDUCES.get(type(kind), "") for kind in several.aggrs)
        semi = any(takes_semi_gradient(kind) for kind in several.aggrs)
        known = all(scaler in ops.SCALERS for scaler in scaled.scaler)
        return names if all(names) and len(set(names)) == len(names) and known and not semi else ""

    def _fuses(self, x: Any, edge_index: Any, edge_attr: Tensor | None) -> bool:
        maps = [net[0] for net in (*self.pre_nns, *self.post_nns)]
        if self.edge_dim is not None:
            maps.append(self.edge_encoder)
        return (
            isinstance(x, Tensor)
            and self.takes_fused_way(edge_index, x)
            and all(len(net) == 1 for net in self.pre_nns)
            and not any(hooked(net) for net in (*self.pre_nns, *self.post_nns))
            and all(is_plain_linear(layer) for layer in maps)
            and (edge_attr is None) == (not self.edge_dim)
            and x.size(1) == self.in_channels
        )

    def forward(self, x: Tensor, edge_index: Any, edge_attr: Tensor | None = None) -> Tensor:
        if not self._fuses(x, edge_index, edge_attr):
            return super().forward(x, edge_index, edge_attr)
        csr = CSR.from_edge_index(edge_index, x.size(0), flow=self.flow)
        towers, width = self.towers, self.F_in
        weight = torch.stack([net[0].weight for net in self.pre_nns])  # [T, F, 2F or 3F]
        bias = torch.stack([net[0].bias for net in self.pre_nns])
        near = weight[:, :, width : 2 * width]
        if self.divide_input:
            split = x.reshape(-1, towers, width)
            source = torch.einsum("ntf,tgf->ntg", split, near).reshape(-1, towers * width)
        else:
            source = ops.linear(x, near.reshape(towers * width, width))
        edge = None
        if edge_attr is not None:
            # Two linear maps in a row are one: the encoding of an edge is never stored.
            after = weight[:, :, 2 * width :].reshape(towers * width, width)
            edge = ops.linear(edge_attr, after @ self.edge_encoder.weight)
            bias = bias + (after @ self.edge_encoder.bias).view(towers, width)
        found = ops.aggregate(
            csr, source, edge, message="copy" if edge is None else "add", reduce=self.fused_reduce
        )
        found = found.view(*found.shape[:2], towers, width)
        degree = csr.degree.to(torch.promote_types(x.dtype, torch.float32))
        kept: Any = self.aggr_module
        averages = {"lin": kept.avg_deg_lin, "log": kept.avg_deg_log}
        scales = degree_scales(degree, kept.scaler, averages).to(found.dtype)
        outs = []
        for t, net in enumerate(self.post_nns):
            own = x[:, t * width : (t + 1) * width] if self.divide_input else x
            out = self._post(
                net[0],
                own,
                found[:, :, t].flatten(1),
                weight[t, :, :width],
                bias[t],
                degree[:, None],
                scales,
            )
            for layer in net[1:]:
                out = layer(out)
            outs.append(out)
        return dense(self.lin, torch.cat(outs, dim=1))

    def _post(
        self, layer: Any, own: Tensor, found: Tensor, root: Tensor, bias: Tensor,
        degree: Tensor, scales: Tensor,
    ) -> Tensor:  # fmt: skip
        """``layer`` of ``own`` and of all scaled reduces of ``root @ own + bias + message``."""
        names, width = self.fused_reduce, own.size(1)
        number, wide = scales.size(1), layer.weight.size(0)
        blocks = layer.weight[:, width:].view(wide, number, len(names), width).transpose(0, 1)
        scaled = ops.linear(found, blocks.reshape(number * wide, len(names) * width))
        # x_i is the same in all messages of node i: mean, min and max move by its term, a sum by
        # that times the degree, spreads not at all, and a node without messages keeps its zeros.
        weights, biases, factors = [layer.weight[:, :width]], [layer.bias], []
        moved = (("mean", "min", "max"), (degree > 0).to(scales.dtype)), (("sum",), degree)
        for kinds, factor in moved:
            places = [i for i, name in enumerate(names) if name in kinds]
            if places:
                shift = blocks[:, :, places].sum(2).reshape(number * wide, width)
                weights.append(shift @ root)
                biases.append(shift @ bias)
                factors.append(factor.to(scales.dtype))
        if not factors:  # spreads alone: the gradient of the bias is zero, not absent
            biases[0] = layer.bias + 0.0 * bias.sum()
        linear = ops.linear(own, torch.cat(weights), torch.cat(biases))
        out, *shifts = torch.split(linear, [wide, *[number * wide] * len(factors)], dim=1)
        for factor, shift in zip(factors, shifts, strict=True):
            scaled = torch.addcmul(scaled, shift, factor)
        return out + (scaled.view(-1, number, wide) * scales[:, :, None]).sum(1)
