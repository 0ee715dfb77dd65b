"""DeepWalk and node2vec: random walks as sentences, word2vec on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.models.graph_input import read_graph
from graphkit.ops import CSR, random_walk


class WalkEmbedding:
    r"""Node embeddings by word2vec on random walks; a peer of :class:`~graphkit.models.FastRP`.

    With ``p = q = 1`` DeepWalk (Perozzi, Al-Rfou, Skiena, KDD 2014, arXiv 1403.6652), else node2vec
    (Grover, Leskovec, KDD 2016, arXiv 1607.00653). Every node starts ``walks`` walks, in a new
    order each round; nodes at most ``window`` steps apart are each other's context. Skip-gram by
    the package gensim (extra ``word2vec``) maximises

    .. math:: \log \sigma(z_u^\top c_v) + \sum_{k=1}^{K}
        \mathbb{E}_{n \sim P} \log \sigma(-z_u^\top c_n)

    Walks are drawn a round at a time and are not kept.

    Args:
        dim: numbers per node.
        walks: walks from each node.
        length: nodes on a walk.
        window: largest distance of a context.
        p, q: return and in-out parameters of node2vec.
        negatives: ``K``; 0 trains a hierarchical softmax instead, as the first DeepWalk did.
        downsample: threshold of word2vec for frequent nodes; 0 keeps all.
        lr: the first step size; it falls to a 250th.
        standardize: bring columns to mean 0 and deviation 1, as FastRP does for the classifier.
        workers: threads of word2vec. More than one is faster and no longer gives the same bits.
        seed: of walks and initial vectors.
        progress: called with (rounds done, rounds in all).

    Attributes:
        embedding_: float32 ``[n, d]``; zeros for a node without neighbours.

    Raises:
        InputError: an argument out of range, or gensim is not installed.

    Example:
        >>> import networkx
        >>> barbell = networkx.barbell_graph(5, 1)
        >>> WalkEmbedding(dim=8, walks=2, length=10, window=3).fit_transform(barbell).shape
        torch.Size([11, 8])
    """

    embedding_: Tensor

    def __init__(
        self,
        dim: int = 128,
        *,
        walks: int = 80,
        length: int = 40,
        window: int = 10,
        p: float = 1.0,
        q: float = 1.0,
        negatives: int = 5,
        downsample: float = 0.0,
        lr: float = 0.025,
        standardize: bool = False,
        workers: int = 1,
        seed: int = 42,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        for name, value, least in (
            ("dim", dim, 1), ("walks", walks, 1), ("length", length, 2), ("window", window, 1),
            ("negatives", negatives, 0), ("workers", workers, 1), ("seed", seed, 0),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}: {value!r}, wanted an int of at least {least}")
        if seed >= 2**32:
            raise InputError(f"seed: {seed}, wanted less than 2^32, which word2vec takes")
        for name, number in (("p", p), ("q", q), ("lr", lr)):
            if not 0 < number < float("inf"):
                raise InputError(f"{name}: {number}, wanted a positive number")
        if not 0 <= downsample < 1:
            raise InputError(f"downsample: {downsample}, wanted 0 <= downsample < 1")
        self.dim, self.walks, self.length, self.window = dim, walks, length, window
        self.p, self.q, self.negatives, self.downsample = p, q, negatives, downsample
        self.lr, self.standardize, self.workers = lr, standardize, workers
        self.seed, self.progress = seed, progress

    def fit(
        self, graph: Any, *, edge_weight: Any = None, num_nodes: int | None = None
    ) -> WalkEmbedding:
        """Embed the nodes of a graph.

        Args:
            graph: see :func:`~graphkit.models.graph_input.read_graph`; walks follow its edges.
            edge_weight: must not be given: the walks are of graphs without weights.
            num_nodes: of an ``edge_index`` whose last nodes have no edge.

        Raises:
            InputError: a graph with weights, or one without any edge.
        """
        read = read_graph(graph, edge_weight, num_nodes)
        if read.weight is not None:
            raise InputError("edge_weight: the walks do not know weights, wanted none")
        if not read.csr.num_entries:
            raise InputError(f"graph: {read.num_nodes} nodes and no edge, wanted some to walk on")
        found = self._embed(read.csr)
        if self.standardize:
            deviation, mean = torch.std_mean(found, 0, correction=0)
            found = (found - mean) / deviation.clamp(min=1e-12)
        self.embedding_ = found
        return self

    def fit_transform(self, graph: Any, **inputs: Any) -> Tensor:
        """:meth:`fit`, and its embedding float32 ``[n, d]``."""
        return self.fit(graph, **inputs).embedding_

    def _embed(self, csr: CSR) -> Tensor:
        word2vec = _gensim()(
            vector_size=self.dim, window=self.window, min_count=0, sg=1, workers=self.workers,
            hs=int(self.negatives == 0), negative=self.negatives, sample=self.downsample,
            alpha=self.lr, min_alpha=self.lr / 250, seed=self.seed, epochs=1,
        )  # fmt: skip
        # A long walk visits a node in proportion to its degree.
        nodes = csr.degree.nonzero().view(-1)
        degree = csr.degree.tolist()
        rounds = self.walks * self.length
        share = rounds * nodes.numel() / csr.num_entries
        word2vec.build_vocab_from_freq(
            {node: max(int(degree[node] * share), 1) for node in nodes.tolist()}
        )
        corpus = Walks(self, csr.transpose(), nodes)
        word2vec.train(
            corpus, total_examples=self.walks * nodes.numel(), epochs=1,
            total_words=rounds * nodes.numel(),
        )  # fmt: skip
        if corpus.error is not None:
            raise corpus.error
        out = torch.zeros(csr.num_rows, self.dim)
        order = torch.tensor(word2vec.wv.index_to_key, dtype=torch.int64)
        out[order] = torch.from_numpy(word2vec.wv.vectors)
        return out


class Walks:
    """The walks as lists of node ids, a round over all nodes at a time."""

    def __init__(self, settings: WalkEmbedding, csr: CSR, nodes: Tensor) -> None:
        self.settings, self.csr, self.nodes = settings, csr, nodes
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[list[int]]:
        # word2vec reads in a thread of its own and waits forever for one that dies of an error.
        try:
            yield from self._rounds()
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error

    def _rounds(self) -> Iterator[list[int]]:
        settings = self.settings
        draw = torch.Generator().manual_seed(settings.seed)
        for number in range(settings.walks):
            start = self.nodes[torch.randperm(self.nodes.numel(), generator=draw)]
            seed = int(torch.randint(2**62, (), generator=draw))
            steps = settings.length - 1
            yield from random_walk(
                self.csr, start, steps, p=settings.p, q=settings.q, seed=seed
            ).tolist()
            if settings.progress is not None:
                settings.progress(number + 1, settings.walks)


def _gensim() -> Any:
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise InputError(
            "gensim is not installed, whose word2vec trains on the walks: "
            "pip install 'graphkit[word2vec]'"
        ) from None
    return Word2Vec
