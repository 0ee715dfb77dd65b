"""R-GCN, HGT and HAN on whole heterogeneous graphs, to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import RGCNConv

from graphkit.errors import InputError
from graphkit.models.registry import register_model
from graphkit.nn import HANConv, HGTConv
from graphkit.nn.dense import dense
from graphkit.nn.dropout import Dropout

_CONVS = ("rgcn", "hgt", "han")


@register_model("hetero_gnn")
class HeteroGNN(nn.Module):
    """Baselines for node classification in heterogeneous graphs.

    - ``rgcn``: Schlichtkrull et al., "Modeling Relational Data with Graph Convolutional Networks"
      (arXiv 1703.06103).
    - ``hgt``: Hu, Dong, Wang, Sun, "Heterogeneous Graph Transformer", WWW 2020 (arXiv 2003.01332).
    - ``han``: Wang et al., "Heterogeneous Graph Attention Network", WWW 2019 (arXiv 1903.07293);
      its edge types run along metapaths from the target to itself.

    Features of each type are mapped to one width; types without features learn a vector per node.

    Args:
        node_types: number of nodes and of features (0 for none) of each type.
        edge_types: ``(source, relation, destination)``; both directions listed.
        target: the type to classify.
        out_channels: ``C``.
        conv: one of the above.
        hidden_channels: width of all layers.
        num_layers: number of convolutions.
        heads: of ``hgt`` and ``han``; divides the width.
        dropout: on the mapped features and behind each convolution.

    Shapes:
        - **out:** ``[N, C]`` for the N nodes of the target type

    Raises:
        InputError: an argument that does not fit the others.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["author"].x, data["paper"].num_nodes = torch.eye(2), 3
        >>> edges = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
        >>> data["author", "writes", "paper"].edge_index = edges
        >>> data["paper", "by", "author"].edge_index = edges.flip(0)
        >>> model = HeteroGNN({"author": [2, 2], "paper": [3, 0]}, data.edge_types, "author", 4)
        >>> model(data).shape
        torch.Size([2, 4])
    """

    name = "hetero_gnn"

    def __init__(
        self,
        node_types: Mapping[str, Sequence[int]],
        edge_types: Sequence[Sequence[str]],
        target: str,
        out_channels: int,
        conv: str = "rgcn",
        hidden_channels: int = 64,
        num_layers: int = 2,
        heads: int = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        sizes = {kind: [int(n) for n in pair] for kind, pair in node_types.items()}
        types = [(str(s), str(r), str(d)) for s, r, d in edge_types]
        if conv not in _CONVS:
            raise InputError(f"conv: {conv!r}, wanted one of {', '.join(_CONVS)}")
        if target not in sizes or not types:
            raise InputError(f"target: {target!r}, wanted one of {list(sizes)} and edges")
        strange = {kind for s, _, d in types for kind in (s, d)} - set(sizes)
        if strange:
            raise InputError(f"edge_types: end at {sorted(strange)}, not among {list(sizes)}")
        for key, value in (("hidden_channels", hidden_channels), ("num_layers", num_layers)):
            if value < 1:
                raise InputError(f"{key}: {value}, wanted at least 1")
        if heads < 1 or hidden_channels % heads:
            raise InputError(f"heads: {heads}, wanted a divisor of {hidden_channels}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout: {dropout}, wanted at least 0 and less than 1")
        self.config: dict[str, Any] = {
            "node_types": sizes, "edge_types": [list(t) for t in types], "target": target,
            "out_channels": out_channels, "conv": conv, "hidden_channels": hidden_channels,
            "num_layers": num_layers, "heads": heads, "dropout": dropout,
        }  # fmt: skip
        self.target, self.conv, self.edge_types = target, conv, types
        # A metapath leads from the target to itself: no other type is looked at.
        self.kinds = sorted({kind for s, _, d in types for kind in (s, d)} | {target})
        width = hidden_channels
        self._key = _keys(self.kinds)
        self.inputs = nn.ModuleDict(
            {self._key[k]: nn.Linear(sizes[k][1], width) for k in self.kinds if sizes[k][1]}
        )
        self.vectors = nn.ParameterDict(
            {
                self._key[k]: torch.randn(sizes[k][0], width) * 0.1
                for k in self.kinds
                if not sizes[k][1]
            }
        )
        self.dropout = Dropout(dropout)
        # PyG joins relations with their types: only a dot would be in the way.
        relation = _keys(sorted({r for _, r, _ in types}), alone=False)
        self._inside = {(s, r, d): (self._key[s], relation[r], self._key[d]) for s, r, d in types}
        metadata = ([self._key[kind] for kind in self.kinds], list(self._inside.values()))
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            if conv == "rgcn":
                self.layers.append(RGCNConv(width, width, len(types)))
            elif conv == "hgt":
                self.layers.append(HGTConv(width, width, metadata, heads))
            else:
                inside = dict.fromkeys(self._key.values(), width)
                self.layers.append(HANConv(inside, width, metadata, heads, dropout=dropout))
        self.head = nn.Linear(width, out_channels)

    def forward(self, data: Any) -> Tensor:
        x = {kind: self.dropout(F.relu(self._input(kind, data))) for kind in self.kinds}
        edges = {key: data[key].edge_index for key in self.edge_types}
        if self.conv == "rgcn":
            target = self._relational(x, edges)
        else:
            x = {self._key[kind]: value for kind, value in x.items()}
            edges = {self._inside[key]: ends for key, ends in edges.items()}
            for layer in self.layers:
                found = layer(x, edges)
                # A type that nothing reaches keeps what it has.
                x = {
                    kind: old if found.get(kind) is None else self.dropout(F.relu(found[kind]))
                    for kind, old in x.items()
                }
            target = x[self._key[self.target]]
        return dense(self.head, target)

    def _input(self, kind: str, data: Any) -> Tensor:
        key = self._key[kind]
        if key in self.vectors:
            return self.vectors[key]
        return dense(self.inputs[key], data[kind].x)

    def _relational(
        self, x: dict[str, Tensor], edges: dict[tuple[str, str, str], Tensor]
    ) -> Tensor:
        first, start = {}, 0
        for kind in self.kinds:
            first[kind], start = start, start + x[kind].size(0)
        moved = [
            ends + torch.tensor([[first[s]], [first[d]]], device=ends.device)
            for (s, _, d), ends in edges.items()
        ]
        kinds = torch.cat(
            [torch.full((e.size(1),), i, device=e.device) for i, e in enumerate(moved)]
        )
        together, whole = torch.cat([x[kind] for kind in self.kinds]), torch.cat(moved, 1)
        for layer in self.layers:
            together = self.dropout(F.relu(layer(together, whole, kinds)))
        size = x[self.target].size(0)
        return together[first[self.target] : first[self.target] + size]


def _keys(names: Iterable[str], alone: bool = True) -> dict[str, str]:
    """Names that a module may give its parts: those of the data, but for ``items`` or ``a.b``.

    With ``alone=False`` they are pieces of longer names, which no attribute of a module has.
    """
    taken: tuple[nn.Module, ...] = (nn.ModuleDict(), nn.ParameterDict())
    found: dict[str, str] = {}
    for name in names:
        key = name.replace(".", "#")
        if alone and (not key or any(hasattr(part, key) for part in taken)):
            key = f"<{key}>"
        while key in found.values():  # "a.b" beside "a#b"
            key += "#"
        found[name] = key
    return found
