"""broadcast, torch_scatter.utils there: how an index is brought to the shape of what it indexes."""

from __future__ import annotations

from torch import Tensor


def broadcast(src: Tensor, other: Tensor, dim: int) -> Tensor:
    """Expand ``src`` to the shape of ``other``: one dimension lies along ``dim``, several lead.

    Args:
        src: the index.
        other: what it indexes.
        dim: the indexed dimension of ``other``.

    Shapes:
        - **out:** that of ``other``, a view of ``src``.

    Example:
        >>> import torch
        >>> broadcast(torch.tensor([0, 1]), torch.zeros(2, 3), 0).tolist()
        [[0, 0, 0], [1, 1, 1]]
    """
    if src.dim() > 1:
        shape = [*src.shape, *[1] * (other.dim() - src.dim())]
    else:
        shape = [1] * other.dim()
        shape[dim] = src.numel()
    return src.view(shape).expand_as(other)
