"""Data sets by name, packed graphs, loaders, transforms and converters.

Example:
    >>> from graphkit import data
    >>> data.load("demo").metric
    'rocauc'
"""

from graphkit.data.cards import DatasetCard, card, names
from graphkit.data.convert import from_csv, from_edges, from_networkx, from_scipy
from graphkit.data.dataset import GraphDataset
from graphkit.data.load import load
from graphkit.data.loader import GraphLoader
from graphkit.data.own import from_graphs
from graphkit.data.packed import PackedGraphs

__all__ = [
    "DatasetCard",
    "GraphDataset",
    "GraphLoader",
    "PackedGraphs",
    "card",
    "from_csv",
    "from_edges",
    "from_graphs",
    "from_networkx",
    "from_scipy",
    "load",
    "names",
]
