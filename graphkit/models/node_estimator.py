"""Models that train themselves on one graph: several stages, or a selection rule of their own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.models.ncn.adjacency import adjacency
from graphkit.ops import CSR

_INTEGERS = (torch.int32, torch.int64)


class NodeEstimator(nn.Module):
    """A node classifier with scikit-learn manners: ``fit``, ``predict``, attributes with a ``_``.

    The weights are plain parameters, so the zoo saves and loads it like any model. ``graphkit run``
    calls :meth:`fit` in place of the Trainer.

    Attributes:
        history_: one dict per epoch of the classifier.
        best_epoch_: the epoch whose weights were kept.
        logits_: ``[N, C]`` of the graph it was fitted on.
    """

    name: str
    config: dict[str, Any]
    history_: list[dict[str, float]]
    best_epoch_: int
    logits_: Tensor
    #: Whether, without nodes to validate, ``logits_`` of training nodes are out of sample.
    validates_across_folds = False

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
    ) -> NodeEstimator:
        """Train from scratch; the same seed gives the same weights.

        Args:
            x: ``[N, F]`` features.
            adj: an undirected, unweighted graph without self-loops.
            y: ``[N]`` int64 classes; only those of ``train`` and ``valid`` are read.
            train, valid: ids of nodes.
            seed: of every random number.
            previous: the same model fitted with another seed: stages that do not depend on the
                seed are taken over from it.

        Raises:
            InputError: a graph with directions, weights or loops, splits that overlap or leave
                0..N-1, or labels and features of another size.
        """
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, x: Any, adj: CSR | Tensor | None = None) -> Tensor:
        """Classes ``[N]`` of all nodes; of features and a graph, or of one PyG ``Data``."""
        was_training = self.training
        try:
            out: Tensor = self.eval()(x, adj)
        finally:
            self.train(was_training)
        return out.argmax(1)


def check_seed(seed: Any) -> int:
    """The seed as an ``int``, NumPy's whole numbers too; what torch would round is refused.

    Raises:
        InputError: not a whole number.

    Example:
        >>> import numpy
        >>> check_seed(numpy.int64(3))
        3
    """
    try:
        if isinstance(seed, bool):
            raise TypeError
        return operator.index(seed)
    except TypeError:
        raise InputError(f"seed: {seed!r}, wanted a whole number") from None


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of a seed inside; the caller's go on as if nothing had been drawn.

    Args:
        seed: a whole number.
        device: where the model is trained: dropout on a GPU draws from the generator there.

    Raises:
        InputError: a seed that is not a whole number.

    Example:
        >>> with seeded(0, torch.device("cpu")):
        ...     round(torch.rand(1).item(), 4)
        0.4963
    """
    number = check_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield


def graph_inputs(
    x: Any, adj: CSR | Tensor | None, in_channels: int, dtype: torch.dtype | None = None
) -> tuple[Tensor, CSR]:
    """Features and checked graph, from two arguments or from one ``Data`` or batch.

    Args:
        x: ``[N, in_channels]`` features, or an object with ``x`` and ``edge_index``.
        adj: the graph, if ``x`` is features only.
        in_channels: what the model was made for.
        dtype: of the weights; any floating point when not given.

    Raises:
        InputError: features of another shape or dtype, sparse or not finite, or a graph with
            directions, weights or self-loops.

    Example:
        >>> x, csr = graph_inputs(torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]]), 3)
        >>> csr.num_entries
        2
    """
    if adj is None:
        if not hasattr(x, "edge_index"):
            raise InputError("adj: None, wanted the graph of x, or one Data in the place of both")
        x, adj = x.x, x.edge_index
    if not isinstance(x, Tensor) or x.dim() != 2 or x.size(1) != in_channels:
        seen = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x: {seen}, wanted [N, {in_channels}]")
    if x.layout != torch.strided:
        raise InputError(f"x: {x.layout}, wanted a dense tensor; convert with x.to_dense()")
    if not x.is_floating_point():
        raise InputError(f"x: {x.dtype}, wanted floating point; convert with x.float()")
    if dtype not in (None, x.dtype):
        raise InputError(f"x: {x.dtype}, wanted {dtype} as the weights; convert with x.to({dtype})")
    if not bool(torch.isfinite(x).all()):
        raise InputError("x: NaN or infinite values, wanted finite features")
    return x, adjacency(adj, x.size(0))


