"""Every convolution under torch.compile in one graph, and in bfloat16 autocast."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import graphkit.nn as gk
from graphkit.ops import CSR

WIDTH, NODES, EDGES = 8, 14, 50
DEGREES = torch.tensor([2, 0, 1, 3, 4, 2, 1])
PNA = (WIDTH, WIDTH, ["mean", "max", "std"], ["identity", "amplification"], DEGREES)


class SecondInput(nn.Module):
    """GCNII takes the first layer's features as well."""

    def __init__(self):
        super().__init__()
        self.conv = gk.GCN2Conv(WIDTH, alpha=0.2, theta=0.5, layer=2)

    def forward(self, x, edge_index):
        return self.conv(x, x, edge_index)


class OnCSR(nn.Module):
    """The OGB layers take the sorted graph and the numbers of the bonds."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, edge_index, bonds):
        return self.conv(x, CSR.from_edge_index(edge_index, x.size(0)), gk.bond_code(bonds))


class OneType(nn.Module):
    """The heterogeneous layers on one type of nodes with two relations."""

    def __init__(self, conv):
        super().__init__()
        self.relations = [("node", "to", "node"), ("node", "from", "node")]
        self.conv = conv(WIDTH, WIDTH, (["node"], self.relations), heads=2)

    def forward(self, x, edge_index):
        there, back = self.relations
        return self.conv({"node": x}, {there: edge_index, back: edge_index.flip(0)})["node"]


# How to build a layer, and the kind of edge tensor it takes.
CONVS = {
    "GCNConv": (lambda: gk.GCNConv(WIDTH, WIDTH), None),
    "GCNConv-weights": (lambda: gk.GCNConv(WIDTH, WIDTH), "weight"),
    "GCN2Conv": (SecondInput, None),
    "SAGEConv": (lambda: gk.SAGEConv(WIDTH, WIDTH, aggr=["mean", "max", "std"]), None),
    "GINConv": (lambda: gk.GINConv(nn.Linear(WIDTH, WIDTH), train_eps=True), None),
    "GINEConv": (lambda: gk.GINEConv(nn.Linear(WIDTH, WIDTH)), "wide"),
    "GatedGCNConv": (lambda: gk.GatedGCNConv(WIDTH, WIDTH), "wide"),
    "ResGatedGraphConv": (lambda: gk.ResGatedGraphConv(WIDTH, WIDTH), None),
    "GATConv": (lambda: gk.GATConv(WIDTH, 4, heads=2, edge_dim=WIDTH), "wide"),
    "GATv2Conv": (lambda: gk.GATv2Conv(WIDTH, 4, heads=2), None),
    "HANConv": (lambda: OneType(gk.HANConv), None),
    "HGTConv": (lambda: OneType(gk.HGTConv), None),
    "TransformerConv": (lambda: gk.TransformerConv(WIDTH, 4, heads=2, edge_dim=WIDTH), "wide"),
    "PNAConv": (lambda: gk.PNAConv(*PNA, towers=2), None),
    "PNAConv-edges": (lambda: gk.PNAConv(*PNA, edge_dim=WIDTH, divide_input=True), "wide"),
    "LGConv": (gk.LGConv, None),
    "APPNP": (lambda: gk.APPNP(K=2, alpha=0.1), "weight"),
    "ChebConv": (lambda: gk.ChebConv(WIDTH, WIDTH, K=3), None),
    "OGBGCNConv": (lambda: OnCSR(gk.OGBGCNConv(WIDTH)), "bond"),
    "OGBGINConv": (lambda: OnCSR(gk.OGBGINConv(WIDTH)), "bond"),
}
EVERY = pytest.mark.parametrize(("build", "kind"), CONVS.values(), ids=CONVS.keys())


def inputs(kind, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NODES, WIDTH, generator=generator, dtype=dtype)
    edge_index = torch.randint(0, NODES - 2, (2, EDGES), generator=generator)
    edge = {
        None: None,
        "weight": torch.rand(EDGES, generator=generator, dtype=dtype) + 0.1,
        "wide": torch.randn(EDGES, WIDTH, generator=generator, dtype=dtype),
        "bond": torch.randint(0, 2, (EDGES, 3), generator=generator),
    }[kind]
    return [x, edge_index] if edge is None else [x, edge_index, edge]


def run(layer, arguments, dtype=None):
    """First output and all gradients."""
    arguments = [
        a.clone().requires_grad_() if a.is_floating_point() else a.clone() for a in arguments
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        out = layer(*arguments)
    out = out[0] if isinstance(out, tuple) else out
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    leaves = [*(a for a in arguments if a.requires_grad), *layer.parameters()]
    gradients = torch.autograd.grad(out, leaves, cotangent, allow_unused=True)
    return [out.detach(), *gradients]


def made(build):
    torch.manual_seed(7)
    return build()


@EVERY
def test_compiled_in_one_graph_equals_eager(build, kind):
    torch._dynamo.reset()
    counters.clear()
    layer = made(build).double()
    arguments = inputs(kind, torch.float64)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    for ours, eager in zip(run(compiled, arguments), run(layer, arguments), strict=True):
        assert (ours is None) == (eager is None)
        if ours is not None:
            torch.testing.assert_close(ours, eager, rtol=1e-10, atol=1e-10)
    assert counters["stats"]["unique_graphs"] == 1


@EVERY
def test_bfloat16_autocast_is_near_float32(build, kind):
    layer, arguments = made(build), inputs(kind, torch.float32)
    exact = run(layer, arguments)
    for ours, wanted in zip(run(layer, arguments, torch.bfloat16), exact, strict=True):
        assert (ours is None) == (wanted is None)
        if ours is not None:
            assert ours.isfinite().all()
            # A handful of roundings of 2 ** -8 each, relative to the largest of the terms.
            error = (ours.float() - wanted).abs().max()
            assert error <= 0.05 * max(float(wanted.abs().max()), 1.0), float(error)


@pytest.mark.parametrize("edge_dim", [None, WIDTH])
def test_autocast_may_give_nodes_and_edges_two_types(edge_dim):
    """A layer before makes bfloat16 of the nodes, or the map of the edges does of the edges."""
    conv = gk.GINEConv(nn.Linear(WIDTH, WIDTH), edge_dim=edge_dim)
    x, edge_index, edge = inputs("wide", torch.float32)
    x = x.bfloat16() if edge_dim is None else x
    assert run(conv, [x, edge_index, edge], torch.bfloat16)[0].isfinite().all()


def test_every_exported_convolution_is_here():
    exported = {name for name in gk.__all__ if name.endswith("Conv") or name == "APPNP"}
    assert exported == {name.split("-")[0] for name in CONVS}
