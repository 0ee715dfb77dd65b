"""One message-passing layer: norm, activation, dropout and residual as each stack orders them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit import ops
from graphkit.errors import InputError, nearest
from graphkit.nn.gated_gcn_conv import GatedGCNConv
from graphkit.nn.gcn2_conv import GCN2Conv
from graphkit.nn.gcn_conv import GCNConv
from graphkit.nn.l2_normalize import l2_normalize
from graphkit.nn.norm_act import norm_act
from graphkit.nn.ogb_conv import OGBGCNConv, OGBGINConv
from graphkit.ops import CSR

CONVS = ("ogb_gin", "ogb_gcn", "gine", "gatedgcn", "gcn", "lrgb_gcn", "gcnii")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "elu": F.elu,
    "silu": F.silu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
}


@dataclass
class Edges:
    """The edges of a batch as the layers read them.

    ``code`` numbers each edge's bond (``ogb_*``); ``table`` and ``code`` together, or ``state``
    with one row per edge, hold encoded features; all ``None`` where edges have no features.
    """

    edge_index: Tensor
    csr: CSR
    code: Tensor | None = None
    table: Tensor | None = None
    state: Tensor | None = None


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function behind an activation's name."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise InputError(f"act: {name!r} is not one of {known}{nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def make_norm(name: str | None, channels: int) -> nn.Module:
    """``batch``, ``layer`` or ``None``."""
    if name is None:
        return nn.Identity()
    if name not in ("batch", "layer"):
        raise InputError(f"norm: {name!r} is not 'batch', 'layer' or null")
    return nn.BatchNorm1d(channels) if name == "batch" else nn.LayerNorm(channels)


class MPNNLayer(nn.Module):
    """A convolution of width ``d`` and what follows it, in the order its published stack uses.

    ============  ==========================================================================
    ``conv``      order
    ============  ==========================================================================
    ``ogb_*``     conv, norm, [activation unless last], dropout, [+ x]
    ``gatedgcn``  conv, norm, activation, dropout, [+ x], for nodes and for edges
    ``lrgb_gcn``  GCN without bias, norm, dropout, activation, row L2-normalisation
    others        conv, norm, activation, dropout, [+ x]
    ============  ==========================================================================

    Args:
        conv: one of :data:`CONVS`.
        channels: width of node and edge states.
        norm: ``batch``, ``layer`` or ``None``.
        act: name of the activation.
        dropout: probability.
        residual: add the layer's input.
        last: the last layer of its stack (``ogb_*`` ends without activation).
        edge_out: write the edge state for a next layer (``gatedgcn``).
    """

    def __init__(
        self,
        conv: str,
        channels: int,
        norm: str | None = "batch",
        act: str = "relu",
        dropout: float = 0.0,
        residual: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__()
        if conv not in CONVS:
            raise InputError(
                f"conv: {conv!r} is not one of {', '.join(CONVS)}{nearest(conv, CONVS)}"
            )
        self.kind = conv
        self.act_name = act
        self.dropout = dropout
        self.residual = residual
        self.last = last
        self.norm = make_norm(norm, channels)
        if conv == "ogb_gin":
            self.conv: nn.Module = OGBGINConv(channels)
        elif conv == "ogb_gcn":
            self.conv = OGBGCNConv(channels)
        elif conv == "gatedgcn":
            self.conv = GatedGCNConv(channels, channels)
            self.edge_norm = make_norm(norm, channels)
        elif conv == "gine":
            self.conv = nn.Sequential(
                nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
            )
        elif conv == "gcnii":
            self.conv = GCN2Conv(channels, alpha=0.2)
        else:
            self.conv = GCNConv(channels, channels, bias=conv == "gcn")

    def forward(self, x: Tensor, edges: Edges, x_0: Tensor, segments: CSR | None = None) -> Tensor:
        """Return the new node states; ``gatedgcn`` also replaces ``edges.state``.

        ``segments`` is for layers with a global term; a plain one does not read it.
        """
        act = activation(self.act_name)
        out = self._convolve(x, edges, x_0, act)
        if self.kind == "lrgb_gcn":
            # GraphGym normalises every layer's rows by default, and the figures need it.
            return l2_normalize(self._norm_act(self.norm, out, act, drop_first=True))
        if self.last and self.kind.startswith("ogb"):
            out = self._drop(norm_act(self.norm, out, relu=False))
        else:
            out = self._norm_act(self.norm, out, act)
        return out + x if self.residual else out

    def _norm_act(
        self,
        norm: nn.Module,
        x: Tensor,
        act: Callable[[Tensor], Tensor],
        drop_first: bool = False,
    ) -> Tensor:
        """Norm, activation and dropout, or norm, dropout and activation."""
        if act is torch.relu:
            # Dropout sets to zero or scales up, so that it may as well come after a ReLU.
            return self._drop(norm_act(norm, x, relu=True))
        x = norm_act(norm, x, relu=False)
        return act(self._drop(x)) if drop_first else self._drop(act(x))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def _convolve(
        self, x: Tensor, edges: Edges, x_0: Tensor, act: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if self.kind.startswith("ogb"):
            return self.conv(x, edges.csr, edges.code)
        if self.kind == "gatedgcn":
            out, gate = self.conv(x, edges.edge_index, edges.state)
            if not self.last:
                state = self._norm_act(self.edge_norm, gate, act)
                old = edges.state
                edges.state = state + old if self.residual and old is not None else state
            return out
        if self.kind == "gine":
            features, lookup = (
                (edges.state, None) if edges.table is None else (edges.table, edges.code)
            )
            received = ops.aggregate(edges.csr, x, features, lookup=lookup, message="add_relu")
            return self.conv(x + received)
        if self.kind == "gcnii":
            return self.conv(x, x_0, edges.edge_index)
        return self.conv(x, edges.edge_index)
