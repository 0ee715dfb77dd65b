"""Ego networks: what lies within some hops of each of many nodes, packed into one graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import cpu, reference_sampling
from graphkit.ops.csr import CSR
from graphkit.ops.random_walk import check_graph, is_native, node_ids


class EgoSubgraphs(NamedTuple):
    """Ego networks one after the other.

    Attributes:
        node: ``[n]`` global node ids; each network begins with its centre, then by distance.
        ptr: ``[egos + 1]`` network ``i`` owns nodes ``ptr[i]:ptr[i+1]``.
        edge_index: ``[2, e]`` edges between positions in ``node``; networks share no edges.
        edge: ``[e]`` global edge ids.
        edge_ptr: ``[egos + 1]`` network ``i`` owns edges ``edge_ptr[i]:edge_ptr[i+1]``.
    """

    node: Tensor
    ptr: Tensor
    edge_index: Tensor
    edge: Tensor
    edge_ptr: Tensor


def ego_subgraphs(csr: CSR, nodes: Tensor, hops: int) -> EgoSubgraphs:
    """Cut out, for every node, the subgraph on all nodes from which it is reached in some hops.

    Args:
        csr: the graph, rows by destination.
        nodes: the centres; one may come twice.
        hops: number of edges to follow backwards.

    Shapes:
        nodes: ``[egos]``; see :class:`EgoSubgraphs` for the result.

    Raises:
        InputError: a node that is not there, negative ``hops``, or a bipartite graph.

    Example:
        >>> path = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=4)
        >>> ego = ego_subgraphs(path, torch.tensor([2, 0]), hops=1)
        >>> ego.node.tolist(), ego.ptr.tolist(), ego.edge_index.tolist(), ego.edge.tolist()
        ([2, 1, 0], [0, 2, 3], [[1], [0]], [1])
    """
    check_graph(csr)
    nodes = node_ids("nodes", nodes, csr.num_rows)
    if isinstance(hops, bool) or not isinstance(hops, int) or hops < 0:
        raise InputError(f"hops: {hops!r}, wanted an int of at least 0")
    if is_native(csr):
        assert cpu.kernels is not None
        found = cpu.kernels.ego_subgraphs(
            cpu.graph(csr.rowptr, csr.col, csr.eid, csr.num_cols, csr.num_entries),
            nodes.numel(), nodes.data_ptr(), hops, cpu.threads(),
        )  # fmt: skip
    else:
        found = reference_sampling.ego_subgraphs(csr, nodes, hops)
    node, ptr, row, col, edge, edge_ptr = found
    return EgoSubgraphs(node, ptr, torch.stack([row, col]), edge, edge_ptr)
