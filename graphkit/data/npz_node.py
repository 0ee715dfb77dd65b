"""Amazon and Coauthor graphs (arXiv 1811.05868): two sparse matrices and labels in an npz."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphkit.data.cards import DatasetCard
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.data.locate import Source
from graphkit.errors import CorruptFileError

OPTIONS: dict[str, Any] = {}


def read(card: DatasetCard, source: Source) -> Parsed:
    """Read adjacency, 0/1 features and labels; the graph is made symmetric, loops are dropped."""
    from scipy.sparse import csr_matrix

    files = sorted((source.base / "raw").glob("*.npz"))
    if len(files) != 1:
        raise CorruptFileError(f"{source.base / 'raw'}: expected one npz file, found {len(files)}")
    with np.load(files[0], allow_pickle=False) as archive:
        part = {key: archive[key] for key in archive.files if not key.endswith("_names")}
    adjacency = csr_matrix(
        (part["adj_data"], part["adj_indices"], part["adj_indptr"]), part["adj_shape"]
    )
    features = csr_matrix(
        (part["attr_data"], part["attr_indices"], part["attr_indptr"]), part["attr_shape"]
    )
    coo = adjacency.tocoo()
    edges = torch.stack([torch.from_numpy(coo.row).long(), torch.from_numpy(coo.col).long()])
    x = torch.from_numpy(features.toarray()).float()
    x[x > 0] = 1.0
    num_nodes = adjacency.shape[0]
    graphs = pack_single(
        num_nodes,
        simple_edges(edges, num_nodes, undirected=True),
        node={"x": x, "y": torch.from_numpy(part["labels"]).long()},
    )
    return Parsed(graphs)
