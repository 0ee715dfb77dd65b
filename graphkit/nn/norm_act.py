"""norm_act: call a norm and the ReLU after it as one operation where that changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from graphkit import ops
from graphkit.nn.dense import dense, hooked
from graphkit.nn.dropout import Dropout


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
    """``layers(x)``; the layers of a plain Sequential run by :func:`run_layers`.

    Example:
        >>> mlp = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU())
        >>> chain(mlp, torch.randn(4, 2)).shape
        torch.Size([4, 3])
    """
    if type(layers) is not nn.Sequential or hooked(layers):
        out: Tensor = layers(x)
        return out
    return run_layers(layers, x)


def run_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Call layers one after the other, some of them together as one operation.

    Plain linear layers run by :func:`~graphkit.nn.dense.dense`, a BatchNorm1d with the ReLU after
    it, and LayerNorm, :class:`~graphkit.nn.dropout.Dropout` and ReLU together, where they follow
    each other in this order and one of the first two is there. Layers with hooks, subclasses and
    dropout in place are called as they are; one seed drops the same either way.

    Example:
        >>> run_layers([nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU()], torch.randn(4, 2)).shape
        torch.Size([4, 3])
    """
    parts = [part for part in layers if type(part) is not nn.Identity or hooked(part)]
    at = 0
    while at < len(parts):
        part, rest = parts[at], parts[at + 1 :]
        at += 1
        if type(part) is nn.BatchNorm1d:
            relu = _next(rest, nn.ReLU)
            at += relu
            x = norm_act(part, x, relu)
        elif _fuses(part, x):
            together = [part]
            if type(part) is nn.LayerNorm and _next(rest, Dropout) and not rest[0].inplace:
                together.append(rest.pop(0))
            relu = _next(rest, nn.ReLU)
            at += len(together) - 1 + relu
            x = _normalise_drop(together, x, relu)
        else:
            x = dense(part, x)
    return x


def _next(rest: list[nn.Module], kind: type[nn.Module]) -> bool:
    return bool(rest) and type(rest[0]) is kind and not hooked(rest[0])


def _fuses(part: nn.Module, x: Tensor) -> bool:
    if torch.compiler.is_compiling() or hooked(part):
        return False
    if type(part) is nn.LayerNorm:
        return part.normalized_shape == x.shape[-1:]
    return type(part) is Dropout and not part.inplace


def _normalise_drop(layers: list[nn.Module], x: Tensor, relu: bool) -> Tensor:
    norm, drop = layers[0], layers[-1]
    p, training = (drop.p, drop.training) if isinstance(drop, Dropout) else (0.0, False)
    if not isinstance(norm, nn.LayerNorm):
        return ops.dropout(x, p, training=training, relu=relu)
    return ops.layer_norm(x, norm.weight, norm.bias, norm.eps, p=p, training=training, relu=relu)
