"""RpHGNN: heterogeneous graphs by random projection; propagate once, then train a dense network."""

from graphkit.models.rphgnn.line import line_features
from graphkit.models.rphgnn.metapaths import MetapathMeans
from graphkit.models.rphgnn.model import RpHGNN
from graphkit.models.rphgnn.propagation import RpHGNNPropagation

__all__ = ["MetapathMeans", "RpHGNN", "RpHGNNPropagation", "line_features"]
