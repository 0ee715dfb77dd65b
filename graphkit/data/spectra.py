"""Return probabilities and Laplacian eigenpairs of many graphs, in blocks of equal size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from graphkit.data.packed import PackedGraphs

# A block of padded square matrices stays below this many entries (32 MB in float32).
_BLOCK_ENTRIES = 1 << 23
# Above this many nodes a graph's dense n x n matrix is not formed.
_DENSE_NODES = 2048


def _blocks(counts: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Groups of graphs of about equal size, each with the size to pad to; large graphs alone."""
    order = counts.argsort(stable=True)
    sizes = counts[order].tolist()
    start = 0
    while start < len(sizes):
        stop = start + 1
        while (
            stop < len(sizes)
            and (stop + 1 - start) * sizes[stop] ** 2 <= _BLOCK_ENTRIES
            and sizes[stop] <= 1.1 * sizes[start] + 2
        ):
            stop += 1
        yield order[start:stop], sizes[stop - 1]
        start = stop


def _walk_matrix(source: Tensor, target: Tensor, size: int) -> Callable[[Tensor], Tensor]:
    """Multiplication by ``D^-1 A``, D the out-degree."""
    from scipy.sparse import csr_matrix

    degree = torch.bincount(source, minlength=size).clamp(min=1)
    values = 1.0 / degree[source].float()
    matrix = csr_matrix((values.numpy(), (source.numpy(), target.numpy())), (size, size))
    return lambda dense: torch.from_numpy(matrix @ dense.numpy())


