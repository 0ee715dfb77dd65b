"""Classify nodes of a heterogeneous graph from groups that were propagated beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.data.locate import cache_folder
from graphkit.errors import CorruptFileError, InputError, nearest
from graphkit.models.rphgnn import MetapathMeans, RpHGNNPropagation, line_features
from graphkit.tasks.group_batches import GroupBatch, GroupBatches
from graphkit.tasks.hetero import HeteroTask

_METHODS = {"rphgnn": RpHGNNPropagation, "metapaths": MetapathMeans}


def propagation_of(
    dataset: Any, options: Mapping[str, Any] | None, path: Path | None = None
) -> tuple[Any, bool]:
    """The estimator that a recipe's ``task.propagation`` describes, and whether labels propagate.

    Args:
        dataset: its ``info["run_seed"]`` decides what is random, unless ``seed`` is given.
        options: ``method``, ``"rphgnn"`` or ``"metapaths"``; ``labels``; and arguments of
            :class:`graphkit.models.RpHGNNPropagation` or
            :class:`graphkit.models.MetapathMeans`; ``None`` for none.
        path: where to keep the groups.

    Raises:
        InputError: an unknown option.
    """
    if not isinstance(options or {}, Mapping):
        raise InputError(f"propagation: {options!r}, wanted options and their values")
    options = dict(options or {})
    labels = bool(options.pop("labels", False))
    method = options.pop("method", "rphgnn")
    if method not in _METHODS:
        raise InputError(f"propagation.method: {method!r}, wanted one of {', '.join(_METHODS)}")
    known = [*_METHODS[method]().get_params(), "labels", "method"]
    for key in options:
        if key not in known or key == "path":
            raise InputError(
                f"propagation.{key}: no such option{nearest(key, known)}; there are "
                f"{', '.join(known)}"
            )
    options.setdefault("seed", int(dataset.info.get("run_seed", 0)))
    return _METHODS[method](**options, path=path), labels


def group_shapes(dataset: Any, options: Mapping[str, Any] | None) -> list[list[int]]:
    """Slots and width of each group, as a model's ``groups`` wants them; nothing is computed.

    Raises:
        InputError: the set is not heterogeneous, or the options are wrong.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> from graphkit.data import HeteroNodes
        >>> data = HeteroData()
        >>> data["a"].x, data["b"].num_nodes = torch.eye(3), 2
        >>> data["a"].y = torch.tensor([0, 1, 0])
        >>> data["a", "to", "b"].edge_index = torch.tensor([[0, 1, 2], [0, 1, 1]])
        >>> group_shapes(HeteroNodes(data, "a"), {"iterations": 2, "embedding_size": 8})
        [[2, 8], [2, 3]]
    """
    propagation, labels = propagation_of(dataset, options)
    classes = dataset.num_tasks if labels else 0
    shapes = propagation.shapes(dataset.hetero(), dataset.info["target"], classes)
    return [list(shape) for shape in shapes.values()]


class PropagatedNodeTask(HeteroTask):
    r"""Classify nodes of one type in mini-batches of what was propagated to them.

    The groups are computed when the first batch is asked for, in a memory-mapped file where they
    exceed ``propagation.budget_bytes``. One validation figure, the ``criterion``, chooses the epoch
    at which all figures are taken. Sets with a published half of the test nodes are judged on that
    half and, in the same run, on the whole (``..._full``).

    With ``views`` V > 1 and logits :math:`z_v` of V passes with independent dropout, training
    batches are drawn from the nodes of all splits, and

    .. math::
        L = \sum_v CE(z_v^{train}, y) + \lambda \sum_v CE(z_v, \hat y), \qquad
        \hat y = \arg\max \tfrac1V \sum_v \mathrm{softmax}(z_v)

    Args:
        dataset: a heterogeneous set, or :class:`graphkit.data.HeteroNodes`.
        propagation: arguments of :class:`graphkit.models.RpHGNNPropagation`; ``labels: true`` also
            propagates the training labels.
        loss: ``"cross_entropy"`` for one class per node; ``"bce"`` or ``"soft_cross_entropy"``,
            :math:`-\sum_c y_c \log \mathrm{softmax}(z)_c`, for several.
        batch_size: nodes per step when the Trainer is given none.
        criterion: the metric that chooses the epoch: ``"loss"``, ``"f1_mean"`` (of macro and
            micro), or one of :attr:`metrics`; the set's own metric by default.
        views: forward passes that should agree.
        consistency: :math:`\lambda`.
        path: keep the groups in this file.
        cache: keep them below GRAPHKIT_CACHE, a file for each graph, setting and seed.
        line: arguments of :func:`graphkit.models.rphgnn.line_features`: types without features,
            but not the target, get vectors learnt from the edges instead of random ones.

    Raises:
        InputError: labels that are missing or out of range, splits that overlap, or options that
            do not exist.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> from graphkit.data import HeteroNodes
        >>> data = HeteroData()
        >>> data["author"].x, data["author"].y = torch.eye(3), torch.tensor([0, 1, 0])
        >>> data["paper"].x = torch.ones(2, 4)
        >>> data["author", "writes", "paper"].edge_index = torch.tensor([[0, 1, 2], [0, 1, 1]])
        >>> for number, part in enumerate(("train_mask", "val_mask", "test_mask")):
        ...     data["author"][part] = torch.arange(3) == number
        >>> task = PropagatedNodeTask(HeteroNodes(data, "author"), {"iterations": 2})
        >>> [list(g.shape) for g in next(iter(task.loader("train"))).groups]
        [[1, 2, 4], [1, 2, 3]]
    """

    def __init__(
        self,
        dataset: Any,
        propagation: Mapping[str, Any] | None = None,
        loss: str | None = None,
        batch_size: int = 10000,
        criterion: str | None = None,
        views: int = 1,
        consistency: float = 0.6,
        path: str | Path | None = None,
        cache: bool = False,
        line: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset, loss=loss, batch_size=batch_size, criterion=criterion)
        if isinstance(views, bool) or not isinstance(views, int) or views < 1 or consistency < 0:
            raise InputError(
                f"views, consistency: {views}, {consistency}, wanted an integer of at least 1 and "
                "a number of at least 0"
            )
        self.views, self.consistency = views, float(consistency)
        if views > 1 and not self.multiclass:
            raise InputError("views: passes agree on one class per node; this set has several")
        self.propagation, self.labels = propagation_of(
            dataset, propagation, None if path is None else Path(path)
        )
        if self.labels and not self.multiclass:
            raise InputError("propagation.labels: not defined for several labels per node")
        self.line = None if line is None else self._checked_line(line)
        # A checkpoint of a run on other groups is refused by this.
        self.config.update(
            views=views, consistency=self.consistency,
            propagation=self.propagation.options, labels=self.labels, line=self.line,
        )  # fmt: skip
        self._kept = self._cached() if cache and path is None else None
        if self._kept is not None:
            self.propagation.set_params(path=self._kept)
        self._groups: list[Tensor] | None = None

    # -- the data ---------------------------------------------------------------------------------

    @property
    def groups(self) -> list[Tensor]:
        """What was propagated, float16 ``[N, K_g, D_g]`` each; computed when first asked for."""
        if self._groups is None:
            labels: dict[str, Any] = {
                "labels": self.y, "train": self.split["train"], "num_classes": self.num_outputs
            }  # fmt: skip
            data, labels = self._with_line(), labels if self.labels else {}
            try:
                self._groups = self.propagation.fit_transform(data, self.target_type, **labels)
            except CorruptFileError:
                if self._kept is None:
                    raise
                self._kept.unlink(missing_ok=True)  # ours alone: made anew as if it had not been
                self._groups = self.propagation.fit_transform(data, self.target_type, **labels)
        return self._groups

    def _cached(self) -> Path:
        """A file of its own for all that the groups depend on; what it holds is checked again."""
        content = json.dumps(
            [
                self.dataset.sha256, self.target_type, self.num_outputs, self.propagation.options,
                self.labels, self.line,
            ]
        ).encode()  # fmt: skip
        digest = hashlib.sha256(content)
        if self.labels:
            digest.update(self.split["train"].numpy().tobytes())
        name = f"{self.dataset.name}-{digest.hexdigest()[:32]}.safetensors"
        return cache_folder() / "propagated" / name

    def _checked_line(self, line: Mapping[str, Any]) -> dict[str, Any]:
        known = ["dim", "window", "epochs", "seed", "workers"]
        for key in line:
            if key not in known:
                raise InputError(f"line.{key}: no such option{nearest(key, known)}")
        own = self.propagation.get_params()
        if line.get("dim", own["embedding_size"]) != own["embedding_size"]:
            raise InputError(
                f"line.dim: {line['dim']}, wanted propagation.embedding_size, "
                f"{own['embedding_size']}"
            )
        if own["random_input"] or own["project_input"] is not None:
            raise InputError(
                "line: learnt vectors would be replaced; leave out propagation.random_input and "
                "propagation.project_input"
            )
        return dict(line)

    def _with_line(self) -> Any:
        """The graph, with learnt vectors where they were asked for."""
        if self.line is None:
            return self.data
        own = self.propagation.get_params()
        settings = {"dim": own["embedding_size"], "seed": own["seed"], **self.line}
        data = self.data.clone()
        for kind, x in line_features(data, self.target_type, **settings).items():
            data[kind].x = x
        return data

    def loader(self, split: str, batch_size: int | None = None, **options: Any) -> GroupBatches:
        """Batches of one split; ``options`` are those of ``GraphDataset.loader``."""
        if split not in self.split:
            raise InputError(f"split: expected train, valid or test, got {split!r}")
        nodes = self.split[split]
        if split == "train" and self.views > 1:
            nodes = torch.cat(list(self.split.values())).sort().values
        return GroupBatches(
            self.groups, self.y, nodes, self.train_mask, split,
            batch_size=batch_size or self.batch_size, **options,
        )  # fmt: skip

    def probe(self, number: int) -> GroupBatch:
        """A batch of the right shapes and nothing in it, to measure memory with."""
        classes = self.num_outputs if self.labels else 0
        shapes = self.propagation.shapes(self.data, self.target_type, classes)
        nodes = self.split["train"][:number]
        groups = [torch.zeros(len(nodes), *shape, dtype=torch.float16) for shape in shapes.values()]
        return GroupBatch(groups, self.y[nodes], nodes, self.train_mask[nodes], "train")

    # -- what the Trainer asks for ----------------------------------------------------------------

    def apply(self, model: nn.Module, batch: GroupBatch) -> Tensor:
        """Logits ``[B, C]``; of several views in training ``[V, B, C]``."""
        if batch.split == "train" and self.views > 1 and model.training:
            return torch.stack([model(batch) for _ in range(self.views)])
        out: Tensor = model(batch)
        return out

    def _rows(self, tensor: Tensor, batch: GroupBatch, split: str) -> Tensor:
        # Batches for several views hold nodes of all splits; figures of training are not theirs.
        if split == "train" and self.views > 1:
            return tensor[batch.train_mask]
        return tensor

    def loss(self, out: Tensor, batch: GroupBatch, split: str = "train") -> Tensor:
        """Scalar loss; see the class for several views."""
        if out.dim() == 2:
            return super().loss(out, batch, split)
        out = out.float()
        guess = out.detach().softmax(-1).mean(0).argmax(-1)
        known = batch.train_mask
        total = out.new_zeros(())
        for logits in out:
            total = total + self.consistency * F.cross_entropy(logits, guess)
            # A batch without training nodes has no cross-entropy: their mean would be NaN.
            if bool(known.any()):
                named = F.cross_entropy(logits[known], batch.y[known])
                total = total + batch.train_factor * named
        return total

    def sample_loss(self, out: Tensor, batch: GroupBatch, split: str = "train") -> Tensor:
        """Loss of each node of the batch."""
        return super().sample_loss(out.mean(0) if out.dim() == 3 else out, batch, split)

    def step_shares(
        self, batches: Sequence[GroupBatch], total: Callable[[float], float]
    ) -> list[float] | None:
        """Shares by all nodes, with several views: consistency is a mean over all of them."""
        if self.views == 1:
            return None
        nodes = [float(batch.nodes.numel()) for batch in batches]
        known = [float(batch.train_mask.sum()) for batch in batches]
        all_nodes, all_known = total(sum(nodes)), max(total(sum(known)), 1.0)
        for batch, own, own_known in zip(batches, nodes, known, strict=True):
            batch.train_factor = (own_known / all_known) * (all_nodes / own)
        return [own / all_nodes for own in nodes]

    def weight(self, batch: GroupBatch, split: str = "train") -> float:
        """Number of labelled targets; with several views, of training nodes."""
        if split == "train" and self.views > 1:
            return float(batch.train_mask.sum())
        return super().weight(batch, split)
