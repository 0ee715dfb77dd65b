"""Attention: whole layers and the kernels alone, against PyG."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch_geometric.nn as pyg
from torch import Tensor, nn

import graphkit.nn as gk
from benchmarks import peers
from benchmarks.cases.registry import Pair, graph_inputs, layer_modes, register
from benchmarks.graphs import FEATURES
from graphkit.ops import CSR, attention

HEADS = 8
WIDTH = FEATURES // HEADS
Modes = dict[str, Callable[[], Pair]]


def both(goal: float, backward: float | None = None) -> dict[str, float]:
    return {"forward": goal, "forward+backward": goal if backward is None else backward}


def heads_modes(name: str, scale: float, **options: Any) -> Modes:
    ours, peer = (
        getattr(library, name)(FEATURES, WIDTH, heads=HEADS, **options) for library in (gk, pyg)
    )
    return layer_modes(ours, peer, *graph_inputs(scale))


@register("gat", "GATConv, 8 heads of 16", **both(6))
def _gat(scale: float) -> Modes:
    return heads_modes("GATConv", scale)


@register("gatv2", "GATv2Conv, 8 heads of 16", **both(6))
def _gatv2(scale: float) -> Modes:
    return heads_modes("GATv2Conv", scale)


@register("transformer", "TransformerConv, 8 heads of 16", **both(7))
def _transformer(scale: float) -> Modes:
    return heads_modes("TransformerConv", scale)


@register("resgated", "ResGatedGraphConv", **both(10))
def _resgated(scale: float) -> Modes:
    ours, peer = (library.ResGatedGraphConv(FEATURES, FEATURES) for library in (gk, pyg))
    return layer_modes(ours, peer, *graph_inputs(scale))


class Attention(nn.Module):
    """The kernel of one score, without the dense maps before it."""

    def __init__(self, score: str) -> None:
        super().__init__()
        self.score = score
        self.att = peers.attention_vector(score, HEADS, WIDTH)

    def forward(self, value: Tensor, dst: Tensor, src: Tensor, edge_index: Tensor) -> Tensor:
        csr = CSR.from_edge_index(edge_index, num_nodes=value.size(0))
        return attention(
            csr, value, dst, src, heads=HEADS, score=self.score, att=self.att, negative_slope=0.2
        )


def kernel_modes(score: str, scale: float) -> Modes:
    x, edge_index = graph_inputs(scale)
    width = HEADS if score == "additive" else FEATURES
    dst, src = x[:, :width].flip(0).contiguous(), x[:, -width:].contiguous()
    ours, peer = Attention(score), peers.Attention(score, HEADS, WIDTH)
    return layer_modes(ours, peer, x, dst, src, edge_index)


@register("attention_additive", "ops.attention, additive score", **both(10))
def _additive(scale: float) -> Modes:
    return kernel_modes("additive", scale)


@register("attention_gatv2", "ops.attention, GATv2 score", **both(10))
def _gatv2_kernel(scale: float) -> Modes:
    return kernel_modes("gatv2", scale)


@register("attention_dot", "ops.attention, scaled dot product", **both(10))
def _dot(scale: float) -> Modes:
    return kernel_modes("dot", scale)
