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


def dense(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``; a plain linear layer without hooks goes through :func:`graphkit.ops.linear`.

    Example:
        >>> dense(nn.Linear(2, 3), torch.ones(4, 2)).shape
        torch.Size([4, 3])
    """
    plain = type(layer) in (nn.Linear, PyGLinear) and not hooked(layer)
    weight = layer.weight if plain else None
    if type(weight) is not nn.Parameter:  # lazy, parametrised or quantised
        out: Tensor = layer(x)
        return out
    bias = layer.bias
    assert bias is None or isinstance(bias, Tensor)
    return ops.linear(x, weight, bias)
