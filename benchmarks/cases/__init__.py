"""What is measured. Importing this package registers every case."""

from benchmarks.cases import (  # noqa: F401
    attention,
    dgl,
    embedding,
    links,
    recommendation,
    reduces,
    roofline,
    scans,
    structure,
    training,
)
from benchmarks.cases.registry import (
    CASES,
    RATES,
    Case,
    Pair,
    Rate,
    Skipped,
    Work,
    graph_inputs,
    select,
    select_rates,
)

__all__ = [
    "CASES",
    "RATES",
    "Case",
    "Pair",
    "Rate",
    "Skipped",
    "Work",
    "graph_inputs",
    "select",
    "select_rates",
]
