"""RpHGNN's precomputation: an estimator from a heterogeneous graph to dense groups."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.models.rphgnn.collect import STEPS, Plan, collect, needed_types
from graphkit.models.rphgnn.labels import check_labels, flat_labels, label_group, label_keys
from graphkit.models.rphgnn.projection import (
    SQUASHES,
    Features,
    normalize_rows,
    projection_matrix,
    random_features,
    seed_of,
)
from graphkit.models.rphgnn.relations import Graph, graph_hash, read_hetero
from graphkit.models.rphgnn.store import new_groups, read_groups

_BUDGET = 2 << 30


class RpHGNNPropagation:
    r"""Propagate features over a heterogeneous graph once, before any training.

    Hu, Hooi, He: "Efficient Heterogeneous Graph Learning via Random Projection", IEEE TKDE 2024
    (arXiv 2310.14481). With :math:`M_{d \leftarrow s}` the mean over the neighbours of type
    :math:`s`, every relation between :math:`s` and :math:`t` gives type :math:`t` two tensors,

    .. math::
        h^{odd} = M_{t \leftarrow s} F_s, \qquad
        h^{even} = M_{t \leftarrow s} M_{s \leftarrow t} F_t

    and all tensors of a type are squashed to its width by fresh sparse random matrices,

    .. math:: F_t \leftarrow \sum_h \frac{h R_h}{\lVert h R_h \rVert_{row}}.

    The tensors of the target type are kept in every iteration: one group ``[N, K, D]`` for each
    relation and step. There is nothing to learn and, unless labels are given, nothing that depends
    on them. Results are bitwise the same for any number of threads.

    Args:
        iterations: ``K``.
        embedding_size: width of the random features of types without any.
        even_odd: ``"all"``; ``"odd"`` collects and squashes odd tensors only, in twice as many
            iterations; ``"even"`` only even ones.
        use_input: put the target's own features in front of its even groups.
        squash: ``"projection"``, ``"gaussian"``, or ``"mean"`` of tensors of equal width.
        project_input: first project all features to this width (256 is a quick profile for CPUs).
        project_target: first project the target's features to this width and keep the original
            ones as a group of their own.
        random_input: give random features to all types, whether they have features or not.
        keep_inverse: keep both of two edge types that are opposite to each other.
        seed: of random features and projections.
        budget_bytes: groups beyond it are in a memory-mapped file.
        path: keep the groups in this safetensors file, and read them from it the next time.

    Attributes:
        groups_: float16 tensors ``[N, K_g, D_g]``.
        names_: relation and step of each.
        graph_hash_: what they were made from.

    Raises:
        InputError: an argument out of range; see also :meth:`fit_transform`.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["author"].x, data["paper"].x = torch.eye(2), torch.tensor([[1.], [2.], [3.]])
        >>> data["author", "writes", "paper"].edge_index = torch.tensor([[0, 0, 1, 1],
        ...                                                              [0, 1, 1, 2]])
        >>> odd, even = RpHGNNPropagation(iterations=1).fit_transform(data, "author")
        >>> odd[:, 0].tolist(), even[:, 0].tolist()
        ([[1.5], [2.5]], [[0.75, 0.25], [0.25, 0.75]])
    """

    groups_: list[Tensor]
    names_: list[str]
    graph_hash_: str

    def __init__(
        self,
        iterations: int = 3,
        embedding_size: int = 256,
        *,
        even_odd: str = "all",
        use_input: bool = False,
        squash: str = "projection",
        project_input: int | None = None,
        project_target: int | None = None,
        random_input: bool = False,
        keep_inverse: bool = False,
        seed: int = 0,
        budget_bytes: int = _BUDGET,
        path: str | Path | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "iterations": iterations, "embedding_size": embedding_size, "even_odd": even_odd,
            "use_input": use_input, "squash": squash, "project_input": project_input,
            "project_target": project_target, "random_input": random_input,
            "keep_inverse": keep_inverse, "seed": seed, "budget_bytes": budget_bytes, "path": path,
        }  # fmt: skip
        self._take()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn's ``clone`` asks for them."""
        return dict(self._settings)

    def set_params(self, **params: Any) -> RpHGNNPropagation:
        """Change arguments.

        Raises:
            InputError: as the constructor, which then has not changed anything.
        """
        for key in params:
            if key not in self._settings:
                raise InputError(f"{key}: no such argument{nearest(key, self._settings)}")
        type(self)(**{**self._settings, **params})
        self._settings.update(params)
        self._take()
        return self

    def _take(self) -> None:
        chosen = self._settings
        for name, known in (("even_odd", tuple(STEPS)), ("squash", SQUASHES)):
            if chosen[name] not in known:
                raise InputError(f"{name}: {chosen[name]!r}, wanted one of {', '.join(known)}")
        for name in ("iterations", "embedding_size", "project_input", "project_target"):
            value = chosen[name]
            if value is None and name.startswith("project_"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: {value!r}, wanted an integer of at least 1")
        for name, least in (("seed", None), ("budget_bytes", 0)):
            value = chosen[name]
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(f"{name}: {value!r}, wanted an integer")
            if least is not None and value < least:
                raise InputError(f"{name}: {value}, wanted at least {least}")
        if chosen["project_input"] is not None and chosen["project_target"] is not None:
            raise InputError("project_input, project_target: give one of them")
        self.steps = STEPS[chosen["even_odd"]]
        self.slots = chosen["iterations"] * (2 if chosen["even_odd"] == "odd" else 1)

    @property
    def options(self) -> str:
        """JSON of the settings that decide the result."""
        apart = ("budget_bytes", "path")
        return json.dumps(
            {key: value for key, value in self._settings.items() if key not in apart},
            sort_keys=True,
        )

    # -- shapes, without any work -----------------------------------------------------------------

    def widths(self, graph: Graph) -> dict[str, int]:
        """Width of each node type during the propagation."""
        chosen = self._settings
        given = {} if chosen["random_input"] else {k: x.size(1) for k, x in graph.features.items()}
        if chosen["project_input"] is not None:
            given = dict.fromkeys(given, chosen["project_input"])
        return {kind: given.get(kind, chosen["embedding_size"]) for kind in graph.sizes}

    def shapes(self, data: Any, target: str, label_classes: int = 0) -> dict[str, tuple[int, int]]:
        """Slots and width ``(K_g, D_g)`` of each group, which decide the shape of a model.

        Args:
            data: a ``HeteroData``.
            target: the node type to classify.
            label_classes: number of classes where labels are propagated too.

        Raises:
            InputError: as :meth:`fit_transform`.
        """
        return self._shapes(self._read(data, target), target, label_classes)

    def _read(self, data: Any, target: str) -> Graph:
        return read_hetero(data, target, bool(self._settings["keep_inverse"]))

    def _shapes(self, graph: Graph, target: str, classes: int) -> dict[str, tuple[int, int]]:
        width = self.widths(graph)
        if self._settings["project_target"] is not None and self._raw(graph, target):
            width[target] = self._settings["project_target"]
        found = {}
        for relation in graph.around(target):
            for step in self.steps:
                even = step == "even"
                slots = self.slots + (even and bool(self._settings["use_input"]))
                of = target if even else relation.other(target)
                found[f"{relation.name}|{step}"] = (slots, width[of])
        if self._settings["project_target"] is not None and self._raw(graph, target):
            found["input"] = (1, graph.features[target].size(1))
        if classes:
            for relation, step in label_keys(graph, target):
                found[f"{relation.name}|{step}|labels"] = (1, classes)
        return found

    def _raw(self, graph: Graph, target: str) -> bool:
        return target in graph.features and not self._settings["random_input"]

    # -- the work ---------------------------------------------------------------------------------

    def fit_transform(
        self,
        data: Any,
        target: str,
        *,
        labels: Tensor | None = None,
        train: Tensor | None = None,
        num_classes: int | None = None,
    ) -> list[Tensor]:
        """Propagate.

        Args:
            data: a PyG ``HeteroData`` with any node and edge types; ``x`` where there are features.
            target: the node type to classify.
            labels: int64 ``[N]`` classes of the target's nodes: also propagate those of ``train``,
                one hop and back, each node's own taken out.
            train: mask or positions of the nodes whose labels may be seen.
            num_classes: number of classes; one more than the largest label when not given.

        Returns:
            The groups, float16 ``[N, K_g, D_g]``.

        Raises:
            InputError: no such target, no relation at it, edge indices out of range, features that
                are not finite, labels that do not fit, tensors of unequal width to average, or a
                file at ``path`` that was made from another graph or with other options.
            StorageError: no space for the groups.
        """
        self.fit(data, target, labels=labels, train=train, num_classes=num_classes)
        return self.groups_

    @torch.no_grad()
    def fit(
        self,
        data: Any,
        target: str,
        *,
        labels: Tensor | None = None,
        train: Tensor | None = None,
        num_classes: int | None = None,
    ) -> RpHGNNPropagation:
        """As :meth:`fit_transform`; the groups are then in ``groups_``."""
        graph = self._read(data, target)
        classes, ids = 0, torch.zeros(0, dtype=torch.int64)
        if labels is not None:
            if train is None:
                raise InputError("train: not given; which labels may be seen?")
            labels = flat_labels(labels)
            top = int(labels.max()) + 1 if labels.dim() == 1 and labels.numel() else 1
            classes = top if num_classes is None else num_classes
            ids = check_labels(labels, train, graph.sizes[target], classes)
        shapes = self._shapes(graph, target, classes)
        seen = None if labels is None else labels[ids]
        self.graph_hash_ = graph_hash(graph, target, seen, None if labels is None else ids)
        about = {"graph": self.graph_hash_, "options": self.options, "classes": str(classes)}
        path = self._settings["path"]
        path = None if path is None else Path(path)
        if path is not None and path.is_file():
            found = read_groups(path, about)
            if {name: tuple(t.shape[1:]) for name, t in found.items()} != shapes:
                raise InputError(f"path: {path} holds other groups; remove the file")
        else:
            full = {name: (graph.sizes[target], *shape) for name, shape in shapes.items()}
            budget = int(self._settings["budget_bytes"])
            with new_groups(full, about, path, budget) as found:
                self._fill(graph, target, found)
                for name, (relation, step) in self._label_names(graph, target, classes).items():
                    assert labels is not None
                    label_group(relation, target, step, labels, ids, found[name][:, 0])
            if path is not None:
                # Mapped anew: a change to the tensors must not reach the file.
                found = read_groups(path, about)
        self.names_, self.groups_ = list(found), list(found.values())
        return self

    @staticmethod
    def _label_names(graph: Graph, target: str, classes: int) -> dict[str, Any]:
        keys = label_keys(graph, target) if classes else []
        return {f"{relation.name}|{step}|labels": (relation, step) for relation, step in keys}

    def _fill(self, graph: Graph, target: str, groups: dict[str, Tensor]) -> None:
        chosen = self._settings
        plan = Plan(target, self.slots, self.steps, chosen["squash"], chosen["seed"])
        features = self._features(graph, plan)
        self._check_widths(features)
        front = int(bool(chosen["use_input"]))
        for name, group in groups.items():
            if name == "input":
                group[:, 0] = graph.features[target]
            elif front and name.endswith("|even"):
                group[:, 0] = features[target]

        def write(name: str, number: int, rows: slice, values: Tensor) -> None:
            first = front if name.endswith("|even") else 0
            groups[name][rows, first + number] = values.to(torch.float16)

        collect(graph, plan, features, write)

    def _check_widths(self, features: dict[str, Tensor]) -> None:
        widths = {kind: x.size(1) for kind, x in features.items()}
        mixed = len(set(widths.values())) > 1 and self.slots > 1
        if self._settings["squash"] == "mean" and mixed:
            raise InputError(
                f"squash: 'mean' wants all types of one width, got {widths}; project them first: "
                "project_input"
            )

    def _features(
        self, graph: Graph, plan: Plan, wanted: set[str] | None = None
    ) -> dict[str, Tensor]:
        """What the propagation starts with, for the types that it reads."""
        chosen, seed = self._settings, self._settings["seed"]
        widths = self.widths(graph)
        found = {}
        if wanted is None:
            wanted = needed_types(graph, plan)[0] | {plan.target}
        for kind in sorted(wanted):
            if kind not in graph.features or chosen["random_input"]:
                drawn = seed_of("features", seed, kind)
                found[kind] = random_features(graph.sizes[kind], widths[kind], drawn)
                continue
            x, width = graph.features[kind], chosen["project_input"]
            if kind == plan.target and chosen["project_target"] is not None:
                width = chosen["project_target"]
            if width is not None:
                r = projection_matrix(x.size(1), width, seed_of("input", seed, kind))
                x = normalize_rows(Features(x).times(r))
            found[kind] = x
        return found


def bytes_of(groups: list[Tensor]) -> int:
    """Bytes that groups take, in memory or in a file."""
    return sum(math.prod(g.shape) * g.element_size() for g in groups)
