"""random_signs: blocks of a sparse random projection; an entry hashes its seed, row and column."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import cpu
from graphkit.ops.backends import current
from graphkit.ops.hashing import hashed, signed
from graphkit.ops.random_walk import seed_bits

_LOW = 0xFFFFFFFF


def random_signs(
    ids: Tensor, columns: tuple[int, int], *, density: float = 1.0, seed: int = 0
) -> Tensor:
    r"""Columns of a matrix with independent entries 1, 0 and -1.

    .. math:: P(R_{uc} = 1) = P(R_{uc} = -1) = \tfrac12 \text{density}

    (Achlioptas, PODS 2001; Li, Hastie, Church, "Very Sparse Random Projections", KDD 2006.) An
    entry is a hash of ``seed``, ``ids[u]`` and ``c``: it is the same whatever other rows or columns
    are asked for, for any number of threads, and on any device. ``density`` is rounded down to a
    multiple of :math:`2^{-31}`.

    Args:
        ids: ``[n]`` int64 or int32, which row each is: usually ``arange(n)``.
        columns: first column and the one after the last.
        density: share of entries that are not 0.
        seed: any integer.

    Shapes:
        - **out:** float32 ``[n, last - first]``

    Raises:
        InputError: ids that are no 1-D integers, columns that do not ascend from 0, or a density
            outside [0, 1].

    Example:
        >>> whole = random_signs(torch.arange(4), (0, 6), density=0.5, seed=1)
        >>> torch.equal(whole[2:, 3:5], random_signs(torch.tensor([2, 3]), (3, 5), density=0.5,
        ...     seed=1))
        True
    """
    if ids.dim() != 1 or ids.dtype not in (torch.int32, torch.int64):
        raise InputError(f"ids: {ids.dtype} of shape {list(ids.shape)}, wanted [n] int64")
    first, last = columns
    if not 0 <= first <= last:
        raise InputError(f"columns: {columns}, wanted 0 <= first <= last")
    if not 0.0 <= density <= 1.0:
        raise InputError(f"density: {density}, wanted 0..1")
    ids = ids.to(torch.int64).contiguous()
    threshold = int(density * 2**31) * 2
    if cpu.kernels is None or current(ids.device) != "native" or ids.device.type != "cpu":
        return random_signs_reference(ids, first, last, threshold, seed_bits(seed))
    out = cpu.empty(ids.new_empty(0, dtype=torch.float32), (ids.numel(), last - first))
    cpu.kernels.sign_block(
        ids.data_ptr(), ids.numel(), first, last, threshold, seed_bits(seed), out.data_ptr(),
        cpu.threads(),
    )  # fmt: skip
    return out


def random_signs_reference(ids: Tensor, first: int, last: int, threshold: int, seed: int) -> Tensor:
    """The same entries in plain torch, on any device."""
    column = torch.arange(first, last, device=ids.device)
    bits = hashed(hashed(signed(seed), ids)[:, None], column[None, :] >> 1)
    bits = torch.where((column & 1).bool(), bits >> 32, bits) & _LOW
    half = threshold // 2
    return (bits < half).float() - ((bits >= half) & (bits < threshold)).float()
