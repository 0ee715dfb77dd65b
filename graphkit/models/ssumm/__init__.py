"""SSumM: a graph as a few supernodes and weighted superedges, and queries on that summary."""

from graphkit.models.ssumm.estimator import SSumM, summarise
from graphkit.models.ssumm.summary import SummaryGraph

__all__ = ["SSumM", "SummaryGraph", "summarise"]
