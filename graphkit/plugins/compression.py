"""Compression of embedding tables: before training, during it and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError, PluginError
from graphkit.nn.embedding import (
    GRAD_SCALES,
    SharedArray,
    SharedEmbedding,
    SharedLinear,
    check_spec,
    mimic_linear,
    mimic_table,
    needs_graph,
    resolve,
)
from graphkit.train.hooks import TrainerPlugin


def compress(
    model_args: Mapping[str, Any], interactions: Any = None, method: str = "graph", **options: Any
) -> dict[str, Any]:
    """Arguments of a recommender whose tables are compressed.

    Args:
        model_args: keyword arguments of the model.
        interactions: training pairs; with them the specification is tried out at once.
        method: see :func:`graphkit.nn.embedding.make_table`.
        **options: the other keys of the specification, such as ``gamma``.

    Raises:
        InputError: the specification is not understood or does not fit the pairs.

    Example:
        >>> compress({"dim": 64}, method="graph", gamma=10)
        {'dim': 64, 'table': {'method': 'graph', 'gamma': 10}}
    """
    spec = {"method": method, **options}
    check_spec(spec)
    if interactions is not None and needs_graph(spec):
        for side in ("user", "item"):
            resolve(spec, interactions, side)
    return {**model_args, "table": spec}


class ParameterSharingPlugin(TrainerPlugin):
    """STABLE-RPS: all large weights are read from one small array, trained with scaled gradients.

    Desai and Shrivastava, ICLR 2024 (arXiv 2310.11611). Before training, embedding tables and, if
    asked for, linear layers become views of one array of ``ratio`` times their size; they begin
    with the spread they had. Between backward and step, gradients of the array are divided as
    :meth:`graphkit.nn.embedding.SharedArray.grad_divisor` says. That matters for SGD; Adam
    normalises it away.

    Args:
        ratio: in (0, 1].
        mapping: ``randomfold``, ``hashednet``, ``robe`` or ``roast``.
        block: of ``robe`` and ``roast``.
        grad_scale: ``v1`` to ``v5`` or ``none``.
        init_scale, exact_std, signed, seed: see :class:`graphkit.nn.embedding.SharedArray`.
        linear: share the matrices of linear layers too; biases stay.
        min_size: smaller weights stay as they are.

    Raises:
        PluginError: a value out of range, or a model without weights to share.

    Example:
        >>> plugin = ParameterSharingPlugin(ratio=0.1, linear=False)
        >>> model = nn.Sequential(nn.Embedding(1000, 8), nn.Linear(8, 1))
        >>> model = plugin.transform_model(model, None)
        >>> sum(p.numel() for p in model.parameters())
        809
    """

    name = "parameter_sharing"
    can_reshard = True  # the array is a weight of the model; nothing here depends on the worker

    def __init__(
        self,
        ratio: float = 0.1,
        mapping: str = "randomfold",
        block: int = 1,
        grad_scale: str = "v1",
        init_scale: float = 0.05,
        exact_std: bool = False,
        signed: bool = True,
        seed: int = 123321,
        linear: bool = False,
        min_size: int = 1024,
    ) -> None:
        self._config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if grad_scale not in GRAD_SCALES:
            raise PluginError(
                f"parameter_sharing: grad_scale must be one of {', '.join(GRAD_SCALES)}, got "
                f"{grad_scale!r}"
            )
        self.grad_scale, self.linear, self.min_size = grad_scale, linear, min_size
        self._array_options = {
            key: self._config[key]
            for key in (
                "ratio",
                "mapping",
                "block",
                "init_scale",
                "exact_std",
                "signed",
                "seed",
            )
        }
        try:
            SharedArray(1 << 20, **self._array_options)
        except InputError as error:
            raise PluginError(f"parameter_sharing: {error}") from error
        self._hook: Any = None

    @property
    def config(self) -> dict[str, Any]:
        return dict(self._config)

    def transform_model(self, model: nn.Module, data: Any) -> nn.Module:
        found = list(_shareable(model, self.linear, self.min_size))
        array = next((m for m in model.modules() if isinstance(m, SharedArray)), None)
        if array is None:
            array = self._share(model, found)
        if self._hook is not None:
            self._hook.remove()
        # On the gradient itself, so that reduction, clipping and an owner of the step see it
        # scaled, however often the step runs backward.
        divisor = array.grad_divisor(self.grad_scale)
        self._hook = array.weight.register_hook(lambda grad: grad / divisor.to(grad))  # type: ignore[no-untyped-call]
        return model

    def _share(self, model: nn.Module, found: list[tuple[nn.Module, str, Any]]) -> SharedArray:
        if not found:
            raise PluginError(
                f"parameter_sharing: {type(model).__name__} has no embedding table"
                f"{' or linear layer' if self.linear else ''} of at least {self.min_size} weights"
            )
        device = found[0][2].weight.device
        total = sum({id(m): m.weight.numel() for _, _, m in found}.values())
        array = SharedArray(total, **self._array_options).to(device)
        made: dict[int, nn.Module] = {}
        for parent, name, module in found:
            # A table that the model uses in two places is mapped once.
            if id(module) not in made:
                # The first view holds the array, so that any kind of model keeps its forward.
                made[id(module)] = _shared(module, array, own=not made).to(device)
            setattr(parent, name, made[id(module)])
        return array


def _shareable(
    model: nn.Module, linear: bool, min_size: int
) -> Iterable[tuple[nn.Module, str, Any]]:
    kinds: tuple[type[nn.Module], ...] = (nn.Embedding, nn.Linear) if linear else (nn.Embedding,)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            plain = getattr(child, "padding_idx", None) is None
            if type(child) in kinds and plain and child.weight.numel() >= min_size:  # type: ignore[operator]
                yield parent, name, child


def _shared(module: Any, array: SharedArray, own: bool) -> nn.Module:
    std = float(module.weight.detach().std(correction=0))
    if isinstance(module, nn.Embedding):
        rows, columns = module.num_embeddings, module.embedding_dim
        return SharedEmbedding(rows, columns, array, std=std, own=own)
    return SharedLinear(
        module.in_features, module.out_features, module.bias, array=array, std=std, own=own
    )


def compress_low_rank(
    model: nn.Module,
    rank: int,
    counts: Mapping[str, Tensor] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Replace trained tables and linear layers, in place, by low-rank ones that mimic them.

    Args:
        model: trained; fine-tune it afterwards.
        rank: of every replacement; tables not wider than it stay.
        counts: for each table, by its dotted name, how often its ids occur in training. Without
            it all tables are replaced and all ids count equally.
        inputs: for each linear layer to replace, by its dotted name, what it sees in training.

    Returns:
        The model.

    Raises:
        InputError: a name that is no table or no linear layer, or a rank that does not fit.

    Example:
        >>> model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 4))
        >>> sum(p.numel() for p in compress_low_rank(model, rank=2).parameters())
        216
    """
    modules = dict(model.named_modules())
    if counts is None:
        tables = {
            name: torch.ones(module.num_embeddings)
            for name, module in modules.items()
            if _is_table(module) and int(module.embedding_dim) > rank  # type: ignore[arg-type]
        }
    else:
        tables = dict(counts)
    for name, count in tables.items():
        module = modules.get(name)
        if module is None or not _is_table(module):
            known = ", ".join(n for n, m in modules.items() if _is_table(m))
            raise InputError(f"counts: {name!r} is no embedding table; there are: {known}")
        weight: Tensor = module.weight  # type: ignore[assignment]
        _replace(model, name, mimic_table(weight.detach(), count, rank))
    for name, seen in (inputs or {}).items():
        module = modules.get(name)
        if not isinstance(module, nn.Linear):
            known = ", ".join(n for n, m in modules.items() if isinstance(m, nn.Linear))
            raise InputError(f"inputs: {name!r} is no linear layer; there are: {known}")
        _replace(model, name, mimic_linear(module, seen, rank))
    return model


def _is_table(module: nn.Module) -> bool:
    # Behind codes it is the stored table that gets narrower.
    return isinstance(module, (nn.Embedding, SharedEmbedding))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
