"""Models: one file or package per paper, plain modules with JSON-serialisable arguments."""

from graphkit.models.graph_hash import GraphHash
from graphkit.models.link_heuristics import LinkHeuristic
from graphkit.models.mpnn_vn import MPNNVN
from graphkit.models.ncn import NCN, TrainingEdges
from graphkit.models.node_estimator import NodeEstimator
from graphkit.models.prognn import ProGNN, ProGNNLowRank
from graphkit.models.registry import create_model, list_models, model_class, register_model
from graphkit.models.robust_gnn import RobustGNN
from graphkit.models.stable import Stable

__all__ = [
    "GraphHash",
    "LinkHeuristic",
    "MPNNVN",
    "NCN",
    "ProGNN",
    "ProGNNLowRank",
    "NodeEstimator",
    "RobustGNN",
    "Stable",
    "TrainingEdges",
    "create_model",
    "list_models",
    "model_class",
    "register_model",
]