def return_probabilities(graphs: PackedGraphs, steps: int) -> Tensor:
    """Return ``(P^k)_ii`` for k = 1..steps, ``P = D^-1 A`` with D the out-degree.

    Only the first half of the powers is formed: ``(P^(a+b))_ii`` is the sum over j of
    ``(P^a)_ij (P^b)_ji``.

    Shapes:
        output: float32 ``[N, steps]``.
    """
    result = torch.zeros(graphs.num_nodes, steps)
    counts = graphs.nodes_per_graph
    large = counts > _DENSE_NODES
    for number in large.nonzero().flatten().tolist():
        rows = slice(int(graphs.node_ptr[number]), int(graphs.node_ptr[number + 1]))
        data = graphs[number]
        result[rows] = _large_return_probabilities(data.edge_index, rows.stop - rows.start, steps)
    small = (~large).nonzero().flatten()
    for chosen, size in _blocks(counts[small]):
        block = graphs.select(small[chosen])
        # Graph b owns padded rows b * size and on, so that a block is [graphs, size, size].
        owner = torch.repeat_interleave(torch.arange(len(block)), block.nodes_per_graph)
        padded = (
            torch.arange(block.num_nodes)
            + (torch.arange(len(block)) * size - block.node_ptr[:-1])[owner]
        )
        of_edge = torch.repeat_interleave(torch.arange(len(block)), block.edges_per_graph)
        source, target = block.edge_index + of_edge * size
        total = len(block) * size
        walk = _walk_matrix(source, target, total)
        identity = torch.eye(size).repeat(len(block), 1)
        powers = [identity]
        for _ in range((steps + 1) // 2):
            powers.append(walk(powers[-1]))
        found = torch.empty(total, steps)
        for k in range(1, steps + 1):
            first = powers[k // 2].view(len(block), size, size)
            second = powers[k - k // 2].view(len(block), size, size)
            found[:, k - 1] = (first * second.transpose(1, 2)).sum(-1).flatten()
        rows_of = torch.cat(
            [
                torch.arange(int(graphs.node_ptr[g]), int(graphs.node_ptr[g + 1]))
                for g in small[chosen].tolist()
            ]
        )
        result[rows_of] = found[padded]
    return result


def _large_return_probabilities(edge_index: Tensor, size: int, steps: int) -> Tensor:
    """The same for one large graph: some columns of the powers at a time, in n x columns memory."""
    walk = _walk_matrix(edge_index[0], edge_index[1], size)
    width = max(1, _BLOCK_ENTRIES // size)
    result = torch.empty(size, steps)
    for start in range(0, size, width):
        columns = torch.arange(start, min(start + width, size))
        power = torch.zeros(size, len(columns))
        power[columns, torch.arange(len(columns))] = 1.0
        for k in range(steps):
            power = walk(power)
            result[columns, k] = power[columns, torch.arange(len(columns))]
    return result


def laplacian_pairs(
    graphs: PackedGraphs, k: int, normalization: str | None
) -> tuple[Tensor, Tensor]:
    """Return the ``k`` smallest eigenpairs of each graph's Laplacian, as rows of its nodes.

    Shapes:
        vectors, values: float32 ``[N, k]``, NaN beyond the number of nodes of a graph.
    """
    vectors = torch.full((graphs.num_nodes, k), float("nan"))
    values = torch.full((graphs.num_nodes, k), float("nan"))
    counts = graphs.nodes_per_graph
    for size in sorted(set(counts.tolist())):
        members = (counts == size).nonzero().flatten()
        step = max(1, _BLOCK_ENTRIES // (size * size)) if size <= _DENSE_NODES else 1
        for chosen in members.split(step):
            kept = min(k, size)
            if size > _DENSE_NODES:
                found, bases = _large_laplacian(
                    graphs[int(chosen[0])].edge_index, size, kept, normalization
                )
            else:
                found, bases = _dense_laplacians(graphs.select(chosen), size, normalization)
            found, bases = found[:, :kept], bases[:, :, :kept]
            # The first entry that is largest up to rounding: symmetric graphs have several.
            size_of = bases.abs()
            largest = (
                (size_of >= 0.999 * size_of.amax(1, keepdim=True)).int().argmax(1, keepdim=True)
            )
            bases = bases * torch.where(bases.gather(1, largest) < 0, -1.0, 1.0)
            rows = (graphs.node_ptr[chosen][:, None] + torch.arange(size)).flatten()
            vectors[rows, :kept] = bases.reshape(-1, kept).float()
            values[rows, :kept] = found.repeat_interleave(size, 0).float()
    return vectors, values


def _dense_laplacians(
    block: PackedGraphs, size: int, normalization: str | None
) -> tuple[Tensor, Tensor]:
    of_edge = torch.repeat_interleave(torch.arange(len(block)), block.edges_per_graph)
    source, target = block.edge_index
    adjacency = torch.zeros(len(block), size, size, dtype=torch.float64)
    adjacency[of_edge, source, target] = 1.0
    adjacency[of_edge, target, source] = 1.0
    adjacency.diagonal(dim1=1, dim2=2).zero_()
    degree = adjacency.sum(-1)
    if normalization == "sym":
        scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)
        laplacian = (
            torch.eye(size, dtype=torch.float64) - scale[:, :, None] * adjacency * scale[:, None, :]
        )
    else:
        laplacian = torch.diag_embed(degree) - adjacency
    values, vectors = torch.linalg.eigh(laplacian)
    return values, vectors


def _large_laplacian(
    edge_index: Tensor, size: int, k: int, normalization: str | None
) -> tuple[Tensor, Tensor]:
    import numpy as np
    import scipy.sparse as sparse
    from scipy.sparse.linalg import eigsh

    source, target = edge_index.numpy()
    kept = source != target
    adjacency = sparse.coo_matrix(
        (np.ones(kept.sum()), (source[kept], target[kept])), (size, size)
    ).tocsr()
    adjacency = ((adjacency + adjacency.T) > 0).astype(np.float64)
    degree = np.asarray(adjacency.sum(1)).ravel()
    if normalization == "sym":
        scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0)
        laplacian = sparse.identity(size) - sparse.diags(scale) @ adjacency @ sparse.diags(scale)
        ceiling = 2.0
    else:
        laplacian = sparse.diags(degree) - adjacency
        ceiling = 2.0 * float(degree.max())
    # The smallest eigenvalues of L are the largest of c I - L, which Lanczos finds without
    # inverses; a fixed start makes the result repeatable.
    start = np.random.default_rng(0).standard_normal(size)
    values, vectors = eigsh(ceiling * sparse.identity(size) - laplacian, k=k, which="LA", v0=start)
    order = np.argsort(-values)
    values = ceiling - values[order]
    return torch.from_numpy(values)[None], torch.from_numpy(
        np.ascontiguousarray(vectors[:, order])
    )[None]
