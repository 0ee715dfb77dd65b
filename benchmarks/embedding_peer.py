"""FastRP as one writes it with scipy.sparse, in float32 (arXiv 1908.11512, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Floats = npt.NDArray[np.float32]
WEIGHTS = (0.0, 0.0, 7.81, 45.28)
BETA = -0.628


def random_projection(n: int, dim: int, seed: int) -> Any:
    """Entries of +-sqrt(s / d), of which one in s = sqrt(n) is not 0."""
    rng = np.random.default_rng(seed)
    s = np.sqrt(n)
    entries = int(rng.binomial(n * dim, 1 / s))
    place = rng.integers(0, n * dim, entries)
    value = rng.choice(np.float32([-1, 1]), entries) * np.float32(np.sqrt(s / dim))
    return sp.csr_array((value, (place // dim, place % dim)), shape=(n, dim))


def fastrp(adjacency: Any, projection: Any) -> Floats:
    """Embed an undirected graph without weights: ``[n, d]``, columns standardised."""
    degree = adjacency.sum(1)
    inverse = np.where(degree > 0, 1 / np.maximum(degree, 1), 0).astype(np.float32)
    walk = sp.diags_array(inverse) @ adjacency
    share = np.maximum(degree, 1) / degree.sum()
    influence = np.where(degree > 0, share**BETA, 0).astype(np.float32)
    u = (walk @ (sp.diags_array(influence) @ projection)).toarray()
    out = np.zeros_like(u)
    for power, weight in enumerate(WEIGHTS):
        if power:
            u = walk @ u
        if weight:
            out += weight * u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-12)
    out -= out.mean(0)
    out /= np.maximum(out.std(0), 1e-12)
    return out
