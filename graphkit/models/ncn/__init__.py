"""NCN and NCNC: link prediction from common neighbours and those to come (arXiv 2302.00890)."""

from graphkit.models.ncn.adjacency import TrainingEdges, adjacency, drop_adj
from graphkit.models.ncn.completion import (
    completion_probability,
    increasing_alpha,
    sample_rows,
    two_hop,
)
from graphkit.models.ncn.encoder import CONVS, AdjConv, NCNEncoder
from graphkit.models.ncn.model import NCN
from graphkit.models.ncn.predictor import PREDICTORS, LinkPredictor

__all__ = [
    "AdjConv",
    "CONVS",
    "LinkPredictor",
    "NCN",
    "NCNEncoder",
    "PREDICTORS",
    "TrainingEdges",
    "adjacency",
    "completion_probability",
    "drop_adj",
    "increasing_alpha",
    "sample_rows",
    "two_hop",
]
