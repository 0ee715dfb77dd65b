"""Embed a graph file or a data set, save the vectors, and draw them on a plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from graphkit.errors import InputError
from graphkit.storage import atomic_write_bytes

if TYPE_CHECKING:
    from graphkit.ops import CSR

_POINTS = 3000  # on a map; more are a blot, and take minutes to place


def save_embedding(path: Path, ids: torch.Tensor, embedding: torch.Tensor) -> None:
    """Write ``ids`` int64 ``[n]`` and ``embedding`` float32 ``[n, d]`` as ``.npz`` or safetensors.

    Raises:
        InputError: another kind of file.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        tensors = {"ids": ids.contiguous(), "embedding": embedding.contiguous()}
        atomic_write_bytes(path, save(tensors))
    elif path.suffix == ".npz":
        import io

        buffer = io.BytesIO()
        np.savez(buffer, ids=ids.numpy(), embedding=embedding.numpy())
        atomic_write_bytes(path, buffer.getvalue())
    else:
        raise InputError(f"out: {path.name}, wanted a name that ends in .npz or .safetensors")


def draw_map(csr: CSR, embedding: torch.Tensor, path: Path, *, seed: int = 0) -> None:
    """Draw nodes where t-SNE puts them, coloured by degree; of a large graph a random part.

    van der Maaten, Hinton: "Visualizing Data using t-SNE", JMLR 9, 2008, by scikit-learn. Distances
    across the picture mean little; which nodes lie together does.

    Args:
        csr: the graph, for its degrees.
        embedding: ``[n, d]``.
        path: the picture to write.
        seed: of the choice of nodes and of the map.

    Raises:
        InputError: fewer than 5 nodes.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = embedding.size(0)
    if n < 5:
        raise InputError(f"map: {n} nodes, wanted at least 5")
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:_POINTS])
    points = embedding[torch.from_numpy(chosen)].numpy()
    points = PCA(min(50, *points.shape), random_state=seed).fit_transform(points)
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    place = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    degree = csr.degree.numpy()[chosen].clip(min=1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    order = np.argsort(degree)  # hubs on top
    dots = axis.scatter(
        place[order, 0], place[order, 1], c=degree[order], s=9, cmap="viridis", linewidths=0,
        norm=LogNorm(vmin=1, vmax=max(2, int(degree.max()))),
    )  # fmt: skip
    figure.colorbar(dots, label="degree")
    part = f"{len(chosen):,} of {n:,} nodes" if len(chosen) < n else f"{n:,} nodes"
    axis.set_title(f"{part}, t-SNE of {embedding.size(1)} dimensions")
    axis.set_xticks([])
    axis.set_yticks([])
    figure.savefig(path, dpi=150)
