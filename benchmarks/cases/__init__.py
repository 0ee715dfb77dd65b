"""What is measured. Importing this package registers every case."""

from benchmarks.cases import attention, dgl, reduces, scans, structure, training  # noqa: F401
from benchmarks.cases.registry import CASES, Case, Pair, Skipped, graph_inputs, select

__all__ = ["CASES", "Case", "Pair", "Skipped", "graph_inputs", "select"]
