"""DGL 1.1.3, the last release that imports beside today's torch, as a second peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import graphkit.nn as gk
from benchmarks.cases.registry import Pair, Skipped, graph_inputs, layer_modes, register
from benchmarks.graphs import FEATURES

HEADS = 8
Modes = dict[str, Callable[[], Pair]]


class DGLLayer(nn.Module):
    """A layer of DGL that takes ``x, edge_index``; its graph is built once, as ours is."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.graphs: dict[int, Any] = {}

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        import dgl

        graph = self.graphs.get(id(edge_index))
        if graph is None:
            graph = dgl.graph((edge_index[0], edge_index[1]), num_nodes=x.size(0))
            graph.create_formats_()
            self.graphs[id(edge_index)] = graph
        out: Tensor = self.layer(graph, x)
        return out.flatten(1)


def layers() -> Any:
    try:
        from dgl.nn import pytorch
    except Exception as error:  # its binary may be made for another torch, and says so in many ways
        raise Skipped(f"DGL does not import: {type(error).__name__}: {error}") from None
    return pytorch


class Renamed(nn.Module):
    """Our layer under the parameter names of DGL's."""

    def __init__(self, ours: nn.Module, names: dict[str, tuple[str, bool]]) -> None:
        super().__init__()
        self.ours = ours
        self.names = names

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.ours(x, edge_index)
        return out

    def copy_from(self, peer: DGLLayer) -> None:
        own = dict(self.ours.named_parameters())
        with torch.no_grad():
            for name, theirs in peer.layer.named_parameters():
                key, transposed = self.names[name]
                own[key].copy_((theirs.t() if transposed else theirs).reshape(own[key].shape))


def dgl_modes(ours: Renamed, peer: DGLLayer, scale: float) -> Modes:
    ours.copy_from(peer)
    return layer_modes(ours, peer, *graph_inputs(scale), same_names=False)


@register("dgl_graphconv", "GCNConv(normalize=False) against DGL's GraphConv",
          **{"forward": 1.3, "forward+backward": 1.3})  # fmt: skip
def _graphconv(scale: float) -> Modes:
    peer = DGLLayer(layers().GraphConv(FEATURES, FEATURES, norm="none", allow_zero_in_degree=True))
    names = {"weight": ("lin.weight", True), "bias": ("bias", False)}
    return dgl_modes(Renamed(gk.GCNConv(FEATURES, FEATURES, normalize=False), names), peer, scale)


@register("dgl_gat", "GATConv against DGL's", **{"forward": 4, "forward+backward": 4})
def _gat(scale: float) -> Modes:
    width = FEATURES // HEADS
    peer = DGLLayer(layers().GATConv(FEATURES, width, HEADS, allow_zero_in_degree=True))
    names = {
        "fc.weight": ("lin.weight", False), "attn_l": ("att_src", False),
        "attn_r": ("att_dst", False), "bias": ("bias", False),
    }  # fmt: skip
    ours = gk.GATConv(FEATURES, width, heads=HEADS, add_self_loops=False)
    return dgl_modes(Renamed(ours, names), peer, scale)
