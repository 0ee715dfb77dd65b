"""MessagePassing: PyG's base class with a fused way through ``propagate``.

A convolution keeps PyG's ``message`` and ``aggregate`` as its definition and adds
``fused(csr, ...)``, which computes the same thing with :mod:`graphkit.ops`. ``propagate`` takes the
fused way unless something needs the messages themselves: explainers, hooks, sparse tensors, an
aggregation that is not in the kernels, inference decomposition, or a feature layout other than
``[N, F]``. One contract test holds the two ways equal for every convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing as PyGMessagePassing
from torch_geometric.nn.aggr import MultiAggregation

from graphkit import ops
from graphkit.ops import CSR

_REDUCES = {"add": "sum", **{name: name for name in ops.REDUCES}}
_SPREADS = ("var", "std")
_HOOKS = (
    "_propagate_forward_pre_hooks",
    "_propagate_forward_hooks",
    "_message_forward_pre_hooks",
    "_message_forward_hooks",
    "_aggregate_forward_pre_hooks",
    "_aggregate_forward_hooks",
    "_message_and_aggregate_forward_pre_hooks",
    "_message_and_aggregate_forward_hooks",
)


def takes_semi_gradient(aggregation: Any) -> bool:
    """Whether PyG's variance or deviation was asked for another backward than the kernels'.

    Example:
        >>> from torch_geometric.nn.aggr import StdAggregation
        >>> takes_semi_gradient(StdAggregation(semi_grad=True))
        True
    """
    return bool(getattr(getattr(aggregation, "var_aggr", aggregation), "semi_grad", False))


class MessagePassing(PyGMessagePassing):
    """Base of graphkit's convolutions; use it like PyG's, and define ``fused`` to gain speed.

    Example:
        >>> class Sum(MessagePassing):
        ...     def forward(self, x, edge_index):
        ...         return self.propagate(edge_index, x=x)
        ...     def fused(self, csr, x):
        ...         return ops.aggregate(csr, x, reduce=self.fused_reduce)
        >>> from graphkit import ops
        >>> Sum()(torch.tensor([[1.0], [2.0]]), torch.tensor([[0], [1]])).tolist()
        [[0.0], [1.0]]
    """

    # True in layers whose fused sweep has several inputs or results: their `forward` asks for it,
    # and `propagate` serves the definition only.
    fused_in_forward = False

    @property
    def explain(self) -> bool | None:
        """Whether an explainer wants to see the messages."""
        return self._explain

    @explain.setter
    def explain(self, explain: bool | None) -> None:
        PyGMessagePassing.explain.fset(self, explain)  # type: ignore[attr-defined]
        # PyG has put a `propagate` of its own on the layer; it would stay after the explanation.
        self.__dict__.pop("propagate", None)

    def fused(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute ``propagate``'s result: ``fused(csr, **arguments_of_propagate)``."""
        raise NotImplementedError

    @property
    def fused_reduce(self) -> str | tuple[str, ...]:
        """The kernels' reduce for ``aggr``: a name, several for PyG's concatenating
        MultiAggregation, or ``""`` where the kernels have no equal."""
        module = self.aggr_module
        if isinstance(self.aggr, str):
            name = _REDUCES.get(self.aggr, "")
            return "" if name in _SPREADS and takes_semi_gradient(module) else name
        if isinstance(self.aggr, list) and isinstance(module, MultiAggregation):
            names = tuple(_REDUCES.get(name, "") for name in self.aggr)
            if module.mode == "cat" and all(names) and len(set(names)) == len(names):
                return "" if any(takes_semi_gradient(part) for part in module.aggrs) else names
        return ""

    @property
    def owns_output(self) -> bool:
        """Whether the result of ``propagate`` may be changed in place: no derivative reads it.

        Those of minima, maxima and deviations do, in one backend or the other.
        """
        return self.fused_reduce in ("sum", "mean")

    def takes_fused_way(self, edge_index: Any, x: Any) -> bool:
        """Whether ``propagate`` will call ``fused`` for these arguments."""
        features = x[0] if isinstance(x, (tuple, list)) else x
        return (
            (self.fused_in_forward or type(self).fused is not MessagePassing.fused)
            and type(edge_index) in (Tensor, torch.nn.Parameter)
            and edge_index.layout == torch.strided
            and isinstance(features, Tensor)
            and features.dim() == 2
            and self.node_dim in (-2, 0)
            and bool(self.fused_reduce)
            and not self.explain
            and self.decomposed_layers == 1
            and not any(getattr(self, hooks) for hooks in _HOOKS)
            and not torch.jit.is_scripting()  # type: ignore[attr-defined]
        )

    def propagate(self, edge_index: Any, size: Any = None, **kwargs: Any) -> Tensor:
        """PyG's ``propagate``, by the fused kernels where they apply."""
        x = kwargs.get("x")
        if self.fused_in_forward or not self.takes_fused_way(edge_index, x):
            # By name: constructing a PyG layer replaces `propagate` of its class, which is next in
            # our order of bases, by generated code that knows no explainers.
            return PyGMessagePassing.propagate(self, edge_index, size=size, **kwargs)
        csr = CSR.from_edge_index(edge_index, size=self._sizes(x, size), flow=self.flow)
        return self.fused(csr, **kwargs)

    def _sizes(self, x: Any, size: Any) -> tuple[int, int]:
        """``(sources, targets)`` counted along the rows of edge_index."""
        if isinstance(x, Tensor):
            return (x.size(0), x.size(0)) if size is None else (size[0], size[1])
        first = x[0].size(0)
        second = x[1].size(0) if x[1] is not None else (size[1] if size is not None else first)
        return first, second

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        # PyG would write a generated `propagate` into the subclass, past the fused way.
        return None
