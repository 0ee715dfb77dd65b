"""NCN's encoder against dense matrices and PyG's layers (arXiv 2302.00890)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ncn_cases import dense, random_graph, undirected
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from graphkit.errors import InputError
from graphkit.models.ncn import CONVS, AdjConv, NCNEncoder, adjacency, drop_adj
from graphkit.models.ncn import encoder as encoder_module
from graphkit.models.ncn.sparse_features import _entries, drop_and_map
from graphkit.ops import CSR


def encoder(in_channels: int | None = 5, hidden: int = 8, *args: Any, **kwargs: Any) -> NCNEncoder:
    torch.manual_seed(0)
    return NCNEncoder(in_channels, hidden, *args, **kwargs).double()


def reference_conv(conv: AdjConv, x: Tensor, a: Tensor) -> Tensor:
    y = x if conv.lin is None else x @ conv.lin.weight.t()
    if conv.reduce == "gcn":
        s = (1 + a.sum(1)).rsqrt()[:, None]
        out = s * (a @ (s * y) + s * y)
    elif conv.reduce == "max":
        messages = a[:, :, None] * y[None]
        messages = messages.masked_fill(a[:, :, None] == 0, -torch.inf)
        out = messages.amax(1).where((a > 0).any(1)[:, None], y.new_zeros(()))
    else:
        out = a @ y
        if conv.reduce == "mean":
            out = out / (a > 0).sum(1).clamp(min=1)[:, None]
    return out if conv.bias is None else out + conv.bias


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_convolutions_equal_dense_matrices(kind: str, p: float) -> None:
    torch.manual_seed(3)
    csr, value = drop_adj(random_graph(), p)
    conv = AdjConv(6, 6, kind).double()
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    x = torch.randn(24, 6, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(24, 6, dtype=torch.float64)
    ours = conv(x, csr, value)
    theirs = reference_conv(conv, x, dense(csr, value))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    leaves = [x, *conv.parameters()]
    grads = [torch.autograd.grad((out * seed).sum(), leaves) for out in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gcn", {}),
        ("sage", {"aggr": "mean", "normalize": False, "add_self_loops": False}),
        ("gin", {"aggr": "sum", "normalize": False, "add_self_loops": False}),
        ("max", {"aggr": "max", "normalize": False, "add_self_loops": False}),
    ],
)
def test_weighted_convolutions_are_pygs_gcnconv(kind: str, options: dict[str, Any]) -> None:
    csr = random_graph()
    ours, theirs = AdjConv(5, 7, kind).double(), GCNConv(5, 7, **options).double()
    theirs.load_state_dict({"lin.weight": ours.lin.weight, "bias": torch.randn(7)})
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(24, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x, csr), theirs(x, csr.edge_index().long()))


def test_puregcn_on_the_path() -> None:
    path = adjacency(undirected((0, 1), (1, 2)), 3)
    x = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    out = AdjConv(1, 1, "puregcn")(x, path).view(-1)
    wanted = torch.tensor([1.316497, 2.707908, 2.816497], dtype=torch.float64)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-6)


def test_a_cached_norm_never_serves_another_graph() -> None:
    conv = AdjConv(4, 4, "gcn_cached").double()
    x = torch.randn(24, 4, dtype=torch.float64)
    for seed in (0, 1):
        csr = random_graph(seed=seed)
        torch.testing.assert_close(conv(x, csr), reference_conv(conv, x, dense(csr)))


class TestBlocks:
    def kinds(self, **kwargs: Any) -> list[list[str]]:
        net = encoder(**kwargs, gnndp=0.1, tdp=0.2)
        return [
            [type(m).__name__ for m in (post if isinstance(post, nn.Sequential) else [post])]
            for post in net.posts
        ]

    def test_weighted_convolutions_end_in_nothing_unless_alone(self) -> None:
        block = ["LayerNorm", "Dropout", "ReLU"]
        assert self.kinds(conv="gcn", num_layers=3) == [block, block, ["Identity"]]
        assert self.kinds(conv="gcn", num_layers=1) == [block]
        assert self.kinds(conv="gin", num_layers=2, ln=False) == [
            ["Identity", "Dropout", "ReLU"],
            ["Identity"],
        ]

    def test_pure_convolutions_have_a_dropout_at_the_end(self) -> None:
        assert self.kinds(conv="puresum", num_layers=3) == [["Identity"], ["Identity"], ["Dropout"]]

    def test_the_input_map(self) -> None:
        assert encoder(5, 8, "puregcn").lin is not None
        assert encoder(5, 8, "gcn", 0).lin is not None
        assert encoder(5, 8, "none", 0).lin is not None
        assert encoder(5, 8, "gcn", 1).lin is None
        assert encoder(None, 8, "gcn", 1, max_x=3).lin is None


@pytest.mark.parametrize("conv", ["puregcn", "puremax", "gcn", "sage"])
@pytest.mark.parametrize("jk", [False, True])
@pytest.mark.parametrize("res", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_whole_encoders_equal_the_specification(
    conv: str, jk: bool, res: bool, layers: int
) -> None:
    net = encoder(5, 8, conv, layers, jk=jk, res=res)
    csr = random_graph()
    x = torch.randn(24, 5, dtype=torch.float64)
    h = x if net.lin is None else net.lin(x)
    states = []
    for one, post in zip(net.convs, net.posts, strict=True):
        y = post(reference_conv(one, h, dense(csr)))
        h = h + y if res and h.shape == y.shape else y
        states.append(h)
    if jk and layers:
        h = (torch.stack(states) * net.jk_weight.view(-1, 1, 1)).sum(0)
    torch.testing.assert_close(net(x, csr), h)


def test_one_layer_jk_is_a_random_gain() -> None:
    plain, gained = encoder(), encoder(jk=True)
    gained.load_state_dict(plain.state_dict(), strict=False)
    x, csr = torch.randn(24, 5, dtype=torch.float64), random_graph()
    torch.testing.assert_close(gained(x, csr), plain(x, csr) * gained.jk_weight)
    draws = torch.stack([NCNEncoder(2, 2, jk=True).jk_weight.detach() for _ in range(400)])
    assert abs(float(draws.mean())) < 0.2
    assert abs(float(draws.std()) - 1) < 0.15


def test_ids_are_looked_up_in_an_orthogonal_table() -> None:
    net = encoder(None, 8, "puresum", max_x=5)
    weight = net.embedding.weight
    assert weight.shape == (6, 8)
    torch.testing.assert_close(
        weight @ weight.t(), torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0
    )
    csr = adjacency(undirected((0, 1), (1, 2)), 3)
    ids = torch.tensor([5, 0, 5])
    torch.testing.assert_close(net(ids, csr)[0], weight[0])
    assert torch.equal(net(ids[:, None], csr), net(ids, csr))


def test_edges_are_drawn_anew_at_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CSR] = []

    def record(csr: CSR, p: float, training: bool) -> tuple[CSR, float]:
        seen.append(drop_adj(csr, p, training)[0])
        return seen[-1], 1.0

    monkeypatch.setattr(encoder_module, "drop_adj", record)
    net = encoder(num_layers=3, gnnedp=0.5)
    csr, x = random_graph(), torch.randn(24, 5, dtype=torch.float64)
    net(x, csr)
    assert len({tuple(c.col.tolist()) for c in seen}) == 3
    seen.clear()
    net.eval()(x, csr)
    assert all(c is csr for c in seen)
    assert len(seen) == 3


def test_dropouts_act_in_training_only() -> None:
    csr, x = random_graph(), torch.randn(24, 5, dtype=torch.float64)
    plain = encoder()
    for name in ("xdp", "tdp", "gnndp", "gnnedp"):
        net = encoder(**{name: 0.5})
        assert not torch.allclose(net(x, csr), plain(x, csr))
        assert torch.equal(net.eval()(x, csr), plain(x, csr))


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"conv": "puregnc"}, "conv: 'puregnc'.*puregcn"),
        ({"conv": "none"}, "num_layers: 1, wanted 0"),
        ({"num_layers": -1}, "num_layers: -1"),
        ({"hidden_channels": 0}, "hidden_channels: 0"),
        ({"in_channels": None}, "in_channels: None"),
        ({"xdp": 1.0}, "xdp: 1.0, wanted 0 <= xdp < 1"),
        ({"gnnedp": 1.5}, "gnnedp: 1.5"),
        ({"tdp": -0.1}, "tdp: -0.1"),
        ({"gnndp": float("nan")}, "gnndp: nan"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        NCNEncoder(**{"in_channels": 5, "hidden_channels": 8, **kwargs})


@pytest.mark.parametrize(
    ("max_x", "x", "word"),
    [
        (-1, torch.zeros(24, 4), r"x: .*wanted floats \[N, 5\]"),
        (-1, torch.zeros(24, 5, dtype=torch.int64), "x: torch.int64"),
        (3, torch.full((24,), 4), r"x: id 4, wanted 0\.\.3"),
        (3, torch.full((24,), -1), "x: id -1"),
        (3, torch.zeros(24), "wanted .*int64 ids"),
        (3, torch.zeros(24, 2, dtype=torch.int64), "wanted .*int64 ids"),
    ],
)
def test_bad_inputs_are_named(max_x: int, x: Tensor, word: str) -> None:
    with pytest.raises(InputError, match=word):
        NCNEncoder(5, 8, max_x=max_x)(x, random_graph())


def test_a_pure_convolution_cannot_change_the_width() -> None:
    with pytest.raises(
        InputError, match="conv: 'puregcn' has no weights and keeps 5 channels, wanted 8"
    ):
        AdjConv(5, 8, "puregcn")


class TestSparseFeatures:
    def case(self) -> tuple[Tensor, nn.Linear]:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(300, 400, generator=generator, dtype=torch.float64)
        x[torch.rand(300, 400, generator=generator) > 0.05] = 0.0
        x[7] = 0.0
        torch.manual_seed(0)
        return x, nn.Linear(400, 6).double()

    def test_zeros_are_left_out_without_a_difference(self) -> None:
        x, layer = self.case()
        assert _entries(x) is not None
        ours, theirs = drop_and_map(nn.Identity(), layer, x), layer(x)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        seed = torch.randn_like(ours)
        grads = [
            torch.autograd.grad((out * seed).sum(), list(layer.parameters()))
            for out in (ours, theirs)
        ]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)

    def test_dropout_is_right_on_average(self) -> None:
        x, layer = self.case()
        drop, exact = nn.Dropout(0.7), layer(x).detach()
        with torch.no_grad():
            draws = torch.stack([drop_and_map(drop, layer, x) for _ in range(300)])
        error = draws.std(0) / 300**0.5
        assert bool(((draws.mean(0) - exact).abs() <= 6 * error + 1e-12).all())
        assert bool((error[8] > 0).all())
        torch.testing.assert_close(draws[:, 7], layer.bias.expand(300, 6))  # a row of zeros

    def test_changed_features_are_looked_at_again(self) -> None:
        x, layer = self.case()
        drop_and_map(nn.Identity(), layer, x)
        x[3, :5] = 9.0
        torch.testing.assert_close(drop_and_map(nn.Identity(), layer, x), layer(x))
        x += 1.0
        assert _entries(x) is None
        torch.testing.assert_close(drop_and_map(nn.Identity(), layer, x), layer(x))
