"""RpHGNN: heterogeneous graphs by random projection; propagate once, then train a dense network."""

from graphkit.models.rphgnn.model import RpHGNN
from graphkit.models.rphgnn.propagation import RpHGNNPropagation

__all__ = ["RpHGNN", "RpHGNNPropagation"]
