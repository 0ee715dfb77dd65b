"""The registry: what is measured, on which inputs, against which peer, and the figure to reach."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

import graphkit.nn as gk
from benchmarks import peers
from benchmarks.graphs import EDGES, FEATURES, NODES, molecule_batch, power_law_edges
from graphkit.models import create_model
from graphkit.ops import CSR, aggregate, selective_scan

Step = Callable[[], Any]


@dataclass
class Pair:
    """Two ways to the same numbers. A step returns everything that it computes for the caller."""

    ours: Step
    peer: Step
    prepare: Callable[[], None] = lambda: None  # before every step, outside the clock
    tolerance: float | None = 1e-3  # None: compared elsewhere (training steps change weights)


@dataclass
class Case:
    """One row of the report: ``build(scale)`` gives a pair of steps for each mode."""

    name: str
    title: str
    build: Callable[[float], dict[str, Callable[[], Pair]]]
    goals: dict[str, float] = field(default_factory=dict)  # mode -> wanted ratio of times
    memory: bool = True


CASES: dict[str, Case] = {}


def register(name: str, title: str, memory: bool = True, **goals: float) -> Callable[[Any], Any]:
    def add(build: Callable[[float], dict[str, Callable[[], Pair]]]) -> Any:
        CASES[name] = Case(name, title, build, goals, memory)
        return build

    return add


def graph_inputs(scale: float, edge_features: bool = False) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    nodes, edges = max(50, int(NODES * scale)), max(200, int(EDGES * scale)) // 2 * 2
    edge_index = power_law_edges(nodes, edges)
    x = torch.randn(nodes, FEATURES)
    if not edge_features:
        return x, edge_index
    return x, edge_index, torch.randn(edges, FEATURES)


def as_tuple(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def layer_modes(
    ours: nn.Module, peer: nn.Module, x: Tensor, *rest: Tensor
) -> dict[str, Callable[[], Pair]]:
    """Forward, and forward+backward to every floating input and every parameter."""
    peer.load_state_dict(ours.state_dict())

    def forward(layer: nn.Module) -> Step:
        def step() -> Any:
            with torch.no_grad():
                return as_tuple(layer(x, *rest))

        return step

    def both(layer: nn.Module, cotangents: list[Tensor]) -> Step:
        leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in (x, *rest)]
        wanted = [t for t in leaves if t.requires_grad] + list(layer.parameters())

        def step() -> Any:
            out = as_tuple(layer(*leaves))
            return *(o.detach() for o in out), *torch.autograd.grad(out, wanted, cotangents)

        return step

    def backward_pair() -> Pair:
        with torch.no_grad():
            shapes = [o.shape for o in as_tuple(ours(x, *rest))]
        cotangents = [torch.randn(shape) for shape in shapes]
        # Sums over up to 5 million terms (gradients of weights) in another order.
        return Pair(both(ours, cotangents), both(peer, cotangents), tolerance=2e-2)

    return {
        "forward": lambda: Pair(forward(ours), forward(peer)),
        "forward+backward": backward_pair,
    }


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


class Scan(peers.ScanLoop):
    """The same on packed sequences in one kernel."""

    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        ptr = torch.arange(self.sequences + 1) * (u.size(0) // self.sequences)
        return selective_scan(u, delta, self.A, B, C, self.D, seq_ptr=ptr)


@register(
    "selective_scan", "selective scan against a torch loop, 64 sequences of 256, 128 x 16 states",
    **{"forward": 20, "forward+backward": 20},
)  # fmt: skip
def _selective_scan(scale: float) -> dict[str, Callable[[], Pair]]:
    torch.manual_seed(0)
    sequences, steps, states = max(2, int(64 * scale)), 256, 16
    ours, peer = (layer(FEATURES, states, sequences) for layer in (Scan, peers.ScanLoop))
    inputs = [torch.randn(sequences * steps, n) for n in (FEATURES, FEATURES, states, states)]
    return layer_modes(ours, peer, *inputs)


@register("mpnn_vn_step", "MPNN+VN training step, 100 molecules of 25 nodes, F=64, 5 layers",
          memory=False, step=1.5)  # fmt: skip
def _step(scale: float) -> dict[str, Callable[[], Pair]]:
    width, layers = 64, 5
    batches = [molecule_batch(seed=seed) for seed in range(8)]  # small at any scale
    ours = create_model(
        "mpnn_vn", in_channels="atom", out_channels=1, edge_dim="bond", hidden_channels=width,
        num_layers=layers, conv="ogb_gin", virtual_node="ogb", dropout=0.0,
    )  # fmt: skip
    peer = peers.MPNNVN(width, layers)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, peer)]
    if sizes[0] != sizes[1]:
        raise RuntimeError(f"mpnn_vn_step: {sizes[0]} parameters against the peer's {sizes[1]}")
    current: dict[str, Any] = {"turn": 0}

    def prepare() -> None:
        # New tensors, so that nothing remembered for a batch seen before helps either side.
        current["turn"] += 1
        current["batch"] = copy.deepcopy(batches[current["turn"] // 2 % len(batches)])

    def trained(model: nn.Module) -> Step:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loss_of = nn.BCEWithLogitsLoss()

        def step() -> float:
            batch = current["batch"]
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(batch), batch.y)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step

    return {"step": lambda: Pair(trained(ours), trained(peer), prepare, tolerance=None)}


def select(pattern: str) -> Iterator[Case]:
    """The cases whose names contain one of the comma-separated words."""
    words = [word.strip() for word in pattern.split(",") if word.strip()]
    for name, case in CASES.items():
        if not words or any(
            word == name or (word.endswith("*") and name.startswith(word[:-1])) for word in words
        ):
            yield case
