"""Many graphs as a few long tensors, cut into mini-batches by a handful of tensor operations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphkit.data.checks import NAN_ALLOWED, check_edges, check_features, check_pointer
from graphkit.errors import InputError

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

_WIDTHS = ((torch.int8, 127), (torch.int16, 32767), (torch.int32, 2**31 - 1))


def narrow(values: Tensor) -> Tensor:
    """Return integer ``values`` in the narrowest of int8, int16, int32 and int64 that holds them.

    Example:
        >>> narrow(torch.tensor([0, 118])).dtype
        torch.int8
    """
    if values.is_floating_point() or values.dtype == torch.bool or values.numel() == 0:
        return values
    low, high = torch.aminmax(values)
    limit = max(int(high), -int(low))
    for dtype, largest in _WIDTHS:
        if limit <= largest:
            return values.to(dtype).contiguous()
    return values


@lru_cache(maxsize=1)
def _empty_batch() -> Any:
    from torch_geometric.data import Batch, Data

    return Batch(_base_cls=Data)


class PackedGraphs:
    """A list of graphs stored end to end, so that a mini-batch costs a few gathers and no loop.

    Node ids are local to each graph and edges keep the order of the source files. Integer features
    are held in the narrowest type that fits and served as int64, which is what embeddings take.

    Args:
        node_ptr: graph ``g`` owns node rows ``node_ptr[g]`` up to ``node_ptr[g + 1]``.
        edge_ptr: the same for edge columns.
        edge_index: local node ids, row 0 the source and row 1 the target.
        node: attributes with one row per node (``x``; ``y`` of node-level sets; encodings).
        edge: attributes with one row per edge (``edge_attr``, ``edge_weight``).
        graph: attributes with one row per graph (``y`` of graph-level sets).
        served: dtype in which to hand out an attribute, where it is not the default; one-hot
            features are held as int8 and served as float32.
        check: look at every id and every feature once; only trusted caches pass ``False``.

    Shapes:
        node_ptr, edge_ptr: int64 ``[G + 1]``; edge_index: integer ``[2, E]``;
        attributes: ``[N, ...]``, ``[E, ...]``, ``[G, ...]``.

    Raises:
        InputError: an edge leaves its graph, a graph has no nodes, a shape or dtype is wrong, or a
            feature is NaN; the message names the graph, the edge and the value.

    Example:
        >>> graphs = PackedGraphs(
        ...     torch.tensor([0, 2, 5]), torch.tensor([0, 1, 3]),
        ...     torch.tensor([[0, 0, 1], [1, 1, 2]]), node={"x": torch.ones(5, 3)})
        >>> graphs.batch(torch.tensor([1, 0])).edge_index.tolist()
        [[0, 1, 3], [1, 2, 4]]
    """

    def __init__(
        self,
        node_ptr: Tensor,
        edge_ptr: Tensor,
        edge_index: Tensor,
        *,
        node: Mapping[str, Tensor] | None = None,
        edge: Mapping[str, Tensor] | None = None,
        graph: Mapping[str, Tensor] | None = None,
        served: Mapping[str, torch.dtype] | None = None,
        check: bool = True,
    ) -> None:
        attributes = {
            "node": dict(node or {}),
            "edge": dict(edge or {}),
            "graph": dict(graph or {}),
        }
        if check:
            check_pointer("node_ptr", node_ptr)
            check_pointer("edge_ptr", edge_ptr)
            check_edges(edge_index, node_ptr, edge_ptr)
            sizes = {
                "node": int(node_ptr[-1]),
                "edge": edge_index.size(1),
                "graph": len(node_ptr) - 1,
            }
            for kind, tensors in attributes.items():
                for key, value in tensors.items():
                    check_features(key, value, kind, sizes[kind], node_ptr, edge_ptr)
        self.node_ptr = node_ptr.long().contiguous()
        self.edge_ptr = edge_ptr.long().contiguous()
        self._num_nodes = self.node_ptr.diff()
        self._num_edges = self.edge_ptr.diff()
        self.kinds: dict[str, str] = {}
        self._served: dict[str, torch.dtype] = {}
        self._stored: dict[str, Tensor] = {}
        self._whole: Any = None
        # One large graph is handed out again and again as the same tensors: a narrow copy beside
        # the served one would cost memory instead of saving it.
        self._compact = len(self) > 1
        self._edge_index = narrow(edge_index) if self._compact else edge_index.long()
        for kind, tensors in attributes.items():
            for key, value in tensors.items():
                self._store(key, value, kind, (served or {}).get(key))

    def _store(self, key: str, value: Tensor, kind: str, dtype: torch.dtype | None = None) -> None:
        integer = not (value.is_floating_point() or value.dtype == torch.bool)
        self.kinds[key] = kind
        self._served[key] = dtype or (torch.int64 if integer else value.dtype)
        self._stored[key] = narrow(value) if integer and self._compact else value.contiguous()

    def __len__(self) -> int:
        return self.node_ptr.numel() - 1

    @property
    def num_nodes(self) -> int:
        """Number of nodes of all graphs together."""
        return int(self.node_ptr[-1])

    @property
    def num_edges(self) -> int:
        """Number of directed edges of all graphs together."""
        return int(self.edge_ptr[-1])

    @property
    def nodes_per_graph(self) -> Tensor:
        """Number of nodes of each graph, int64 ``[G]``."""
        return self._num_nodes

    @property
    def edges_per_graph(self) -> Tensor:
        """Number of directed edges of each graph, int64 ``[G]``."""
        return self._num_edges

    @property
    def edge_index(self) -> Tensor:
        """Local node ids of all edges, int64 ``[2, E]``."""
        return self._edge_index.long()

    def keys(self) -> list[str]:
        """Names of the attributes, without ``edge_index``."""
        return list(self.kinds)

    def __contains__(self, key: str) -> bool:
        return key == "edge_index" or key in self.kinds

    def __getattr__(self, key: str) -> Tensor | None:
        stored = self.__dict__.get("_stored", {})
        if key in stored:
            value: Tensor = stored[key].to(self._served[key])
            return value
        if key in ("x", "y", "edge_attr"):
            return None
        raise AttributeError(f"PackedGraphs has no attribute {key!r}; it holds {list(stored)}")

    def with_attributes(
        self,
        *,
        node: Mapping[str, Tensor] | None = None,
        edge: Mapping[str, Tensor] | None = None,
        graph: Mapping[str, Tensor] | None = None,
    ) -> PackedGraphs:
        """Return the same graphs with more attributes (or replaced ones); tensors are shared.

        Raises:
            InputError: a tensor has not one row per node, edge or graph.
        """
        other = copy.copy(self)
        other.kinds, other._served = dict(self.kinds), dict(self._served)
        other._stored, other._whole = dict(self._stored), None
        for kind, tensors, size in (
            ("node", node, self.num_nodes),
            ("edge", edge, self.num_edges),
            ("graph", graph, len(self)),
        ):
            for key, value in (tensors or {}).items():
                check_features(key, value, kind, size, self.node_ptr, self.edge_ptr)
                other._store(key, value, kind)
        return other

    def select(self, ids: Tensor | Iterable[int]) -> PackedGraphs:
        """Return a new collection holding only the graphs ``ids``, in that order."""
        ids = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.int64)
        node_ptr, _, node_rows = self._rows(ids, self.node_ptr, self._num_nodes)
        edge_ptr, _, edge_rows = self._rows(ids, self.edge_ptr, self._num_edges)
        rows = {"node": node_rows, "edge": edge_rows, "graph": ids}
        parts: dict[str, dict[str, Tensor]] = {"node": {}, "edge": {}, "graph": {}}
        for key, kind in self.kinds.items():
            parts[kind][key] = self._stored[key].index_select(0, rows[kind])
        chosen = PackedGraphs(
            node_ptr,
            edge_ptr,
            self._edge_index.index_select(1, edge_rows),
            check=False,
            node=parts["node"],
            edge=parts["edge"],
            graph=parts["graph"],
        )
        chosen._served = dict(self._served)
        return chosen

    def __iter__(self) -> Iterator[Data]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Data:
        """Return one graph as a PyG ``Data``."""
        from torch_geometric.data import Data

        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(
                f"graph {index} asked, but there are {len(self)} graphs (0 to {len(self) - 1})"
            )
        nodes = slice(int(self.node_ptr[position]), int(self.node_ptr[position + 1]))
        edges = slice(int(self.edge_ptr[position]), int(self.edge_ptr[position + 1]))
        rows = {"node": nodes, "edge": edges, "graph": slice(position, position + 1)}
        data = Data(edge_index=self._edge_index[:, edges].long().clone())
        for key, kind in self.kinds.items():
            data[key] = self._stored[key][rows[kind]].to(self._served[key], copy=True)
        data.num_nodes = nodes.stop - nodes.start
        return data

    @staticmethod
    def _rows(ids: Tensor, start: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets in the batch, graph of each row, and row in the long tensor."""
        counts = count.index_select(0, ids)
        ptr = torch.zeros(ids.numel() + 1, dtype=torch.int64)
        torch.cumsum(counts, 0, out=ptr[1:])
        total = int(ptr[-1])
        owner = torch.repeat_interleave(counts, output_size=total)
        shift = start.index_select(0, ids) - ptr[:-1]
        return ptr, owner, torch.arange(total) + shift.index_select(0, owner)

    def batch(self, ids: Tensor) -> Batch:
        """Assemble graphs ``ids`` into one PyG ``Batch``.

        A run of neighbouring ids is cut out by slices; other ids cost one gather per attribute.
        A collection of one graph hands out the same tensors each time, so that what is memoised
        per ``edge_index`` (the sorted view of the ops) is built once.

        Args:
            ids: graph ids, in the order wanted; repeats are allowed.

        Shapes:
            ids: int64 ``[B]``, at least one.

        Raises:
            InputError: ``ids`` is empty or names a graph that does not exist.
        """
        if ids.numel() == 0:
            raise InputError("ids: a batch needs at least one graph, got none")
        size = ids.numel()
        first = int(ids[0])
        if first < 0 or int(ids.max()) >= len(self) or int(ids.min()) < 0:
            raise InputError(
                f"ids: graph ids must lie in 0..{len(self) - 1}, "
                f"got {int(ids.min())}..{int(ids.max())}"
            )
        if len(self) == 1 and size == 1:
            if self._whole is None:
                self._whole = self._assemble(ids, whole=True)
            return copy.copy(self._whole)
        return self._assemble(ids)

    def _assemble(self, ids: Tensor, whole: bool = False) -> Batch:
        size, first = ids.numel(), int(ids[0])
        run = size == 1 or (int(ids[-1]) - first == size - 1 and bool((ids.diff() == 1).all()))
        rows: dict[str, Any]
        if run:
            last = first + size
            ptr = self.node_ptr[first : last + 1] - self.node_ptr[first]
            edge_ptr = self.edge_ptr[first : last + 1] - self.edge_ptr[first]
            owner = torch.repeat_interleave(self._num_nodes[first:last], output_size=int(ptr[-1]))
            edge_owner = (
                None
                if size == 1
                else torch.repeat_interleave(
                    self._num_edges[first:last], output_size=int(edge_ptr[-1])
                )
            )
            rows = {
                "node": slice(int(self.node_ptr[first]), int(self.node_ptr[last])),
                "edge": slice(int(self.edge_ptr[first]), int(self.edge_ptr[last])),
                "graph": slice(first, last),
            }
            edge_index = self._edge_index[:, rows["edge"]].long()
        else:
            ptr, owner, node_rows = self._rows(ids, self.node_ptr, self._num_nodes)
            edge_ptr, edge_owner, edge_rows = self._rows(ids, self.edge_ptr, self._num_edges)
            rows = {"node": node_rows, "edge": edge_rows, "graph": ids}
            edge_index = self._edge_index.index_select(1, edge_rows).long()
        if edge_owner is not None:
            edge_index = edge_index + ptr[:-1].index_select(0, edge_owner)

        batch = copy.copy(_empty_batch())
        store = batch._store
        store["edge_index"] = edge_index
        pointers = {"node": ptr, "edge": edge_ptr, "graph": torch.arange(size + 1)}
        zeros = torch.zeros(size, dtype=torch.int64)
        slices: dict[str, Any] = {"edge_index": edge_ptr}
        increments: dict[str, Any] = {"edge_index": ptr[:-1]}
        for key, kind in self.kinds.items():
            stored, dtype = self._stored[key], self._served[key]
            if run:
                part = stored[rows[kind]]
                # A view into the long tensor would let an in-place change reach the data set.
                store[key] = part.to(dtype) if whole or part.dtype != dtype else part.clone()
            else:
                store[key] = stored.index_select(0, rows[kind]).to(dtype)
            slices[key], increments[key] = pointers[kind], zeros
        if "x" not in self.kinds:
            store["num_nodes"] = int(ptr[-1])
            store._num_nodes = ptr.diff().tolist()
        store["batch"], store["ptr"] = owner, ptr
        batch._num_graphs, batch._slice_dict, batch._inc_dict = size, slices, increments
        return batch

    @classmethod
    def from_data_list(
        cls, graphs: Iterable[Data], kinds: Mapping[str, str] | None = None
    ) -> PackedGraphs:
        """Pack PyG ``Data`` objects; ``kinds`` says which key belongs to node, edge or graph.

        The kind of ``x``, ``pos``, ``edge_attr`` and ``edge_weight`` is known and ``y`` counts as
        graph-level; any other key must be named, because sizes can coincide and are not looked at.

        Raises:
            InputError: there are no graphs, a key has no kind, or a graph lacks a key.

        Example:
            >>> from torch_geometric.data import Data
            >>> path = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]))
            >>> len(PackedGraphs.from_data_list([path, path]))
            2
        """
        items = list(graphs)
        if not items:
            raise InputError("graphs: expected at least one Data object, got none")
        known = {
            "x": "node",
            "pos": "node",
            "edge_attr": "edge",
            "edge_weight": "edge",
            "y": "graph",
            **(kinds or {}),
        }
        parts: dict[str, dict[str, Tensor]] = {"node": {}, "edge": {}, "graph": {}}
        for key in items[0].keys():  # noqa: SIM118  (Data.keys is a method, Data is no mapping)
            if key in ("edge_index", "num_nodes"):
                continue
            if key not in known:
                raise InputError(
                    f"{key}: its kind is unknown; pass kinds={{{key!r}: 'node'|'edge'|'graph'}}"
                )
            missing = [number for number, data in enumerate(items) if key not in data]
            if missing:
                raise InputError(f"{key}: graph {missing[0]} has none, but graph 0 has")
            parts[known[key]][key] = torch.cat([data[key] for data in items])
        nodes = torch.tensor([0, *(data.num_nodes for data in items)]).cumsum(0)
        edges = torch.tensor([0, *(data.num_edges for data in items)]).cumsum(0)
        edge_index = torch.cat([data.edge_index for data in items], dim=1)
        return cls(
            nodes, edges, edge_index, node=parts["node"], edge=parts["edge"], graph=parts["graph"]
        )

    def __repr__(self) -> str:
        kinds = ", ".join(f"{key}: {kind}" for key, kind in self.kinds.items())
        sizes = f"{len(self)} graphs, {self.num_nodes} nodes, {self.num_edges} edges"
        return f"PackedGraphs({sizes}; {kinds})"


__all__ = ["NAN_ALLOWED", "PackedGraphs", "narrow"]
