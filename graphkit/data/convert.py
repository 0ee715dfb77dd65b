"""Your own graphs: edges, networkx, scipy or a CSV file to a checked PyG ``Data``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.checks import check_edge_index, check_features
from graphkit.data.packed import PackedGraphs
from graphkit.errors import DatasetNotFoundError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data


def simple_edges(edge_index: Tensor, num_nodes: int, undirected: bool) -> Tensor:
    """Sort edges by (source, target), drop loops and repeats, and add reverses if asked.

    Example:
        >>> simple_edges(torch.tensor([[1, 0, 1], [0, 0, 0]]), 2, undirected=True).tolist()
        [[0, 1], [1, 0]]
    """
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    return sorted_edges(edge_index, num_nodes, undirected)


def sorted_edges(edge_index: Tensor, num_nodes: int, undirected: bool) -> Tensor:
    """The same, keeping loops."""
    check_edge_index(edge_index, num_nodes)
    if undirected:
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    numbers = edge_index[0].long() * num_nodes + edge_index[1]
    keys = torch.from_numpy(np.unique(numbers.numpy()))
    return torch.stack([keys // num_nodes, keys % num_nodes])


def pack_single(
    num_nodes: int,
    edge_index: Tensor,
    node: Mapping[str, Tensor] | None = None,
    edge: Mapping[str, Tensor] | None = None,
) -> PackedGraphs:
    """Return a collection of one graph."""
    ends = torch.tensor([0, num_nodes]), torch.tensor([0, edge_index.size(1)])
    return PackedGraphs(*ends, edge_index, node=node, edge=edge)


def from_edges(
    edges: Tensor | Sequence[Sequence[int]] | Any,
    x: Any = None,
    y: Any = None,
    edge_attr: Any = None,
    num_nodes: int | None = None,
    undirected: bool = False,
) -> Data:
    """Build a PyG ``Data`` from a list of edges, looking at every value once.

    Args:
        edges: pairs ``(source, target)`` in any of the forms ``[E, 2]`` or ``[2, E]`` (a tensor or
            array of shape ``[2, 2]`` counts as ``[2, E]``, a list of two pairs as ``[E, 2]``).
        x: node features.
        y: targets.
        edge_attr: edge features.
        num_nodes: number of nodes; default rows of ``x``, else the largest id + 1.
        undirected: add the reverse right after each edge, with the same features.

    Shapes:
        x: ``[N, F]``; edge_attr: ``[E]`` or ``[E, D]``; result: edge_index int64 ``[2, E]``.

    Raises:
        InputError: an id is negative or too large, a length does not fit, or a feature is NaN.

    Example:
        >>> from_edges([(0, 1), (1, 2)], undirected=True).edge_index.tolist()
        [[0, 1, 1, 2], [1, 0, 2, 1]]
    """
    from torch_geometric.data import Data

    pairs = not hasattr(edges, "shape")
    try:
        edge_index = torch.as_tensor(edges if not pairs else list(edges))
    except (ValueError, TypeError) as error:
        raise InputError(f"edges: expected pairs of node ids ({error})") from error
    if edge_index.numel() == 0:
        edge_index = torch.zeros(2, 0, dtype=torch.int64)
    elif edge_index.dim() == 2 and (pairs or edge_index.size(0) != 2) and edge_index.size(1) == 2:
        edge_index = edge_index.t()
    features = None if x is None else torch.as_tensor(x)
    if num_nodes is None:
        if edge_index.is_floating_point():
            check_edge_index(edge_index, 0, name="edges")
        largest = int(edge_index.max()) + 1 if edge_index.numel() else 0
        num_nodes = len(features) if features is not None else largest
    if num_nodes < 1:
        raise InputError("edges: the graph has no nodes; give edges, x or num_nodes")
    check_edge_index(edge_index, num_nodes, name="edges")
    edge_index = edge_index.long().contiguous()
    attributes = None if edge_attr is None else torch.as_tensor(edge_attr)
    node_ptr = torch.tensor([0, num_nodes])
    edge_ptr = torch.tensor([0, edge_index.size(1)])
    if features is not None:
        check_features("x", features, "node", num_nodes, node_ptr, edge_ptr)
    if attributes is not None:
        check_features("edge_attr", attributes, "edge", edge_index.size(1), node_ptr, edge_ptr)
    if undirected:
        edge_index = edge_index.repeat_interleave(2, dim=1)
        edge_index[:, 1::2] = edge_index[:, 1::2].flip(0)
        attributes = None if attributes is None else attributes.repeat_interleave(2, dim=0)
    data = Data(edge_index=edge_index, num_nodes=num_nodes)
    if features is not None:
        data.x = features
    if attributes is not None:
        data.edge_attr = attributes
    if y is not None:
        data.y = torch.as_tensor(y)
    return data


def from_networkx(
    graph: Any, node_features: Sequence[str] = (), edge_features: Sequence[str] = ()
) -> Data:
    """Build a PyG ``Data`` from a networkx graph; undirected edges get both directions.

    Nodes are numbered in the order of ``graph.nodes``.

    Args:
        graph: a networkx graph, directed or not.
        node_features: names of numeric node attributes that become columns of ``x``.
        edge_features: names of numeric edge attributes that become columns of ``edge_attr``.

    Raises:
        InputError: a node or edge lacks an attribute, or it is not a number.

    Example:
        >>> import networkx
        >>> from_networkx(networkx.path_graph(3)).edge_index.tolist()
        [[0, 1, 1, 2], [1, 0, 2, 1]]
    """

    def _columns(items: Any, names: Sequence[str], what: str) -> Tensor | None:
        if not names:
            return None
        try:
            return torch.tensor([[float(found[name]) for name in names] for _, found in items])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{what}: an attribute is missing or not a number ({error})"
            ) from error

    number = {node: position for position, node in enumerate(graph.nodes)}
    edges = [((u, v), found) for u, v, found in graph.edges(data=True)]
    pairs = [(number[u], number[v]) for (u, v), _ in edges]
    return from_edges(
        pairs,
        x=_columns(graph.nodes(data=True), node_features, "node_features"),
        edge_attr=_columns(edges, edge_features, "edge_features"),
        num_nodes=len(number),
        undirected=not graph.is_directed(),
    )


def from_scipy(adjacency: Any, x: Any = None, y: Any = None) -> Data:
    """Build a PyG ``Data`` from a scipy sparse matrix; entry (i, j) is an edge i -> j.

    Weights other than 1 become ``edge_weight``.

    Raises:
        InputError: the matrix is not square, or a weight is NaN.

    Example:
        >>> import scipy.sparse
        >>> from_scipy(scipy.sparse.eye(2, k=1)).edge_index.tolist()
        [[0], [1]]
    """
    coo = adjacency.tocoo()
    if coo.shape[0] != coo.shape[1]:
        raise InputError(f"adjacency: must be square, got {coo.shape[0]} x {coo.shape[1]}")
    edge_index = torch.stack([torch.as_tensor(coo.row).long(), torch.as_tensor(coo.col).long()])
    data = from_edges(edge_index, x=x, y=y, num_nodes=coo.shape[0])
    weight = torch.as_tensor(coo.data).float()
    if bool((weight != 1).any()):
        ends = torch.tensor([0, coo.shape[0]]), torch.tensor([0, len(weight)])
        check_features("edge_weight", weight, "edge", len(weight), *ends)
        data.edge_weight = weight
    return data


def from_csv(
    path: str | os.PathLike[str],
    source: str = "source",
    target: str = "target",
    edge_features: Sequence[str] = (),
    undirected: bool = False,
    nodes: str | os.PathLike[str] | None = None,
    node_id: str = "id",
    node_features: Sequence[str] = (),
    label: str | None = None,
) -> Data:
    """Build a PyG ``Data`` from a CSV file of edges, and one of nodes if there is one.

    Without a node file the ids must be whole numbers from 0. With one, ids may be anything: nodes
    are numbered in the order of its rows.

    Args:
        path: edge file with a header line.
        source: column of the edge's start.
        target: column of its end.
        edge_features: numeric columns that become ``edge_attr``.
        undirected: add the reverse of each edge.
        nodes: node file with a header line.
        node_id: its id column.
        node_features: its numeric columns that become ``x``.
        label: its column that becomes ``y``; text labels are numbered in sorted order.

    Raises:
        DatasetNotFoundError: a file is missing.
        InputError: a column is missing, an id is unknown, or a value is not a number.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "edges.csv"
        >>> _ = file.write_text("source,target\\n0,1\\n1,2\\n")
        >>> from_csv(file).num_nodes
        3
    """
    import pandas as pd

    def _table(file: str | os.PathLike[str], columns: Sequence[str]) -> Any:
        if not os.path.isfile(file):
            raise DatasetNotFoundError(f"{file}: no such file")
        table = pd.read_csv(file)
        missing = [name for name in columns if name not in table.columns]
        if missing:
            raise InputError(f"{file}: no column {missing[0]!r}; it has {list(table.columns)}")
        return table

    def _numbers(table: Any, columns: Sequence[str], file: object) -> Tensor | None:
        if not columns:
            return None
        try:
            return torch.from_numpy(table[list(columns)].to_numpy(dtype="float32"))
        except ValueError as error:
            raise InputError(f"{file}: {list(columns)} must hold numbers ({error})") from error

    edges = _table(path, [source, target, *edge_features])
    ends = edges[[source, target]]
    x = y = num_nodes = None
    if nodes is not None:
        table = _table(nodes, [node_id, *node_features, *([label] if label else [])])
        number = pd.Series(range(len(table)), index=table[node_id])
        if not number.index.is_unique:
            twice = number.index[number.index.duplicated()][0]
            raise InputError(f"{nodes}: id {twice!r} occurs more than once in column {node_id!r}")
        mapped = ends.apply(lambda column: column.map(number))
        unknown = mapped.isna().any(axis=1)
        if unknown.any():
            row = int(unknown.to_numpy().argmax())
            raise InputError(
                f"{path}: edge {row} is {ends.iloc[row, 0]!r} -> {ends.iloc[row, 1]!r}, "
                f"but {nodes} lacks one of these ids"
            )
        ends, num_nodes = mapped, len(table)
        x = _numbers(table, node_features, nodes)
        if label:
            column = table[label]
            text = not pd.api.types.is_numeric_dtype(column)
            y = torch.tensor((column.astype("category").cat.codes if text else column).to_numpy())
    try:
        pairs = torch.from_numpy(ends.to_numpy(dtype="int64"))
    except ValueError as error:
        raise InputError(
            f"{path}: ids in {source!r} and {target!r} must be whole numbers ({error}); "
            "give nodes= for other ids"
        ) from error
    return from_edges(
        pairs.t(),
        x=x,
        y=y,
        edge_attr=_numbers(edges, edge_features, path),
        num_nodes=num_nodes,
        undirected=undirected,
    )
