"""accelerate: give the PyG convolutions inside any model their fused forward; weights stay put."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch_geometric.nn as pyg
from torch import nn

from graphkit import nn as fused
from graphkit.errors import InputError
from graphkit.nn.message_passing import MessagePassing

_NAMES = (
    "APPNP", "ChebConv", "GATConv", "GATv2Conv", "GCN2Conv", "GCNConv", "GINConv", "GINEConv",
    "HANConv", "HGTConv", "LGConv", "PNAConv", "ResGatedGraphConv", "SAGEConv", "TransformerConv",
)  # fmt: skip
_FUSED: dict[type, Any] = {getattr(pyg, name): getattr(fused, name) for name in _NAMES}
_ORIGINAL: dict[type, Any] = {ours: theirs for theirs, ours in _FUSED.items()}
_SUMS = (
    "ChebConv",
    "GATConv",
    "GATv2Conv",
    "HANConv",
    "HGTConv",
    "ResGatedGraphConv",
    "TransformerConv",
)
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    *(f"_{part}_forward_{when}hooks"
      for part in ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
      for when in ("", "pre_")),
)  # fmt: skip
_METHODS = (
    "forward", "propagate", "message", "aggregate", "message_and_aggregate", "update",
    "edge_update", "edge_updater",
)  # fmt: skip
_MARK = "_accelerated"


@dataclass(frozen=True)
class Conv:
    """One convolution of a model: its name there, its class, and why it was left (``""``: not)."""

    name: str
    kind: str
    why: str = ""


@dataclass
class AccelerateReport:
    """What :func:`accelerate` did; ``print`` shows it as a table.

    Attributes:
        replaced: convolutions that run fused now.
        left: convolutions that run as before, each with the reason.
    """

    replaced: list[Conv] = field(default_factory=list)
    left: list[Conv] = field(default_factory=list)
    _modules: list[nn.Module] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Turn what this call replaced back into PyG's classes; the second time does nothing."""
        for module in self._modules:
            _restore_one(module)
        self._modules.clear()

    def __str__(self) -> str:
        rows = [(c.name or "(model)", c.kind, "fused") for c in self.replaced]
        rows += [(c.name or "(model)", c.kind, f"left: {c.why}") for c in self.left]
        if not rows:
            return "no convolutions to replace"
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
        return "\n".join([*lines, f"{len(self.replaced)} fused, {len(self.left)} left"])


def accelerate(model: nn.Module) -> AccelerateReport:
    """Make the PyG convolutions inside ``model`` run on graphkit's fused kernels, in place.

    Each convolution remains the same object with the same parameters, buffers, mode and place in
    the model; only its class becomes that of :mod:`graphkit.nn`. Optimisers, state dicts, wrappers
    and other references therefore stay valid, and a layer that is used twice is replaced once. What
    would compute something else is left, with the reason: subclasses, layers with hooks or methods
    of their own, other aggregations, ``flow="target_to_source"``, decomposed or explained layers.
    Inputs that the kernels do not take (sparse tensors, ``return_attention_weights``) are computed
    as before. Call :func:`restore` before ``torch.jit.script``.

    Args:
        model: any module: a convolution, ``Sequential`` of torch or PyG, PyG's ``GCN`` ... ``PNA``,
            ``GPSConv``, ``HeteroConv``, a ``to_hetero`` model, or your own.

    Returns:
        What was replaced and what was left; ``report.undo()`` takes it back.

    Raises:
        InputError: ``model`` is not a ``torch.nn.Module``.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> model = GCN(8, 16, num_layers=2)
        >>> print(accelerate(model))
        convs.0  GCNConv  fused
        convs.1  GCNConv  fused
        2 fused, 0 left
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {type(model).__name__}, wanted a torch.nn.Module")
    report = AccelerateReport()
    for name, module in model.named_modules():
        if not isinstance(module, pyg.MessagePassing) or isinstance(module, MessagePassing):
            continue
        kind = type(module).__name__
        why = _why_left(module)
        if why:
            report.left.append(Conv(name, kind, why))
            continue
        module.__class__ = _FUSED[type(module)]
        vars(module)[_MARK] = True
        report.replaced.append(Conv(name, kind))
        report._modules.append(module)
    return report


def restore(model: nn.Module) -> list[str]:
    """Turn all that :func:`accelerate` replaced inside ``model`` back into PyG's classes.

    Args:
        model: the model, or a copy of it.

    Returns:
        The names of the convolutions that were turned back.

    Raises:
        InputError: ``model`` is not a ``torch.nn.Module``.

    Example:
        >>> from torch_geometric.nn import SAGEConv
        >>> conv = SAGEConv(8, 16)
        >>> report = accelerate(conv)
        >>> restore(conv), type(conv) is SAGEConv
        ([''], True)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {type(model).__name__}, wanted a torch.nn.Module")
    return [name for name, module in model.named_modules() if _restore_one(module)]


