"""Row L2-normalisation with a short backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _L2Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.clamp_min(eps).reciprocal()
        y = x * inverse
        # Where the norm was clamped the divisor is a constant and has no gradient.
        ctx.save_for_backward(y, inverse, norm > eps)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse, varies = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, y).unsqueeze(-1) * varies
        return torch.addcmul(grad, y, along, value=-1).mul_(inverse), None


def l2_normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    r"""Scale every row to unit length: :math:`x / \max(\lVert x \rVert_2, \epsilon)`.

    The same as ``torch.nn.functional.normalize``, whose autograd keeps and passes over several
    more tensors of the size of ``x``.

    Example:
        >>> l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    out: Tensor = _L2Normalize.apply(x, eps)  # type: ignore[no-untyped-call]
    return out
