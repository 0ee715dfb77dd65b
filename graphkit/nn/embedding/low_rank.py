"""Low-rank tables and layers that mimic the outputs of trained ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.nn.embedding.table import EmbeddingTable


class LowRankEmbedding(EmbeddingTable):
    """``e(id) = U z_id + mu``: a narrow table and one linear map.

    Args:
        num_embeddings: ``n``.
        embedding_dim: ``d``.
        rank: ``r``.

    Shapes:
        - **ids:** int64 ``[...]``
        - **output:** ``[..., d]``

    Raises:
        InputError: a rank outside ``1..d``.

    Example:
        >>> table = LowRankEmbedding(100, 8, rank=2)
        >>> table(torch.tensor([[1, 2]])).shape, table.num_parameters
        (torch.Size([1, 2, 8]), 224)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, rank: int) -> None:
        super().__init__()
        check_rank(rank, embedding_dim)
        self.num_embeddings, self.embedding_dim, self.rank = num_embeddings, embedding_dim, rank
        self.factors = nn.Embedding(num_embeddings, rank)
        self.decoder = nn.Linear(rank, embedding_dim)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.factors(ids))
        return out

    def materialize(self) -> Tensor:
        out: Tensor = self.decoder(self.factors.weight)
        return out

    def _load_from_state_dict(self, state, prefix, *rest):  # type: ignore[no-untyped-def]
        saved = state.get(f"{prefix}factors.weight")
        if saved is not None and saved.shape != self.factors.weight.shape:
            raise InputError(
                f"{prefix}factors.weight: saved with {list(saved.shape)}, this table has "
                f"{list(self.factors.weight.shape)}; rows or rank differ"
            )
        super()._load_from_state_dict(state, prefix, *rest)


@torch.no_grad()
def mimic_table(weight: Tensor, counts: Tensor, rank: int) -> LowRankEmbedding:
    r"""The low-rank table that is nearest to a trained one on the training data.

    Atomic feature mimicking, Yu et al., KDD 2024 (arXiv 2405.18146):

    .. math::
        \mu = \sum_i p_i E_i, \quad C = \sum_i p_i E_i E_i^T - \mu \mu^T, \quad
        Z = (E - 1 \mu^T) U_r, \quad e = U_r z + \mu

    with :math:`U_r` the leading eigenvectors of :math:`C`. Fine-tune it afterwards.

    Args:
        weight: ``[n, d]``, the trained table.
        counts: ``[n]``, how often each id occurs in training.
        rank: ``r``.

    Raises:
        InputError: a rank outside ``1..d``, or counts of another length, negative or all zero.

    Example:
        >>> table = torch.randn(20, 4)
        >>> mimicked = mimic_table(table, torch.ones(20), rank=4)
        >>> torch.allclose(mimicked.materialize(), table, atol=1e-5)
        True
    """
    if weight.dim() != 2:
        raise InputError(f"weight: shape {list(weight.shape)}, wanted [n, d]")
    if counts.shape != weight.shape[:1] or not bool((counts >= 0).all()) or not counts.sum() > 0:
        raise InputError(
            f"counts: shape {list(counts.shape)}, wanted [{len(weight)}] numbers of at least "
            "0, one of them positive"
        )
    check_rank(rank, weight.size(1))
    exact = weight.detach().double()
    share = counts.double() / counts.double().sum()
    mean = share @ exact
    centred = exact - mean
    basis = _leading((centred * share[:, None]).T @ centred, rank)
    table = LowRankEmbedding(weight.size(0), weight.size(1), rank)
    table.factors.weight.copy_(centred @ basis)
    table.decoder.weight.copy_(basis)
    table.decoder.bias.copy_(mean)
    return table.to(weight.device, weight.dtype)


