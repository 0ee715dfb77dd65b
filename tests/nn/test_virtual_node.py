"""Worked cases of the virtual node's forms (arXiv 2301.11956; OGB baselines)."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import VirtualNode as PyGVirtualNode

from graphkit.errors import InputError
from graphkit.nn import DeepSetsVN, VirtualNode, append_virtual_nodes, batch_segments

SEGMENTS = batch_segments(torch.tensor([0, 0, 0, 1]), 2)


def test_ogb_reads_the_nodes_after_the_state_was_added() -> None:
    vn = VirtualNode(1, num_layers=2)
    state = torch.tensor([[0.5], [-1.0]])
    h = vn.add(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), state, SEGMENTS)
    assert h.flatten().tolist() == [1.5, 2.5, 3.5, 3.0]
    seen = []
    vn.mlps[0] = torch.nn.Identity()
    vn.mlps[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vn.update(0, h, state, SEGMENTS)
    assert seen[0].flatten().tolist() == [8.0, 2.0]


def test_state_starts_at_zero_so_the_first_layer_sees_the_plain_nodes() -> None:
    vn = VirtualNode(4, num_layers=3)
    h = torch.randn(4, 4)
    assert torch.equal(vn.add(h, vn.initial(2), SEGMENTS), h)


@pytest.mark.parametrize(
    ("padded", "wanted"),
    [
        (True, [-0.1187, 0.2374, 0.5934, 1.6615]),
        (False, [-1.0690, -0.5345, 0.0, 1.6036]),
    ],
)
def test_dsvn_statistics_count_the_padding_of_the_reference(
    padded: bool, wanted: list[float]
) -> None:
    layer = DeepSetsVN(1, padded)
    torch.nn.init.ones_(layer.alpha)
    torch.nn.init.ones_(layer.beta)
    torch.nn.init.zeros_(layer.bias)
    out = layer(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), SEGMENTS)
    assert out.flatten().tolist() == pytest.approx(wanted, abs=1e-4)


def test_padded_statistics_equal_a_dense_padded_batch_norm_and_its_running_values() -> None:
    torch.manual_seed(0)
    ours, packed = DeepSetsVN(3, padded=True), DeepSetsVN(3, padded=False)
    packed.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3)
    mean = torch.stack([x[:3].mean(0), x[3]])[torch.tensor([0, 0, 0, 1])]
    y = torch.relu(x @ ours.alpha + mean @ ours.beta + ours.bias)
    dense = torch.cat([y, torch.zeros(2, 3)])
    assert torch.allclose(ours(x, SEGMENTS), packed.norm(dense)[:4], atol=1e-6)
    assert torch.allclose(ours.norm.running_mean, packed.norm.running_mean, atol=1e-7)
    assert torch.allclose(ours.norm.running_var, packed.norm.running_var, atol=1e-6)


def test_one_graph_in_training_is_refused_where_batch_norm_needs_two() -> None:
    vn = VirtualNode(2, num_layers=2)
    one = batch_segments(torch.tensor([0, 0]), 1)
    with pytest.raises(InputError, match="one graph"):
        vn.update(0, torch.randn(2, 2), vn.initial(1), one)
    assert vn.eval().update(0, torch.randn(2, 2), vn.initial(1), one).shape == (1, 2)


def test_appended_edges_equal_pygs_transform_for_one_graph() -> None:
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    ours, owner = append_virtual_nodes(
        edge_index, batch_segments(torch.zeros(3, dtype=torch.long), 1)
    )
    theirs = PyGVirtualNode()(Data(edge_index=edge_index, num_nodes=3)).edge_index
    assert torch.equal(ours, theirs)
    assert owner.tolist() == [0, 0, 0, 0]


def test_append_pure_keeps_the_new_edges_only() -> None:
    edge_index = torch.tensor([[0], [1]])
    pure, _ = append_virtual_nodes(edge_index, batch_segments(torch.tensor([0, 1]), 2), pure=True)
    assert pure.tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]


def test_unsorted_batch_is_refused_with_the_place() -> None:
    with pytest.raises(InputError, match="node 2 is in graph 0 after graph 1"):
        batch_segments(torch.tensor([0, 1, 0]), 2)
