"""Layers against numbers worked by hand from the papers' equations."""

from __future__ import annotations

import pytest
import torch

from graphkit.errors import InputError
from graphkit.nn import (
    AtomEncoder,
    BondEncoder,
    GatedGCNConv,
    LapPEEncoder,
    OGBGCNConv,
    OGBGINConv,
    RWSEEncoder,
    bond_code,
)
from graphkit.nn.l2_normalize import l2_normalize
from graphkit.ops import CSR

PATH = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
X = torch.tensor([[1.0], [2.0], [3.0]])


def _bonds(conv: torch.nn.Module, high: float, low: float) -> torch.Tensor:
    """Edge features whose embeddings are ``high`` on edges 0-1 and ``low`` on edges 1-2."""
    for table in conv.bond_encoder.tables:
        torch.nn.init.zeros_(table.weight)
    with torch.no_grad():
        conv.bond_encoder.tables[0].weight[0] = high
        conv.bond_encoder.tables[0].weight[1] = low
    return bond_code(torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]))


def test_gated_gcn_on_a_path() -> None:
    conv = GatedGCNConv(1, 1)
    for linear in (conv.A, conv.B, conv.C, conv.D, conv.E):
        torch.nn.init.ones_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    out, edge = conv(X, PATH, torch.zeros(4, 1))
    assert out.flatten().tolist() == pytest.approx([3.0, 4.0209, 5.0], abs=1e-4)
    assert edge.flatten().tolist() == [3.0, 3.0, 5.0, 5.0]


def test_ogb_gin_before_its_mlp() -> None:
    conv = OGBGINConv(1)
    conv.mlp = torch.nn.Identity()
    out = conv(X, CSR.from_edge_index(PATH, 3), _bonds(conv, 0.5, -4.0))
    assert out.flatten().tolist() == [3.5, 3.5, 3.0]


def test_ogb_gcn_with_unit_weight() -> None:
    conv = OGBGCNConv(1)
    torch.nn.init.ones_(conv.linear.weight)
    torch.nn.init.zeros_(conv.linear.bias)
    torch.nn.init.constant_(conv.root_emb.weight, 0.5)
    out = conv(X, CSR.from_edge_index(PATH, 3), _bonds(conv, 0.5, -4.0))
    assert out.flatten().tolist() == pytest.approx([1.7706, 1.4457, 1.7500], abs=1e-4)


def test_ogb_gcn_on_a_random_directed_graph_equals_its_equation() -> None:
    torch.manual_seed(0)
    conv = OGBGCNConv(6).double()
    edge_index = torch.randint(0, 20, (2, 90))
    bonds = torch.stack([torch.randint(0, s, (90,)) for s in (5, 6, 2)], dim=1)
    x = torch.randn(20, 6, dtype=torch.float64)
    h = conv.linear(x)
    degree = torch.bincount(edge_index[0], minlength=20).double() + 1
    weight = (degree[edge_index[0]] * degree[edge_index[1]]).rsqrt()[:, None]
    message = weight * torch.relu(h[edge_index[0]] + conv.bond_encoder(bonds))
    wanted = torch.zeros_like(h).index_add(0, edge_index[1], message)
    wanted = wanted + torch.relu(h + conv.root_emb.weight) / degree[:, None]
    got = conv(x, CSR.from_edge_index(edge_index, 20), bond_code(bonds))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_encoders_have_ogbs_table_sizes() -> None:
    assert sum(p.numel() for p in AtomEncoder(3).parameters()) == 174 * 3
    assert sum(p.numel() for p in BondEncoder(3).parameters()) == 13 * 3


def test_atom_encoder_is_the_sum_of_its_tables_forward_and_backward() -> None:
    torch.manual_seed(0)
    encoder = AtomEncoder(5).double()
    index = torch.stack([torch.randint(0, s, (40,)) for s in encoder.sizes], dim=1)
    weight = torch.randn(40, 5, dtype=torch.float64)
    (encoder(index) * weight).sum().backward()
    for column, table in enumerate(encoder.tables):
        wanted = torch.zeros_like(table.weight).index_add(0, index[:, column], weight)
        torch.testing.assert_close(table.weight.grad, wanted)


@pytest.mark.parametrize(("column", "value"), [(0, 119), (1, -1), (8, 2)])
def test_category_outside_its_table_is_named(column: int, value: int) -> None:
    index = torch.zeros(3, 9, dtype=torch.long)
    index[1, column] = value
    with pytest.raises(
        InputError, match=rf"atom features: value {value} in column {column} of row 1"
    ):
        AtomEncoder(4)(index)


def test_lappe_ignores_padding_and_flips_signs_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = LapPEEncoder(4, 6).eval()
    vec, val = torch.randn(3, 4), torch.rand(3, 4)
    whole = encoder(vec, val)
    vec[:, 3] = float("nan")
    val[:, 3] = float("nan")
    short = LapPEEncoder(3, 6).eval()
    short.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(vec, val), short(vec[:, :3], val[:, :3]))
    assert not torch.allclose(whole, encoder(vec, val))
    outcomes = {tuple(encoder.train()(vec, val).flatten().tolist()) for _ in range(40)}
    assert 1 < len(outcomes) <= 2**3  # one sign per frequency, shared by every node


def test_rwse_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"rwse: shape \[3, 8\], wanted \[N, 16\]"):
        RWSEEncoder(16, 4)(torch.rand(3, 8))


def test_l2_normalize_equals_torchs_and_its_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, dtype=torch.float64)
    ours, theirs = l2_normalize(x), torch.nn.functional.normalize(x, dim=-1)
    torch.testing.assert_close(ours, theirs)
    for out in (ours, theirs):
        (out * weight).sum().backward()
    again = torch.autograd.grad((l2_normalize(x) * weight).sum(), x)[0]
    torch.testing.assert_close(x.grad, 2 * again)
    assert torch.autograd.gradcheck(l2_normalize, (x,))
