"""Random walks along the edges of a graph: uniform, node2vec, with restart, self-repellent."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import cpu, reference_sampling
from graphkit.ops.backends import current
from graphkit.ops.csr import CSR
from graphkit.ops.rows import sorted_rows

SEEDS = 2**64


def node_ids(name: str, nodes: Tensor, limit: int) -> Tensor:
    """Check node ids that an argument gives; return them contiguous, as int64."""
    if not isinstance(nodes, Tensor) or nodes.dim() != 1 or nodes.dtype.is_floating_point:
        seen = list(nodes.shape) if isinstance(nodes, Tensor) else type(nodes).__name__
        raise InputError(f"{name}: {seen}, wanted a 1-D tensor of node ids")
    if nodes.dtype == torch.bool:
        raise InputError(f"{name}: a mask, wanted node ids; call .nonzero().view(-1) on it")
    if nodes.device.type != "cpu":
        raise InputError(f"{name}: on {nodes.device}, wanted the CPU")
    nodes = nodes.to(torch.int64).contiguous()
    if nodes.numel():
        low, high = (int(v) for v in torch.aminmax(nodes))
        if low < 0 or high >= limit:
            bad = low if low < 0 else high
            raise InputError(f"{name}: holds node id {bad}, wanted 0..{limit - 1}")
    return nodes


def check_graph(csr: CSR) -> None:
    """Sampling runs on the CPU, in a graph whose two ends are of one kind."""
    if not isinstance(csr, CSR):
        raise InputError(f"csr: {type(csr).__name__}, wanted a graphkit.ops.CSR")
    if csr.num_rows != csr.num_cols:
        raise InputError(f"csr: {csr.num_rows} x {csr.num_cols}, wanted as many rows as columns")
    if csr.col.device.type != "cpu":
        raise InputError(f"csr: on {csr.col.device}, wanted the CPU; use csr.to('cpu')")


def seed_bits(seed: int) -> int:
    """Any Python int as 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed: {seed!r}, wanted an int")
    return seed % SEEDS


def is_native(csr: CSR) -> bool:
    """Whether the compiled module samples from this graph."""
    return current(csr.col.device) == "native" and cpu.kernels is not None


@overload
def random_walk(
    csr: CSR,
    start: Tensor,
    length: int,
    *,
    p: float = ...,
    q: float = ...,
    restart: float = ...,
    alpha: float = ...,
    seed: int = ...,
    return_edges: Literal[False] = ...,
) -> Tensor: ...


@overload
def random_walk(
    csr: CSR,
    start: Tensor,
    length: int,
    *,
    p: float = ...,
    q: float = ...,
    restart: float = ...,
    alpha: float = ...,
    seed: int = ...,
    return_edges: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def random_walk(
    csr: CSR,
    start: Tensor,
    length: int,
    *,
    p: float = 1.0,
    q: float = 1.0,
    restart: float = 0.0,
    alpha: float = 0.0,
    seed: int = 0,
    return_edges: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Walk along the edges from every start node.

    With ``p`` or ``q``, the second-order walk of node2vec (Grover, Leskovec, KDD 2016): from ``v``,
    reached from ``t``, the next node ``x`` has weight ``1/p`` if ``x = t``, 1 if there is an edge
    from ``t`` to ``x``, and ``1/q`` otherwise. With ``alpha``, the self-repellent walk (SRRW;
    Doshi, Hu, Eun, ICML 2023):

    .. math:: P(i \to j) \propto A_{ij} \left(\frac{x_j}{\mu_j}\right)^{-\alpha},
              \qquad \frac{x_j}{\mu_j} = \frac{d_j + n_j}{d_j}

    where :math:`n_j` counts the visits of this walk to ``j`` so far, its start included, and the
    visits begin at the stationary measure of the uniform walk on an undirected graph, the degree
    :math:`d_j` (here the out-degree, at least 1). Every random number is a function of ``seed``,
    the walk's place in ``start``, and the step: results do not depend on the number of threads.

    Args:
        csr: the graph as layers use it, rows by destination; walks go from source to destination.
        start: node that each walk starts from; repeat a node for several walks.
        length: number of steps. A node without outgoing edges is stayed at.
        p: return parameter of node2vec; above 1 walks seldom go straight back.
        q: in-out parameter of node2vec; below 1 walks move outward.
        restart: probability, at each step, to jump to the start node instead.
        alpha: strength of self-repulsion; 0 is the uniform walk.
        seed: any integer.
        return_edges: also return the edges taken.

    Shapes:
        start: ``[W]``; result int64 ``[W, length + 1]``, and with ``return_edges`` the edge ids
        ``[W, length]``, -1 where a walk stayed or jumped.

    Raises:
        InputError: an argument out of range, a start node that is not there, a bipartite graph, or
            node2vec and self-repulsion asked for at once.

    Example:
        >>> ring = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]), num_nodes=3)
        >>> random_walk(ring, torch.tensor([0, 2]), 4).tolist()
        [[0, 1, 2, 0, 1], [2, 0, 1, 2, 0]]
    """
    check_graph(csr)
    start = node_ids("start", start, csr.num_rows)
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise InputError(f"length: {length!r}, wanted an int of at least 0")
    for name, value in (("p", p), ("q", q)):
        if not 0 < value < float("inf"):
            raise InputError(f"{name}: {value}, wanted a positive number")
    if not 0 <= restart <= 1:
        raise InputError(f"restart: {restart}, wanted a probability, 0..1")
    if not 0 <= alpha < float("inf"):
        raise InputError(f"alpha: {alpha}, wanted a number of at least 0")
    if alpha != 0 and (p != 1 or q != 1):
        raise InputError(
            f"alpha: {alpha} together with p={p}, q={q}; the self-repellent walk is defined over "
            "the uniform walk, wanted p = q = 1 or alpha = 0"
        )
    seed = seed_bits(seed)
    along = csr.transpose()
    if p != 1 or q != 1:
        along = sorted_rows(along)
    if not is_native(csr):
        nodes, edges = reference_sampling.random_walk(
            along, start, length, p, q, restart, alpha, seed
        )
        return (nodes, edges) if return_edges else nodes
    assert cpu.kernels is not None
    walks = start.numel()
    nodes = cpu.empty(start, (walks, length + 1))
    taken = cpu.empty(start, (walks, length)) if return_edges else None
    cpu.kernels.random_walk(
        cpu.graph(along.rowptr, along.col, along.eid, along.num_cols, along.num_entries),
        walks, start.data_ptr(), length, float(p), float(q), float(restart), float(alpha), seed,
        nodes.data_ptr(), cpu.address(taken), cpu.threads(),
    )  # fmt: skip
    return nodes if taken is None else (nodes, taken)
