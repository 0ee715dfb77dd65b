"""Embed a graph file or a data set, save the vectors, and draw them on a plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from graphkit.errors import InputError
from graphkit.storage import atomic_path, atomic_write_bytes

if TYPE_CHECKING:
    from graphkit.ops import CSR

_POINTS = 3000  # on a map; more are a blot, and take minutes to place
_FEWEST = 5


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


def check_map(path: Path, num_nodes: int | None = None) -> None:
    """Refuse a map that cannot be drawn before the work.

    Raises:
        InputError: neither ``.png`` nor ``.svg``, or fewer than 5 nodes.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"map: {path.name}, wanted a name that ends in .png or .svg")
    if num_nodes is not None and num_nodes < _FEWEST:
        raise InputError(f"map: {num_nodes} nodes, wanted at least {_FEWEST}")


def draw_map(csr: CSR, embedding: torch.Tensor, path: Path, *, seed: int = 0) -> None:
    """Draw nodes where t-SNE puts them, coloured by degree; of a large graph a random part.

    van der Maaten, Hinton: "Visualizing Data using t-SNE", JMLR 9, 2008, by scikit-learn. Distances
    across the picture mean little; which nodes lie together does.

    Args:
        csr: the graph, for its degrees.
        embedding: ``[n, d]``.
        path: the picture to write, ``.png`` or ``.svg``.
        seed: of the choice of nodes and of the map.

    Raises:
        InputError: another kind of picture, or fewer than 5 nodes.
        StorageError: it cannot be written.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = embedding.size(0)
    check_map(path, n)
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
    with atomic_path(path) as temporary:
        # A date in the file would make equal pictures differ.
        stamp = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=stamp)
