"""Means along metapaths: the precomputation of SeHGNN, beside which RpHGNN's stands."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.models.rphgnn.collect import Plan, row_blocks
from graphkit.models.rphgnn.propagation import RpHGNNPropagation
from graphkit.models.rphgnn.relations import Graph, Relation
from graphkit.ops import aggregate

_MOST = 256
Path = tuple[Relation, ...]


class MetapathMeans(RpHGNNPropagation):
    r"""Keep the mean along every metapath apart, instead of squashing them together.

    Yang, Yan, Xu, Liu, Zhang, Zhu: "Simple and Efficient Heterogeneous Graph Neural Network", AAAI
    2023 (arXiv 2207.02547): for each path of relations :math:`\tau \leftarrow t_1 \leftarrow \dots
    \leftarrow t_l` of at most ``hops`` steps that begins at the target one group

    .. math:: X^{path} = M_{\tau \leftarrow t_1} \cdots M_{t_{l-1} \leftarrow t_l} X_{t_l}

    and the target's own features. The number of groups grows with every hop and every relation,
    which is what RpHGNN avoids.

    Args:
        hops: longest path.
        embedding_size: width of the random features of types without any.
        **more: ``project_input``, ``random_input``, ``keep_inverse``, ``seed``, ``budget_bytes``
            and ``path`` of :class:`RpHGNNPropagation`.

    Raises:
        InputError: an argument out of range, or more than 256 paths.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["author"].x, data["paper"].x = torch.eye(2), torch.tensor([[1.], [2.], [3.]])
        >>> data["author", "writes", "paper"].edge_index = torch.tensor([[0, 0, 1, 1],
        ...                                                              [0, 1, 1, 2]])
        >>> [group[:, 0].tolist() for group in MetapathMeans(hops=1).fit_transform(data, "author")]
        [[[1.0, 0.0], [0.0, 1.0]], [[1.5], [2.5]]]
    """

    def __init__(self, hops: int = 2, embedding_size: int = 256, **more: Any) -> None:
        for name in ("even_odd", "use_input", "squash", "project_target", "iterations"):
            if name in more:
                raise InputError(f"{name}: metapaths have no such argument")
        super().__init__(hops, embedding_size, squash="mean", **more)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn's ``clone`` asks for them."""
        apart = ("even_odd", "use_input", "squash", "project_target", "iterations")
        own = {key: value for key, value in self._settings.items() if key not in apart}
        return {"hops": self._settings["iterations"], **own}

    def set_params(self, **params: Any) -> MetapathMeans:
        """Change arguments.

        Raises:
            InputError: as the constructor, which then has not changed anything.
        """
        for key in params:
            if key not in self.get_params():
                raise InputError(f"{key}: no such argument{nearest(key, self.get_params())}")
        changed = type(self)(**{**self.get_params(), **params})
        self._settings = changed._settings
        self._take()
        return self

    @property
    def options(self) -> str:
        """JSON of the settings that decide the result."""
        return "metapaths " + super().options

    def _shapes(self, graph: Graph, target: str, classes: int) -> dict[str, tuple[int, int]]:
        width = self.widths(graph)
        found = {"self": (1, width[target])}
        for path, end in _paths(graph, target, self.slots):
            found[_name(path)] = (1, width[end])
        if classes:
            raise InputError("labels: metapaths are computed without them")
        return found

    def _check_widths(self, features: dict[str, Tensor]) -> None:
        """Means along paths may be of any width."""

    def _fill(self, graph: Graph, target: str, groups: dict[str, Tensor]) -> None:
        plan = Plan(target, self.slots, ("odd",), "mean", self._settings["seed"])
        everything = {kind for relation in graph.relations for kind in relation.sides}
        features = self._features(graph, plan, everything)
        groups["self"][:, 0] = features[target]
        wanted = [path for path, _ in _paths(graph, target, self.slots)]
        # Means of the far ends of the wanted paths, by the type they arrive at.
        level: dict[tuple[str, Path], Tensor] = {(kind, ()): x for kind, x in features.items()}
        for length in range(1, self.slots + 1):
            longer: dict[tuple[str, Path], Tensor] = {}
            for path in (p for p in wanted if len(p) == length):
                into, source = _last(path, target), level[_rest(path, target)]
                for rows, part in row_blocks(into, source.size(1)):
                    groups[_name(path)][rows, 0] = aggregate(part, source, reduce="mean").half()
            for path in (p for p in wanted if len(p) > length):
                for kind, tail in _tails(path, target, length):
                    if (kind, tail) not in longer:
                        source = level[_rest(tail, kind)]
                        longer[kind, tail] = aggregate(_last(tail, kind), source, reduce="mean")
            level = longer


def _last(path: Path, kind: str) -> Any:
    """The mean that arrives at ``kind``."""
    return path[0].into(kind)


def _rest(path: Path, kind: str) -> tuple[str, Path]:
    return path[0].other(kind), path[1:]


def _tails(path: Path, target: str, length: int) -> list[tuple[str, Path]]:
    """The last ``length`` steps of a path, with the type at which they arrive."""
    kind = target
    for relation in path[: len(path) - length]:
        kind = relation.other(kind)
    return [(kind, path[len(path) - length :])]


def _name(path: Path) -> str:
    return " < ".join(relation.name for relation in path)


def _paths(graph: Graph, target: str, hops: int) -> list[tuple[Path, str]]:
    """All paths of 1 to ``hops`` relations that begin at the target, and the types they end at."""
    found: list[tuple[Path, str]] = []
    ends: list[tuple[Path, str]] = [((), target)]
    for _ in range(hops):
        ends = [
            ((*path, relation), relation.other(kind))
            for path, kind in ends
            for relation in graph.around(kind)
        ]
        found += ends
        if len(found) > _MOST:
            raise InputError(f"hops: {hops} give {len(found)} paths and more, wanted {_MOST}")
    return found
