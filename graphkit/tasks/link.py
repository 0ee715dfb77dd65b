"""Link prediction: an encoder over the training graph, pairs of nodes to score."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.data.link_split import is_among, link_keys
from graphkit.errors import InputError, nearest
from graphkit.models.ncn import TrainingEdges
from graphkit.ops import CSR
from graphkit.tasks.base import Task, check_finite
from graphkit.tasks.link_batches import NEGATIVES, EvalLinks, LinkBatch, TrainLinks

_INPUTS = ("features", "id", "onehot")
_HITS = ("hits@20", "hits@50", "hits@100")
_PARTS = ("train", "valid", "test")


class LinkTask(Task):
    r"""Predict which pairs of nodes are linked.

    Wang, Yang, Zhang: "Neural Common Neighbor with Completion for Link Prediction", ICLR 2024
    (arXiv 2302.00890), whose training is the default:

    .. math:: L = -\frac1B \sum_b \log \sigma(s^+_b) - \frac1B \sum_b \log(1 - \sigma(s^-_b))

    The model offers ``encode(x, adj)`` and ``score(h, adj, pairs)``. Training steps do not see the
    links they learn to predict; validation and test see all training links.

    Args:
        dataset: a link-level data set.
        batch_size: true links per step when the Trainer is given none. With ``maskinput`` it
            decides how much of the graph is hidden at once, so it is no knob for speed.
        eval_batch_size: pairs scored at once in evaluation; changes no score.
        maskinput: hide the links of the step (target link removal).
        dedup: hide every copy of a link that is listed twice.
        use_valedges: test sees the validation links too (ogbl-collab; OGB allows it there).
        negatives: of training, ``"non_links"`` or ``"destinations"``: see
            :class:`~graphkit.tasks.link_batches.TrainLinks`.
        node_input: what ``encode`` gets: ``"features"``, ``"id"`` of each node, or ``"onehot"``:
            the position of the largest feature (the species of ogbl-ppa).

    Raises:
        InputError: a set of another level, an unknown option, features that are not there,
            validation links in the training graph (unless ``use_valedges``), a part without true
            or false links, links whose ids are no nodes, or self-loops to hide (``maskinput``).

    Example:
        >>> from graphkit import data
        >>> LinkTask(data.load("demo-link"))
        LinkTask(demo-link, loss=link)
    """

    level = "link"

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1024,
        eval_batch_size: int = 8192,
        maskinput: bool = True,
        dedup: bool = False,
        use_valedges: bool = False,
        negatives: str = "non_links",
        node_input: str = "features",
    ) -> None:
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise InputError(f"{name}: must be at least 1, got {size}")
        if dataset.level != "link":
            raise InputError(f"dataset: {dataset.name} is a {dataset.level}-level set, wanted link")
        for name, given, known in (
            ("node_input", node_input, _INPUTS), ("negatives", negatives, NEGATIVES),
        ):  # fmt: skip
            if given not in known:
                raise InputError(
                    f"{name}: {given!r} is not one of {', '.join(known)}{nearest(given, known)}"
                )
        self.dataset = dataset
        self.task_type, self.num_outputs = "link", 1
        self.metric, self.maximize = str(dataset.metric), bool(dataset.maximize)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.maskinput, self.dedup, self.use_valedges = maskinput, dedup, use_valedges
        self.negatives, self.node_input = negatives, node_input
        self.loss_name = "link"
        self.num_nodes = int(dataset.graphs.num_nodes)
        self.links = {
            part: _checked(dataset, part, "links", dataset.positive_links(part), self.num_nodes)
            for part in _PARTS
        }
        self._false = {part: self._false_links(part) for part in ("valid", "test")}
        if maskinput:
            self._refuse_loops()
        if not use_valedges:
            self._refuse_leak()
        self.config = {
            "level": self.level, "maskinput": maskinput, "dedup": dedup,
            "use_valedges": use_valedges, "negatives": negatives, "node_input": node_input,
        }  # fmt: skip
        self._input = self._node_input()
        self._graphs: dict[tuple[str, str], Any] = {}

    def _refuse_leak(self) -> None:
        # Of two papers that cite each other, one citation may be held out (ogbl-citation2).
        directed = "valid/source_node" in self.dataset.links
        train, valid = (
            link_keys(self.links[part], self.num_nodes, directed) for part in ("train", "valid")
        )
        seen = valid[is_among(valid, train)]
        if seen.numel():
            i, j = divmod(int(seen[0]), self.num_nodes)
            raise InputError(
                f"dataset: {seen.numel()} of {valid.numel()} validation links of "
                f"{self.dataset.name} are in the training graph, the first is ({i}, {j}); their "
                "scores would say nothing. use_valedges=True if that is the protocol (ogbl-collab)"
            )

    def _refuse_loops(self) -> None:
        loops = (self.links["train"][0] == self.links["train"][1]).nonzero()
        if loops.numel():
            node = int(self.links["train"][0, loops[0, 0]])
            raise InputError(
                f"dataset: {loops.size(0)} training links of {self.dataset.name} are self-loops, "
                f"the first at node {node}; wanted two different nodes. maskinput=False leaves "
                "them out of the graph"
            )

    def _false_links(self, part: str) -> Tensor:
        """``[2, M]`` false links, or ``[P, M]`` false destinations of each link's source."""
        name, links = self.dataset.name, self.dataset.links
        count = self.links[part].size(1)
        if f"{part}/edge_neg" in links:
            false, form = links[f"{part}/edge_neg"], "[2, M]"
            fits = false.dim() == 2 and false.size(0) == 2
        elif f"{part}/target_node_neg" in links:
            false, form = links[f"{part}/target_node_neg"], f"[{count}, M]"
            fits = false.dim() == 2 and false.size(0) == count
        else:
            raise InputError(f"dataset: {name} has no false {part} links to rank the true ones in")
        if not (fits and count and false.numel()):
            raise InputError(
                f"dataset: {name} has {count} true {part} links and false ones of shape "
                f"{list(false.shape)}, wanted {form} and at least one of both"
            )
        return _checked(self.dataset, part, "negatives", false, self.num_nodes)

    def _node_input(self) -> Tensor:
        x = self.dataset.graphs.x
        if self.node_input == "id":
            return torch.arange(self.num_nodes)
        if x is None:
            if self.node_input == "features":
                return torch.empty(self.num_nodes, 0)
            raise InputError(f"node_input: {self.dataset.name} has no node features")
        return x.argmax(1) if self.node_input == "onehot" else x.float()

    def use_node_input(self, x: Tensor) -> None:
        """Give ``encode`` these rows instead, such as what another model made of the nodes.

        Raises:
            InputError: not one row for each node.
        """
        if x.size(0) != self.num_nodes:
            raise InputError(f"x: {x.size(0)} rows, wanted {self.num_nodes}")
        self._input, self._graphs = x, {}

    # -- what a step looks at ---------------------------------------------------------------------

    def node_features(self, device: torch.device | str = "cpu") -> Tensor:
        """What ``encode`` gets, on a device."""
        key = ("x", str(device))
        if key not in self._graphs:
            self._graphs[key] = self._input.to(device)
        x: Tensor = self._graphs[key]
        return x

    def graph(self, split: str = "train", device: torch.device | str = "cpu") -> CSR:
        """The links that are seen when ``split`` is scored, both ways and without loops."""
        _check_part(split)
        wide = split == "test" and self.use_valedges
        return self._edges("test" if wide else "train", device).whole

    def _edges(self, which: str, device: torch.device | str) -> TrainingEdges:
        key = (which, str(device))
        if key not in self._graphs:
            links = self.links["train"]
            if which == "test":
                links = torch.cat([links, self.links["valid"]], dim=1)
            if not self.maskinput or which == "test":  # positions need not be kept
                links = links[:, links[0] != links[1]]
            self._graphs[key] = TrainingEdges(links.to(device), self.num_nodes, dedup=self.dedup)
        edges: TrainingEdges = self._graphs[key]
        return edges

    def loader(self, split: str, batch_size: int | None = None, **options: Any) -> Any:
        """Batches of links of one split; ``options`` are those of ``GraphDataset.loader``.

        Raises:
            InputError: fewer training links than one batch, or no such split.
        """
        _check_part(split)
        if split == "train":
            return TrainLinks(
                self.links["train"], self.num_nodes, batch_size or self.batch_size,
                negatives=self.negatives, **options,
            )  # fmt: skip
        return EvalLinks(lambda: self._eval_batch(split))

    def _eval_batch(self, split: str) -> LinkBatch:
        ranked = f"{split}/edge_neg" not in self.dataset.links
        return LinkBatch(split, self.links[split], self._false[split], ranked=ranked)

    def apply(self, model: nn.Module, batch: LinkBatch) -> Tensor:
        """Scores of a batch: first the true links, then the false ones.

        Shapes:
            - **out:** ``[P + M]``, or ``[P, 1 + M]`` where each true link has its own false ones
        """
        device = batch.positive.device
        x = self.node_features(device)
        if batch.split == "train":
            edges = self._edges("train", device)
            masked = self.maskinput and batch.hidden is not None
            adj = edges.without(batch.hidden) if masked else edges.whole  # type: ignore[arg-type]
            h = model.encode(x, adj)  # type: ignore[operator]
            # Two calls, because each draws its own dropped edges.
            both = (batch.positive, batch.negative)
            scores = [model.score(h, adj, pairs).view(-1) for pairs in both]  # type: ignore[operator]
            return torch.cat(scores)
        adj = self.graph(batch.split, device)
        h = model.encode(x, adj)  # type: ignore[operator]
        if not batch.ranked:
            return self._score(model, h, adj, torch.cat([batch.positive, batch.negative], dim=1))
        rows = max(self.eval_batch_size // (1 + batch.negative.size(1)), 1)
        pieces = []
        for start in range(0, batch.num_links, rows):
            source, target = batch.positive[:, start : start + rows]
            ends = torch.cat([target[:, None], batch.negative[start : start + rows]], dim=1)
            pairs = torch.stack([source[:, None].expand_as(ends), ends]).reshape(2, -1)
            pieces.append(self._score(model, h, adj, pairs).view(ends.shape))
        return torch.cat(pieces)

    def _score(self, model: Any, h: Tensor, adj: CSR, pairs: Tensor) -> Tensor:
        pieces = torch.split(pairs, self.eval_batch_size, dim=1)
        return torch.cat([model.score(h, adj, piece).view(-1) for piece in pieces])

    # -- what the Trainer asks for ----------------------------------------------------------------

    @property
    def metrics(self) -> list[str]:
        """Hits@20, 50 and 100 beside the metric of the set; the best epoch is chosen for each."""
        if not self.metric.startswith("hits@"):
            return [self.metric]
        return [self.metric, *(name for name in _HITS if name != self.metric)]

    def _parts(self, out: Tensor, batch: LinkBatch) -> tuple[Tensor, Tensor]:
        wanted = [batch.num_links, 1 + batch.negative.size(1)]
        if not batch.ranked:
            wanted = [batch.num_links + batch.negative.size(1)]
        if list(out.shape) != wanted:
            raise InputError(f"out: shape {list(out.shape)}, wanted the scores {wanted} of a batch")
        if batch.ranked:
            return out[:, 0], out[:, 1:]
        return out[: batch.num_links], out[batch.num_links :]

    def loss(self, out: Tensor, batch: LinkBatch, split: str = "train") -> Tensor:
        """Scalar loss; ``out`` as :meth:`apply` gives it."""
        positive, negative = self._parts(out, batch)
        return F.softplus(-positive.float()).mean() + F.softplus(negative.float()).mean()

    def sample_loss(self, out: Tensor, batch: LinkBatch, split: str = "train") -> Tensor:
        """Loss of each true link with its false one. Shape: float ``[P]``."""
        positive, negative = self._parts(out, batch)
        if negative.shape != positive.shape:
            raise InputError(
                "sample_loss: there is one negative for each positive in training only"
            )
        return F.softplus(-positive) + F.softplus(negative)

    def weight(self, batch: LinkBatch, split: str = "train") -> float:
        """Number of true links."""
        return float(batch.num_links)

    def target(self, batch: LinkBatch, split: str = "train") -> Tensor:
        """1 for true and 0 for false links; only the true ones where they are ranked."""
        if batch.ranked:
            return torch.ones(batch.num_links, dtype=torch.int8)
        sizes = torch.tensor([batch.num_links, batch.negative.size(1)])
        return torch.tensor([1, 0], dtype=torch.int8).repeat_interleave(sizes)

    def predictions(self, out: Tensor, batch: LinkBatch, split: str = "train") -> Tensor:
        """The scores.

        Raises:
            InputError: a score is NaN or infinite.
        """
        self._parts(out, batch)
        check_finite(out, split)
        return out

    def evaluate(
        self, predictions: Tensor, targets: Tensor, split: str = "test"
    ) -> dict[str, float]:
        """Figures of a whole split by OGB's evaluator.

        Raises:
            InputError: rows do not match, there are none, or a score is not finite.

        Warns:
            UserWarning: fewer negatives than the K of Hits@K.
        """
        if len(predictions) == 0 or len(predictions) != len(targets):
            raise InputError(
                f"predictions: {len(predictions)} rows for {len(targets)} targets of the {split} "
                "split"
            )
        check_finite(predictions, split)
        if predictions.dim() == 2:
            positive, negative = predictions[:, 0], predictions[:, 1:]
        else:
            true = targets == 1
            positive, negative = predictions[true], predictions[~true]
        figures: dict[str, float] = self.dataset.evaluate_links(positive, negative, self.metrics)
        return figures


def _check_part(split: str) -> None:
    if split not in _PARTS:
        raise InputError(
            f"split: {split!r} is not one of {', '.join(_PARTS)}{nearest(split, _PARTS)}"
        )


def _checked(dataset: Any, part: str, what: str, links: Tensor, num_nodes: int) -> Tensor:
    if links.dtype not in (torch.int32, torch.int64):
        raise InputError(
            f"dataset: {part} {what} of {dataset.name} are {links.dtype}, wanted int64"
        )
    if links.numel():
        low, high = (int(value) for value in torch.aminmax(links))
        if low < 0 or high >= num_nodes:
            raise InputError(
                f"dataset: {part} {what} of {dataset.name} hold node {low if low < 0 else high}, "
                f"wanted 0..{num_nodes - 1}"
            )
    return links.long()
