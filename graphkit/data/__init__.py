"""Data sets by name, packed graphs, loaders, transforms and converters.

Example:
    >>> from graphkit import data
    >>> data.load("demo").metric
    'rocauc'
"""

import importlib
from typing import TYPE_CHECKING, Any

from graphkit.data.any_graph import read_any_graph
from graphkit.data.cards import DatasetCard, card, names
from graphkit.data.convert import from_csv, from_edges, from_networkx, from_scipy
from graphkit.data.ctr import ClickBatch, ClickDataset, read_clicks
from graphkit.data.dataset import GraphDataset
from graphkit.data.graph_file import GraphFile, read_graph_file
from graphkit.data.hetero import HeteroNodes
from graphkit.data.interactions import Interactions
from graphkit.data.load import load
from graphkit.data.loader import GraphLoader
from graphkit.data.own import from_graphs
from graphkit.data.packed import PackedGraphs
from graphkit.data.recsys import RecommendationDataset, from_interactions

if TYPE_CHECKING:
    from graphkit.data.neighbor_sampler import (
        LinkNeighborLoader,
        NeighborLoader,
        NeighborSampler,
    )
    from graphkit.data.subgraph_loaders import ClusterLoader, RandomWalkLoader, partition

__all__ = [
    "ClickBatch",
    "ClickDataset",
    "ClusterLoader",
    "DatasetCard",
    "GraphDataset",
    "GraphFile",
    "GraphLoader",
    "HeteroNodes",
    "Interactions",
    "LinkNeighborLoader",
    "NeighborLoader",
    "NeighborSampler",
    "PackedGraphs",
    "RandomWalkLoader",
    "RecommendationDataset",
    "card",
    "from_csv",
    "from_edges",
    "from_graphs",
    "from_interactions",
    "from_networkx",
    "from_scipy",
    "load",
    "names",
    "partition",
    "read_any_graph",
    "read_clicks",
    "read_graph_file",
]

# PyG's loaders take a second to import: only those who sample pay for it.
_LATE = {
    "ClusterLoader": "subgraph_loaders",
    "LinkNeighborLoader": "neighbor_sampler",
    "NeighborLoader": "neighbor_sampler",
    "NeighborSampler": "neighbor_sampler",
    "RandomWalkLoader": "subgraph_loaders",
    "partition": "subgraph_loaders",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
