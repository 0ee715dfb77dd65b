"""STABLE: embed, prune, add reliable neighbours, classify."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.models.node_estimator import (
    NodeEstimator,
    check_seed,
    check_split,
    check_training,
    graph_inputs,
    seeded,
    train_by_two_criteria,
)
from graphkit.models.registry import register_model
from graphkit.models.stable.classifier import GraphClassifier
from graphkit.models.stable.encoder import (
    ContrastiveEncoder,
    SummaryDiscriminator,
    normalised_views,
    recovered_views,
    train_contrastive,
)
from graphkit.models.stable.neighbours import add_neighbours, most_similar
from graphkit.models.stable.pruning import METRICS, prune_by_embedding, rough_prune
from graphkit.models.stable.weighted_graph import (
    WeightedGraph,
    degree_power_normalisation,
    symmetric_normalisation,
)
from graphkit.ops import CSR

_INPUTS = ("embedding", "features")
_PRUNED = ("original", "rough")


@dataclass(frozen=True)
class RefinedGraph:
    """What the classifier propagates over, and how it came about.

    Attributes:
        weighted: normalised, with self-loops; directed where neighbours were added.
        adjacency: the same without weights and self-loops.
        counts: undirected edges removed by features (``rough``) and by embeddings (``cosine``),
            and directed edges ``added``.
    """

    weighted: WeightedGraph
    adjacency: CSR
    counts: dict[str, int]


@register_model("stable")
class Stable(NodeEstimator):
    r"""STABLE: unsupervised structure refinement for node classification under poisoning.

    Li, Liu, Ao, Chi, Feng, Yang, He: "Reliable Representations Make A Stronger Defender:
    Unsupervised Structure Refinement for Robust GNN", KDD 2022 (arXiv 2207.00012). Edges between
    unlike nodes are removed by features; contrastive embeddings :math:`E` that withstand a random
    recovery of these edges prune the given graph and find new neighbours; a GCN that trusts nodes
    of high degree classifies :math:`E`:

    .. math::
        E = g(A_{pre}, X), \quad
        A_c = \{uv \in A : \cos(e_u, e_v) > ct\} \cup \mathrm{top}_k(\cos(E, E)), \quad
        \hat y = \mathrm{GCN}(D^\alpha (A_c + I) D^\alpha, E)

    ``forward`` refines whatever graph it is given with the trained encoder. The published settings
    were chosen per strength of the attack, which is thereby assumed known.

    Args:
        in_channels, out_channels: numbers of features and classes.
        embedding_channels, hidden_channels: widths of :math:`E` and of the GCN.
        alpha: power of the degree; -0.5 is the symmetric normalisation, other values average.
        beta: weight of self-loops in the contrastive stage.
        k: places among the most similar nodes; a node takes one itself, so ``k - 1`` are new. 0
            adds none (ablation).
        jt, metric: threshold of the first pruning and what it compares, ``"jaccard"`` of binary
            features or ``"cosine"``. 0 removes nothing by Jaccard.
        ct: threshold of the pruning by embeddings.
        recover: share of the removed edges that each view gets back; 0 is an ablation.
        degree_threshold: a candidate for new neighbours has more edges than this.
        aug_extra_loop: weigh self-loops of the views by ``beta + 1``, as the published code does.
        classifier_input: ``"embedding"``, or ``"features"`` (ablation).
        prune: which graph is pruned by embeddings: the ``"original"`` one, or the one that
            ``"rough"`` pruning left (ablation).
        dropout, epochs, lr, weight_decay: of the GCN.
        contrast_epochs, contrast_lr, patience: of the contrastive stage; see
            :func:`~graphkit.models.stable.train_contrastive`.
        runs_per_embedding: seeds that share one embedding: seed ``s`` embeds with
            ``s // runs_per_embedding``. 10 gives the published figure, 2 a figure with the variance
            of the embedding in it.

    Shapes:
        - **x:** ``[N, F]``
        - **adj:** a CSR, ``edge_index`` ``[2, E]`` or sparse ``[N, N]``: undirected, unweighted,
          without self-loops
        - **output:** ``[N, out_channels]`` logits

    Attributes:
        embedding_: ``[N, D]`` of the graph it was fitted on.
        refined_: that graph, refined.
        contrast_history_: loss of each contrastive epoch.

    Raises:
        InputError: an option out of range, features that do not suit the metric, fewer than ``k``
            candidates, a graph or split that does not fit.

    Example:
        >>> from graphkit import data
        >>> demo = data.load("demo-node")
        >>> graph, split = demo.graphs[0], demo.splits
        >>> model = Stable(16, 4, embedding_channels=8, metric="cosine", jt=-0.5, contrast_epochs=5)
        >>> args = (graph.x, graph.edge_index, graph.y, split["train"], split["valid"])
        >>> model.fit(*args, seed=0).predict(graph.x, graph.edge_index).shape
        torch.Size([600])
    """

    embedding_: Tensor
    refined_: RefinedGraph
    contrast_history_: list[float]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int = 512,
        hidden_channels: int = 16,
        alpha: float = 0.3,
        beta: float = 2.0,
        k: int = 3,
        jt: float = 0.03,
        metric: str = "jaccard",
        ct: float = 0.1,
        recover: float = 0.2,
        degree_threshold: int = 1,
        aug_extra_loop: bool = True,
        classifier_input: str = "embedding",
        prune: str = "original",
        dropout: float = 0.5,
        epochs: int = 200,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
        contrast_epochs: int = 10_000,
        contrast_lr: float = 1e-3,
        patience: int = 20,
        runs_per_embedding: int = 10,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = config
        _check_options(config)
        check_training(epochs, lr, weight_decay, dropout)
        self.encoder = ContrastiveEncoder(in_channels, embedding_channels)
        self.discriminator = SummaryDiscriminator(embedding_channels)
        width = embedding_channels if classifier_input == "embedding" else in_channels
        self.classifier = GraphClassifier(width, hidden_channels, out_channels, dropout)
        self.embedding_seed_: int | None = None

    def reset_parameters(self) -> None:
        """Redraw every parameter."""
        for part in (self.encoder, self.discriminator, self.classifier):
            part.reset_parameters()

    def forward(self, x: Any, adj: CSR | Tensor | None = None) -> Tensor:
        x, graph = self._inputs(x, adj)
        embedding = self._embed(x, self._rough(x, graph)[0])
        return self._classify(x, embedding, self._refine(x, graph, embedding))

    def embed(self, x: Tensor, adj: CSR | Tensor) -> Tensor:
        """Embeddings ``[N, D]`` by the trained encoder."""
        x, graph = self._inputs(x, adj)
        return self._embed(x, self._rough(x, graph)[0])

    def refine(self, x: Tensor, adj: CSR | Tensor) -> RefinedGraph:
        """The graph that the classifier sees in place of ``adj``."""
        x, graph = self._inputs(x, adj)
        return self._refine(x, graph, self._embed(x, self._rough(x, graph)[0]))

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
    ) -> Stable:
        """Train encoder and classifier; see :meth:`NodeEstimator.fit`."""
        options = self.config
        x, graph = self._inputs(x, adj)
        check_split(y, train, valid, x.size(0), options["out_channels"])
        embedding_seed = check_seed(seed) // options["runs_per_embedding"]
        if isinstance(previous, Stable) and previous._embeds(options, embedding_seed, x, graph):
            self.encoder.load_state_dict(previous.encoder.state_dict())
            self.discriminator.load_state_dict(previous.discriminator.state_dict())
            self.contrast_history_ = list(previous.contrast_history_)
            self.embedding_, self.refined_ = previous.embedding_, previous.refined_
        else:
            self._contrast(x, graph, embedding_seed)
        self._fitted_on = (x, graph)
        self.embedding_seed_ = embedding_seed
        with seeded(seed, x.device):
            self.classifier.reset_parameters()
            self.history_, self.best_epoch_ = train_by_two_criteria(
                self.classifier,
                lambda: self._classify(x, self.embedding_, self.refined_),
                y, train, valid, epochs=options["epochs"], lr=options["lr"],
                weight_decay=options["weight_decay"], noisy_loss=True,
            )  # fmt: skip
        self.eval()
        with torch.no_grad():
            self.logits_ = self._classify(x, self.embedding_, self.refined_)
        return self

    def _contrast(self, x: Tensor, graph: CSR, seed: int) -> None:
        options = self.config
        rough, removed = self._rough(x, graph)
        generator = torch.Generator().manual_seed(seed)
        views = recovered_views(rough, removed, options["recover"], generator)
        main, augmented = normalised_views(rough, views, options["beta"], options["aug_extra_loop"])
        with seeded(seed, x.device):
            self.encoder.reset_parameters()
            self.discriminator.reset_parameters()
        self.contrast_history_ = train_contrastive(
            self.encoder, self.discriminator, x, main, augmented, generator,
            epochs=options["contrast_epochs"], lr=options["contrast_lr"],
            patience=options["patience"],
        )  # fmt: skip
        self.embedding_ = self._embed(x, rough)
        self.refined_ = self._refine(x, graph, self.embedding_)

    def _embeds(self, options: dict[str, Any], seed: int, x: Tensor, graph: CSR) -> bool:
        """Whether this fitted model holds the embedding that a run would train again."""
        if self.embedding_seed_ != seed or self.config != options:
            return False
        own_x, own = self._fitted_on
        same_graph = own is graph or (
            torch.equal(own.rowptr, graph.rowptr) and torch.equal(own.col, graph.col)
        )
        return same_graph and (own_x is x or torch.equal(own_x, x))

    def _inputs(self, x: Any, adj: CSR | Tensor | None) -> tuple[Tensor, CSR]:
        return graph_inputs(x, adj, self.config["in_channels"], self.encoder.bias.dtype)

    def _rough(self, x: Tensor, graph: CSR) -> tuple[CSR, Tensor]:
        return rough_prune(graph, x, self.config["jt"], self.config["metric"])

    @torch.no_grad()
    def _embed(self, x: Tensor, rough: CSR) -> Tensor:
        # The encoder is never trained by labels.
        out: Tensor = self.encoder(x, symmetric_normalisation(rough, self.config["beta"]))
        return out

    @torch.no_grad()
    def _refine(self, x: Tensor, graph: CSR, embedding: Tensor) -> RefinedGraph:
        options = self.config
        rough, removed = self._rough(x, graph)
        base = graph if options["prune"] == "original" else rough
        kept, cut = prune_by_embedding(base, embedding, options["ct"])
        whole = kept
        if options["k"]:
            candidates = kept.degree > options["degree_threshold"]
            whole = add_neighbours(kept, most_similar(embedding, candidates, options["k"]))
        counts = {
            "rough": removed.size(1),
            "cosine": cut.size(1),
            "added": whole.num_entries - kept.num_entries,
        }
        weighted = degree_power_normalisation(whole, options["alpha"])
        return RefinedGraph(weighted, whole, counts)

    def _classify(self, x: Tensor, embedding: Tensor, refined: RefinedGraph) -> Tensor:
        inputs = embedding if self.config["classifier_input"] == "embedding" else x
        out: Tensor = self.classifier(inputs, refined.weighted)
        return out


def _check_options(options: dict[str, Any]) -> None:
    for name, least in (
        ("in_channels", 1), ("out_channels", 1), ("embedding_channels", 1), ("hidden_channels", 1),
        ("k", 0), ("degree_threshold", 0), ("contrast_epochs", 1), ("patience", 1),
        ("runs_per_embedding", 1),
    ):  # fmt: skip
        value = options[name]
        if type(value) is not int or value < least:
            raise InputError(f"{name}: {value!r}, wanted an integer of at least {least}")
    for name in ("alpha", "jt", "ct", "beta", "contrast_lr"):
        if not math.isfinite(options[name]):
            raise InputError(f"{name}: {options[name]}, wanted a finite number")
    for name in ("beta", "contrast_lr"):
        if options[name] <= 0.0:
            raise InputError(f"{name}: {options[name]}, wanted a positive number")
    if not 0.0 <= options["recover"] <= 1.0:
        raise InputError(f"recover: {options['recover']}, wanted 0..1")
    for name, known in (("metric", METRICS), ("classifier_input", _INPUTS), ("prune", _PRUNED)):
        if options[name] not in known:
            raise InputError(
                f"{name}: {options[name]!r} is not one of {', '.join(known)}"
                f"{nearest(str(options[name]), known)}"
            )
