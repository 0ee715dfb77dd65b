"""FastRP's vectors as an attribute of nodes, also of those of a heterogeneous graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graphkit.data.packed import PackedGraphs
from graphkit.data.transforms import Transform
from graphkit.errors import InputError
from graphkit.models import FastRP


class AddFastRP(Transform):
    """Vectors of :class:`~graphkit.models.FastRP`: where in the graph each node is.

    Chen, Sultan, Tian, Chen, Skiena, CIKM 2019 (arXiv 1908.11512). Of a ``HeteroData`` all types
    are embedded together, along all relations in both directions; a type that has ``key`` already
    keeps it, so ``key="x"`` fills in features of the types without any.

    Args:
        dim: numbers per node.
        key: attribute that receives them.
        kinds: see :class:`Transform`.
        **settings: of FastRP; with ``property_ratio`` the features ``x`` are mixed in.

    Shapes:
        output: float32 ``[N, dim]``.

    Raises:
        InputError: an argument that FastRP refuses; edges that name nodes which are not there.

    Example:
        >>> from torch_geometric.data import Data, HeteroData
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> AddFastRP(8)(path).fastrp.shape
        torch.Size([3, 8])
        >>> data = HeteroData()
        >>> data["author"].x, data["paper"].num_nodes = torch.eye(2), 3
        >>> edges = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
        >>> data["author", "writes", "paper"].edge_index = edges
        >>> {kind: list(x.shape) for kind, x in AddFastRP(8, key="x")(data).x_dict.items()}
        {'author': [2, 2], 'paper': [3, 8]}
    """

    def __init__(
        self,
        dim: int = 64,
        key: str = "fastrp",
        kinds: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(kinds, dim=dim, key=key, **settings)
        self.key, self.model = key, FastRP(dim, **settings)

    def apply(self, graphs: PackedGraphs) -> PackedGraphs:
        """Embed every graph by itself."""
        found = [self._embed(graph, graph.get("x")) for graph in graphs]
        width = found[0].size(1) if found else self.model.dim
        return graphs.with_attributes(node={self.key: torch.cat([torch.empty(0, width), *found])})

    def __call__(self, data: Any) -> Any:
        """Return the graph with the vectors; the input is left as it is."""
        if not hasattr(data, "node_types"):
            return super().__call__(data)
        if self.model.property_ratio:
            raise InputError("property_ratio: node types differ in their features, wanted 0")
        first, total, ends = {}, 0, []
        for kind in data.node_types:
            size = data[kind].num_nodes
            if size is None:
                raise InputError(f"num_nodes: not given for node type {kind!r}")
            first[kind], total = total, total + int(size)
        for source, name, destination in data.edge_types:
            edges = data[source, name, destination].get("edge_index")
            whole = isinstance(edges, Tensor) and edges.dtype in (torch.int32, torch.int64)
            if not whole or edges.dim() != 2 or edges.size(0) != 2:
                seen = f"{edges.dtype} {list(edges.shape)}" if isinstance(edges, Tensor) else edges
                raise InputError(
                    f"edge_index: {seen} of {(source, name, destination)}, wanted [2, E] int64"
                )
            for row, kind in enumerate((source, destination)):
                size = data[kind].num_nodes
                if edges.numel() and not 0 <= int(edges[row].min()) <= int(edges[row].max()) < size:
                    raise InputError(
                        f"edge_index: {(source, name, destination)} names nodes "
                        f"{int(edges[row].min())} to {int(edges[row].max())} of {kind!r}, wanted "
                        f"0 to {size - 1}"
                    )
            ends.append(
                torch.stack([edges[0].long() + first[source], edges[1].long() + first[destination]])
            )
        one_way = torch.cat(ends, dim=1) if ends else torch.empty(2, 0, dtype=torch.int64)
        # A relation may be listed in both directions: each pair counts once.
        both = torch.unique(torch.cat([one_way, one_way.flip(0)], dim=1), dim=1)
        found = self.model.fit_transform(both, num_nodes=total)
        out = copy.copy(data)
        for kind, start in first.items():
            if self.key not in data[kind]:
                out[kind][self.key] = found[start : start + int(data[kind].num_nodes)].clone()
        return out

    def _embed(self, graph: Any, x: Tensor | None) -> Tensor:
        return self.model.fit_transform(graph, x=x)
