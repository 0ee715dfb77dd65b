"""The same layers and models written with PyG alone, as their users write them today."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing, MultiAggregation, global_add_pool, global_mean_pool
from torch_geometric.utils import scatter, softmax

from graphkit.models import InteractionBatch, UltraGCN

FOUR = ["mean", "min", "max", "std"]


class GatedGCN(MessagePassing):
    """GatedGCN with edge states on PyG's MessagePassing; norms are left out on both sides.

    The gates are computed once per edge by ``edge_updater``; numerator and denominator are two
    sums over the same gates.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(aggr="add")
        for name in "ABCDE":
            setattr(self, name, nn.Linear(channels, channels))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        edge = self.C(edge_attr)
        state = self.edge_updater(edge_index, dst=self.D(x), src=self.E(x), edge=edge)
        gate = torch.sigmoid(state)
        numerator = self.propagate(edge_index, value=self.B(x), gate=gate)
        denominator = self.aggregate(gate, edge_index[1], dim_size=x.size(0))
        return self.A(x) + numerator / (denominator + 1e-6), state

    def edge_update(self, dst_i: Tensor, src_j: Tensor, edge: Tensor) -> Tensor:
        return dst_i + src_j + edge

    def message(self, value_j: Tensor, gate: Tensor) -> Tensor:
        return gate * value_j


class FourAggregations(nn.Module):
    """Gather, then PyG's MultiAggregation over the messages, as MessagePassing does."""

    def __init__(self) -> None:
        super().__init__()
        self.aggregation = MultiAggregation(FOUR)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        messages = x.index_select(0, edge_index[0])
        return self.aggregation(messages, edge_index[1], dim_size=x.size(0))


def attention_vector(score: str, heads: int, width: int) -> nn.Parameter | None:
    """The parameter of GATv2's score; the other two have none."""
    if score != "gatv2":
        return None
    generator = torch.Generator().manual_seed(1)
    return nn.Parameter(torch.randn(heads * width, generator=generator))


class Attention(nn.Module):
    """Scores, softmax and weighted sum of PyG's attention layers, without their dense maps."""

    def __init__(self, score: str, heads: int, width: int) -> None:
        super().__init__()
        self.score, self.heads, self.width = score, heads, width
        self.att = attention_vector(score, heads, width)

    def forward(self, value: Tensor, dst: Tensor, src: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        left, right = dst.index_select(0, target), src.index_select(0, source)
        if self.score == "additive":
            scores = F.leaky_relu(left + right, 0.2)
        else:
            left, right = (t.view(-1, self.heads, self.width) for t in (left, right))
            if self.score == "dot":
                scores = (left * right).sum(-1) / self.width**0.5
            else:
                att = self.att.view(1, self.heads, self.width)
                scores = (F.leaky_relu(left + right, 0.2) * att).sum(-1)
        weights = softmax(scores, target, num_nodes=dst.size(0))
        messages = value.view(-1, self.heads, self.width).index_select(0, source)
        found = scatter(messages * weights[..., None], target, 0, dst.size(0), reduce="sum")
        return found.flatten(1)


class ScanLoop(nn.Module):
    """Mamba's recurrence as a torch loop over time, for sequences of one length."""

    def __init__(self, channels: int, states: int, sequences: int) -> None:
        super().__init__()
        self.A = nn.Parameter(-torch.arange(1.0, states + 1).repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))
        self.sequences = sequences

    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        u_, delta, B, C = (
            t.unflatten(0, (self.sequences, -1)).unbind(1) for t in (u, F.softplus(delta), B, C)
        )
        h = u.new_zeros(self.sequences, *self.A.shape)
        rows = []
        for x, step, b, c in zip(u_, delta, B, C, strict=True):
            h = (step.unsqueeze(-1) * self.A).exp() * h + (step * x).unsqueeze(-1) * b.unsqueeze(1)
            rows.append((h @ c.unsqueeze(-1)).squeeze(-1))
        return torch.stack(rows, 1).flatten(0, 1) + self.D * u


class ScanEinsum(ScanLoop):
    """The same as Mamba's own plain-torch code does it: all factors first, then the loop."""

    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        u_, delta, B, C = (
            t.unflatten(0, (self.sequences, -1)) for t in (u, F.softplus(delta), B, C)
        )
        decay = torch.einsum("bld,dn->bldn", delta, self.A).exp()
        entering = torch.einsum("bld,bln,bld->bldn", delta, B, u_)
        h = u.new_zeros(self.sequences, *self.A.shape)
        rows = []
        for step in range(u_.size(1)):
            h = decay[:, step] * h + entering[:, step]
            rows.append(torch.einsum("bdn,bn->bd", h, C[:, step]))
        return torch.stack(rows, 1).flatten(0, 1) + self.D * u


