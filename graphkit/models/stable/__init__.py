"""STABLE: unsupervised structure refinement for robust node classification (arXiv 2207.00012)."""

from graphkit.models.stable.classifier import GraphClassifier
from graphkit.models.stable.encoder import (
    ContrastiveEncoder,
    SummaryDiscriminator,
    contrast,
    normalised_views,
    recovered_views,
    train_contrastive,
)
from graphkit.models.stable.model import RefinedGraph, Stable
from graphkit.models.stable.neighbours import add_neighbours, most_similar
from graphkit.models.stable.pruning import cosine, jaccard, prune_by_embedding, rough_prune
from graphkit.models.stable.weighted_graph import (
    WeightedGraph,
    degree_power_normalisation,
    symmetric_normalisation,
)

__all__ = [
    "ContrastiveEncoder",
    "GraphClassifier",
    "RefinedGraph",
    "Stable",
    "SummaryDiscriminator",
    "WeightedGraph",
    "add_neighbours",
    "contrast",
    "cosine",
    "degree_power_normalisation",
    "jaccard",
    "most_similar",
    "normalised_views",
    "prune_by_embedding",
    "recovered_views",
    "rough_prune",
    "symmetric_normalisation",
    "train_contrastive",
]
