"""norm_act and chain change how modules run, not what they compute or how they are saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from graphkit.nn import OGBGINConv, VirtualNode, batch_segments
from graphkit.nn.mpnn_layer import Edges, MPNNLayer
from graphkit.nn.norm_act import chain, norm_act
from graphkit.ops import CSR


def hooked(module: nn.Module) -> nn.Module:
    """A copy of the module whose parts have hooks, so that they are called as they are."""
    module = copy.deepcopy(module)
    for part in module.modules():
        part.register_forward_hook(lambda *_: None)
    return module


def assert_same_step(ours: nn.Module, theirs: nn.Module, out: Tensor, wanted: Tensor) -> None:
    assert torch.allclose(out, wanted, atol=1e-12)
    out.square().sum().backward()
    wanted.square().sum().backward()
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, a), (_, b) in pairs:
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            assert torch.allclose(a.grad, b.grad, atol=1e-9), name
    for (name, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.allclose(a, b, atol=1e-12), name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": None},
        {"momentum": 1.0},
        {"affine": False},
        {"track_running_stats": False},
        {"track_running_stats": False, "momentum": None},
    ],
)
def test_plain_batch_norm_equals_the_module(options: dict, relu: bool, training: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, dtype=torch.float64, **options)
    if norm.weight is not None:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    ours, theirs = norm.train(training), copy.deepcopy(norm)
    for _ in range(3):  # the cumulative average depends on the count
        x = torch.randn(11, 6, dtype=torch.float64)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, wanted = norm_act(ours, a, relu), theirs(b)
        wanted = torch.relu(wanted) if relu else wanted
        assert_same_step(ours, theirs, out, wanted)
        assert torch.allclose(a.grad, b.grad, atol=1e-12)
        ours.zero_grad()
        theirs.zero_grad()
    if norm.num_batches_tracked is not None:
        assert int(norm.num_batches_tracked) == (3 if training else 0)


def test_statistics_that_stopped_being_tracked_stay() -> None:
    norm = nn.BatchNorm1d(2)
    norm.track_running_stats = False
    norm_act(norm, torch.randn(5, 2), True)
    assert norm.running_mean.tolist() == [0.0, 0.0]
    assert int(norm.num_batches_tracked) == 0


def test_hooks_run_and_see_the_value_before_relu() -> None:
    norm, seen = nn.BatchNorm1d(3), []
    x = torch.randn(8, 3)
    wanted = norm_act(norm, x, True)
    norm.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    out = norm_act(norm, x, True)
    assert torch.allclose(out, wanted, atol=1e-6)
    assert len(seen) == 1
    assert seen[0].min() < 0
    mlp = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
    mlp[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    chain(mlp, x)
    assert seen[1].min() < 0


def test_other_norms_and_shapes_are_called_as_they_are() -> None:
    class Doubled(nn.BatchNorm1d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    x = torch.randn(8, 3)
    doubled = Doubled(3)
    assert torch.equal(norm_act(doubled, x, False), doubled(x))
    layer = nn.LayerNorm(3)
    assert torch.equal(norm_act(layer, x, True), torch.relu(layer(x)))
    assert torch.equal(norm_act(nn.Identity(), x, True), torch.relu(x))
    deep = torch.randn(4, 3, 5)
    assert torch.allclose(norm_act(nn.BatchNorm1d(3), deep, False), nn.BatchNorm1d(3)(deep))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        norm_act(nn.BatchNorm1d(3), x[:1], True)
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        norm_act(nn.BatchNorm1d(3), x[0], True)


def graph(nodes: int = 12) -> tuple[Tensor, CSR]:
    edge_index = torch.randint(0, nodes, (2, 30), generator=torch.Generator().manual_seed(1))
    return edge_index, CSR.from_edge_index(edge_index, num_nodes=nodes)


def test_ogb_gin_equals_its_parts_and_keeps_its_keys() -> None:
    torch.manual_seed(0)
    conv = OGBGINConv(4).double()
    nn.init.constant_(conv.eps, 0.3)
    assert [key for key in conv.state_dict() if not key.startswith("bond_encoder")] == [
        "eps", "mlp.0.weight", "mlp.0.bias", "mlp.1.weight", "mlp.1.bias", "mlp.1.running_mean",
        "mlp.1.running_var", "mlp.1.num_batches_tracked", "mlp.3.weight", "mlp.3.bias",
    ]  # fmt: skip
    edge_index, csr = graph()
    x, code = torch.randn(12, 4, dtype=torch.float64), torch.randint(0, 60, (30,))
    kept = x.clone()
    theirs = hooked(conv)
    assert_same_step(conv, theirs, conv(x, csr, code), theirs(x, csr, code))
    assert torch.equal(x, kept)
    # The sum over the neighbours, written out.
    bonds = conv.bond_encoder.combinations()[code]
    received = torch.zeros_like(x).index_add(0, edge_index[1], torch.relu(x[edge_index[0]] + bonds))
    assert torch.allclose(conv(x, csr, code), conv.mlp(1.3 * x + received), atol=1e-12)


@pytest.mark.parametrize("act", ["relu", "gelu"])
@pytest.mark.parametrize("conv", ["ogb_gin", "ogb_gcn", "gine", "gatedgcn", "gcn", "lrgb_gcn"])
@pytest.mark.parametrize("last", [False, True])
def test_layers_equal_their_modules(conv: str, act: str, last: bool) -> None:
    torch.manual_seed(0)
    edge_index, csr = graph()
    x = torch.randn(12, 4, dtype=torch.float64)
    code = torch.randint(0, 60, (30,))
    state = torch.randn(30, 4, dtype=torch.float64)
    ours = MPNNLayer(conv, 4, act=act, dropout=0.5, residual=True, last=last).double()
    theirs = hooked(ours)
    outs = []
    for layer in (ours, theirs):
        torch.manual_seed(3)
        edges = Edges(edge_index, csr, code=code, state=state)
        out = layer(x, edges, x)
        outs.append(out if edges.state is state else torch.cat([out, edges.state]))
    assert_same_step(ours, theirs, *outs)


def test_lrgb_order_with_dropout_equals_norm_dropout_activation() -> None:
    torch.manual_seed(0)
    edge_index, csr = graph()
    x = torch.randn(12, 4)
    layer = MPNNLayer("lrgb_gcn", 4, dropout=0.5)
    torch.manual_seed(3)
    out = layer(x, Edges(edge_index, csr), x)
    torch.manual_seed(3)
    wanted = nn.functional.dropout(layer.norm(layer.conv(x, edge_index)), 0.5).relu()
    assert torch.allclose(out, nn.functional.normalize(wanted), atol=1e-5)


@pytest.mark.parametrize("mode", VirtualNode.MODES)
def test_virtual_node_equals_its_modules(mode: str) -> None:
    torch.manual_seed(0)
    ours = VirtualNode(4, num_layers=2, mode=mode).double()
    theirs = hooked(ours)
    segments = batch_segments(torch.tensor([0, 0, 1, 2, 2]), 3)
    h = torch.randn(5, 4, dtype=torch.float64)
    outs = [vn.update(0, h, vn.initial(3), segments) for vn in (ours, theirs)]
    assert_same_step(ours, theirs, *outs)
