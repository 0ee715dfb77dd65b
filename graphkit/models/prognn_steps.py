"""The pieces of Pro-GNN: proximal operators, the smoothness of features, the normalised graph."""

from __future__ import annotations

import torch
from torch import Tensor

_DEGREE_EPS = 1e-3  # of the published code: keeps the factor of a node without edges finite
_OVERSAMPLING = 10
_POWER_STEPS = 4


def soft_threshold(s: Tensor, threshold: float) -> Tensor:
    r"""The proximal operator of :math:`t \|S\|_1`: :math:`\mathrm{sign}(s) \max(|s| - t, 0)`.

    Example:
        >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0).tolist()
        [-2.0, 0.0, 1.0]
    """
    return s - s.clamp(-threshold, threshold)


def prox_nuclear(s: Tensor, threshold: float, symmetric: bool = False) -> Tensor:
    r"""The proximal operator of :math:`t \|S\|_*`: :math:`U \max(\Sigma - t, 0) V^\top`.

    Args:
        s: the matrix.
        threshold: :math:`t`.
        symmetric: ``s`` equals its transpose; then the eigenvalues are shrunk, which gives the same
            matrix in a fraction of the time.

    Shapes:
        - **s, out:** ``[N, N]``

    Example:
        >>> prox_nuclear(torch.diag(torch.tensor([3.0, 0.5])), 1.0).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    if symmetric:
        values, q = torch.linalg.eigh(s)
        out: Tensor = (q * soft_threshold(values, threshold)) @ q.t()
        return out
    u, sigma, vh = torch.linalg.svd(s, full_matrices=False)
    out = (u * (sigma - threshold).clamp(min=0.0)) @ vh
    return out


def prox_nuclear_lowrank(s: Tensor, threshold: float, rank: int, keep_tail: bool = False) -> Tensor:
    r"""The same from the ``rank`` largest singular values, found by random projection.

    Equal to :func:`prox_nuclear` when ``s`` has at most that rank. Else the result is an
    approximation of one of two kinds: the smaller singular values are dropped, so that the result
    has rank ``rank`` as in GCN-SVD, or, with ``keep_tail``, left as they are:

    .. math::
        S - U_k \min(\Sigma_k, t) V_k^\top

    which differs from the exact operator by at most :math:`t` in spectral norm (and by what random
    projection misses). torch's global generator decides the projection.

    Example:
        >>> s = torch.ones(4, 4)  # rank 1, singular value 4
        >>> prox_nuclear_lowrank(s, 2.0, rank=1)[0, 0].round(decimals=4).item()
        0.5
    """
    u, sigma, v = torch.svd_lowrank(s, q=min(rank + _OVERSAMPLING, *s.shape), niter=_POWER_STEPS)
    u, sigma, v = u[:, :rank], sigma[:rank], v[:, :rank]
    if keep_tail:
        return s - (u * sigma.clamp(max=threshold)) @ v.t()
    return (u * (sigma - threshold).clamp(min=0.0)) @ v.t()


def normalised(s: Tensor) -> Tensor:
    r""":math:`D^{-1/2} (S + I) D^{-1/2}` with the row sums :math:`D` of :math:`S + I`.

    Example:
        >>> normalised(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).round(decimals=4).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    looped = s + torch.eye(len(s), dtype=s.dtype, device=s.device)
    root = looped.sum(1).rsqrt()
    return root.unsqueeze(1) * looped * root


def feature_smoothness(s: Tensor, gram: Tensor) -> Tensor:
    r"""How much features change along the edges, :math:`\mathrm{tr}(X^\top \hat L X)`.

    .. math::
        \hat L = R (D - B) R, \qquad B = (S + S^\top) / 2, \qquad
        R = \mathrm{diag}(D + 10^{-3})^{-1/2}

    with the row sums :math:`D` of :math:`B`. Only :math:`X X^\top` enters, which does not change
    from step to step.

    Args:
        s: the graph.
        gram: :math:`X X^\top`.

    Shapes:
        - **s, gram:** ``[N, N]``
        - **out:** a number

    Example:
        >>> x = torch.tensor([[1.0], [1.0]])
        >>> feature_smoothness(torch.ones(2, 2) - torch.eye(2), x @ x.t()).item()
        0.0
    """
    both = (s + s.t()) / 2
    degree = both.sum(1)
    root = (degree + _DEGREE_EPS).rsqrt()
    own = (degree * root * root * gram.diagonal()).sum()
    return own - torch.einsum("i,ij,ij,j->", root, both, gram, root)
