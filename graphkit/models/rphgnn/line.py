"""Features from edges alone: word vectors over sentences of two nodes, in the manner of LINE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.rphgnn.relations import read_hetero

_BLOCK = 1 << 16


class _Edges:
    """All edges as sentences, as often as they are asked for."""

    def __init__(self, edges: list[Tensor]) -> None:
        self.edges = edges

    def __iter__(self) -> Iterator[list[str]]:
        for both in self.edges:
            for block in torch.split(both, _BLOCK, dim=1):
                for source, destination in zip(*block.tolist(), strict=True):
                    yield [str(source), str(destination)]


def line_features(
    data: Any,
    target: str,
    dim: int = 512,
    *,
    window: int = 2,
    epochs: int = 40,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, Tensor]:
    """Vectors of the nodes that have no features, learnt from all edges together.

    Each edge is a sentence of two words; the vectors are those of word2vec (CBOW with negative
    sampling, Mikolov et al., arXiv 1301.3781), which relates them to LINE (Tang et al., WWW 2015).
    The package gensim does the work: ``pip install graphkit[word2vec]``.

    Args:
        data: a ``HeteroData``.
        target: left out, with all types that have features.
        dim: length of a vector.
        window: of the context.
        epochs: passes over the edges.
        seed: of the vectors; the result is the same each time for one worker only.
        workers: threads.

    Returns:
        float32 ``[N_t, dim]`` by node type; nodes without edges get zeros.

    Raises:
        InputError: gensim is not installed, or a size below 1.
    """
    for name, value in (("dim", dim), ("window", window), ("epochs", epochs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}: {value!r}, wanted an integer of at least 1")
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise InputError(
            "line_features: gensim is not installed; pip install graphkit[word2vec]"
        ) from None
    graph = read_hetero(data, target)
    first, start = {}, 0
    for kind, size in graph.sizes.items():
        first[kind], start = start, start + size
    edges = []
    for relation in graph.relations:
        source, destination = data[relation.edge_type].edge_index
        edges.append(torch.stack([source + first[relation.src], destination + first[relation.dst]]))
    wanted = [kind for kind in graph.sizes if kind != target and kind not in graph.features]
    if not any(both.size(1) for both in edges):  # word2vec refuses to learn from nothing
        return {kind: torch.zeros(graph.sizes[kind], dim) for kind in wanted}
    model = Word2Vec(
        sentences=_Edges(edges), vector_size=dim, window=window, min_count=1, epochs=epochs,
        seed=seed % (1 << 31), workers=workers,
    )  # fmt: skip
    found = {}
    words = model.wv.key_to_index
    vectors = torch.from_numpy(model.wv.vectors)
    for kind in wanted:
        size = graph.sizes[kind]
        place = torch.tensor([words.get(str(first[kind] + node), -1) for node in range(size)])
        x = torch.zeros(size, dim)
        x[place >= 0] = vectors[place[place >= 0]].float()
        found[kind] = x
    return found
