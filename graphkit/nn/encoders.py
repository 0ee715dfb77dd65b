"""Encoders of raw node and edge features: OGB's atoms and bonds, tables in general, linear maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphkit import ops
from graphkit.errors import InputError
from graphkit.ops import CSR

# Numbers of categories in ogb's tables (ogb 1.3.x: 174 atom rows, 13 bond rows).
ATOM_SIZES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
BOND_SIZES = (5, 6, 2)


def check_categories(index: Tensor, sizes: Sequence[int], what: str) -> None:
    """Raise InputError if a column is missing or a category lies outside its table."""
    if index.dim() != 2 or index.size(1) != len(sizes) or index.is_floating_point():
        raise InputError(
            f"{what} features: {index.dtype} of shape {list(index.shape)}, "
            f"wanted integers of shape [N, {len(sizes)}]"
        )
    if torch.compiler.is_compiling() or not index.numel():
        return
    outside = (index < 0) | (index >= torch.tensor(sizes, device=index.device))
    if bool(outside.any()):
        row, column = (int(v) for v in outside.nonzero()[0])
        raise InputError(
            f"{what} features: value {int(index[row, column])} in column {column} of row "
            f"{row}, wanted 0..{sizes[column] - 1}"
        )


def bond_code(edge_attr: Tensor) -> Tensor:
    """``[E]`` number 0..59 of each bond's combination of OGB's three categories.

    Example:
        >>> bond_code(torch.tensor([[0, 0, 0], [4, 5, 1]])).tolist()
        [0, 59]
    """
    check_categories(edge_attr, BOND_SIZES, "bond")
    code = edge_attr[:, 0]
    for column, size in enumerate(BOND_SIZES[1:], start=1):
        code = code * size + edge_attr[:, column]
    return code


class EmbeddingSum(nn.Module):
    """The sum of one embedding per integer column: ``out_i = sum_c table_c[index_ic]``.

    All columns are one gather-and-sum over a stacked table, and the gradient of each table row is
    summed by one owner in a fixed order, so it is the same for any number of threads.

    Args:
        sizes: number of categories of each column.
        channels: width of the embedding.
        name: what the columns describe, for error messages (``"atom"``).

    Shapes:
        - **input:** ``[N, len(sizes)]`` integers, column ``c`` in ``0..sizes[c]-1``
        - **output:** ``[N, channels]``

    Example:
        >>> EmbeddingSum((5, 6, 2), 8)(torch.tensor([[0, 3, 1], [4, 5, 0]])).shape
        torch.Size([2, 8])
    """

    def __init__(self, sizes: Sequence[int], channels: int, name: str = "feature") -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.channels = channels
        self.what = name
        self.tables = nn.ModuleList(nn.Embedding(size, channels) for size in self.sizes)
        self.offsets: Tensor
        offsets = [sum(self.sizes[:c]) for c in range(len(self.sizes))]
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform, as in ogb."""
        for weight in self.weights():
            nn.init.xavier_uniform_(weight)

    def weights(self) -> list[Tensor]:
        """The tables, one ``[size, channels]`` per column."""
        return list(self.tables.parameters())

    def forward(self, index: Tensor) -> Tensor:
        check_categories(index, self.sizes, self.what)
        flat = (index + self.offsets).view(-1)
        n, columns = index.shape
        rowptr = torch.arange(0, flat.numel() + 1, columns, device=flat.device)
        csr = CSR(rowptr, flat, None, n, sum(self.sizes))
        return ops.aggregate(csr, torch.cat(self.weights()))

    def combinations(self) -> Tensor:
        """``[prod(sizes), channels]`` the embedding of every combination, first column slowest."""
        total, *others = self.weights()
        for weight in others:
            total = (total[:, None] + weight[None]).flatten(0, 1)
        return total


class AtomEncoder(EmbeddingSum):
    """OGB's atom encoder: the sum of nine Xavier-uniform tables (arXiv 2005.00687).

    Example:
        >>> AtomEncoder(16)(torch.zeros(4, 9, dtype=torch.int64)).shape
        torch.Size([4, 16])
    """

    def __init__(self, channels: int) -> None:
        super().__init__(ATOM_SIZES, channels, "atom")


class BondEncoder(EmbeddingSum):
    """OGB's bond encoder: the sum of three Xavier-uniform tables (arXiv 2005.00687).

    There are only 60 kinds of bonds, so layers look the sum up in :meth:`combinations` inside the
    kernel instead of holding an ``E x F`` embedding.

    Example:
        >>> encoder = BondEncoder(16)
        >>> bonds = torch.tensor([[0, 0, 0], [4, 5, 1]])
        >>> torch.allclose(encoder(bonds), encoder.combinations()[bond_code(bonds)])
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__(BOND_SIZES, channels, "bond")


def node_encoder(in_channels: int | str, channels: int) -> nn.Module:
    """``"atom"`` gives an AtomEncoder, a number a linear map."""
    return _encoder(in_channels, channels, "atom", AtomEncoder, "in_channels")


def edge_encoder(edge_dim: int | str, channels: int) -> nn.Module:
    """``"bond"`` gives a BondEncoder, a number a linear map."""
    return _encoder(edge_dim, channels, "bond", BondEncoder, "edge_dim")


def _encoder(
    dim: int | str, channels: int, word: str, encoder: type[nn.Module], argument: str
) -> nn.Module:
    if dim == word:
        return encoder(channels)
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise InputError(f"{argument}: {dim!r}, wanted a positive number or {word!r}")
    return nn.Linear(dim, channels)
