"""Nodes embedded without labels, then classified by one logistic regression per label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.models.fastrp import FastRP
from graphkit.models.label_regression import LabelRegression, most_probable
from graphkit.models.node_estimator import NodeEstimator
from graphkit.models.registry import register_model
from graphkit.models.walk_embedding import WalkEmbedding
from graphkit.ops import CSR

_METHODS: dict[str, Any] = {"fastrp": FastRP, "walks": WalkEmbedding}
_FOLDS = 3


@register_model("embedding_classifier")
class EmbeddingClassifier(NodeEstimator):
    r"""The protocol of DeepWalk, which FastRP and its peers report, as a model of its own.

    An embedding of the graph alone; an L2-regularised logistic regression per label on the labelled
    nodes; a node gets as many labels as it truly has, those of the highest probability. That the
    *number* of labels is told is part of the protocol: its figures stand beside each other only.
    Without nodes that validate, the labelled ones do, out of sample: the labels they are given are
    those of a regression on the other two folds of three.

    Args:
        out_channels: number of labels.
        embedding: ``{"name": "fastrp"}`` or ``{"name": "walks"}`` and the arguments of
            :class:`~graphkit.models.FastRP` or :class:`~graphkit.models.WalkEmbedding`.
        C: inverse strength of the regularisation.

    Shapes:
        - **adj:** the graph, both directions of every edge
        - **output:** ``[N, out_channels]`` logits

    Attributes:
        embedding_: float32 ``[N, d]``; it does not depend on the seed of :meth:`fit`.
        logits_: ``[N, out_channels]``: 1 for labels that are given to a node, -1 for the others.

    Raises:
        InputError: no such embedding, or an argument it does not take.

    Example:
        >>> from graphkit import data
        >>> demo = data.load("demo-node")
        >>> graph, split = demo.graphs[0], demo.splits
        >>> model = EmbeddingClassifier(4, {"name": "fastrp", "dim": 16})
        >>> args = (graph.x, graph.edge_index, graph.y, split["train"], split["valid"])
        >>> model.fit(*args).logits_.shape
        torch.Size([600, 4])
    """

    embedding_: Tensor
    validates_across_folds = True

    def __init__(
        self, out_channels: int, embedding: dict[str, Any] | None = None, C: float = 0.1
    ) -> None:
        super().__init__()
        chosen = dict(embedding or {"name": "fastrp"})
        self.config = {"out_channels": out_channels, "embedding": dict(chosen), "C": C}
        name = chosen.pop("name", None)
        if name not in _METHODS:
            known = ", ".join(_METHODS)
            raise InputError(
                f"embedding.name: {name!r}, wanted one of {known}{nearest(str(name), _METHODS)}"
            )
        if out_channels < 1 or not 0 < C < float("inf"):
            raise InputError(
                f"out_channels, C: {out_channels}, {C}, wanted at least 1, and a positive number"
            )
        try:
            self.embedder = _METHODS[name](**chosen)
        except TypeError as error:
            raise InputError(f"embedding: {name}: {error}") from None
        if getattr(self.embedder, "merge", "sum") == "concat":
            raise InputError("embedding.merge: 'concat', wanted 'sum'")
        self.C = C
        self.output = nn.Linear(self.embedder.dim, out_channels).requires_grad_(False)

    def forward(self, x: Tensor | None, adj: CSR | Tensor) -> Tensor:
        """Logits of all nodes of a graph, which is embedded anew."""
        out: Tensor = self.output(self.embedder.fit_transform(adj))
        return out

    def fit(
        self,
        x: Tensor,
        adj: CSR | Tensor,
        y: Tensor,
        train: Tensor,
        valid: Tensor,
        *,
        seed: int = 0,
        previous: NodeEstimator | None = None,
    ) -> EmbeddingClassifier:
        """Embed the graph, train the regressions.

        Args:
            x: not read.
            adj: the graph.
            y: ``[N, out_channels]`` zeros and ones, or ``[N]`` classes; of the nodes that are not
                in ``train``, the number of labels alone is read.
            train, valid: ids of nodes; without any in ``valid``, those of ``train`` are judged
                across folds.
            seed: of the folds.
            previous: the same model fitted with another seed, whose embedding is taken over.

        Raises:
            InputError: labels or ids that do not fit.
        """
        embedding = self._embedding(adj, previous)
        labels = self._labels(y, embedding.size(0))
        z, told = embedding.double().numpy(), labels.sum(1)
        nodes = train.numpy()
        whole = LabelRegression(self.C).fit(z[nodes], labels[nodes])
        given = most_probable(whole.probabilities(z), told)
        if not valid.numel():
            order = np.random.default_rng(seed).permutation(nodes)
            for fold in np.array_split(order, _FOLDS):
                rest = np.setdiff1d(nodes, fold)
                part = LabelRegression(self.C).fit(z[rest], labels[rest])
                given[fold] = most_probable(part.probabilities(z[fold]), told[fold])
        self.embedding_ = embedding
        self.logits_ = torch.from_numpy(given).float() * 2.0 - 1.0
        self.history_, self.best_epoch_ = [], 0
        with torch.no_grad():
            self.output.weight.copy_(torch.from_numpy(whole.weight))
            self.output.bias.copy_(torch.from_numpy(whole.bias))
        return self

    def _embedding(self, adj: CSR | Tensor, previous: NodeEstimator | None) -> Tensor:
        if isinstance(previous, EmbeddingClassifier) and previous.config == self.config:
            return previous.embedding_
        found: Tensor = self.embedder.fit_transform(adj)
        return found

    def _labels(self, y: Tensor, num_nodes: int) -> np.ndarray:
        if y.dim() == 1:
            classes = self.output.out_features
            if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < classes:
                raise InputError(
                    f"y: classes {int(y.min())}..{int(y.max())}, wanted 0..{classes - 1}"
                )
            y = nn.functional.one_hot(y.long(), self.output.out_features)
        wanted = (num_nodes, self.output.out_features)
        if y.shape != wanted or not bool(((y == 0) | (y == 1)).all()):
            raise InputError(
                f"y: {y.dtype} {list(y.shape)}, wanted {list(wanted)} zeros and ones, or "
                "[n] classes"
            )
        return y.bool().numpy()