@torch.no_grad()
def mimic_linear(
    layer: nn.Linear, inputs: Tensor | Iterable[Tensor], rank: int, relu: bool = False
) -> nn.Sequential:
    r"""Two thin layers in place of one, nearest in its outputs on the training data.

    .. math::
        W_1 = U_r^T W, \quad b_1 = U_r^T b, \quad W_2 = U_r, \quad b_2 = (I - U_r U_r^T) \mu_y

    Args:
        layer: the trained layer.
        inputs: what it sees in training, ``[B, in]`` or batches of them; their statistics are
            summed over all batches.
        rank: ``r``.
        relu: put a ReLU between the two; that changes the outputs and is for fine-tuning only.

    Raises:
        InputError: a rank outside ``1..out``, no inputs, or inputs of another width.

    Example:
        >>> layer, x = nn.Linear(5, 3), torch.randn(40, 5)
        >>> torch.allclose(mimic_linear(layer, x, rank=3)(x), layer(x), atol=1e-5)
        True
    """
    check_rank(rank, layer.out_features)
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.double()
    total, first = 0, weight.new_zeros(layer.out_features)
    second = weight.new_zeros(layer.out_features, layer.out_features)
    # Seen relative to the first batch's mean: squares of a large mean would swallow the rest.
    origin: Tensor | None = None
    for batch in [inputs] if isinstance(inputs, Tensor) else inputs:
        if batch.size(-1) != layer.in_features:
            raise InputError(
                f"inputs: shape {list(batch.shape)}, wanted [..., {layer.in_features}]"
            )
        outputs = batch.reshape(-1, layer.in_features).double() @ weight.T + bias
        if not len(outputs):
            continue
        origin = outputs.mean(0) if origin is None else origin
        moved = outputs - origin
        total += len(outputs)
        first += moved.sum(0)
        second += moved.T @ moved
    if origin is None:
        raise InputError("inputs: none, wanted those of the training data")
    shift = first / total
    mean = shift + origin
    basis = _leading(second / total - torch.outer(shift, shift), rank)
    one = nn.Linear(layer.in_features, rank)
    two = nn.Linear(rank, layer.out_features)
    one.weight.copy_(basis.T @ weight)
    one.bias.copy_(basis.T @ bias)
    two.weight.copy_(basis)
    two.bias.copy_(mean - basis @ (basis.T @ mean))
    layers: list[nn.Module] = [one, nn.ReLU(), two] if relu else [one, two]
    return nn.Sequential(*layers).to(layer.weight.device, layer.weight.dtype)


@torch.no_grad()
def fold_decoder(
    table: LowRankEmbedding, layer: nn.Linear, start: int = 0
) -> tuple[nn.Embedding, nn.Linear]:
    """Merge the map of a low-rank table into the linear layer that reads it.

    For a table whose vectors are columns ``start..start+d-1`` of the layer's input, with nothing
    but concatenation between them.

    Returns:
        The narrow table and the layer that reads it; outputs stay the same.

    Raises:
        InputError: the layer has not these columns.

    Example:
        >>> table, layer = LowRankEmbedding(9, 6, rank=2), nn.Linear(6, 3)
        >>> narrow, merged = fold_decoder(table, layer)
        >>> ids = torch.arange(9)
        >>> torch.allclose(merged(narrow(ids)), layer(table(ids)), atol=1e-6)
        True
    """
    stop = start + table.embedding_dim
    if start < 0 or stop > layer.in_features:
        raise InputError(
            f"start: columns {start}..{stop - 1}, but the layer has {layer.in_features} inputs"
        )
    read = layer.weight[:, start:stop]
    parts = [layer.weight[:, :start], read @ table.decoder.weight, layer.weight[:, stop:]]
    merged = nn.Linear(sum(p.size(1) for p in parts), layer.out_features)
    merged.weight.copy_(torch.cat(parts, 1))
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    merged.bias.copy_(bias + read @ table.decoder.bias)
    narrow = nn.Embedding(table.num_embeddings, table.rank)
    narrow.weight.copy_(table.factors.weight)
    return narrow.to(layer.weight.device), merged.to(layer.weight.device)


def check_rank(rank: int, dim: int) -> None:
    """Refuse a rank outside ``1..dim``.

    Raises:
        InputError: says so.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= dim:
        raise InputError(f"rank: {rank!r}, wanted 1..{dim}")


def _leading(covariance: Tensor, rank: int) -> Tensor:
    # eigh sorts ascending.
    vectors: Tensor = torch.linalg.eigh(covariance).eigenvectors
    return vectors[:, -rank:].flip(1)
