"""norm_act: call a norm and the ReLU after it as one operation where that changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit import ops
from graphkit.nn.dense import dense, hooked


def norm_act(norm: nn.Module, x: Tensor, relu: bool) -> Tensor:
    """``norm(x)``, then ReLU if asked for; a plain BatchNorm1d goes through
    :func:`graphkit.ops.batch_norm`.

    Modules with hooks, subclasses and other norms are called as they are.

    Args:
        norm: any module.
        x: its input, ``[N, F]`` for the fused way.
        relu: apply ReLU to the result.

    Example:
        >>> norm_act(nn.BatchNorm1d(3), torch.randn(4, 3), relu=True).min() >= 0
        tensor(True)
    """
    if (
        type(norm) is not nn.BatchNorm1d
        or torch.compiler.is_compiling()
        or x.dim() != 2
        or hooked(norm)
    ):
        out: Tensor = norm(x)
        return torch.relu(out) if relu else out
    # What torch's module does around the function.
    training, momentum = norm.training, norm.momentum
    updating = training and norm.track_running_stats
    count = norm.num_batches_tracked
    if updating and count is not None:
        count.add_(1)
        if momentum is None:
            momentum = 1.0 / float(count)
    mean, var = norm.running_mean, norm.running_var
    if training and not updating:
        mean = var = None
    return ops.batch_norm(
        x,
        norm.weight,
        norm.bias,
        mean,
        var,
        training=training or (mean is None and var is None),
        momentum=0.0 if momentum is None else momentum,
        eps=norm.eps,
        relu=relu,
    )


def chain(layers: nn.Module, x: Tensor) -> Tensor:
    """``layers(x)``; a plain Sequential runs its linear layers by :func:`dense` and each norm
    together with the ReLU after it.

    Example:
        >>> mlp = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU())
        >>> chain(mlp, torch.randn(4, 2)).shape
        torch.Size([4, 3])
    """
    if type(layers) is not nn.Sequential or hooked(layers):
        out: Tensor = layers(x)
        return out
    parts = list(layers)
    at = 0
    while at < len(parts):
        part = parts[at]
        at += 1
        if type(part) is nn.BatchNorm1d:
            after = parts[at] if at < len(parts) else None
            relu = type(after) is nn.ReLU and not hooked(after)
            at += relu
            x = norm_act(part, x, relu)
        else:
            x = dense(part, x)
    return x
