"""The graphs that NCN sees: checked, without a batch's target links, with edges dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import CSR, is_symmetric, keep_entries, sorted_rows
from graphkit.ops.rows import SORTED

_CHECKED = "simple_symmetric"  # what is derived from a graph stays with it
_VIEW = "own_transpose"


def adjacency(adj: CSR | Tensor, num_nodes: int, *, symmetrise: bool = False) -> CSR:
    """Check a graph for NCN and return it with sorted rows; done once per graph.

    Args:
        adj: a CSR, an ``edge_index`` ``[2, E]`` with both directions of every edge, or a sparse
            ``[N, N]`` tensor.
        num_nodes: ``N``.
        symmetrise: take both directions of every edge, once, whatever its weight.

    Raises:
        InputError: another number of nodes, a self-loop, and, unless ``symmetrise``, an edge
            without its reverse, a weight other than 1 or an edge listed twice.

    Example:
        >>> one_way = torch.tensor([[0, 1], [1, 2]])
        >>> adjacency(one_way, 3, symmetrise=True).col.tolist()
        [1, 0, 2, 1]
    """
    if isinstance(adj, Tensor) and adj.layout != torch.strided:
        adj = _from_sparse(adj, num_nodes, symmetrise)
    if isinstance(adj, Tensor):
        adj = CSR.from_edge_index(adj, num_nodes)
    if not isinstance(adj, CSR):
        raise InputError(
            f"adj: {type(adj).__name__}, wanted a CSR, an edge_index or a sparse tensor"
        )
    if (adj.num_rows, adj.num_cols) != (num_nodes, num_nodes):
        raise InputError(f"adj: {adj.num_rows} x {adj.num_cols}, wanted {num_nodes} nodes as x")
    found = adj.derived.get((_CHECKED, symmetrise))
    if found is None:
        found = _simple(sorted_rows(adj), symmetrise)
        _mark(found)
        if found is not adj:
            adj.derived[_CHECKED, symmetrise] = found
    return adj if found is True else found  # type: ignore[return-value]


def _mark(csr: CSR) -> None:
    for symmetrise in (False, True):
        csr.derived[_CHECKED, symmetrise] = True
    csr.derived["is_symmetric"] = True
    csr.derived[SORTED] = True


def _from_sparse(adj: Tensor, num_nodes: int, symmetrise: bool) -> CSR:
    if adj.shape != (num_nodes, num_nodes):
        raise InputError(f"adj: shape {list(adj.shape)}, wanted [{num_nodes}, {num_nodes}]")
    adj = adj.detach().to_sparse().coalesce()
    odd = (adj.values() != 1).nonzero()
    if odd.numel() and not symmetrise:
        place = int(odd[0, 0])
        i, j = adj.indices()[:, place].tolist()
        raise InputError(
            f"adj: weight {float(adj.values()[place]):g} at ({i}, {j}), wanted an unweighted graph;"
            " symmetrise=True ignores weights"
        )
    return CSR.from_edge_index(adj.indices().flip(0), num_nodes)


def _simple(csr: CSR, symmetrise: bool) -> CSR:
    row, col = csr.row(), csr.col
    loops = (row == col).nonzero()
    if loops.numel():
        raise InputError(
            f"adj: a self-loop at node {int(row[loops[0, 0]])}, wanted none; "
            "torch_geometric.utils.remove_self_loops takes them out"
        )
    repeated = ((row[1:] == row[:-1]) & (col[1:] == col[:-1])).nonzero()
    symmetric = is_symmetric(csr)
    if not symmetrise and not symmetric:
        flipped = csr.transpose()
        i, j = _first_difference(csr, flipped)
        raise InputError(
            f"adj: edge {j} -> {i} has no reverse, wanted an undirected graph; "
            "torch_geometric.utils.to_undirected adds what is missing, as does symmetrise=True "
            "where there is such an argument"
        )
    if not symmetrise and repeated.numel():
        place = int(repeated[0, 0])
        raise InputError(
            f"adj: edge {int(col[place])} -> {int(row[place])} is listed twice, wanted an "
            "unweighted graph; symmetrise=True takes it once"
        )
    n = csr.num_rows
    if symmetric and not repeated.numel():
        return csr if csr.eid is None else CSR(csr.rowptr, csr.col, None, n, n)
    key = torch.unique(torch.cat([row.long() * n + col, col.long() * n + row]))
    return rows_of_keys(key, n, n, csr.col.dtype)


def _first_difference(csr: CSR, flipped: CSR) -> tuple[int, int]:
    """Row and column of the first entry that the transpose lacks."""
    n = csr.num_rows
    here, there = (c.row().long() * n + c.col for c in (csr, flipped))
    lonely = here[~torch.isin(here, there)]
    if not lonely.numel():  # both ways, but not equally often
        lonely, count = torch.unique(here, return_counts=True)
        lonely = lonely[count > 1]
    return int(lonely[0]) // n, int(lonely[0]) % n


def checked_pairs(pairs: Tensor, adj: CSR) -> Tensor:
    """Pairs of nodes of a graph as int64.

    Args:
        pairs: ``[2, B]`` int64 or int32.
        adj: the graph.

    Raises:
        InputError: another type, shape or device, or a number that is no node.

    Example:
        >>> graph = adjacency(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> checked_pairs(torch.tensor([[0], [1]], dtype=torch.int32), graph).tolist()
        [[0], [1]]
    """
    if not isinstance(pairs, Tensor) or pairs.dtype not in (torch.int32, torch.int64):
        seen = pairs.dtype if isinstance(pairs, Tensor) else type(pairs).__name__
        raise InputError(f"pairs: {seen}, wanted int64 or int32")
    if pairs.dim() != 2 or pairs.size(0) != 2:
        raise InputError(f"pairs: shape {list(pairs.shape)}, wanted [2, B]")
    if pairs.device != adj.col.device:
        raise InputError(f"pairs: on {pairs.device}, wanted {adj.col.device} as adj")
    if pairs.numel():
        low, high = (int(v) for v in torch.aminmax(pairs))
        if low < 0 or high >= adj.num_rows:
            bad = low if low < 0 else high
            side, place = (int(v) for v in (pairs == bad).nonzero()[0])
            raise InputError(
                f"pairs: node {bad} in pairs[{side}, {place}], wanted 0..{adj.num_rows - 1}"
            )
    return pairs.long()


def rows_of_keys(key: Tensor, num_rows: int, num_cols: int, dtype: torch.dtype) -> CSR:
    """The CSR of ascending unique keys ``row * num_cols + col``.

    Example:
        >>> rows_of_keys(torch.tensor([1, 4]), 2, 3, torch.int64).rowptr.tolist()
        [0, 1, 2]
    """
    starts = torch.arange(num_rows + 1, device=key.device) * num_cols
    rowptr = torch.searchsorted(key, starts).to(dtype)
    return CSR(rowptr, (key % num_cols).to(dtype), None, num_rows, num_cols)


def own_transpose(csr: CSR) -> CSR:
    """A view for messages without weights, or with those of both directions equal.

    A symmetric graph is its own transpose, so backward need not sort it. The view does not tell
    which entry is the reverse of which: weights that differ by direction would be mixed up.

    Example:
        >>> csr = adjacency(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> view = own_transpose(csr)
        >>> view.transpose().col is view.col
        True
    """
    if not csr.derived.get("is_symmetric"):
        return csr
    view = csr.derived.get(_VIEW)
    if view is None:
        view = CSR(csr.rowptr, csr.col, None, csr.num_rows, csr.num_cols)
        view._transposed = CSR(csr.rowptr, csr.col, None, csr.num_rows, csr.num_cols)
        csr.derived[_VIEW] = view
    assert isinstance(view, CSR)
    return view


def drop_adj(csr: CSR, p: float, training: bool = True) -> tuple[CSR, float]:
    r"""DropAdj: keep each stored entry with probability :math:`1 - p`, scaled by its inverse.

    .. math:: A'_{ij} = \frac{b_{ij}}{1 - p} A_{ij}, \qquad b_{ij} \sim \mathrm{Bernoulli}(1 - p)

    Both directions of an edge are drawn apart, so the result is not symmetric. The weight is one
    number for all entries.

    Args:
        csr: the graph.
        p: probability of being dropped; below 1e-6 nothing is.
        training: the graph stays as it is where false.

    Returns:
        The graph that is left, and the weight of its entries.

    Example:
        >>> csr = adjacency(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> drop_adj(csr, 0.5, training=False) == (csr, 1.0)
        True
    """
    if not training or p < 1e-6:
        return csr, 1.0
    keep = torch.rand(csr.num_entries, device=csr.col.device) >= p
    return keep_entries(csr, keep), 1.0 / (1.0 - p)


class TrainingEdges:
    """All training links as one graph, and that graph without a batch's own links.

    Target link removal (``maskinput`` of NCN, arXiv 2302.00890): a link must not be an input of the
    step that learns to predict it. Links are hidden by their position in the list of positives; of
    a link listed twice the other copy stays visible, as in the published runs. Nothing is sorted
    again: one pass over a mask and one over the columns.

    Args:
        positives: ``[2, P]`` int64 training links, each undirected link in one direction.
        num_nodes: ``N``.
        dedup: hide every copy of a batch's links.

    Raises:
        InputError: a self-loop, or ids that are out of range or no integers.

    Example:
        >>> edges = TrainingEdges(torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
        >>> edges.whole.col.tolist(), edges.without(torch.tensor([0])).col.tolist()
        ([1, 0, 2, 1], [2, 1])
    """

    def __init__(self, positives: Tensor, num_nodes: int, *, dedup: bool = False) -> None:
        both = (
            torch.cat([positives, positives.flip(0)], dim=1) if positives.dim() == 2 else positives
        )
        csr = sorted_rows(CSR.from_edge_index(both, num_nodes))
        assert csr.eid is not None
        row, col = csr.row(), csr.col
        if bool((row == col).any()):
            place = int((positives[0] == positives[1]).nonzero()[0])
            raise InputError(f"positives: link {place} is a self-loop, wanted two different nodes")
        first = torch.ones(csr.num_entries, dtype=torch.bool, device=col.device)
        first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
        self.num_links = positives.size(1)
        self.whole: CSR = csr
        self.copies: Tensor | None = None
        entry = torch.arange(csr.num_entries, device=col.device)
        if bool(first.all()):
            self.whole = CSR(csr.rowptr, col, None, num_nodes, num_nodes)
        else:
            self.whole = keep_entries(csr, first)
            entry = torch.cumsum(first, 0) - 1
            if not dedup:
                self.copies = torch.bincount(entry, minlength=self.whole.num_entries)
        _mark(self.whole)
        of_edge = torch.empty_like(entry)
        of_edge[csr.eid.long()] = entry
        self.entry = of_edge.view(2, -1)  # where in the graph a link's two directions are

    def without(self, batch: Tensor) -> CSR:
        """The graph in which the links of a batch are hidden, in both directions.

        Args:
            batch: ``[B]`` int64 positions in ``positives``, each at most once.

        Raises:
            InputError: positions that are out of range or no integers.
        """
        if batch.dtype not in (torch.int32, torch.int64) or batch.dim() != 1:
            raise InputError(
                f"batch: {batch.dtype} of shape {list(batch.shape)}, wanted [B] int64 positions"
            )
        if batch.numel():
            low, high = (int(v) for v in torch.aminmax(batch))
            if low < 0 or high >= self.num_links:
                bad = low if low < 0 else high
                raise InputError(f"batch: position {bad}, wanted 0..{self.num_links - 1}")
        hidden = self.entry[:, batch].reshape(-1)
        if self.copies is None:
            keep = torch.ones(self.whole.num_entries, dtype=torch.bool, device=hidden.device)
            keep[hidden] = False
        else:
            keep = torch.bincount(hidden, minlength=self.copies.numel()) < self.copies
        seen = keep_entries(self.whole, keep)
        _mark(seen)
        return seen

    def __repr__(self) -> str:
        return f"TrainingEdges({self.num_links} links, {self.whole.num_rows} nodes)"
