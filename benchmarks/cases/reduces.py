"""Layers that reduce over neighbours, against PyG."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

import graphkit.nn as gk
from benchmarks import peers
from benchmarks.cases.registry import Pair, graph_inputs, layer_modes, register
from benchmarks.graphs import FEATURES
from graphkit.ops import CSR, aggregate


@register("gcn", "GCNConv(normalize=False)", **{"forward": 5, "forward+backward": 5})
def _gcn(scale: float) -> dict[str, Callable[[], Pair]]:
    width = (FEATURES, FEATURES)
    ours, peer = gk.GCNConv(*width, normalize=False), pyg.GCNConv(*width, normalize=False)
    return layer_modes(ours, peer, *graph_inputs(scale))


@register("sage", "SAGEConv(aggr='mean')", **{"forward": 4, "forward+backward": 4})
def _sage(scale: float) -> dict[str, Callable[[], Pair]]:
    ours, peer = gk.SAGEConv(FEATURES, FEATURES), pyg.SAGEConv(FEATURES, FEATURES)
    return layer_modes(ours, peer, *graph_inputs(scale))


@register("gine", "GINEConv(nn=Linear), 128-wide edges", **{"forward": 6, "forward+backward": 6})
def _gine(scale: float) -> dict[str, Callable[[], Pair]]:
    ours, peer = (layer(nn.Linear(FEATURES, FEATURES)) for layer in (gk.GINEConv, pyg.GINEConv))
    return layer_modes(ours, peer, *graph_inputs(scale, edge_features=True))


@register("gine_mlp", "GINEConv(nn=Linear-ReLU-Linear), 128-wide edges")
def _gine_mlp(scale: float) -> dict[str, Callable[[], Pair]]:
    def mlp() -> nn.Module:
        return nn.Sequential(
            nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES)
        )

    ours, peer = gk.GINEConv(mlp()), pyg.GINEConv(mlp())
    return layer_modes(ours, peer, *graph_inputs(scale, edge_features=True))


@register(
    "gatedgcn", "GatedGCNConv, edge states, no norms", **{"forward": 8, "forward+backward": 8}
)
def _gatedgcn(scale: float) -> dict[str, Callable[[], Pair]]:
    ours, peer = gk.GatedGCNConv(FEATURES, FEATURES), peers.GatedGCN(FEATURES)
    return layer_modes(ours, peer, *graph_inputs(scale, edge_features=True))


class FourAggregations(nn.Module):
    """Mean, minimum, maximum and standard deviation in one pass."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        csr = CSR.from_edge_index(edge_index, num_nodes=x.size(0))
        return aggregate(csr, x, reduce=peers.FOUR).flatten(1)


@register("four", "mean, min, max, std together", **{"forward": 20, "forward+backward": 30})
def _four(scale: float) -> dict[str, Callable[[], Pair]]:
    x, edge_index = graph_inputs(scale)
    modes = layer_modes(FourAggregations(), peers.FourAggregations(), x, edge_index)
    return modes


PNA = {
    "aggregators": ["mean", "min", "max", "std"],
    "scalers": ["identity", "amplification", "attenuation"],
}


@register("pna", "PNAConv, 4 aggregators, 3 scalers", **{"forward": 6, "forward+backward": 10})
def _pna(scale: float) -> dict[str, Callable[[], Pair]]:
    x, edge_index = graph_inputs(scale)
    histogram = torch.bincount(torch.bincount(edge_index[1], minlength=x.size(0)))
    ours, peer = (
        library.PNAConv(FEATURES, FEATURES, deg=histogram, **PNA) for library in (gk, pyg)
    )
    return layer_modes(ours, peer, x, edge_index)
