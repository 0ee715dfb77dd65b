"""MPNN+VN: published parameter counts, invariances, learning, refusals (arXiv 2301.11956)."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch_geometric.data import Batch, Data

from graphkit.errors import InputError
from graphkit.models import MPNNVN, create_model
from graphkit.nn import batch_segments, broadcast, pool
from graphkit.nn.encoders import ATOM_SIZES, BOND_SIZES

CONVS = ("ogb_gin", "ogb_gcn", "gine", "gatedgcn", "gcn", "lrgb_gcn", "gcnii")
MODES = (None, "append", "ogb", "gps_custom", "dsvn", "climate", "ffn")
MOLECULES = {"in_channels": "atom", "edge_dim": "bond"}


def molecule(num_nodes: int, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)

    def columns(sizes: tuple[int, ...], rows: int) -> torch.Tensor:
        return torch.cat([torch.randint(0, s, (rows, 1), generator=generator) for s in sizes], 1)

    chain = torch.stack([torch.arange(num_nodes - 1), torch.arange(1, num_nodes)])
    return Data(
        x=columns(ATOM_SIZES, num_nodes),
        edge_index=torch.cat([chain, chain.flip(0)], 1),
        edge_attr=columns(BOND_SIZES, num_nodes - 1).repeat(2, 1),
        y=torch.rand(1, 1, generator=generator),
    )


def molecules(*sizes: int) -> Batch:
    return Batch.from_data_list([molecule(n, seed) for seed, n in enumerate(sizes)])


def model(**kwargs: Any) -> MPNNVN:
    torch.manual_seed(0)
    options = {"out_channels": 2, "hidden_channels": 8, "num_layers": 3, "residual": True}
    return MPNNVN(**{**MOLECULES, **options, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        ({"conv": "ogb_gin", "virtual_node": "ogb", "hidden_channels": 300}, 3_336_606),
        ({"conv": "ogb_gcn", "virtual_node": "ogb", "hidden_channels": 300}, 1_979_101),
        ({"conv": "ogb_gin", "hidden_channels": 300}, 1_885_506),
        (
            {"conv": "ogb_gin", "virtual_node": "ogb", "hidden_channels": 300, "out_channels": 128},
            3_374_833,
        ),  # fmt: skip
        (
            {
                "conv": "gatedgcn",
                "virtual_node": "append",
                "hidden_channels": 138,
                "out_channels": 10,
            },
            509_506,
        ),  # fmt: skip
        (
            {
                "conv": "gatedgcn",
                "virtual_node": "append",
                "hidden_channels": 138,
                "out_channels": 10,
                "encodings": [{"name": "rwse", "walk_length": 16, "dim": 20}],
            },
            506_398,
        ),
        ({"conv": "gine", "norm": None, "hidden_channels": 208, "out_channels": 10}, 475_706),
        (
            {
                "conv": "lrgb_gcn",
                "virtual_node": "append",
                "hidden_channels": 300,
                "out_channels": 10,
            },
            508_210,
        ),  # fmt: skip
    ],
)
def test_published_parameter_counts(kwargs: dict[str, Any], count: int) -> None:
    built = MPNNVN(**{**MOLECULES, "out_channels": 1, "num_layers": 5, **kwargs})
    assert sum(p.numel() for p in built.parameters()) == count


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("conv", CONVS)
class TestEveryForm:
    def test_a_graph_alone_gives_what_it_gives_in_a_batch(
        self, conv: str, mode: str | None
    ) -> None:
        net = model(conv=conv, virtual_node=mode).eval().double()
        whole = net(molecules(4, 7, 3))
        for index, n in enumerate((4, 7, 3)):
            alone = net(Batch.from_data_list([molecule(n, index)]))
            torch.testing.assert_close(alone[0], whole[index])

    def test_node_and_edge_order_do_not_matter(self, conv: str, mode: str | None) -> None:
        net = model(conv=conv, virtual_node=mode).eval().double()
        graph = molecule(6, 1)
        order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
        place = torch.empty(6, dtype=torch.long).scatter(0, order, torch.arange(6))
        edges = torch.randperm(10, generator=torch.Generator().manual_seed(3))
        shuffled = Data(
            x=graph.x[order],
            edge_index=place[graph.edge_index[:, edges]],
            edge_attr=graph.edge_attr[edges],
        )
        torch.testing.assert_close(net(graph), net(shuffled))

    def test_every_parameter_that_can_matter_gets_a_gradient(
        self, conv: str, mode: str | None
    ) -> None:
        net = model(conv=conv, virtual_node=mode)
        net(molecules(4, 7, 3)).square().sum().backward()
        # The last layer's edge state has no reader; published counts include its norm.
        unread = {n for n, p in net.named_parameters() if p.grad is None}
        assert all("layers.2" in n and "edge_norm" in n for n in unread)
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_gradients_agree_with_finite_differences() -> None:
    net = model(conv="gine", virtual_node="append", in_channels=3, edge_dim=2, act="elu").double()
    graph = molecule(5, 0)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    e = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    net.eval()

    def run(x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return net(Data(x=x, edge_index=graph.edge_index, edge_attr=e))

    assert torch.autograd.gradcheck(run, (x, e))


@pytest.mark.parametrize("mode", ["append", "ogb", "dsvn"])
def test_overfits_a_tiny_set(mode: str) -> None:
    net = model(conv="gatedgcn", virtual_node=mode, out_channels=1, hidden_channels=16)
    batch = molecules(4, 7, 3, 5, 6, 8)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(300):
        loss = (net(batch) - batch.y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3 * batch.y.var().item()


def test_same_seed_same_result_to_the_bit() -> None:
    batch = molecules(4, 7, 3)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        net = MPNNVN(**MOLECULES, out_channels=1, virtual_node="ogb", dropout=0.5)
        net(batch).sum().backward()
        results.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_config_rebuilds_the_model_and_takes_its_weights() -> None:
    rwse = {"name": "rwse", "walk_length": 4, "dim": 2}
    net = model(conv="gatedgcn", virtual_node="ogb", encodings=(rwse,))
    again = create_model(net.name, **json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    batch = molecules(4, 5)
    batch.rwse = torch.rand(9, 4)
    assert torch.equal(net.eval()(batch), again.eval()(batch))


def test_virtual_node_carries_a_label_along_a_path_that_is_longer_than_the_depth() -> None:
    """Copy the mark of node 0 to the far end of a path with three layers: only a VN can."""

    def paths(k: int) -> Batch:
        graphs = []
        for label in (0.0, 1.0):
            x = torch.zeros(2 * k, 2)
            x[0, 0], x[0, 1] = 1.0, label
            chain = torch.stack([torch.arange(2 * k - 1), torch.arange(1, 2 * k)])
            y = torch.full((2 * k, 1), label)
            graphs.append(Data(x=x, edge_index=torch.cat([chain, chain.flip(0)], 1), y=y))
        return Batch.from_data_list(graphs)

    def accuracy(mode: str | None) -> float:
        torch.manual_seed(0)
        options = {"level": "node", "conv": "gcn", "norm": None, "residual": True}
        net = MPNNVN(2, 1, virtual_node=mode, hidden_channels=16, **options)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        batch = paths(5)
        ends = torch.tensor([9, 19])
        for _ in range(250):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                net(batch)[ends], batch.y[ends]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return ((net(batch)[ends] > 0) == (batch.y[ends] > 0.5)).double().mean().item()

    assert accuracy(None) == 0.5
    assert accuracy("append") == 1.0
    assert accuracy("climate") == 1.0


class TestSimulatesLinearAttention:
    """Theorem 4.1: two virtual-node steps compute linear attention exactly."""

    @staticmethod
    def through_the_virtual_node(
        f_q: torch.Tensor, f_k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        segments = batch_segments(torch.zeros(v.size(0), dtype=torch.long), 1)
        outer = (f_k[:, :, None] * v[:, None, :]).flatten(1)
        read = pool(torch.cat([outer, f_k], 1), segments, "sum")
        back = broadcast(read, segments)
        s = back[:, : outer.size(1)].view(-1, f_k.size(1), v.size(1))
        z = back[:, outer.size(1) :]
        return torch.einsum("nmd,nm->nd", s, f_q) / (f_q * z).sum(1, keepdim=True)

    def test_worked_case(self) -> None:
        x = torch.eye(2, dtype=torch.float64)
        f = torch.nn.functional.elu(x) + 1
        out = self.through_the_virtual_node(f, f, x)
        wanted = torch.tensor([[5 / 9, 4 / 9], [4 / 9, 5 / 9]], dtype=torch.float64)
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-15)

    @pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
    def test_equals_dense_linear_attention(self, dtype: torch.dtype, atol: float) -> None:
        generator = torch.Generator().manual_seed(0)
        for n, d in ((1, 1), (7, 3), (64, 8)):
            q, k, v = (torch.randn(n, d, generator=generator, dtype=dtype) for _ in range(3))
            f_q, f_k = (torch.nn.functional.elu(t) + 1 for t in (q, k))
            weights = f_q @ f_k.T
            dense = (weights / weights.sum(1, keepdim=True)) @ v
            got = self.through_the_virtual_node(f_q, f_k, v)
            torch.testing.assert_close(got, dense, rtol=0, atol=atol)

    @pytest.mark.parametrize(("m", "limit"), [(256, 0.12), (4096, 0.05)])
    def test_performer_features_approach_softmax_attention(self, m: int, limit: float) -> None:
        generator = torch.Generator().manual_seed(0)
        n, d, errors = 32, 8, []
        for _ in range(20):
            x = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
            q, k, v = (x @ torch.randn(d, d, generator=generator) / d**0.5 for _ in range(3))
            w = torch.randn(m, d, generator=generator)
            f_q, f_k = (self.performer(t / d**0.25, w) for t in (q, k))
            exact = torch.softmax(q @ k.T / d**0.5, dim=1) @ v
            got = self.through_the_virtual_node(f_q, f_k, v)
            errors.append(((got - exact).norm(dim=1) / exact.norm(dim=1)).median())
        assert torch.stack(errors).mean().item() < limit

    @staticmethod
    def performer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.exp(x @ w.T - x.square().sum(1, keepdim=True) / 2) / w.size(0) ** 0.5


class TestRefusals:
    def test_unknown_virtual_node_names_the_nearest(self) -> None:
        with pytest.raises(InputError, match="virtual_node: 'apend'.*did you mean 'append'"):
            model(virtual_node="apend")

    def test_unknown_argument_names_the_nearest(self) -> None:
        with pytest.raises(
            InputError, match="model.hiden_channels.*did you mean 'hidden_channels'"
        ):
            create_model("mpnn_vn", in_channels=1, out_channels=1, hiden_channels=8)

    def test_missing_encoding_names_the_transform(self) -> None:
        net = model(encodings=({"name": "rwse", "walk_length": 4, "dim": 2},))
        with pytest.raises(
            InputError, match="load the data set with the transform AddRandomWalkPE"
        ):
            net(molecules(3, 3))

    def test_edge_attr_of_another_length(self) -> None:
        batch = molecules(3, 3)
        batch.edge_attr = batch.edge_attr[:-1]
        with pytest.raises(InputError, match="edge_attr: 7 rows, wanted 8"):
            model(conv="gine")(batch)

    def test_nan_features(self) -> None:
        graph = Data(x=torch.tensor([[1.0], [float("nan")]]), edge_index=torch.empty(2, 0).long())
        with pytest.raises(InputError, match="x: NaN in row 1, column 0"):
            model(conv="gcn", in_channels=1, edge_dim=None)(graph)

    def test_edge_beyond_the_nodes(self) -> None:
        graph = molecule(3, 0)
        graph.edge_index[1, 2] = 9
        with pytest.raises(InputError, match="node id 9 in row 1 at edge 2, but there are 3 nodes"):
            model()(graph)

    def test_graph_that_carries_a_virtual_node_already(self) -> None:
        graph = molecule(3, 0)
        graph.vn_mask = torch.tensor([False, False, True])
        with pytest.raises(InputError, match="carry one already"):
            model(virtual_node="append")(graph)

    def test_empty_graph_under_the_virtual_nodes_batch_norm(self) -> None:
        batch = copy.copy(molecules(3, 4))
        batch.batch = torch.tensor([0, 0, 0, 2, 2, 2, 2])
        batch._num_graphs = 3
        with pytest.raises(InputError, match="graph 1 has no nodes"):
            model(virtual_node="ogb")(batch)


def test_a_graph_without_edges_is_fine() -> None:
    graph = Data(
        x=torch.zeros(3, 9, dtype=torch.long),
        edge_index=torch.empty(2, 0, dtype=torch.long),
        edge_attr=torch.empty(0, 3, dtype=torch.long),
    )
    for conv in CONVS:
        assert model(conv=conv, virtual_node="append").eval()(graph).isfinite().all()
