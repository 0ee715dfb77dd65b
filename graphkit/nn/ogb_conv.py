"""The two convolutions of the OGB molecule baselines, with the bond embedding inside the kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit import ops
from graphkit.nn.encoders import BondEncoder
from graphkit.nn.norm_act import chain
from graphkit.ops import CSR


class OGBGINConv(nn.Module):
    r"""GIN of the OGB baselines (arXiv 2005.00687):
    :math:`\mathrm{MLP}((1 + \epsilon) x_i + \sum_j \mathrm{ReLU}(x_j + \mathrm{bond}(e_{ij})))`.

    MLP is Linear(d, 2d), BatchNorm, ReLU, Linear(2d, d); epsilon is learnt from 0.

    Shapes:
        - **input:** nodes ``[N, d]``, the CSR of the graph, ``bond_code`` ``[E]`` from
          :func:`graphkit.nn.bond_code`
        - **output:** ``[N, d]``

    Example:
        >>> conv = OGBGINConv(8)
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> conv(torch.randn(2, 8), csr, torch.tensor([0, 59])).shape
        torch.Size([2, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.BatchNorm1d(2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
        )
        self.eps = nn.Parameter(torch.zeros(1))
        self.bond_encoder = BondEncoder(channels)

    def forward(self, x: Tensor, csr: CSR, bond_code: Tensor) -> Tensor:
        table = self.bond_encoder.combinations()
        received = ops.aggregate(csr, x, table, lookup=bond_code, message="add_relu")
        return chain(self.mlp, received.addcmul_(x, 1 + self.eps))


class OGBGCNConv(nn.Module):
    r"""GCN of the OGB baselines (arXiv 2005.00687): with :math:`h = W x + b` and
    :math:`d_i = \mathrm{outdeg}_i + 1`,

    .. math::
        x_i' = \sum_j (d_j d_i)^{-1/2} \mathrm{ReLU}(h_j + \mathrm{bond}(e_{ij}))
               + \mathrm{ReLU}(h_i + r) / d_i

    The degree is the out-degree, as in the reference: right on symmetric graphs only.

    Shapes:
        - **input:** nodes ``[N, d]``, the CSR of the graph, ``bond_code`` ``[E]``
        - **output:** ``[N, d]``

    Example:
        >>> conv = OGBGCNConv(8)
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> conv(torch.randn(2, 8), csr, torch.tensor([0, 59])).shape
        torch.Size([2, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.root_emb = nn.Embedding(1, channels)
        self.bond_encoder = BondEncoder(channels)

    def forward(self, x: Tensor, csr: CSR, bond_code: Tensor) -> Tensor:
        h = self.linear(x)
        degree = (csr.transpose().degree + 1).to(h.dtype)[:, None]
        scale = degree.rsqrt()
        # The bond sits inside the ReLU, so the source's factor cannot simply be taken out; but
        # s ReLU(h + b) = ReLU(s h + s b), and s depends on the degree only: one table row for
        # each pair of bond and degree.
        code, degrees = _code_with_degree(csr, bond_code)
        factors = (degrees + 1).to(h.dtype).rsqrt()
        table = self.bond_encoder.combinations().to(h.dtype)[:, None] * factors[None, :, None]
        received = ops.aggregate(
            csr, h * scale, table.flatten(0, 1), lookup=code, message="add_relu"
        )
        return received * scale + torch.relu(h + self.root_emb.weight) / degree


def _code_with_degree(csr: CSR, bond_code: Tensor) -> tuple[Tensor, Tensor]:
    """``bond_code * D + (index of the source's out-degree)`` and the ``D`` distinct degrees."""
    if torch.compiler.is_compiling():
        return _find_code_with_degree(csr, bond_code)
    # One slot: all layers of a model share their batch's bonds.
    version = 0 if bond_code.is_inference() else bond_code._version
    kept = csr.derived.get("bond_degree")
    if not isinstance(kept, tuple) or kept[0] is not bond_code or kept[1] != version:
        code, degrees = _find_code_with_degree(csr, bond_code)
        kept = csr.derived["bond_degree"] = (bond_code, version, code, degrees)
    return kept[2], kept[3]


def _find_code_with_degree(csr: CSR, bond_code: Tensor) -> tuple[Tensor, Tensor]:
    degrees, which = torch.unique(csr.transpose().degree, return_inverse=True)
    source = csr.edge_index()[0].long()
    return bond_code * degrees.numel() + which[source], degrees
