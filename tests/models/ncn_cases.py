"""Graphs for the tests of NCN, and its predictors written with Python's sets, a pair at a time."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from graphkit.models.ncn import LinkPredictor, adjacency
from graphkit.ops import CSR

Sets = list[set[int]]
# The paper's code's names, one for each structure; the others say the same in words.
NAMES = ("cn0", "scn1", "catscn1", "cn1", "cn1.5", "cn1res", "cn2", "incn1cn1", "sincn1cn1")


def undirected(*links: tuple[int, int]) -> Tensor:
    ends = torch.tensor(links, dtype=torch.int64).view(-1, 2).t()
    return torch.cat([ends, ends.flip(0)], dim=1)


def random_links(nodes: int = 24, links: int = 60, seed: int = 0) -> Tensor:
    """``[2, P]`` different links in random order; the last three nodes have none."""
    every = list(itertools.combinations(range(nodes - 3), 2))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:links]
    return torch.tensor([every[i] for i in order.tolist()]).t().contiguous()


def random_graph(nodes: int = 24, links: int = 60, seed: int = 0) -> CSR:
    ends = random_links(nodes, links, seed)
    return adjacency(torch.cat([ends, ends.flip(0)], dim=1), nodes)


def every_pair(nodes: int = 24) -> Tensor:
    return torch.tensor(list(itertools.combinations(range(nodes), 2))).t().contiguous()


def row_sets(csr: CSR) -> Sets:
    ptr = csr.rowptr.tolist()
    return [set(csr.col[a:b].tolist()) for a, b in itertools.pairwise(ptr)]


def dense(csr: CSR, value: float = 1.0) -> Tensor:
    out = torch.zeros(csr.num_rows, csr.num_cols, dtype=torch.float64)
    out[csr.row().long(), csr.col.long()] = value
    return out


def reference_scores(
    net: LinkPredictor, x: Tensor, near: Sets, pairs: Tensor, depth: int | None = None
) -> Tensor:
    """The specification: rows ``near`` of one graph at every level, no dropout, no sampling."""
    depth = net.depth if depth is None else depth
    form = net.structure
    pooled = x if net.xlin is None else x + net.xlin(x)
    if form.counts:
        pooled = x.new_ones(x.size(0), 1)
    rows = [reference_score(net, x, pooled, near, i, j, depth) for i, j in pairs.t().tolist()]
    return torch.stack(rows) if rows else x.new_empty(0, 1)


def reference_score(
    net: LinkPredictor, x: Tensor, pooled: Tensor, near: Sets, i: int, j: int, depth: int
) -> Tensor:
    form = net.structure

    def total(nodes: set[int]) -> Tensor:
        return pooled[sorted(nodes)].sum(0)

    own = net.xijlin(x[i] * x[j])
    if not form.pools:
        return net.lin(own)
    c = total(near[i] & near[j])
    if depth > 0:
        inner = x if form.counts or not net.nested_transform else pooled
        for here, there in ((i, j), (j, i)):
            rest = sorted(near[here] - near[there])
            ends = torch.tensor([[there] * len(rest), rest], dtype=torch.int64)
            with torch.no_grad():
                logit = reference_scores(net, inner, near, ends, depth - 1)
            q = torch.sigmoid(net.scale * (logit - net.offset))
            pt = torch.sigmoid(net.ptlin(x[i] * x[j])) if net.learnpt else net.pt
            c = c + (net.alpha * pt * q / (pt * q + 1 - q) * pooled[rest]).sum(0)
    if form.joined:
        return net.lin(torch.cat([own, c]))
    far = [set().union(*(near[m] for m in near[n])) for n in (i, j)]
    if form.beyond == "higher":
        a = torch.sigmoid(net.order).cumprod(0)
        mixed = net.xcn2lin(total(near[i] & far[1])) * net.xcn2lin(total(far[0] & near[j]))
        last = net.xcn4lin(total(far[0] & far[1]))
        return net.lin(a[0] * net.xcnlin(c) + a[1] * mixed + a[2] * last + net.beta * own)
    structural = net.beta * net.xcnlin(c)
    if form.beyond == "two_hop":
        structural = structural + net.xcn12lin(total(near[i] & far[1]) + total(far[0] & near[j]))
    if form.beyond == "residual":
        structural = structural + net.xcnreslin(total(near[i] - near[j]) + total(near[j] - near[i]))
    return net.lin(structural + own)
