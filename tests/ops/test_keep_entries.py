"""Graphs with entries left out, and symmetry."""

from __future__ import annotations

import pytest
import torch
from op_cases import SMALL_GRAPHS

from graphkit.errors import InputError
from graphkit.ops import CSR, aggregate, is_symmetric, keep_entries, sorted_rows


@pytest.mark.parametrize("name", SMALL_GRAPHS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_equals_the_graph_built_from_the_edges_that_stay(name, dtype):
    graph = SMALL_GRAPHS[name]
    csr = graph.csr()
    csr = CSR(csr.rowptr.to(dtype), csr.col.to(dtype), csr.eid.to(dtype), *graph.size[::-1])
    keep = torch.rand(csr.num_entries, generator=torch.Generator().manual_seed(1)) < 0.6
    less = keep_entries(csr, keep)
    stays = torch.zeros(csr.num_entries, dtype=torch.bool)
    stays[csr.eid[keep].long()] = True
    wanted = CSR.from_edge_index(graph.edge_index[:, stays], size=graph.size)
    assert torch.equal(less.rowptr.long(), wanted.rowptr.long())
    assert torch.equal(less.col.long(), wanted.col.long())
    assert less.col.dtype == less.rowptr.dtype == dtype
    assert (less.num_rows, less.num_cols) == (wanted.num_rows, wanted.num_cols)
    x = torch.randn(graph.size[0], 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(csr.num_entries, dtype=torch.float64)
    ours = aggregate(less, x, weight[csr.eid[keep].long()], message="scale")
    theirs = aggregate(wanted, x, weight[stays], message="scale")
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_order_of_rows_is_kept_and_remembered():
    csr = sorted_rows(SMALL_GRAPHS["random"].csr())
    less = keep_entries(csr, torch.arange(csr.num_entries) % 3 > 0)
    assert sorted_rows(less) is less


def test_all_and_nothing():
    csr = SMALL_GRAPHS["random"].csr()
    every = torch.ones(csr.num_entries, dtype=torch.bool)
    assert torch.equal(keep_entries(csr, every).col, csr.col)
    assert keep_entries(csr, ~every).rowptr.tolist() == [0] * (csr.num_rows + 1)


@pytest.mark.parametrize(
    "keep",
    [torch.ones(5, dtype=torch.int64), torch.ones(4, dtype=torch.bool), torch.ones(1, 5) > 0],
)
def test_other_masks_are_refused(keep):
    csr = CSR.from_edge_index(torch.zeros(2, 5, dtype=torch.int64), num_nodes=2)
    with pytest.raises(InputError, match=r"keep: .* wanted bool \[5\]"):
        keep_entries(csr, keep)


def test_symmetry():
    both = torch.tensor([[0, 1, 1, 2, 2], [1, 0, 2, 1, 2]])
    assert is_symmetric(sorted_rows(CSR.from_edge_index(both, num_nodes=4)))
    assert not is_symmetric(sorted_rows(CSR.from_edge_index(both[:, 1:], num_nodes=4)))
    assert not is_symmetric(sorted_rows(CSR.from_edge_index(both, size=(4, 5))))
    unordered = CSR.from_edge_index(torch.tensor([[2, 1], [0, 0]]), num_nodes=3)
    with pytest.raises(InputError, match="sorted_rows"):
        is_symmetric(unordered)