class OGBGINConv(MessagePassing):
    """GIN of the OGB baselines: a bond encoder per layer, epsilon learnt."""

    def __init__(self, channels: int) -> None:
        super().__init__(aggr="add")
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.BatchNorm1d(2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
        )
        self.eps = nn.Parameter(torch.zeros(1))
        self.bond_encoder = BondEncoder(channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        received = self.propagate(edge_index, x=x, edge=self.bond_encoder(edge_attr))
        return self.mlp((1 + self.eps) * x + received)

    def message(self, x_j: Tensor, edge: Tensor) -> Tensor:
        return (x_j + edge).relu()


class MPNNVN(nn.Module):
    """GIN with a virtual node as in the OGB baselines."""

    def __init__(self, channels: int, num_layers: int, out_channels: int = 1) -> None:
        super().__init__()
        self.atom_encoder = AtomEncoder(channels)
        self.virtual_node = nn.Embedding(1, channels)
        nn.init.zeros_(self.virtual_node.weight)
        self.convs = nn.ModuleList(OGBGINConv(channels) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(num_layers))
        self.updates = nn.ModuleList(self._update(channels) for _ in range(num_layers - 1))
        self.head = nn.Linear(channels, out_channels)

    @staticmethod
    def _update(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.BatchNorm1d(2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
        )

    def forward(self, batch: object) -> Tensor:
        index, size = batch.batch, batch.num_graphs  # type: ignore[attr-defined]
        h = self.atom_encoder(batch.x)  # type: ignore[attr-defined]
        virtual = self.virtual_node.weight.expand(size, -1)
        for layer, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = h + virtual[index]
            z = norm(conv(h, batch.edge_index, batch.edge_attr))  # type: ignore[attr-defined]
            last = layer == len(self.convs) - 1
            if not last:
                z = z.relu()
                virtual = self.updates[layer](global_add_pool(h, index, size) + virtual)
            h = z
        return self.head(global_mean_pool(h, index, size))


class GatheredUltraGCN(nn.Module):
    """UltraGCN's loss in plain torch: a row for every item that a pair meets."""

    def __init__(self, ours: UltraGCN) -> None:
        super().__init__()
        self.user, self.item = (nn.Parameter(t.detach().clone()) for t in ours.representations())
        self.settings = ours
        for name in ("beta_user", "beta_item", "neighbours", "neighbour_weights"):
            self.register_buffer(name, getattr(ours, name), persistent=False)

    def forward(self, batch: InteractionBatch) -> Tensor:
        s, users, items = self.settings, batch.users, batch.items
        assert batch.negatives is not None
        w1, w2, w3, w4 = s.weights
        e, beta = self.user[users], self.beta_user[users]
        positive = F.softplus(-(e * self.item[items]).sum(-1))
        loss = ((w1 + w2 * beta * self.beta_item[items]) * positive).sum()
        scores = (e.unsqueeze(1) * self.item[batch.negatives]).sum(-1)
        weight = w3 + w4 * beta.unsqueeze(1) * self.beta_item[batch.negatives]
        loss = loss + s.negative_weight * (weight * F.softplus(scores)).mean(1).sum()
        near = (e.unsqueeze(1) * self.item[self.neighbours[items]]).sum(-1)
        loss = loss + s.lambda_ * (self.neighbour_weights[items] * F.softplus(-near)).sum()
        return loss + s.gamma / 2 * (self.user.square().sum() + self.item.square().sum())


class CommonNeighbors:
    """Product of the sparse rows of each pair, summed."""

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        ones = np.ones(edge_index.size(1), dtype=np.float32)
        place = (edge_index[1].numpy(), edge_index[0].numpy())
        self.rows = scipy.sparse.csr_matrix((ones, place), shape=(num_nodes, num_nodes))
        self.rows.data[:] = 1  # an edge that is there twice was summed up

    def __call__(self, pairs: Tensor) -> Tensor:
        one, two = pairs.numpy()
        return torch.from_numpy(np.asarray(self.rows[one].multiply(self.rows[two]).sum(1)).ravel())
