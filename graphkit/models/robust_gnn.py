"""The baselines of the robustness benchmarks: GCN and GAT, as they are or on a cleaned graph."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.models.node_estimator import (
    NodeEstimator,
    check_split,
    check_training,
    graph_inputs,
    seeded,
    train_by_two_criteria,
)
from graphkit.models.registry import register_model
from graphkit.models.stable.classifier import GraphClassifier
from graphkit.models.stable.pruning import METRICS, rough_prune
from graphkit.models.stable.weighted_graph import symmetric_normalisation
from graphkit.nn.attention_convs import GATConv
from graphkit.nn.dropout import Dropout
from graphkit.ops import CSR

CONVS = ("gcn", "gat")
PURIFY = ("jaccard", "svd")


@dataclass(frozen=True)
class LowRankGraph:
    r"""The normalisation of ``left @ right.T + I``, whose product never needs an N x N matrix.

    Attributes:
        left, right: ``[N, k]``.
        root: ``[N]`` inverse root of the row sums.
    """

    left: Tensor
    right: Tensor
    root: Tensor

    def __matmul__(self, h: Tensor) -> Tensor:
        left, right, root = (p.to(h.dtype) for p in (self.left, self.right, self.root[:, None]))
        scaled = root * h
        return root * (left @ (right.t() @ scaled) + scaled)


def low_rank(csr: CSR, rank: int) -> LowRankGraph:
    r"""Replace a graph by its truncated SVD, normalised as GCN does (GCN-SVD, WSDM 2020).

    .. math::
        \hat A = U_k \Sigma_k V_k^\top, \qquad
        M = D^{-1/2} (\hat A + I) D^{-1/2}, \qquad D_{ii} = 1 + \sum_j \hat A_{ij}

    Entezari, Al-Sayouri, Darvishzadeh, Papalexakis: "All You Need Is Low (Rank): Defending Against
    Adversarial Attacks on Graphs". The approximation has negative entries, so a row sum may be
    negative, where the published code gets NaN; such rows are clamped: their factor is 0.

    Args:
        csr: a symmetric, unweighted graph.
        rank: ``k``, below the number of nodes.

    Raises:
        InputError: a rank out of range.

    Example:
        >>> path = CSR.from_edge_index(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> (low_rank(path, 2) @ torch.eye(3))[1]
        tensor([0.4082, 0.3333, 0.4082])
    """
    import numpy as np
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    n = csr.num_rows
    if not 1 <= rank < n:
        raise InputError(f"rank: {rank}, wanted 1..{n - 1} for {n} nodes")
    if csr.num_entries == 0:  # ARPACK refuses a matrix of zeros
        nothing = torch.zeros(n, rank, device=csr.col.device)
        return LowRankGraph(nothing, nothing, torch.ones(n, device=csr.col.device))
    matrix = csr_matrix(
        (np.ones(csr.num_entries), csr.col.cpu().numpy(), csr.rowptr.cpu().numpy()), (n, n)
    )
    start = np.random.default_rng(0).standard_normal(n)  # a fixed start: the same run to run
    u, s, vt = svds(matrix, k=rank, v0=start)
    left, right = torch.from_numpy(u * s), torch.from_numpy(vt.T.copy())
    total = 1.0 + left @ right.sum(0)
    bad = int((total <= 0).sum())
    if bad:
        warnings.warn(
            f"{bad} of {n} rows of the rank-{rank} graph have sums of at most 0; their factor is "
            "set to 0, where the published code computes with NaN",
            stacklevel=2,
        )
    root = torch.where(total > 0, total, torch.inf).rsqrt()
    device = csr.col.device
    return LowRankGraph(*(part.float().to(device) for part in (left, right, root)))


class GraphAttentionClassifier(nn.Module):
    """Two GAT layers with dropout before each, as the robustness benchmarks use them.

    Args:
        in_channels, hidden_channels, out_channels: widths; the hidden one is per head.
        heads: of the first layer; the second has one.
        dropout: of inputs and attention weights.

    Shapes:
        - **x:** ``[N, in_channels]``
        - **edge_index:** ``[2, E]``; self-loops are added
        - **out:** ``[N, out_channels]`` logits
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        heads: int = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv1 = GATConv(in_channels, hidden_channels, heads=heads, dropout=dropout)
        self.conv2 = GATConv(
            hidden_channels * heads, out_channels, heads=1, concat=False, dropout=dropout
        )
        self.dropout = Dropout(dropout)

    def reset_parameters(self) -> None:
        """Redraw every parameter."""
        self.conv1.reset_parameters()
        self.conv2.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = F.elu(self.conv1(self.dropout(x), edge_index))
        out: Tensor = self.conv2(self.dropout(h), edge_index)
        return out


@register_model("robust_gnn")
class RobustGNN(NodeEstimator):
    """GCN or GAT for node classification under poisoning, with the graph cleaned first or not.

    The baselines of Pro-GNN (arXiv 2005.10203) and STABLE (arXiv 2207.00012): GCN, GAT, GCN-Jaccard
    (arXiv 1903.01610) and GCN-SVD (WSDM 2020), two layers each, trained full-batch. The last epoch
    that improved validation loss or accuracy is kept.

    Args:
        in_channels, out_channels: numbers of features and classes.
        conv: ``"gcn"`` or ``"gat"``.
        purify: ``None``; ``"jaccard"`` removes edges between unlike nodes; ``"svd"`` propagates
            over a truncated SVD of the graph (GCN only).
        threshold, metric: of the pruning; see :func:`~graphkit.models.stable.rough_prune`.
        rank: of the SVD.
        hidden_channels: width, per head for GAT.
        heads: of GAT's first layer.
        dropout, epochs, lr, weight_decay: of the training.

    Shapes:
        - **x:** ``[N, F]``
        - **adj:** a CSR, ``edge_index`` ``[2, E]`` or sparse ``[N, N]``: undirected, unweighted,
          without self-loops
        - **output:** ``[N, out_channels]`` logits

    Raises:
        InputError: an option out of range, features that do not suit the metric, a graph or split
            that does not fit.

    Example:
        >>> from graphkit import data
        >>> demo = data.load("demo-node")
        >>> graph, split = demo.graphs[0], demo.splits
        >>> args = (graph.x, graph.edge_index, graph.y, split["train"], split["valid"])
        >>> model = RobustGNN(16, 4, purify="svd", rank=8, epochs=5).fit(*args)
        >>> model(graph.x, graph.edge_index).shape
        torch.Size([600, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv: str = "gcn",
        purify: str | None = None,
        threshold: float = 0.01,
        metric: str = "jaccard",
        rank: int = 50,
        hidden_channels: int = 16,
        heads: int = 8,
        dropout: float = 0.5,
        epochs: int = 200,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = config
        for name, value, known in (
            ("conv", conv, CONVS), ("purify", purify, (None, *PURIFY)), ("metric", metric, METRICS),
        ):  # fmt: skip
            if value not in known:
                words = [str(word) for word in known]
                raise InputError(
                    f"{name}: {value!r} is not one of {', '.join(words)}"
                    f"{nearest(str(value), words)}"
                )
        if conv == "gat" and purify == "svd":
            raise InputError("purify: 'svd' with conv='gat', wanted 'gcn': attention needs edges")
        for name in ("in_channels", "out_channels", "rank", "hidden_channels", "heads"):
            if type(config[name]) is not int or config[name] < 1:
                raise InputError(f"{name}: {config[name]!r}, wanted an integer of at least 1")
        if not 0.0 <= threshold <= 1.0:
            raise InputError(f"threshold: {threshold}, wanted 0..1")
        check_training(epochs, lr, weight_decay, dropout)
        self.classifier: GraphClassifier | GraphAttentionClassifier
        if conv == "gcn":
            self.classifier = GraphClassifier(in_channels, hidden_channels, out_channels, dropout)
        else:
            self.classifier = GraphAttentionClassifier(
                in_channels, hidden_channels, out_channels, heads, dropout
            )

    def reset_parameters(self) -> None:
        """Redraw every parameter."""
        self.classifier.reset_parameters()

    def forward(self, x: Any, adj: CSR | Tensor | None = None) -> Tensor:
        x, graph = self._inputs(x, adj)
        out: Tensor = self.classifier(x, self._propagation(x, graph))
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
    ) -> RobustGNN:
        """Train; see :meth:`NodeEstimator.fit`."""
        options = self.config
        x, graph = self._inputs(x, adj)
        check_split(y, train, valid, x.size(0), options["out_channels"])
        matrix = self._propagation(x, graph)
        with seeded(seed, x.device):
            self.classifier.reset_parameters()
            self.history_, self.best_epoch_ = train_by_two_criteria(
                self.classifier, lambda: self.classifier(x, matrix), y, train, valid,
                epochs=options["epochs"], lr=options["lr"], weight_decay=options["weight_decay"],
                noisy_loss=False,
            )  # fmt: skip
        self.eval()
        with torch.no_grad():
            self.logits_ = self.classifier(x, matrix)
        return self

    def _inputs(self, x: Any, adj: CSR | Tensor | None) -> tuple[Tensor, CSR]:
        dtype = next(self.classifier.parameters()).dtype
        return graph_inputs(x, adj, self.config["in_channels"], dtype)

    @torch.no_grad()
    def _propagation(self, x: Tensor, graph: CSR) -> Any:
        options = self.config
        if options["purify"] == "svd":
            return low_rank(graph, options["rank"])
        if options["purify"] == "jaccard":
            graph = rough_prune(graph, x, options["threshold"], options["metric"])[0]
        if options["conv"] == "gat":
            return graph.edge_index()
        return symmetric_normalisation(graph, 1.0)
