"""norm_act and chain change how modules run, not what they compute or how they are saved."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from graphkit.nn import OGBGINConv, VirtualNode, batch_segments
from graphkit.nn.dropout import Dropout
from graphkit.nn.mpnn_layer import Edges, MPNNLayer
from graphkit.nn.norm_act import chain, norm_act, run_layers
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


class Tripled(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(70, 70),
    "norm": lambda: nn.LayerNorm(70),
    "bare norm": lambda: nn.LayerNorm(70, eps=0.1, elementwise_affine=False),
    "outer norm": lambda: nn.LayerNorm((80, 70)),  # not of single rows
    "batch norm": lambda: nn.BatchNorm1d(70),
    "dropout": lambda: Dropout(0.3),
    "resting dropout": lambda: Dropout(0.3).eval(),
    "torch's dropout": lambda: nn.Dropout(0.3),
    "relu": nn.ReLU,
    "subclass": Tripled,
    "identity": nn.Identity,
}
IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "dropout in place": lambda: Dropout(0.3, inplace=True),
    "relu in place": lambda: nn.ReLU(inplace=True),
}


def assert_same_layers(*names: str) -> None:
    """The same values, gradients and dropped elements for one seed, run at once or one by one."""
    torch.manual_seed(1)
    layers = nn.Sequential(*({**LAYERS, **IN_PLACE}[name]() for name in names)).double()
    for part in layers:
        for parameter in part.parameters():
            nn.init.normal_(parameter)
    x, grad = torch.randn(2, 80, 70, dtype=torch.float64)
    x.requires_grad_()
    found = []
    for model in (layers, hooked(layers)):
        torch.manual_seed(2)
        out = run_layers(model, x * 1.0)
        wanted = [x, *model.parameters()]
        found.append([out, *torch.autograd.grad(out, wanted, grad)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda m: f"{names}: {m}"
        )


@pytest.mark.parametrize("first", LAYERS)
def test_layers_in_any_order_equal_one_by_one(first: str) -> None:
    for second, third in itertools.product(LAYERS, ("norm", "dropout", "relu", "linear")):
        assert_same_layers(first, second, third)


@pytest.mark.parametrize("first", ["norm", "batch norm", "dropout", "linear"])
def test_layers_in_place_equal_one_by_one(first: str) -> None:
    assert_same_layers(first, "relu in place")
    assert_same_layers(first, "dropout in place")
    assert_same_layers(first, "dropout in place", "linear", "norm", "dropout", "relu in place")


def test_norm_dropout_and_relu_run_as_one() -> None:
    x = torch.randn(80, 70)
    for names in (["norm", "dropout", "relu"], ["norm", "identity", "relu"], ["dropout", "relu"]):
        layers = nn.Sequential(*(LAYERS[name]() for name in names))
        with contextlib.ExitStack() as stack:
            for part in layers:
                stack.enter_context(patch.object(type(part), "forward", side_effect=AssertionError))
            assert chain(layers, x).min() == 0


@pytest.mark.parametrize("which", range(4))
def test_hooks_of_norm_dropout_and_relu_run(which: int) -> None:
    layers = nn.Sequential(nn.LayerNorm(70), nn.Identity(), Dropout(0.3), nn.ReLU())
    x, seen = torch.randn(80, 70), []
    torch.manual_seed(3)
    wanted = chain(layers, x)
    layers[which].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    torch.manual_seed(3)
    torch.testing.assert_close(chain(layers, x), wanted)
    (value,) = seen
    assert bool((value < 0).any()) == (which < 3)
    assert bool((value == 0).any()) == (which > 1)


def test_chain_calls_a_hooked_or_other_container_as_it_is() -> None:
    seen: list[Tensor] = []
    layers = nn.Sequential(nn.LayerNorm(7), nn.ReLU())
    layers.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    out = chain(layers, torch.randn(5, 7))
    assert seen[0] is out
    x = torch.randn(5, 7)
    assert chain(nn.Identity(), x) is x
    assert chain(nn.Sequential(nn.Identity()), x) is x
    assert run_layers([], x) is x


def test_layers_compile_whole() -> None:
    layers = nn.Sequential(nn.Linear(7, 7), nn.LayerNorm(7), Dropout(0.3), nn.ReLU()).eval()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: chain(layers, x), fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 7)
    torch.testing.assert_close(compiled(x), layers(x))


def test_layers_export_for_any_number_of_rows() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.LayerNorm(70), Dropout(0.3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return chain(self.layers, x)

    x = torch.randn(60, 70)
    rows = {"x": {0: torch.export.Dim("rows")}}
    exported = torch.export.export(Model().train(), (x,), dynamic_shapes=rows).module()
    assert exported(x[:3]).shape == (3, 70)
