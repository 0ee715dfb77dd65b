"""Models: one file or package per paper, plain modules with JSON-serialisable arguments."""

from graphkit.models.ctr import DLRM, ClickModel, DCNv2, DeepFM, WideDeep
from graphkit.models.embedding_classifier import EmbeddingClassifier
from graphkit.models.fastrp import FastRP
from graphkit.models.graph_hash import GraphHash
from graphkit.models.hetero_gnn import HeteroGNN
from graphkit.models.light_gcn import LightGCN
from graphkit.models.link_heuristics import LinkHeuristic
from graphkit.models.matrix_factorization import MatrixFactorization
from graphkit.models.mpnn_vn import MPNNVN
from graphkit.models.ncn import NCN, TrainingEdges
from graphkit.models.neu_mf import NeuMF
from graphkit.models.node_estimator import NodeEstimator
from graphkit.models.popularity import MostPop
from graphkit.models.prognn import ProGNN, ProGNNLowRank
from graphkit.models.recommender import InteractionBatch, Recommender, Sampling
from graphkit.models.registry import create_model, list_models, model_class, register_model
from graphkit.models.robust_gnn import RobustGNN
from graphkit.models.rphgnn import MetapathMeans, RpHGNN, RpHGNNPropagation
from graphkit.models.ssumm import SSumM, SummaryGraph, summarise
from graphkit.models.stable import Stable
from graphkit.models.ultragcn import UltraGCN
from graphkit.models.walk_embedding import WalkEmbedding

__all__ = [
    "FastRP",
    "ClickModel",
    "DCNv2",
    "DLRM",
    "DeepFM",
    "EmbeddingClassifier",
    "WideDeep",
    "GraphHash",
    "HeteroGNN",
    "InteractionBatch",
    "LightGCN",
    "LinkHeuristic",
    "MPNNVN",
    "MatrixFactorization",
    "MetapathMeans",
    "MostPop",
    "NCN",
    "NeuMF",
    "ProGNN",
    "ProGNNLowRank",
    "NodeEstimator",
    "Recommender",
    "RobustGNN",
    "RpHGNN",
    "RpHGNNPropagation",
    "SSumM",
    "Sampling",
    "Stable",
    "SummaryGraph",
    "TrainingEdges",
    "UltraGCN",
    "WalkEmbedding",
    "create_model",
    "list_models",
    "model_class",
    "register_model",
    "summarise",
]