def check_split(y: Tensor, train: Tensor, valid: Tensor, num_nodes: int, num_classes: int) -> None:
    """Refuse labels of another graph, overlapping parts and ids or classes out of range.

    Raises:
        InputError: names the part and the value.

    Example:
        >>> check_split(torch.tensor([0, 1, 0]), torch.tensor([0]), torch.tensor([1]), 3, 2)
    """
    for name, value in (("y", y), ("train", train), ("valid", valid)):
        if not isinstance(value, Tensor):
            raise InputError(f"{name}: {type(value).__name__}, wanted an integer tensor")
    if y.dim() != 1 or y.dtype not in _INTEGERS or len(y) != num_nodes:
        raise InputError(
            f"y: {y.dtype} of shape {list(y.shape)}, wanted [{num_nodes}] int64, one class per node"
        )
    for name, ids in (("train", train), ("valid", valid)):
        if ids.dim() != 1 or ids.dtype not in _INTEGERS or not len(ids):
            raise InputError(
                f"{name}: {ids.dtype} of shape {list(ids.shape)}, wanted ids of at least one node"
            )
        low, high = (int(v) for v in torch.aminmax(ids))
        if low < 0 or high >= num_nodes:
            raise InputError(
                f"{name}: node {low if low < 0 else high}, wanted 0..{num_nodes - 1}; "
                "is this the split of another graph?"
            )
        low, high = (int(v) for v in torch.aminmax(y[ids]))
        if low < 0 or high >= num_classes:
            raise InputError(
                f"y: class {low if low < 0 else high} in {name}, wanted 0..{num_classes - 1}"
            )
    ids, count = torch.unique(torch.cat([train, valid]), return_counts=True)
    if int(count.max()) > 1:
        raise InputError(
            f"valid: node {int(ids[count > 1][0])} is in two parts or twice in one, wanted "
            "disjoint train and valid"
        )


def train_by_two_criteria(
    module: nn.Module,
    forward: Callable[[], Tensor],
    y: Tensor,
    train: Tensor,
    valid: Tensor,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    noisy_loss: bool,
) -> tuple[list[dict[str, float]], int]:
    """Train full-batch; the last epoch that improved validation loss or accuracy is kept.

    The rule of Pro-GNN's and STABLE's published code. Either criterion saves the weights, and the
    later save wins, so the epoch kept need not be the best by either.

    Args:
        module: what is trained and put in training or evaluation mode.
        forward: returns its logits ``[N, C]``.
        y, train, valid: as for :meth:`NodeEstimator.fit`.
        epochs, lr, weight_decay: of Adam, over all parameters.
        noisy_loss: take the validation loss from the logits of the training pass, with dropout and
            before the step, as STABLE does; else from a pass of its own after it.

    Returns:
        One dict per epoch, and the epoch that was kept, counted from 1.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, weight_decay=weight_decay)
    best_loss, best_accuracy, best_epoch = float("inf"), -1.0, 0
    kept: dict[str, Tensor] = {}
    history = []
    y = y.long()
    for epoch in range(1, epochs + 1):
        module.train()
        optimizer.zero_grad()
        out = forward()
        loss = F.cross_entropy(out[train], y[train])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        module.eval()
        with torch.no_grad():
            calm = forward()
            judged = out if noisy_loss else calm
            valid_loss = float(F.cross_entropy(judged[valid].detach(), y[valid]))
            accuracy = float((calm[valid].argmax(1) == y[valid]).float().mean())
        if valid_loss < best_loss or accuracy > best_accuracy:
            best_epoch = epoch
            kept = {name: value.clone() for name, value in module.state_dict().items()}
        best_loss, best_accuracy = min(best_loss, valid_loss), max(best_accuracy, accuracy)
        history.append(
            {"epoch": epoch, "train_loss": float(loss.detach()), "valid_loss": valid_loss,
             "valid_acc": accuracy}
        )  # fmt: skip
    if not best_epoch:
        raise InputError("lr: the validation loss was never a number, wanted a smaller step")
    module.load_state_dict(kept)
    module.eval()
    return history, best_epoch


def check_training(epochs: int, lr: float, weight_decay: float, dropout: float) -> None:
    """Refuse settings that cannot train.

    Raises:
        InputError: names the argument.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"epochs: {epochs!r}, wanted a whole number of at least 1")
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("dropout", dropout)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name}: {value!r}, wanted a number")
    if not 0.0 < lr < float("inf"):
        raise InputError(f"lr: {lr}, wanted a positive number")
    if not 0.0 <= weight_decay < float("inf"):
        raise InputError(f"weight_decay: {weight_decay}, wanted at least 0")
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout: {dropout}, wanted 0 <= dropout < 1")
