"""dense: call a linear layer by the op that keeps the memory of its large results."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear as PyGLinear

from graphkit import ops

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooked(layer: nn.Module) -> bool:
    """Whether calling ``layer`` runs more than its forward method.

    Example:
        >>> hooked(nn.Linear(2, 3))
        False
    """
    if any(getattr(layer, hooks) for hooks in _HOOKS):
        return True
    return bool(torch.nn.modules.module._has_any_global_hook())  # type: ignore[no-untyped-call]


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether ``layer(x)`` is the product with its weight and nothing else, seen by nobody else.

    Not so with hooks, in subclasses, and where the weight is lazy, parametrised or quantised.

    Example:
        >>> is_plain_linear(nn.Linear(2, 3))
        True
    """
    return (
        type(layer) in (nn.Linear, PyGLinear)
        and not hooked(layer)
        and type(layer.weight) is nn.Parameter
    )


def dense(layer: nn.Module, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """``layer(x) + plus``; a plain linear layer goes through :func:`graphkit.ops.linear`.

    Example:
        >>> dense(nn.Linear(2, 3), torch.ones(4, 2)).shape
        torch.Size([4, 3])
    """
    if not is_plain_linear(layer):
        out: Tensor = layer(x)
        return out if plus is None else out + plus
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    out = ops.linear(x, weight, bias)
    # In place: the product is ours alone, and [N, F] tensors are what costs time on large graphs.
    return out if plus is None else out.add_(plus)
