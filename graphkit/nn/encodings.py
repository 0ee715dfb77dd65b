"""Encoders of positional and structural encodings that a data transform has put on the graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.errors import InputError


class RWSEEncoder(nn.Module):
    r"""Random-walk structural encoding: :math:`p_k(i) = (D^{-1} A)^k_{ii}`, batch-normalised and
    mapped to ``dim`` features.

    GraphGPS (arXiv 2205.12454) after "Graph Neural Networks with Learnable Structural and
    Positional Representations" (arXiv 2110.07875). The numbers come from the data transform
    ``AddRandomWalkPE``.

    Shapes:
        - **input:** ``rwse`` ``[N, walk_length]``
        - **output:** ``[N, dim]``

    Example:
        >>> RWSEEncoder(16, 20)(torch.rand(5, 16)).shape
        torch.Size([5, 20])
    """

    def __init__(self, walk_length: int, dim: int) -> None:
        super().__init__()
        self.walk_length = walk_length
        self.dim = dim
        self.norm = nn.BatchNorm1d(walk_length)
        self.lin = nn.Linear(walk_length, dim)

    def forward(self, rwse: Tensor) -> Tensor:
        if rwse.dim() != 2 or rwse.size(1) != self.walk_length:
            raise InputError(f"rwse: shape {list(rwse.shape)}, wanted [N, {self.walk_length}]")
        return self.lin(self.norm(rwse))


class LapPEEncoder(nn.Module):
    """Laplacian positional encoding: a DeepSet over pairs (eigenvector entry, eigenvalue).

    LRGB (arXiv 2206.08164) and GraphGPS (arXiv 2205.12454): two-layer MLP per pair, rows that were
    padded with NaN zeroed after the MLP, sum over frequencies. In training one random sign per
    frequency flips the eigenvectors of the whole batch; in evaluation none.

    Shapes:
        - **input:** ``lap_vec`` and ``lap_val`` ``[N, k]``, NaN where a graph has fewer than ``k``
        - **output:** ``[N, dim]``

    Example:
        >>> LapPEEncoder(10, 16)(torch.rand(5, 10), torch.rand(5, 10)).shape
        torch.Size([5, 16])
    """

    def __init__(self, k: int, dim: int) -> None:
        super().__init__()
        self.k = k
        self.dim = dim
        self.mlp = nn.Sequential(
            nn.Linear(2, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim), nn.ReLU()
        )

    def forward(self, lap_vec: Tensor, lap_val: Tensor) -> Tensor:
        for name, tensor in (("lap_vec", lap_vec), ("lap_val", lap_val)):
            if tensor.dim() != 2 or tensor.size(1) != self.k:
                raise InputError(f"{name}: shape {list(tensor.shape)}, wanted [N, {self.k}]")
        if self.training:
            sign = torch.randint(0, 2, (self.k,), device=lap_vec.device) * 2 - 1
            lap_vec = lap_vec * sign.to(lap_vec.dtype)
        missing = lap_vec.isnan() | lap_val.isnan()
        pairs = torch.stack([lap_vec, lap_val], dim=-1).masked_fill(missing[..., None], 0.0)
        return self.mlp(pairs).masked_fill(missing[..., None], 0.0).sum(dim=1)
