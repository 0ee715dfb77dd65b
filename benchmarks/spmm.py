"""How much of the machine's memory bandwidth the sum over neighbours reaches."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.cases import graph_inputs
from benchmarks.measure import bandwidth, copy_bandwidth
from graphkit.ops import CSR, aggregate


def measure(scale: float) -> dict[str, Any]:
    """GB/s of ``aggregate(copy, sum)`` and of a large copy.

    The sum's bytes are the rows it gathers, its indices and its output, each counted once per use;
    rows that the caches hold make it exceed what comes from memory. A copy counts read and write.
    """
    x, edge_index = graph_inputs(scale)
    csr = CSR.from_edge_index(edge_index, num_nodes=x.size(0))
    gathered = csr.num_entries * (x.size(1) * x.element_size() + csr.col.element_size())
    moved = gathered + x.numel() * x.element_size()
    with torch.no_grad():
        spmm = bandwidth(lambda: aggregate(csr, x), moved)
    copy = copy_bandwidth(scale)
    return {"spmm_gb_per_s": spmm, "copy_gb_per_s": copy, "share": spmm / copy}
