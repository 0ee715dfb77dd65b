"""A training step of NCNC in plain torch: sparse tensors, sets found by searching sorted keys.

The same parameters and the same arithmetic as :class:`graphkit.models.NCN` (specified by arXiv
2302.00890), with what such code is usually built of: the graph without the links of a batch is a
sparse tensor that is sorted anew at every step, rows of both ends are copied out, their entries
become keys ``pair * N + node``, one side is looked up in the other, and sums are sparse products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.models import NCN


class KeySearchNCNC(nn.Module):
    """Depth 1, one layer of puregcn, no dropout. Takes the model over: give it a copy."""

    def __init__(self, model: NCN) -> None:
        super().__init__()
        self.encoder, self.predictor = model.encoder, model.predictor
        for name, layers in self.predictor.named_children():  # torch's own layers, one by one
            if isinstance(layers, nn.Sequential):
                setattr(self.predictor, name, nn.Sequential(*layers))
        if model.config["conv"] != "puregcn" or model.config["num_layers"] != 1:
            raise ValueError("the peer has one layer of puregcn")

    def graph(self, links: Tensor, num_nodes: int) -> Tensor:
        """A sorted sparse tensor of both directions."""
        both = torch.cat([links, links.flip(0)], dim=1)
        ones = torch.ones(both.size(1))
        return torch.sparse_coo_tensor(
            both, ones, (num_nodes, num_nodes), check_invariants=False
        ).coalesce()

    def encode(self, x: Tensor, adj: Tensor) -> Tensor:
        h = self.encoder.lin(x)
        root = (1 + torch.sparse.sum(adj, 1).to_dense()).rsqrt()[:, None]
        out = root * (torch.sparse.mm(adj, root * h) + root * h)
        return out if self.encoder.jk_weight is None else self.encoder.jk_weight[0] * out

    def score(self, h: Tensor, adj: Tensor, pairs: Tensor, depth: int = 1) -> Tensor:
        """Logits of pairs."""
        rows = Rows(adj)
        return self._score(h, rows, pairs, depth)

    def _score(self, x: Tensor, rows: Rows, pairs: Tensor, depth: int) -> Tensor:
        p = self.predictor
        product = x[pairs[0]] * x[pairs[1]]
        pooled = x + p.xlin(x)
        one, other = rows.keys(pairs[0]), rows.keys(pairs[1])
        both = one[is_in(one, other)]
        sums = rows.sums(both, torch.ones(both.numel()), pairs.size(1), pooled)
        if depth:
            for mine, theirs, end in ((one, other, pairs[1]), (other, one, pairs[0])):
                rest = mine[~is_in(mine, theirs)]
                node = rest % rows.num_nodes
                missing = torch.stack([end[rest // rows.num_nodes], node])
                with torch.no_grad():
                    logit = self._score(pooled, rows, missing, depth - 1).view(-1)
                q = torch.sigmoid(p.scale * (logit - p.offset))
                belief = p.alpha * p.pt * q / (p.pt * q + 1 - q)
                sums = sums + rows.sums(rest, belief, pairs.size(1), pooled)
        return p.lin(p.beta * p.xcnlin(sums) + p.xijlin(product))


class Rows:
    """Rows of a sparse tensor, copied out as keys."""

    def __init__(self, adj: Tensor) -> None:
        csr = adj.to_sparse_csr()
        self.start, self.col = csr.crow_indices(), csr.col_indices()
        self.num_nodes = adj.size(0)

    def keys(self, nodes: Tensor) -> Tensor:
        """``pair * N + column`` for all entries of the rows of ``nodes``, ascending."""
        degree = self.start[nodes + 1] - self.start[nodes]
        owner = torch.arange(nodes.numel()).repeat_interleave(degree)
        first = torch.cumsum(degree, 0) - degree
        entry = torch.arange(owner.numel()) - first[owner] + self.start[nodes][owner]
        return owner * self.num_nodes + self.col[entry]

    def sums(self, keys: Tensor, weight: Tensor, count: int, x: Tensor) -> Tensor:
        """Weighted sums of rows of ``x`` over packed sets, by a sparse product."""
        index = torch.stack([keys // self.num_nodes, keys % self.num_nodes])
        sets = torch.sparse_coo_tensor(
            index, weight, (count, self.num_nodes), is_coalesced=True, check_invariants=False
        )
        return torch.sparse.mm(sets, x)


def is_in(keys: Tensor, others: Tensor) -> Tensor:
    """Whether each key is among the others, which are sorted."""
    if not others.numel():
        return torch.zeros(keys.numel(), dtype=torch.bool)
    place = torch.searchsorted(others, keys).clamp(max=others.numel() - 1)
    return others[place] == keys