def _restore_one(module: nn.Module) -> bool:
    if not vars(module).pop(_MARK, False) or type(module) not in _ORIGINAL:
        return False
    module.__class__ = _ORIGINAL[type(module)]
    return True


def _why_left(conv: Any) -> str:
    """Why ``conv`` must or had better stay as it is; ``""`` when it may be replaced."""
    kind = type(conv)
    if kind not in _FUSED:
        parents = [known.__name__ for known in _FUSED if isinstance(conv, known)]
        return f"subclass of {parents[0]}" if parents else f"no fused {kind.__name__}"
    own = [name for name in _METHODS if name in vars(conv)]
    if own:
        return f"its {own[0]} was replaced on the object"
    hooked = _hooked(conv)
    if hooked is not None:
        return f"{hooked or 'it'} has hooks"
    if conv.explain:
        return "an explainer is at work"
    if conv.decomposed_layers != 1:
        return f"decomposed_layers={conv.decomposed_layers}"
    if conv.flow != "source_to_target":
        return f"flow={conv.flow!r}"
    if conv.node_dim not in (-2, 0):
        return f"node_dim={conv.node_dim}"
    reduce = _FUSED[kind].fused_reduce.fget(conv)
    semi = any(getattr(part, "semi_grad", False) for part in conv.aggr_module.modules())
    if not reduce or semi or (kind.__name__ in _SUMS and reduce != "sum"):
        return f"aggr={'a semi-gradient' if semi else conv.aggr!r} has no kernel here"
    return _why_its_maps(conv, kind.__name__)


def _why_its_maps(conv: Any, kind: str) -> str:
    if kind == "PNAConv" and any(len(net) > 1 for net in conv.pre_nns):
        return "pre_layers > 1"
    if kind == "ResGatedGraphConv" and conv.edge_dim is not None:
        return "edge features reach all of its maps"
    if kind == "ResGatedGraphConv" and type(conv.act) is not nn.Sigmoid:
        return f"act={type(conv.act).__name__}"
    if kind == "GATConv":  # its scores are computed from the weights, past the maps themselves
        for name in ("lin", "lin_src", "lin_dst", "lin_edge"):
            layer = getattr(conv, name)
            if layer is not None and type(layer) is not pyg.Linear:
                return f"{name} is a {type(layer).__name__}"
    return ""


def _hooked(conv: nn.Module) -> str | None:
    """Name of the first module in ``conv`` that runs more than its forward; ``None`` if none does.

    The network that GIN wraps is called as it is, so its hooks are no hindrance.
    """
    for name, module in conv.named_modules():
        if name.split(".")[0] == "nn":
            continue
        for hooks in _HOOKS:
            found = set(getattr(module, hooks, ()))
            if hooks == "_forward_pre_hooks" and hasattr(module, "_hook"):
                found.discard(module._hook.id)  # a lazy layer learns its width
            if found:
                return name
    return None
