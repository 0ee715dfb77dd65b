"""Pro-GNN: learn the graph together with the network that reads it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.models.node_estimator import NodeEstimator, check_split, graph_inputs, seeded
from graphkit.models.prognn_steps import (
    feature_smoothness,
    normalised,
    prox_nuclear,
    prox_nuclear_lowrank,
    soft_threshold,
)
from graphkit.models.registry import register_model
from graphkit.ops import CSR

_CORA = {
    "epochs": 1000, "inner_steps": 2, "lr": 5e-4, "alpha": 5e-4, "beta": 1.5, "gamma": 1.0,
    "lambda_": 1e-3,
}  # fmt: skip
PUBLISHED_SETTINGS: dict[str, dict[str, float]] = {
    "cora": _CORA,
    "citeseer": {**_CORA, "lambda_": 1e-4},
    "polblogs": {**_CORA, "alpha": 1e-4, "beta": 5.0, "lambda_": 0.0},
    "pubmed": {
        **_CORA, "epochs": 100, "inner_steps": 30, "lr": 0.01, "alpha": 0.3, "beta": 2.5,
    },
}  # fmt: skip
"""Keyword arguments of the published runs, by data set."""


class DenseGCN(nn.Module):
    """The two-layer GCN on a dense normalised graph.

    Shapes:
        - **x:** ``[N, in]``, **graph:** ``[N, N]``
        - **out:** ``[N, out]`` logits

    Example:
        >>> DenseGCN(4, 8, 3, 0.5)(torch.ones(2, 4), torch.eye(2)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight1 = nn.Parameter(torch.empty(in_channels, hidden_channels))
        self.bias1 = nn.Parameter(torch.empty(hidden_channels))
        self.weight2 = nn.Parameter(torch.empty(hidden_channels, out_channels))
        self.bias2 = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Redraw every parameter, uniformly within ``1 / sqrt(out)``."""
        for weight, bias in ((self.weight1, self.bias1), (self.weight2, self.bias2)):
            bound = 1 / math.sqrt(weight.size(1))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        h = (graph @ (x @ self.weight1) + self.bias1).relu()
        h = F.dropout(h, self.dropout, self.training)
        return graph @ (h @ self.weight2) + self.bias2


@register_model("prognn")
class ProGNN(NodeEstimator):
    r"""Graph structure learning for robust graph neural networks (Jin et al., KDD 2020, arXiv
    2005.10203).

    A dense graph :math:`S`, at first the attacked :math:`A`, is learnt with a GCN on it. Each
    epoch takes one step of gradient descent (``lr_graph``, momentum 0.9) on

    .. math::
        \|S - A\|_F + \gamma L_{train}(\mathrm{GCN}(X, \mathrm{norm}(S)))
        + \lambda \, \mathrm{tr}(X^\top \hat L X) + \phi \|S - S^\top\|_F

    (norms not squared), then :math:`S \leftarrow U \max(\Sigma - \eta \beta, 0) V^\top`, the
    soft-threshold by :math:`\eta \alpha` and the clamp to [0, 1], then ``inner_steps`` of Adam on
    the GCN with :math:`S` fixed. After each of these steps the pair of graph and weights is kept
    when its validation loss or its validation accuracy is the best so far; the last pair kept is
    the result. The GCN sees no dropout in the step of the graph.

    Time and memory are those of dense N x N matrices, and one full SVD per epoch:
    ``symmetric=True`` replaces it by an eigendecomposition, ``prognn_lowrank`` by a projection.

    Args:
        in_channels, out_channels: numbers of features and of classes.
        num_nodes: of the graph that the weights belong to; :meth:`fit` fills it in.
        hidden_channels, dropout: of the GCN.
        epochs, inner_steps: as above; ``inner_steps`` per epoch.
        lr, weight_decay: of the GCN's Adam.
        lr_graph, momentum: of the graph's descent; ``lr_graph`` is :math:`\eta`.
        alpha, beta, gamma, lambda_, phi: the factors above. :data:`PUBLISHED_SETTINGS` has the
            published ones by data set; ``lambda_=0`` is Pro-GNN-fs.
        symmetric: read :math:`(S + S^\top) / 2` in place of :math:`S`, which stays symmetric then.

    Attributes:
        graph: buffer ``[N, N]``, the graph that was kept; zeros before :meth:`fit`.
        history_: one dict per epoch: losses, accuracy, the distance from :math:`A`.
        best_epoch_: the epoch of the pair that was kept.

    Shapes:
        - **x:** ``[N, in_channels]``
        - **out:** ``[N, out_channels]`` logits

    Raises:
        InputError: an argument out of range.

    Example:
        >>> x, y = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
        >>> model = ProGNN(4, 2, epochs=5)
        >>> _ = model.fit(x, edge_index, y, train=torch.tensor([0, 2]), valid=torch.tensor([1, 3]))
        >>> model(x).shape
        torch.Size([4, 2])
    """

    graph: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_nodes: int | None = None,
        hidden_channels: int = 16,
        dropout: float = 0.5,
        epochs: int = 1000,
        inner_steps: int = 2,
        lr: float = 5e-4,
        weight_decay: float = 5e-4,
        lr_graph: float = 0.01,
        momentum: float = 0.9,
        alpha: float = 5e-4,
        beta: float = 1.5,
        gamma: float = 1.0,
        lambda_: float = 1e-3,
        phi: float = 0.0,
        symmetric: bool = False,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        _check(config)
        self.config: dict[str, Any] = config
        self.gcn = DenseGCN(in_channels, hidden_channels, out_channels, dropout)
        self.register_buffer("graph", torch.zeros(num_nodes or 0, num_nodes or 0))
        self.history_ = []
        self.best_epoch_ = 0

    def reset_parameters(self) -> None:
        """Redraw the weights of the GCN."""
        self.gcn.reset_parameters()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # A model built from a recipe learns how many nodes there are by fit, or here.
        found = state_dict.get(f"{prefix}graph")
        if self.config["num_nodes"] is None and isinstance(found, Tensor) and len(found):
            self.graph = self.graph.new_zeros(len(found), len(found))
            self.config["num_nodes"] = len(found)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Any, adj: CSR | Tensor | None = None) -> Tensor:
        """Logits on the graph that was learnt, which stands in the place of ``adj``."""
        x = x if isinstance(x, Tensor) else x.x
        if x.dim() != 2 or x.shape != (len(self.graph), self.config["in_channels"]):
            raise InputError(
                f"x: shape {list(x.shape)}, wanted [{len(self.graph)}, "
                f"{self.config['in_channels']}]: the nodes that fit has seen"
            )
        out: Tensor = self.gcn(x, self._normalised(self.graph))
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
    ) -> ProGNN:
        """Learn graph and weights from scratch; the same seed gives the same model.

        Args:
            x: ``[N, F]`` float features.
            adj: the attacked graph, undirected, unweighted and without loops.
            y: ``[N]`` int64 classes; only those of ``train`` and ``valid`` are read.
            train, valid: ids of nodes.
            seed: of weights, dropout and random projections.
            previous: not used, nothing can be taken over from another seed.

        Raises:
            InputError: a graph with directions, weights or loops, a split of another graph or with
                overlapping parts, features that are not float or not finite, or steps so long that
                no validation loss is a number.
        """
        original = self._checked(x, adj, y, train, valid)
        self.config["num_nodes"] = len(original)
        with seeded(seed, x.device), torch.enable_grad():
            self.reset_parameters()
            _Fit(self, x, original, y.long(), train, valid).run()
        self.eval()
        with torch.no_grad():
            self.logits_ = self(x)
        return self

    def _checked(
        self, x: Tensor, adj: CSR | Tensor, y: Tensor, train: Tensor, valid: Tensor
    ) -> Tensor:
        x, csr = graph_inputs(x, adj, self.config["in_channels"], self.gcn.weight1.dtype)
        nodes = len(x)
        check_split(y, train, valid, nodes, self.config["out_channels"])
        dense = x.new_zeros(nodes, nodes)
        dense[csr.row().long(), csr.col.long()] = 1.0
        return dense

    def _normalised(self, s: Tensor) -> Tensor:
        return normalised((s + s.t()) / 2 if self.config["symmetric"] else s)

    def _prox_nuclear(self, s: Tensor, threshold: float) -> Tensor:
        return prox_nuclear(s, threshold, self.config["symmetric"])


class _Fit:
    """One run of :meth:`ProGNN.fit`: the alternation and the pair kept."""

    def __init__(
        self, model: ProGNN, x: Tensor, original: Tensor, y: Tensor, train: Tensor, valid: Tensor
    ) -> None:
        self.model, self.gcn, self.options = model, model.gcn, model.config
        self.x, self.original, self.y, self.train, self.valid = x, original, y, train, valid
        self.s = original.clone().requires_grad_()
        self.gram = x @ x.t() if self.options["lambda_"] else None
        self.best_loss, self.best_accuracy = math.inf, -1.0
        self.kept: tuple[Tensor, dict[str, Tensor]] | None = None

    def run(self) -> None:
        options, model = self.options, self.model
        outer = torch.optim.SGD([self.s], lr=options["lr_graph"], momentum=options["momentum"])
        inner = torch.optim.Adam(
            self.gcn.parameters(), lr=options["lr"], weight_decay=options["weight_decay"]
        )
        model.history_, model.best_epoch_ = [], 0
        for epoch in range(1, options["epochs"] + 1):
            self._graph_step(outer)
            with torch.no_grad():
                graph = model._normalised(self.s)
            measured = self._judge(graph, epoch)
            loss = torch.zeros(())
            for _ in range(options["inner_steps"]):
                self.gcn.train()
                inner.zero_grad()
                loss = self._loss(graph)
                loss.backward()  # type: ignore[no-untyped-call]
                inner.step()
                measured = self._judge(graph, epoch)
            with torch.no_grad():
                moved = float(torch.linalg.matrix_norm(self.s - self.original))
            model.history_.append(
                {"epoch": epoch, "train_loss": float(loss.detach()), **measured, "moved": moved}
            )
        if self.kept is None:
            raise InputError("lr: the validation loss was never a number, wanted smaller steps")
        model.graph = self.kept[0]
        self.gcn.load_state_dict(self.kept[1])

    def _loss(self, graph: Tensor) -> Tensor:
        return F.cross_entropy(self.gcn(self.x, graph)[self.train], self.y[self.train])

    def _graph_step(self, optimizer: torch.optim.Optimizer) -> None:
        options = self.options
        optimizer.zero_grad()
        self.gcn.eval()
        loss = torch.linalg.matrix_norm(self.s - self.original)
        if options["gamma"]:
            loss = loss + options["gamma"] * self._loss(self.model._normalised(self.s))
        if self.gram is not None:
            loss = loss + options["lambda_"] * feature_smoothness(self.s, self.gram)
        if options["phi"]:
            loss = loss + options["phi"] * torch.linalg.matrix_norm(self.s - self.s.t())
        (self.s.grad,) = torch.autograd.grad(loss, self.s)
        optimizer.step()
        step = options["lr_graph"]
        with torch.no_grad():
            s = (self.s + self.s.t()) / 2 if options["symmetric"] else self.s
            if not bool(torch.isfinite(s).all()):
                raise InputError(f"lr_graph: the graph diverged with {step}, wanted smaller steps")
            if options["beta"]:
                s = self.model._prox_nuclear(s, step * options["beta"])
            self.s.copy_(soft_threshold(s, step * options["alpha"]).clamp_(0.0, 1.0))

    @torch.no_grad()
    def _judge(self, graph: Tensor, epoch: int) -> dict[str, float]:
        """Keep graph and weights when either validation figure is the best so far."""
        self.gcn.eval()
        out, wanted = self.gcn(self.x, graph)[self.valid], self.y[self.valid]
        loss = float(F.cross_entropy(out, wanted))
        accuracy = float((out.argmax(1) == wanted).float().mean())
        if math.isfinite(loss) and (loss < self.best_loss or accuracy > self.best_accuracy):
            weights = {name: value.clone() for name, value in self.gcn.state_dict().items()}
            same = self.kept is not None and self.model.best_epoch_ == epoch
            s = self.kept[0] if same and self.kept else self.s.detach().clone()
            self.kept, self.model.best_epoch_ = (s, weights), epoch
            self.best_loss = min(self.best_loss, loss)
            self.best_accuracy = max(self.best_accuracy, accuracy)
        return {"valid_loss": loss, "valid_acc": accuracy}


@register_model("prognn_lowrank")
class ProGNNLowRank(ProGNN):
    r"""Pro-GNN with a randomised proximal operator in the place of a full SVD per epoch.

    See :func:`~graphkit.models.prognn_steps.prox_nuclear_lowrank` for what is approximated.

    Args:
        in_channels, out_channels: numbers of features and of classes.
        rank: singular values that are computed.
        keep_tail: leave the smaller ones as they are; else drop them.
        options: as for :class:`ProGNN`.

    Shapes:
        - **x:** ``[N, in_channels]``
        - **out:** ``[N, out_channels]`` logits

    Raises:
        InputError: an argument out of range.

    Example:
        >>> ProGNNLowRank(4, 2, rank=1, num_nodes=3)(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_nodes: int | None = None,
        hidden_channels: int = 16,
        dropout: float = 0.5,
        epochs: int = 1000,
        inner_steps: int = 2,
        lr: float = 5e-4,
        weight_decay: float = 5e-4,
        lr_graph: float = 0.01,
        momentum: float = 0.9,
        alpha: float = 5e-4,
        beta: float = 1.5,
        gamma: float = 1.0,
        lambda_: float = 1e-3,
        phi: float = 0.0,
        symmetric: bool = False,
        rank: int = 100,
        keep_tail: bool = False,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        shared = {k: v for k, v in config.items() if k not in ("rank", "keep_tail")}
        super().__init__(**shared)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise InputError(f"rank: {rank!r}, wanted a whole number from 1")
        self.config = config

    def _prox_nuclear(self, s: Tensor, threshold: float) -> Tensor:
        return prox_nuclear_lowrank(s, threshold, self.config["rank"], self.config["keep_tail"])


def _check(config: dict[str, Any]) -> None:
    least = {
        "in_channels": 1, "out_channels": 1, "hidden_channels": 1, "epochs": 1, "inner_steps": 1,
    }  # fmt: skip
    for name, low in least.items():
        value = config[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InputError(f"{name}: {value!r}, wanted a whole number from {low}")
    if config["num_nodes"] is not None and config["num_nodes"] < 1:
        raise InputError(f"num_nodes: {config['num_nodes']}, wanted at least 1")
    for name in ("lr", "lr_graph"):
        if not 0.0 < config[name] < math.inf:
            raise InputError(f"{name}: {config[name]}, wanted a positive number")
    for name in ("dropout", "momentum"):
        if not 0.0 <= config[name] < 1.0:
            raise InputError(f"{name}: {config[name]}, wanted from 0 to less than 1")
    for name in ("weight_decay", "alpha", "beta", "gamma", "lambda_", "phi"):
        if not 0.0 <= config[name] < math.inf:
            raise InputError(f"{name}: {config[name]}, wanted at least 0")
