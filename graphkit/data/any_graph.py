"""A graph for the command line: the path of a file, or the name of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from graphkit.data.cards import names
from graphkit.data.graph_file import GraphFile, read_graph_file
from graphkit.data.load import load
from graphkit.errors import InputError, nearest
from graphkit.ops import CSR


def read_any_graph(
    name: str, *, undirected: bool, progress: Callable[[int], None] | None = None
) -> GraphFile:
    """A graph by the path of its file, or by the name of a data set of one graph.

    Args:
        name: a path or a name.
        undirected: of a file: an edge counts in both directions.
        progress: called with the number of edges read so far.

    Raises:
        InputError: neither a file nor a data set of one graph.

    Example:
        >>> read_any_graph("demo-node", undirected=True).csr.num_rows > 0
        True
    """
    if Path(name).is_file():
        return read_graph_file(name, undirected=undirected, progress=progress)
    if name not in names():
        close = nearest(name, names())
        raise InputError(f"graph: {name!r} is neither a file nor a data set{close}")
    dataset = load(name)
    if getattr(dataset, "graphs", None) is None or len(dataset) != 1:
        raise InputError(f"graph: {name} is not one graph, wanted a data set of one")
    graphs = dataset.graphs
    csr = CSR.from_edge_index(graphs.edge_index, graphs.num_nodes, flow="target_to_source")
    return GraphFile(csr, torch.arange(graphs.num_nodes))
